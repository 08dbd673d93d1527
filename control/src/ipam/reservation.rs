//! IPReservation: addresses that are never given out unless somebody asks for them by name.

use crate::store::datastore::Document;
use ipnet::IpNet;
use std::net::IpAddr;

/// All reservations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reservations {
    ranges: Vec<IpNet>,
}

impl Reservations {
    /// Those of these resources; ranges that do not parse reserve nothing.
    pub fn of(documents: &[Document]) -> Reservations {
        let mut ranges = Vec::new();
        for document in documents {
            let spec = document.spec();
            let listed = spec.get("reservedCIDRs").and_then(|list| list.as_array());
            let texts = listed.into_iter().flatten().filter_map(|text| text.as_str());
            ranges.extend(texts.filter_map(|text| {
                text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            }));
        }
        Reservations { ranges }
    }

    /// The address is reserved.
    pub fn has(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }

    /// How many addresses of a range are reserved, or in one of `others`.
    pub fn count_in(&self, range: &IpNet, others: &[IpNet]) -> u128 {
        let mut own: Vec<IpNet> =
            self.ranges.iter().chain(others).filter_map(|one| common(one, range)).collect();
        // Of two ranges one is inside of the other, or they are apart.
        own.sort_by_key(|one| one.prefix_len());
        let mut apart: Vec<IpNet> = Vec::new();
        for one in own {
            if !apart.iter().any(|known| known.contains(&one)) {
                apart.push(one);
            }
        }
        apart.iter().map(size).fold(0, u128::saturating_add)
    }

    /// One reservation has all addresses of the range.
    pub fn covers(&self, range: &IpNet) -> bool {
        self.ranges.iter().any(|reserved| reserved.contains(range))
    }
}

/// Addresses of a range; those of all of IPv6 are one more than fit.
pub(super) fn size(range: &IpNet) -> u128 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    1u128.checked_shl(bits).unwrap_or(u128::MAX)
}

fn common(one: &IpNet, other: &IpNet) -> Option<IpNet> {
    match (one.contains(other), other.contains(one)) {
        (true, _) => Some(other.trunc()),
        (_, true) => Some(one.trunc()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net() -> impl Strategy<Value = IpNet> {
        (0..256u32, 24..=32u8).prop_map(|(host, length)| {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + host);
            IpNet::new(address.into(), length).unwrap()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn addresses_are_counted_once(
            ranges in proptest::collection::vec(net(), 0..6),
            others in proptest::collection::vec(net(), 0..4),
            range in net(),
        ) {
            let inside = |address: &IpAddr| range.contains(address);
            let all = ranges.iter().chain(&others).flat_map(|one| {
                let first = number_of(one.network());
                (0..size(one)).map(move |at| address(first + at as u32))
            });
            let slowly: std::collections::BTreeSet<IpAddr> = all.filter(inside).collect();
            let found = Reservations { ranges }.count_in(&range, &others);
            prop_assert_eq!(found, slowly.len() as u128);
        }
    }

    fn number_of(address: IpAddr) -> u32 {
        super::super::block::number(address) as u32
    }

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }
}
