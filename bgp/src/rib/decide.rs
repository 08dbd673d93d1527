//! The decision process (RFC 4271 section 9.1.2.2), step by step and in this order:
//!
//! 1. routes that a policy prefers to this node's own; then this node's own; then all others
//! 2. highest LOCAL_PREF
//! 3. shortest AS_PATH
//! 4. lowest ORIGIN
//! 5. lowest MULTI_EXIT_DISC, among those of one neighbouring AS
//! 6. eBGP before iBGP
//! 7. lowest metric to the next hop: what is left now is used side by side (ECMP)
//! 8. lowest BGP identifier, or ORIGINATOR_ID (RFC 4456 section 9)
//! 9. shortest CLUSTER_LIST (RFC 4456 section 9)
//! 10. lowest peer address, then path identifier

use super::attributes::{AttributeSets, Summary};
use super::next_hop::NextHops;
use super::path::{OURS, Path};
use super::peer::Peer;
use std::cmp::Reverse;
use std::net::IpAddr;

/// The step that told the best path from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is no other.
    Only,
    /// Step 1.
    Preference,
    /// Step 2.
    LocalPref,
    /// Step 3.
    AsPathLength,
    /// Step 4.
    Origin,
    /// Step 5.
    Med,
    /// Step 6.
    External,
    /// Step 7.
    IgpMetric,
    /// Step 8.
    RouterId,
    /// Step 9.
    ClusterList,
    /// Step 10.
    PeerAddress,
}

impl Step {
    /// The step in a few words.
    pub const fn name(self) -> &'static str {
        match self {
            Step::Only => "only path",
            Step::Preference => "preference",
            Step::LocalPref => "local preference",
            Step::AsPathLength => "AS path length",
            Step::Origin => "origin",
            Step::Med => "MED",
            Step::External => "eBGP before iBGP",
            Step::IgpMetric => "metric to the next hop",
            Step::RouterId => "router ID",
            Step::ClusterList => "cluster list length",
            Step::PeerAddress => "peer address",
        }
    }
}

/// What the steps read.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) sets: &'a AttributeSets,
    pub(super) hops: &'a NextHops,
    pub(super) peers: &'a [Option<Peer>],
}

/// One path with all that is compared, lower before higher.
struct Candidate {
    /// Index in the list of paths.
    at: usize,
    /// Steps 1 to 4.
    early: (Reverse<u8>, Reverse<u32>, u16, u8),
    med: (u32, u32),
    /// Steps 6 and 7.
    late: (bool, u32),
    /// Steps 8 to 10.
    last: (u32, u8, IpAddr, u32),
}

impl Context<'_> {
    pub(super) fn peer(&self, path: &Path) -> Option<&Peer> {
        self.peers.get(usize::from(path.source))?.as_ref()
    }

    fn candidate(&self, at: usize, path: &Path) -> Option<Candidate> {
        let summary: &Summary = self.sets.summary(path.taken);
        let metric = self.hops.metric(summary.next_hop)?;
        let preference = match (path.source, path.elevated) {
            (_, true) => 2,
            (OURS, _) => 1,
            _ => 0,
        };
        let (internal, router_id, address) = match self.peer(path) {
            Some(peer) => (peer.is_ibgp(), peer.router_id.to_bits(), peer.options.address),
            None => (false, 0, IpAddr::from([0; 4])),
        };
        let router_id = if summary.originator == 0 { router_id } else { summary.originator };
        Some(Candidate {
            at,
            early: (
                Reverse(preference),
                Reverse(summary.local_pref),
                summary.path_length,
                summary.origin,
            ),
            med: (summary.neighbor_as, summary.med),
            late: (internal, metric),
            last: (router_id, summary.cluster_length, address, path.path_id),
        })
    }

    /// Indices of the paths that are used, the best first; none when no path can be. `counts` says
    /// which of the paths are there at all.
    pub(super) fn best(&self, paths: &[Path], counts: impl Fn(&Path) -> bool) -> Vec<usize> {
        let mut left: Vec<Candidate> = self.candidates(paths, counts);
        let Some(first) = left.iter().map(|one| one.early).min() else { return Vec::new() };
        left.retain(|one| one.early == first);
        keep_lowest_med(&mut left);
        let late = left.iter().map(|one| one.late).min();
        left.retain(|one| Some(one.late) == late);
        left.sort_unstable_by_key(|one| one.last);
        left.iter().map(|one| one.at).collect()
    }

    /// Indices of all paths that could be used if there were no better ones: the first `used` as
    /// they stand, the others by preference. MED counts among all of those, so that their order
    /// does not depend on who came first.
    pub(super) fn ranked(
        &self,
        (paths, used): (&[Path], usize),
        counts: impl Fn(&Path) -> bool,
    ) -> Vec<usize> {
        let mut left = self.candidates(paths, counts);
        left.sort_unstable_by_key(|one| {
            (one.at.min(used), one.early, one.med.1, one.late, one.last)
        });
        left.iter().map(|one| one.at).collect()
    }

    fn candidates(&self, paths: &[Path], counts: impl Fn(&Path) -> bool) -> Vec<Candidate> {
        let usable = paths.iter().enumerate().filter(|(_, path)| counts(path));
        usable.filter_map(|(at, path)| self.candidate(at, path)).collect()
    }

    /// Why the first of these paths is before the second, as far as two alone can tell.
    pub(super) fn step_between(&self, best: &Path, other: &Path) -> Option<Step> {
        let (best, other) = (self.candidate(0, best)?, self.candidate(1, other)?);
        let (a, b) = (best.early, other.early);
        Some(match () {
            () if a.0 != b.0 => Step::Preference,
            () if a.1 != b.1 => Step::LocalPref,
            () if a.2 != b.2 => Step::AsPathLength,
            () if a.3 != b.3 => Step::Origin,
            () if best.med.0 == other.med.0 && best.med.1 != other.med.1 => Step::Med,
            () if best.late.0 != other.late.0 => Step::External,
            () if best.late.1 != other.late.1 => Step::IgpMetric,
            () if best.last.0 != other.last.0 => Step::RouterId,
            () if best.last.1 != other.last.1 => Step::ClusterList,
            () => Step::PeerAddress,
        })
    }
}

/// RFC 4271 section 9.1.2.2 c: a route goes when another of the same neighbouring AS has a lower
/// one.
fn keep_lowest_med(left: &mut Vec<Candidate>) {
    if left.len() < 2 {
        return;
    }
    let meds: Vec<(u32, u32)> = left.iter().map(|one| one.med).collect();
    left.retain(|one| !meds.iter().any(|(asn, med)| *asn == one.med.0 && *med < one.med.1));
}
