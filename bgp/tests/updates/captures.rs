//! Every UPDATE and every table entry of the captures: decoded, judged, written again.

use super::mrt::{Entry, entries, files};
use super::{data, normal, session};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::wire::attribute::{Attributes, Decoded};
use margay_bgp::wire::nlri::prefixes;
use margay_bgp::wire::treatment::Treatment;
use margay_bgp::wire::update::{Block, Reach, split};
use margay_bgp::wire::{HEADER_LEN, Negotiated};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) updates: usize,
    announced: usize,
    withdrawn: usize,
    ends_of_rib: usize,
    routes: usize,
    rewritten: usize,
    faults: BTreeMap<String, usize>,
}

impl Count {
    fn fault(&mut self, what: String) {
        *self.faults.entry(what).or_default() += 1;
    }

    /// One decoded block, of which `raw` are the attributes.
    fn block(&mut self, decoded: &Decoded, raw: &[normal::Raw], plain: bool, with: &Negotiated) {
        for error in &decoded.errors {
            self.fault(error.to_string());
        }
        if decoded.treatment != Treatment::Accept {
            return;
        }
        let canonical = decoded.attributes.to_canonical();
        assert_eq!(Attributes::from_canonical(&canonical).as_ref(), Ok(&decoded.attributes));
        // Merging has changed the two that AS4_PATH and AS4_AGGREGATOR stand for.
        if raw.iter().any(|(_, code, _)| matches!(code, 17 | 18)) {
            return;
        }
        let mut again = Vec::new();
        decoded.attributes.encode(with, &mut again);
        assert_eq!(again, normal::canonical(raw, plain), "{:?}", decoded.attributes);
        self.rewritten += 1;
    }

    fn update(&mut self, body: &[u8], with: &Negotiated) {
        self.updates += 1;
        let sections = match split(body, with) {
            Ok(sections) => sections,
            Err(error) => return self.fault(error.to_string()),
        };
        self.ends_of_rib += usize::from(sections.is_end_of_rib().is_some());
        for (family, nlri) in sections.withdrawals() {
            self.withdrawn += self.prefixes(family, nlri, with);
        }
        for (family, nlri, block) in sections.announced() {
            self.announced += self.prefixes(family, nlri, with);
            let decoded = Attributes::decode(&block, with);
            let plain = nlri == sections.nlri;
            let sound = !matches!(decoded.treatment, Treatment::TreatAsWithdraw);
            let raw =
                if sound { normal::attributes(&block.material()[..3].concat()) } else { vec![] };
            self.block(&decoded, &raw, plain, with);
        }
        if let Some(block) = sections.orphans() {
            Attributes::decode(&block, with).errors.iter().for_each(|e| self.fault(e.to_string()));
        }
    }

    fn prefixes(&mut self, family: Family, nlri: &[u8], with: &Negotiated) -> usize {
        let add_path = with.add_path_rx.contains(family);
        let (good, bad): (Vec<_>, Vec<_>) =
            prefixes(family, nlri, add_path).partition(Result::is_ok);
        bad.into_iter().filter_map(Result::err).for_each(|error| self.fault(error.to_string()));
        good.len()
    }

    fn route(&mut self, attributes: &[u8], family: Family, is_short_mp: bool, with: &Negotiated) {
        self.routes += 1;
        let raw = normal::attributes(attributes);
        let mp = raw.iter().find(|(_, code, _)| *code == 14).map(|(_, _, value)| value);
        // A table of version 2 keeps the next hop alone (RFC 6396 section 4.3.4).
        let next_hop = mp.map(|value| {
            let from = if is_short_mp && value[0] != 0 { 0 } else { 3 };
            &value[from + 1..][..usize::from(value[from])]
        });
        let reach =
            next_hop.map_or(Reach::Plain, |next_hop| Reach::Multiprotocol { family, next_hop });
        let others: Vec<normal::Raw> =
            raw.iter().filter(|(_, code, _)| !matches!(code, 14 | 15)).cloned().collect();
        let bytes: Vec<u8> = others
            .iter()
            .flat_map(|(flags, code, value)| {
                let length = (value.len() as u16).to_be_bytes();
                [&[flags | 0x10, *code], &length[..], value].concat()
            })
            .collect();
        let decoded = Attributes::decode(&Block::from_bytes(&bytes, reach, with), with);
        self.block(&decoded, &others, next_hop.is_none(), with);
    }
}

/// What `file` holds.
pub(crate) fn counted(file: &Path) -> Count {
    let (entries, bad) = entries(file);
    let mut count = Count::default();
    for entry in entries {
        match entry {
            Entry::Message { bytes, asn4, add_path } => {
                let add_path_rx =
                    FamilySet::from_iter(Family::ALL.into_iter().filter(|_| add_path));
                if bytes.get(18) == Some(&2) {
                    let length = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
                    let body = bytes.get(HEADER_LEN..length).unwrap_or_default();
                    count.update(body, &Negotiated { add_path_rx, ..session(asn4) });
                }
            }
            Entry::Update { body, asn4 } => count.update(&body, &session(asn4)),
            Entry::Route { attributes, asn4, family, is_short_mp } => {
                count.route(&attributes, family, is_short_mp, &session(asn4));
            }
        }
    }
    if bad > 0 {
        count.faults.insert("bad records".into(), bad);
    }
    count
}

#[test]
fn all_captures_decode_and_are_written_again() {
    let Some(data) = data("all_captures_decode_and_are_written_again") else { return };
    let (mut total, mut faults) = (0, Vec::new());
    for file in files(&data) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let count = counted(&file);
        println!("{name}: {count:?}");
        total += count.updates + count.routes;
        faults.extend(count.faults.into_iter().map(|(what, times)| (name.clone(), what, times)));
    }
    let known = KNOWN_FAULTS.map(|(name, what, times)| (name.into(), what.into(), times));
    assert_eq!(faults, known);
    assert!(total > 700_000, "{total} updates and routes");
}

/// What is wrong in the captures themselves, and how often: AS 0 (RFC 7607), next hops of zeros,
/// tables of BIRD's without attributes or without the next hop of IPv6, and damaged records.
const KNOWN_FAULTS: [(&str, &str, usize); 24] = [
    ("bgpdump-bview.20020722.2337.gz", "AGGREGATOR: invalid value", 8),
    ("bgpdump-bview.ipv4_unicast_add_path.gz", "AS_PATH: missing", 2),
    ("bgpdump-bview.ipv4_unicast_add_path.gz", "NEXT_HOP: missing", 2),
    ("bgpdump-bview.ipv4_unicast_add_path.gz", "ORIGIN: missing", 2),
    ("bgpdump-bview.ipv6_unicast_add_path.gz", "AS_PATH: missing", 2),
    ("bgpdump-bview.ipv6_unicast_add_path.gz", "NEXT_HOP: missing", 62),
    ("bgpdump-bview.ipv6_unicast_add_path.gz", "ORIGIN: missing", 2),
    ("bgpdump-updates.20071015.1505.gz", "MP_REACH_NLRI: invalid value", 21),
    ("bgpdump-updates.et-header.2015.gz", "AGGREGATOR: invalid value", 3),
    ("bgpdump-updates.et-header.2015.gz", "AS_PATH: invalid value", 1),
    ("bgpdump-updates.nlri_mask_trailing_bits.gz", "Ipv4Unicast prefix cut off behind 0 octets", 1),
    ("ris-rrc00-bview.20000111.0032.gz", "AGGREGATOR: invalid value", 137),
    ("ris-rrc00-bview.20000111.0032.gz", "bad records", 2),
    ("ris-rrc00-updates.19990903.1041.gz", "AGGREGATOR: invalid value", 24),
    ("ris-rrc00-updates.19991214.1621.gz", "AGGREGATOR: invalid value", 37),
    ("ris-rrc00-updates.20000325.0345.gz", "bad records", 1),
    (
        "ris-rrc00-updates.20000325.0345.gz",
        "withdrawn routes of 33274 bytes where 14542 are left",
        1,
    ),
    ("ris-rrc01-updates.20001104.0124.gz", "bad records", 21),
    ("bird-mrtdump_rib.mrt", "AS_PATH: missing", 6),
    ("bird-mrtdump_rib.mrt", "NEXT_HOP: missing", 6),
    ("bird-mrtdump_rib.mrt", "ORIGIN: missing", 6),
    ("bird6-mrtdump_rib.mrt", "AS_PATH: missing", 4),
    ("bird6-mrtdump_rib.mrt", "NEXT_HOP: missing", 10),
    ("bird6-mrtdump_rib.mrt", "ORIGIN: missing", 4),
];

#[test]
fn the_recorded_full_table_has_the_counts_that_are_known_of_it() {
    let Some(data) = data("the_recorded_full_table_has_the_counts_that_are_known_of_it") else {
        return;
    };
    let count = counted(&data.join("mrt/bgpdump-updates.et-header.2015.gz"));
    assert_eq!((count.updates, count.announced, count.withdrawn), (89_679, 577_737, 3));
}
