//! The same messages through another codec (bgpkit-parser): both must read the same out of them.

use super::bgp_feed::Feed;
use super::mrt::{Entry, entries, files};
use super::{data, session};
use bgpkit_parser::models::{AsPathSegment, AsnLength, AttributeValue, BgpUpdateMessage};
use bgpkit_parser::models::{Community, NetworkPrefix, NextHopAddress};
use bgpkit_parser::parser::bgp::messages::parse_bgp_update_message;
use bytes::Bytes;
use ipnet::IpNet;
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::wire::attribute::{Attributes, NextHop};
use margay_bgp::wire::nlri::prefixes;
use margay_bgp::wire::pack::encode_update;
use margay_bgp::wire::treatment::Treatment;
use margay_bgp::wire::update::split;
use margay_bgp::wire::{HEADER_LEN, Negotiated};

/// What a message says, in words that both codecs' results are brought to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    announced: Vec<(u32, IpNet)>,
    withdrawn: Vec<(u32, IpNet)>,
    next_hops: Vec<String>,
    origin: u8,
    as_path: String,
    med: Option<u32>,
    local_pref: Option<u32>,
    atomic_aggregate: bool,
    aggregator: Option<(u32, String)>,
    communities: Vec<u32>,
    large: Vec<String>,
    originator: Option<String>,
    clusters: Vec<u32>,
}

/// `None` for a message that one of the two may refuse: what they make of errors differs.
fn ours(body: &[u8], with: &Negotiated) -> Option<Said> {
    let sections = split(body, with).ok()?;
    let mut said = Said::default();
    let read = |family: Family, nlri: &[u8], to: &mut Vec<(u32, IpNet)>| {
        let add_path = with.add_path_rx.contains(family);
        let all: Result<Vec<_>, _> = prefixes(family, nlri, add_path).collect();
        to.extend(all.ok()?);
        Some(())
    };
    for (family, nlri) in sections.withdrawals() {
        read(family, nlri, &mut said.withdrawn)?;
    }
    for (family, nlri, block) in sections.announced() {
        read(family, nlri, &mut said.announced)?;
        let decoded = Attributes::decode(&block, with);
        if decoded.treatment != Treatment::Accept {
            return None;
        }
        let set = decoded.attributes;
        said.next_hops.push(set.next_hop?.to_string());
        said.origin = set.origin.value();
        said.as_path = set.as_path.to_string();
        (said.med, said.local_pref) = (set.med, set.local_pref);
        said.atomic_aggregate = set.atomic_aggregate;
        said.aggregator = set.aggregator.map(|by| (by.asn, by.router_id.to_string()));
        said.communities = set.communities.iter().map(|community| community.0).collect();
        said.large = set.large_communities.iter().map(ToString::to_string).collect();
        said.originator = set.originator_id.map(|id| id.to_string());
        said.clusters = set.cluster_list.iter().map(|id| id.to_bits()).collect();
    }
    Some(said)
}

fn segment(segment: &AsPathSegment) -> String {
    let list = |asns: &[bgpkit_parser::models::Asn], between: &str| {
        let asns: Vec<String> = asns.iter().map(|asn| u32::from(*asn).to_string()).collect();
        asns.join(between)
    };
    match segment {
        AsPathSegment::AsSequence(asns) => list(asns, " "),
        AsPathSegment::AsSet(asns) => format!("{{{}}}", list(asns, ",")),
        AsPathSegment::ConfedSequence(asns) => format!("({})", list(asns, " ")),
        AsPathSegment::ConfedSet(asns) => format!("[{}]", list(asns, ",")),
    }
}

fn theirs(update: &BgpUpdateMessage) -> Said {
    let pair = |prefix: &NetworkPrefix| (prefix.path_id.unwrap_or(0), prefix.prefix.trunc());
    let mut said = Said {
        announced: update.announced_prefixes.iter().map(pair).collect(),
        withdrawn: update.withdrawn_prefixes.iter().map(pair).collect(),
        ..Said::default()
    };
    let (mut plain, mut mp) = (None, None);
    for attribute in &update.attributes {
        match attribute {
            AttributeValue::MpReachNlri(nlri) => {
                said.announced.extend(nlri.prefixes.iter().map(pair));
                mp = nlri.next_hop.as_ref().map(|next_hop| match next_hop {
                    NextHopAddress::Ipv6LinkLocal(global, link_local) => {
                        format!("{global} {link_local}")
                    }
                    NextHopAddress::Ipv4(address) => address.to_string(),
                    NextHopAddress::Ipv6(address) => address.to_string(),
                    other => format!("{other:?}"),
                });
            }
            AttributeValue::MpUnreachNlri(nlri) => {
                said.withdrawn.extend(nlri.prefixes.iter().map(pair));
            }
            AttributeValue::NextHop(address) => plain = Some(address.to_string()),
            AttributeValue::Origin(origin) => said.origin = *origin as u8,
            AttributeValue::AsPath(path) => {
                let segments: Vec<String> = path.segments.iter().map(segment).collect();
                said.as_path = segments.join(" ");
            }
            AttributeValue::MultiExitDiscriminator(med) => said.med = Some(*med),
            AttributeValue::LocalPreference(value) => said.local_pref = Some(*value),
            AttributeValue::AtomicAggregate => said.atomic_aggregate = true,
            AttributeValue::Aggregator { asn, id } => {
                said.aggregator = Some((u32::from(*asn), id.to_string()));
            }
            AttributeValue::Communities(all) => {
                said.communities = all.iter().map(community).collect();
            }
            AttributeValue::LargeCommunities(all) => {
                let text = |it: &bgpkit_parser::models::LargeCommunity| {
                    format!("{}:{}:{}", it.global_admin, it.local_data[0], it.local_data[1])
                };
                said.large = all.iter().map(text).collect();
            }
            AttributeValue::OriginatorId(id) => said.originator = Some(id.to_string()),
            AttributeValue::Clusters(ids) => said.clusters = ids.clone(),
            _ => (),
        }
    }
    let plain = plain.filter(|_| !update.announced_prefixes.is_empty());
    said.next_hops = plain.into_iter().chain(mp).collect();
    if said.next_hops.is_empty() {
        let Said { announced, withdrawn, .. } = said;
        return Said { announced, withdrawn, ..Said::default() };
    }
    said
}

fn community(community: &Community) -> u32 {
    match community {
        Community::NoExport => 0xffff_ff01,
        Community::NoAdvertise => 0xffff_ff02,
        Community::NoExportSubConfed => 0xffff_ff03,
        Community::Custom(asn, value) => u32::from(*asn) << 16 | u32::from(*value),
    }
}

/// True when both have read the message, and the same out of it.
fn compared(body: &[u8], asn4: bool, add_path: bool) -> bool {
    let families = FamilySet::from_iter(Family::ALL.into_iter().filter(|_| add_path));
    let with = Negotiated { add_path_rx: families, ..session(asn4) };
    let width = if asn4 { AsnLength::Bits32 } else { AsnLength::Bits16 };
    let theirs_read = parse_bgp_update_message(Bytes::copy_from_slice(body), add_path, &width).ok();
    match (ours(body, &with), theirs_read) {
        // Merging is ours alone, and no other test of ours knows what a skipped family holds.
        (Some(_), Some(update))
            if update.attributes.iter().any(|attribute| {
                matches!(
                    attribute,
                    AttributeValue::As4Path(_) | AttributeValue::As4Aggregator { .. }
                )
            }) || split(body, &with).is_ok_and(|sections| sections.skipped.is_some()) =>
        {
            false
        }
        (Some(ours), Some(update)) => {
            assert_eq!(ours, theirs(&update), "{body:02x?}");
            true
        }
        _ => false,
    }
}

#[test]
fn both_read_the_same_out_of_the_captures() {
    let Some(data) = data("both_read_the_same_out_of_the_captures") else { return };
    let (mut all, mut same) = (0, 0);
    for file in files(&data) {
        for entry in entries(&file).0 {
            let (body, asn4, add_path) = match entry {
                Entry::Message { bytes, asn4, add_path } if bytes.get(18) == Some(&2) => {
                    (bytes[HEADER_LEN..].to_vec(), asn4, add_path)
                }
                Entry::Update { body, asn4 } => (body, asn4, false),
                _ => continue,
            };
            all += 1;
            same += usize::from(compared(&body, asn4, add_path));
        }
    }
    println!("{same} of {all} messages compared");
    assert!(same * 100 >= all * 95, "{same} of {all}");
}

#[test]
fn both_read_the_same_out_of_a_generated_table() {
    let next_hop_v6 = NextHop::V6("2001:db8::1".parse().unwrap());
    let mut same = 0;
    for (asn4, add_path) in [(true, false), (true, true)] {
        let add_path_tx = FamilySet::from_iter(Family::ALL.into_iter().filter(|_| add_path));
        let with = Negotiated { add_path_tx, ..session(asn4) };
        for shared in Feed::new(4, 20_000) {
            let (set, mut out) = (&shared.attributes, Vec::new());
            let v4 = shared.prefixes.iter().copied();
            encode_update(set, set.next_hop.unwrap(), v4, &with, &mut out).unwrap();
            encode_update(set, next_hop_v6, shared.prefixes_v6(), &with, &mut out).unwrap();
            let mut rest = &out[..];
            while !rest.is_empty() {
                let length = usize::from(u16::from_be_bytes([rest[16], rest[17]]));
                assert!(compared(&rest[HEADER_LEN..length], asn4, add_path));
                (same, rest) = (same + 1, &rest[length..]);
            }
        }
    }
    assert!(same > 5_000, "{same}");
}
