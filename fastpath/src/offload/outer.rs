//! Outer headers of tunnels over IPv4, for the XDP program to put in front of packets: one row for
//! all flows that go through the same tunnel. A row is never rewritten while a flow names it.

use crate::sys::bpf::{Map, MappedArray};
use crate::tunnel::MAX_TUNNELS;
use ahash::AHashMap;
use margay_tunnels::encap::{Encap, VXLAN_V4_OVERHEAD};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Rows; the first one is nobody's, and as many as there are tunnels may be on their way out.
const ROWS: u32 = 2 * MAX_TUNNELS as u32;

/// Where things are in a row.
pub(crate) mod layout {
    /// Words of 8 bytes of a row.
    pub(crate) const WORDS: usize = 8;
    /// Byte offset: the headers, from the outer IP header on, complete but for what differs between
    /// packets, which is 0.
    pub(crate) const HEADERS: i16 = 0;
    /// Byte offset: the sum of the outer IP header's words, 4 bytes.
    pub(crate) const SUM: i16 = 56;
}

/// All rows.
#[derive(Debug)]
pub(crate) struct Outers {
    rows: MappedArray,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    free: VecDeque<u16>,
    by_headers: AHashMap<Encap, Weak<Outer>>,
}

/// A row; free again when dropped.
#[derive(Debug)]
pub(crate) struct Outer {
    outers: Arc<Outers>,
    encap: Encap,
    number: u16,
}

impl Outers {
    pub(crate) fn new() -> io::Result<Arc<Outers>> {
        let rows = MappedArray::new("outers", ROWS, layout::WORDS)?;
        let known = Known { free: (1..ROWS as u16).collect(), ..Known::default() };
        Ok(Arc::new(Outers { rows, known: Mutex::new(known) }))
    }

    /// The map, for a program.
    pub(crate) fn map(&self) -> &Map {
        self.rows.map()
    }

    /// The row of these headers; `None` for those over IPv6, whose UDP checksum is over the whole
    /// packet, and when no row is left.
    pub(crate) fn open(self: &Arc<Self>, encap: &Encap) -> Option<Arc<Outer>> {
        if encap.is_v6() || encap.overhead() > VXLAN_V4_OVERHEAD {
            return None;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outer) = known.by_headers.get(encap).and_then(Weak::upgrade) {
            return Some(outer);
        }
        let number = known.free.pop_front()?;
        let mut bytes = [0; layout::WORDS * 8];
        bytes[..encap.overhead()].copy_from_slice(encap.headers());
        let at = layout::SUM as usize;
        bytes[at..at + 4].copy_from_slice(&encap.sum().to_ne_bytes());
        for (at, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_ne_bytes(*word);
            self.rows.word(number.into(), at).store(word, Ordering::Relaxed);
        }
        let outer = Arc::new(Outer { outers: self.clone(), encap: encap.clone(), number });
        known.by_headers.insert(encap.clone(), Arc::downgrade(&outer));
        Some(outer)
    }
}

impl Outer {
    /// Which row.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        let mut known = self.outers.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.by_headers.get(&self.encap).is_some_and(|outer| outer.strong_count() == 0) {
            known.by_headers.remove(&self.encap);
        }
        // Last in the list: a program that is just running may use it.
        known.free.push_back(self.number);
    }
}
