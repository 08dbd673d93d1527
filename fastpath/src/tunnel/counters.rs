//! What each tunnel carried, counted by each worker for itself.

use super::{MAX_TUNNELS, TunnelId};
use crate::counters::Counter;
use std::sync::OnceLock;

/// Tunnels whose counters are made at once.
const PAGE: usize = 64;

/// One tunnel's traffic on one worker. Bytes are those of inner IP packets.
#[derive(Debug, Default)]
pub struct TunnelCounter {
    /// Packets that came out.
    pub rx_packets: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Packets from the far end that were dropped before they came out.
    pub rx_drops: Counter,
    /// Packets that went in.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Packets that did not fit, or could not be wrapped.
    pub tx_drops: Counter,
}

/// What a tunnel carried on all workers. Fields as those of [`TunnelCounter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct TunnelTotals {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_drops: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_drops: u64,
}

impl TunnelTotals {
    /// With one worker's counters added.
    pub fn plus(self, counter: &TunnelCounter) -> TunnelTotals {
        TunnelTotals {
            rx_packets: self.rx_packets + counter.rx_packets.get(),
            rx_bytes: self.rx_bytes + counter.rx_bytes.get(),
            rx_drops: self.rx_drops + counter.rx_drops.get(),
            tx_packets: self.tx_packets + counter.tx_packets.get(),
            tx_bytes: self.tx_bytes + counter.tx_bytes.get(),
            tx_drops: self.tx_drops + counter.tx_drops.get(),
        }
    }

    /// What came after `base` was read.
    pub fn since(self, base: TunnelTotals) -> TunnelTotals {
        TunnelTotals {
            rx_packets: self.rx_packets.saturating_sub(base.rx_packets),
            rx_bytes: self.rx_bytes.saturating_sub(base.rx_bytes),
            rx_drops: self.rx_drops.saturating_sub(base.rx_drops),
            tx_packets: self.tx_packets.saturating_sub(base.tx_packets),
            tx_bytes: self.tx_bytes.saturating_sub(base.tx_bytes),
            tx_drops: self.tx_drops.saturating_sub(base.tx_drops),
        }
    }
}

/// By [`TunnelId`]; made page by page, when the first packet comes.
#[derive(Debug)]
pub struct TunnelCounters {
    pages: Box<[OnceLock<Box<[TunnelCounter; PAGE]>>]>,
}

impl Default for TunnelCounters {
    fn default() -> TunnelCounters {
        TunnelCounters { pages: (0..MAX_TUNNELS / PAGE).map(|_| OnceLock::new()).collect() }
    }
}

impl TunnelCounters {
    /// The counters to add to; `None` for an id that no tunnel has.
    #[inline]
    pub(crate) fn of(&self, id: TunnelId) -> Option<&TunnelCounter> {
        let page = self.pages.get(id.0 as usize / PAGE)?;
        let counters = page.get_or_init(|| Box::new(std::array::from_fn(|_| Default::default())));
        Some(&counters[id.0 as usize % PAGE])
    }

    /// The counters of a tunnel that has carried something.
    pub fn get(&self, id: TunnelId) -> Option<&TunnelCounter> {
        Some(&self.pages.get(id.0 as usize / PAGE)?.get()?[id.0 as usize % PAGE])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tunnel_has_its_own_up_to_the_bound() {
        let counters = TunnelCounters::default();
        assert!(counters.get(TunnelId(5)).is_none(), "nothing carried yet");
        let last = TunnelId(MAX_TUNNELS as u32 - 1);
        counters.of(TunnelId(5)).unwrap().rx_packets.add(2);
        counters.of(last).unwrap().rx_packets.add(3);
        assert_eq!(counters.get(TunnelId(5)).unwrap().rx_packets.get(), 2);
        assert_eq!(counters.get(TunnelId(6)).unwrap().rx_packets.get(), 0);
        assert_eq!(counters.get(last).unwrap().rx_packets.get(), 3);
        assert!(counters.of(TunnelId(MAX_TUNNELS as u32)).is_none());
    }
}
