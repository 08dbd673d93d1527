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

    /// One reservation has all addresses of the range.
    pub fn covers(&self, range: &IpNet) -> bool {
        self.ranges.iter().any(|reserved| reserved.contains(range))
    }
}
