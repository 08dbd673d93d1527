//! Equal-cost next hops: which bucket of a group belongs to which.
//!
//! Rendezvous hashing (highest random weight): each bucket goes to the member with the highest
//! hash of (member, bucket). So a group is a pure function of its members; when one leaves, only
//! its own buckets move, and when one joins, buckets move only to it. The price is balance, which
//! is a matter of luck and of the number of buckets: of up to 4 equal members each holds between
//! 0.8 and 1.2 of its fair share, of up to 16 between 0.6 and 1.6. (256 buckets gave 0.1 to 1.8.)

use crate::tables::{AdjacencyId, EcmpGroup};

/// Buckets of a group; a power of two. 4 KiB.
pub const BUCKETS: usize = 1024;
/// Most members of a group; the rest is left out.
pub const MAX_MEMBERS: usize = 64;
/// Greatest weight of a member; more counts as this.
pub const MAX_WEIGHT: u8 = 64;
/// What [`EcmpGroup::select`] gives when the group has no member: in no snapshot.
pub const NO_ADJACENCY: AdjacencyId = AdjacencyId(u32::MAX);

/// One next hop of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// What packets of its buckets get.
    pub adjacency: AdjacencyId,
    /// What the hash knows the member by, the same for as long as the path is the same: a hash of
    /// the next hop's address and port, where adjacency ids change between snapshots.
    pub key: u64,
    /// Share of the traffic relative to the other members; 0 is none, at most [`MAX_WEIGHT`].
    pub weight: u8,
}

/// A group of equal members that are known by their adjacency ids. `seed` should differ between
/// routers, so that the next one does not repeat the choice of the last (polarisation).
pub fn build(members: &[AdjacencyId], seed: u64) -> EcmpGroup {
    let members: Vec<Member> = members
        .iter()
        .map(|&adjacency| Member { adjacency, key: u64::from(adjacency.0), weight: 1 })
        .collect();
    build_weighted(&members, seed)
}

/// A group with weights. A member with weight w takes part w times, so that shares follow the
/// weights, and a changed weight moves buckets only from or to that member.
pub fn build_weighted(members: &[Member], seed: u64) -> EcmpGroup {
    let members = &members[..members.len().min(MAX_MEMBERS)];
    if members.iter().all(|member| member.weight == 0) {
        return EcmpGroup { buckets: Box::default() };
    }
    let buckets = (0..BUCKETS as u64)
        .map(|bucket| {
            let best =
                members.iter().max_by_key(|member| (score(member, bucket, seed), member.key));
            best.map_or(NO_ADJACENCY, |member| member.adjacency)
        })
        .collect();
    EcmpGroup { buckets }
}

/// The highest of the member's hashes for a bucket; `None`, below all others, at weight 0.
fn score(member: &Member, bucket: u64, seed: u64) -> Option<u64> {
    let base = mix(mix(seed ^ member.key).wrapping_add(bucket));
    (0..u64::from(member.weight.min(MAX_WEIGHT))).map(|turn| mix(base.wrapping_add(turn))).max()
}

/// SplitMix64's step: every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl EcmpGroup {
    /// The next hop for a flow. The hash is stirred first: workers are chosen by the same one.
    #[inline]
    pub fn select(&self, hash: u32) -> AdjacencyId {
        let stirred = hash.wrapping_mul(0x9e37_79b1) >> 16;
        let index = stirred as usize & self.buckets.len().wrapping_sub(1);
        self.buckets.get(index).copied().unwrap_or(NO_ADJACENCY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ids(numbers: &BTreeSet<u32>) -> Vec<AdjacencyId> {
        numbers.iter().copied().map(AdjacencyId).collect()
    }

    fn share(group: &EcmpGroup, member: u32) -> usize {
        group.buckets.iter().filter(|id| id.0 == member).count()
    }

    proptest! {
        #[test]
        fn only_the_buckets_of_the_left_path_move(
            numbers in proptest::collection::btree_set(0u32..10_000, 2..17),
            gone in any::<prop::sample::Index>(), seed in any::<u64>(),
        ) {
            let all = build(&ids(&numbers), seed);
            let left = *gone.get(&numbers.iter().copied().collect::<Vec<_>>());
            let mut rest = numbers.clone();
            rest.remove(&left);
            let fewer = build(&ids(&rest), seed);
            for (before, after) in all.buckets.iter().zip(&fewer.buckets) {
                prop_assert!(before == after || before.0 == left);
                prop_assert_ne!(after.0, left);
            }
        }

        #[test]
        fn order_of_members_makes_no_difference(
            numbers in proptest::collection::btree_set(0u32..10_000, 1..17), seed in any::<u64>(),
        ) {
            let mut members = ids(&numbers);
            let group = build(&members, seed);
            members.reverse();
            prop_assert_eq!(group, build(&members, seed));
        }

        #[test]
        fn a_changed_weight_moves_buckets_of_that_member_only(
            weights in proptest::collection::vec(1u8..20, 2..9),
            at in any::<prop::sample::Index>(), weight in 0u8..20, seed in any::<u64>(),
        ) {
            let member = |(n, &weight): (usize, &u8)| {
                Member { adjacency: AdjacencyId(n as u32), key: n as u64 * 77, weight }
            };
            let mut members: Vec<Member> = weights.iter().enumerate().map(member).collect();
            let before = build_weighted(&members, seed);
            let changed = at.index(members.len());
            members[changed].weight = weight;
            let after = build_weighted(&members, seed);
            for (old, new) in before.buckets.iter().zip(&after.buckets) {
                prop_assert!(old == new || old.0 as usize == changed || new.0 as usize == changed);
            }
        }
    }

    #[test]
    fn balance_is_within_the_stated_bound() {
        for seed in 0..200 {
            for count in 1..=16usize {
                let members: BTreeSet<u32> = (0..count as u32).map(|n| n * 3 + 1).collect();
                let group = build(&ids(&members), seed);
                let fair = BUCKETS as f64 / count as f64;
                let bound = if count <= 4 { 0.8..=1.2 } else { 0.6..=1.6 };
                for &member in &members {
                    let ratio = share(&group, member) as f64 / fair;
                    assert!(
                        bound.contains(&ratio),
                        "{ratio} of the fair share for one of {count} members, seed {seed}"
                    );
                }
            }
        }
    }

    #[test]
    fn shares_follow_weights() {
        let member = |n: u32, weight| Member { adjacency: AdjacencyId(n), key: n.into(), weight };
        let mut shares = [0; 3];
        for seed in 0..100 {
            let group = build_weighted(&[member(0, 1), member(1, 3), member(2, 0)], seed);
            (0..3).for_each(|n| shares[n as usize] += share(&group, n));
        }
        let third = shares[1] as f64 / shares[0] as f64;
        assert!((2.8..3.2).contains(&third), "{shares:?}");
        assert_eq!(shares[2], 0);
    }

    #[test]
    fn flows_spread_over_members_whatever_bits_of_the_hash_vary() {
        let group = build(&[AdjacencyId(1), AdjacencyId(2)], 7);
        for shift in 0..24 {
            let first = (0..256u32).filter(|n| group.select(n << shift) == AdjacencyId(1)).count();
            assert!((64..=192).contains(&first), "{first} of 256 at shift {shift}");
        }
    }

    #[test]
    fn no_members_and_too_many_are_no_panic() {
        assert_eq!(build(&[], 1).select(42), NO_ADJACENCY);
        assert_eq!(EcmpGroup { buckets: Box::default() }.select(0), NO_ADJACENCY);
        let many: Vec<AdjacencyId> = (0..1000).map(AdjacencyId).collect();
        assert!(build(&many, 1).buckets.iter().all(|id| (id.0 as usize) < MAX_MEMBERS));
    }
}
