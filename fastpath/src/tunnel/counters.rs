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
