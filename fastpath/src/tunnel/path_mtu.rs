//! What the underlay told about the MTU of the paths to tunnels' far ends (RFC 1191, RFC 8201).
//!
//! An error about an outer packet reaches one worker, while the tunnel's traffic is on all of them,
//! so what it says is shared. It is forgotten after a while, for paths change (RFC 1191 6.3).

use super::{MAX_TUNNELS, TunnelId};
use std::sync::atomic::{AtomicU64, Ordering};

/// How long a learned MTU counts, in nanoseconds: 10 minutes (RFC 1191 6.3).
pub const LEARNED_FOR_NS: u64 = 600_000_000_000;
/// Least MTU believed over IPv4, in bytes: what Linux has as `min_pmtu`.
pub(crate) const LEAST_V4: u16 = 552;
/// Least MTU of IPv6 (RFC 8200 5).
pub(crate) const LEAST_V6: u16 = 1280;

const SECOND_NS: u64 = 1_000_000_000;

/// By [`TunnelId`]: the MTU in the low 16 bits, and above them the second at which it ends.
#[derive(Debug)]
pub struct PathMtus(Box<[AtomicU64]>);

impl Default for PathMtus {
    fn default() -> PathMtus {
        PathMtus((0..MAX_TUNNELS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl PathMtus {
    /// The largest outer packet that is known to pass, in bytes.
    #[inline]
    pub fn get(&self, id: TunnelId, now_ns: u64) -> Option<u16> {
        let value = self.0.get(id.0 as usize)?.load(Ordering::Relaxed);
        if value == 0 {
            return None;
        }
        (now_ns / SECOND_NS < value >> 16).then_some(value as u16)
    }

    /// Takes in what the underlay said. Never above what is known and has not ended: an error
    /// may be about a packet that was sent before another one came.
    pub fn learn(&self, id: TunnelId, mtu: u16, now_ns: u64) {
        let Some(place) = self.0.get(id.0 as usize) else { return };
        let mtu = self.get(id, now_ns).map_or(mtu, |known| known.min(mtu));
        let end = (now_ns + LEARNED_FOR_NS) / SECOND_NS;
        place.store(end << 16 | u64::from(mtu), Ordering::Relaxed);
    }

    /// The id stands for another tunnel from now on.
    pub fn forget(&self, id: TunnelId) {
        if let Some(place) = self.0.get(id.0 as usize) {
            place.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_counts_and_ends_after_its_time() {
        let mtus = PathMtus::default();
        let (id, now) = (TunnelId(7), 5 * SECOND_NS);
        assert_eq!(mtus.get(id, now), None);
        mtus.learn(id, 1400, now);
        mtus.learn(id, 1450, now);
        assert_eq!(mtus.get(id, now), Some(1400));
        assert_eq!(mtus.get(TunnelId(8), now), None);
        let last = now + LEARNED_FOR_NS - 1;
        assert_eq!((mtus.get(id, last), mtus.get(id, last + 1)), (Some(1400), None));
        mtus.learn(id, 1450, last + 1);
        assert_eq!(mtus.get(id, last + 1), Some(1450), "what has ended counts no more");
        mtus.forget(id);
        assert_eq!(mtus.get(id, last + 1), None);
    }

    #[test]
    fn ids_outside_the_bound_learn_nothing() {
        let mtus = PathMtus::default();
        let beyond = TunnelId(MAX_TUNNELS as u32);
        mtus.learn(beyond, 1400, 0);
        mtus.forget(beyond);
        assert_eq!(mtus.get(beyond, 0), None);
    }
}
