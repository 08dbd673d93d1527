//! Which endpoint a client of a service with session affinity has had.
//!
//! Flows of one client may begin on several workers, so they share this table. Each entry is one
//! word that is read and written whole; where two workers write at once, one of them counts, and
//! both are right. It is bounded, and full of clients it forgets those who have not come for the
//! longest time. Only the first packets of flows to such services come here.

use std::sync::atomic::{AtomicU64, Ordering};

/// Clients that are remembered at most, of all services together.
pub const MAX_CLIENTS: usize = 1 << 16;
/// Entries among which a client may have its own: one line of the cache.
const BUCKET: usize = 8;
/// An entry: 24 bits of the client's hash, 20 bits that name the endpoint, and 20 bits of the
/// second, which come again after 12 days, long after the longest timeout (one day).
const NAME_BITS: u32 = 20;
const SECOND_BITS: u32 = 20;
const SECOND: u64 = (1 << SECOND_BITS) - 1;

/// The table.
#[derive(Debug)]
pub struct Clients(Box<[AtomicU64]>);

impl Default for Clients {
    fn default() -> Clients {
        Clients((0..MAX_CLIENTS).map(|_| AtomicU64::new(0)).collect())
    }
}

/// The name of an endpoint with this hash.
pub(super) fn name(hash: u64) -> u32 {
    hash as u32 & ((1 << NAME_BITS) - 1)
}

/// Never 0, which is no entry.
fn tag(client: u64) -> u64 {
    (client >> 40).max(1)
}

fn age_s(entry: u64, now_s: u32) -> u64 {
    u64::from(now_s).wrapping_sub(entry & SECOND) & SECOND
}

impl Clients {
    fn bucket(&self, client: u64) -> &[AtomicU64] {
        let at = client as usize % (MAX_CLIENTS / BUCKET) * BUCKET;
        &self.0[at..at + BUCKET]
    }

    /// The name of the endpoint that `client` (a hash of it and of the service) has had until
    /// `timeout_s` seconds ago.
    pub fn get(&self, client: u64, timeout_s: u32, now_s: u32) -> Option<u32> {
        let entries = self.bucket(client).iter().map(|entry| entry.load(Ordering::Relaxed));
        let mut own = entries.filter(|entry| entry >> (NAME_BITS + SECOND_BITS) == tag(client));
        let entry = own.next().filter(|entry| age_s(*entry, now_s) <= u64::from(timeout_s))?;
        Some(name(entry >> SECOND_BITS))
    }

    /// Remembers what `client` has.
    pub fn put(&self, client: u64, endpoint: u32, now_s: u32) {
        let (own, second) = (tag(client), u64::from(now_s) & SECOND);
        let entry = (own << NAME_BITS | u64::from(endpoint)) << SECOND_BITS | second;
        // Its own place, else an empty one, else that of the oldest.
        let worth = |place: &&AtomicU64| match place.load(Ordering::Relaxed) {
            entry if entry >> (NAME_BITS + SECOND_BITS) == own => u64::MAX,
            0 => SECOND + 1,
            entry => age_s(entry, now_s),
        };
        if let Some(place) = self.bucket(client).iter().max_by_key(worth) {
            place.store(entry, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_until_its_timeout_also_where_seconds_begin_anew() {
        for now_s in [5, SECOND as u32 - 1, u32::MAX - 3] {
            let clients = Clients::default();
            assert_eq!(clients.get(7, 100, now_s), None);
            clients.put(7, 77, now_s);
            clients.put(7, 78, now_s);
            let later = now_s.wrapping_add(100);
            assert_eq!(clients.get(7, 100, later), Some(78));
            assert_eq!(clients.get(7, 99, later), None);
            assert_eq!(clients.get(7 | 1 << 63, 100, later), None);
        }
    }

    #[test]
    fn a_full_bucket_forgets_the_client_that_has_not_come_for_the_longest_time() {
        let clients = Clients::default();
        let number = |at: u64| (at + 1) << 40;
        for at in 0..BUCKET as u64 {
            clients.put(number(at), at as u32, 10 + at as u32);
        }
        clients.put(number(0), 0, 100);
        clients.put(number(99), 99, 101);
        let known = |at: u64| clients.get(number(at), 1000, 101);
        assert_eq!((known(0), known(1), known(99)), (Some(0), None, Some(99)));
        assert!((2..BUCKET as u64).all(|at| known(at) == Some(at as u32)));
    }
}
