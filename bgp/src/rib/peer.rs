//! What the RIB knows of a peer.

use super::PeerOptions;
use super::path::Path;
use crate::family::{Family, FamilySet};
use crate::wire::Negotiated;
use std::net::{IpAddr, Ipv4Addr};

/// Which paths of a family count.
///
/// A path bears the number that was current when it was announced. A session that comes or goes,
/// or a refresh that begins, makes a new number: a whole table becomes old at once, and is swept
/// later. Numbers come again, and nothing old may be left by then: every [`CHECK`] of them the
/// sweep must have been everywhere.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Generation {
    pub(super) current: u8,
    /// Paths of the number before count too, until they have been announced again or a time is
    /// over.
    pub(super) keeps_last: bool,
    /// Rounds of the sweep at the last check.
    checked_at: u64,
}

/// So many numbers between two checks; twice that is less than there are.
const CHECK: u8 = 100;

impl Generation {
    /// Paths so far become old; `keep` says whether they count for now. `rounds` are those of the
    /// sweep until now.
    pub(super) fn advance(&mut self, keep: bool, rounds: u64) {
        self.current = self.current.wrapping_add(1);
        self.keeps_last = keep;
        if self.current.is_multiple_of(CHECK) {
            self.checked_at = rounds;
        }
    }

    /// False when the next number may come only after the sweep has been everywhere since the last
    /// check: a round that was under way then, and a whole one.
    pub(super) fn may_advance(&self, rounds: u64) -> bool {
        !self.current.wrapping_add(1).is_multiple_of(CHECK) || rounds >= self.checked_at + 2
    }

    /// True for a path that counts.
    #[inline]
    pub(super) fn counts(&self, generation: u8) -> bool {
        generation == self.current || self.is_stale(generation)
    }

    /// True for one that counts only until it is announced again.
    #[inline]
    pub(super) fn is_stale(&self, generation: u8) -> bool {
        self.keeps_last && generation == self.current.wrapping_sub(1)
    }
}

/// What a session that is up has brought.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live {
    pub(super) agreed: Negotiated,
    /// Our address on the connection.
    pub(super) local: IpAddr,
}

/// Numbers for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Paths that the peer has announced and not withdrawn; stale ones too.
    pub received: u64,
    /// Those of them that the import policy has taken.
    pub accepted: u64,
    /// UPDATE messages that have come.
    pub updates_in: u64,
    /// Announced prefixes in them.
    pub announced_in: u64,
    /// Withdrawn prefixes in them, also those that errors have made so.
    pub withdrawn_in: u64,
    /// UPDATE messages whose errors cost routes or attributes (RFC 7606).
    pub erroneous_in: u64,
    /// Bytes of UPDATE messages written for it.
    pub bytes_out: u64,
}

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) options: PeerOptions,
    pub(super) live: Option<Live>,
    pub(super) router_id: Ipv4Addr,
    pub(super) generations: [Generation; 2],
    /// Families whose first routes have all come (RFC 4724).
    pub(super) ended: FamilySet,
    pub(super) counts: PeerCounts,
}

impl Peer {
    pub(super) fn new(options: PeerOptions) -> Peer {
        Peer {
            options,
            live: None,
            router_id: Ipv4Addr::UNSPECIFIED,
            generations: [Generation::default(); 2],
            ended: FamilySet::EMPTY,
            counts: PeerCounts::default(),
        }
    }

    pub(super) fn is_ibgp(&self) -> bool {
        self.options.local_asn == self.options.remote_asn
    }

    pub(super) fn is_client(&self) -> bool {
        self.is_ibgp() && self.options.client_of.is_some()
    }

    #[inline]
    pub(super) fn generation(&self, family: Family) -> &Generation {
        &self.generations[family as usize]
    }

    #[inline]
    pub(super) fn has(&self, family: Family, path: &Path) -> bool {
        self.generation(family).counts(path.generation)
    }
}
