//! Sets of prefixes with two questions: is it one of them, and is it inside one of them.
//!
//! Both are answered by binary search over sorted lists. For the second one the members that are
//! inside other members are left out, so that the rest are disjoint and one comparison decides.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An immutable set of prefixes of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PrefixSet {
    members: Box<[IpNet]>,
    outer_v4: Box<[Ipv4Net]>,
    outer_v6: Box<[Ipv6Net]>,
}

impl PrefixSet {
    /// True when `prefix` is a member.
    pub fn contains(&self, prefix: &IpNet) -> bool {
        self.members.binary_search(prefix).is_ok()
    }

    /// True when `prefix` is a member or inside one.
    pub fn covers(&self, prefix: &IpNet) -> bool {
        match prefix {
            IpNet::V4(net) => {
                let after = self.outer_v4.partition_point(|one| one.network() <= net.network());
                after > 0 && self.outer_v4[after - 1].contains(net)
            }
            IpNet::V6(net) => {
                let after = self.outer_v6.partition_point(|one| one.network() <= net.network());
                after > 0 && self.outer_v6[after - 1].contains(net)
            }
        }
    }

    /// The members, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.members.iter()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl FromIterator<IpNet> for PrefixSet {
    /// Bits behind the masks are cleared.
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> PrefixSet {
        let mut members: Vec<IpNet> = prefixes.into_iter().map(|net| net.trunc()).collect();
        members.sort_unstable();
        members.dedup();
        let (mut v4, mut v6): (Vec<Ipv4Net>, Vec<Ipv6Net>) = (Vec::new(), Vec::new());
        for member in &members {
            match member {
                IpNet::V4(net) => v4.push(*net),
                IpNet::V6(net) => v6.push(*net),
            }
        }
        v4.sort_unstable_by_key(|net| (net.network(), net.prefix_len()));
        v6.sort_unstable_by_key(|net| (net.network(), net.prefix_len()));
        v4.dedup_by(|inner, outer| outer.contains(&*inner));
        v6.dedup_by(|inner, outer| outer.contains(&*inner));
        PrefixSet { members: members.into(), outer_v4: v4.into(), outer_v6: v6.into() }
    }
}
