//! An UPDATE as JSON: prefixes, attributes, and the treatment of RFC 7606.

use super::bgp::{Malformed, hex};
use margay_bgp::Family;
use margay_bgp::wire::Negotiated;
use margay_bgp::wire::as_path::{AsPath, SegmentKind};
use margay_bgp::wire::attribute::{Attributes, NextHop};
use margay_bgp::wire::nlri::{NlriError, prefixes};
use margay_bgp::wire::treatment::{AttributeError, Treatment};
use margay_bgp::wire::update::{UpdateError, split};
use serde_json::{Map, Value, json};

impl From<UpdateError> for Malformed {
    fn from(error: UpdateError) -> Malformed {
        Malformed::new(&error.notification(), error.to_string())
    }
}

impl From<NlriError> for Malformed {
    fn from(error: NlriError) -> Malformed {
        UpdateError::from(error).into()
    }
}

/// Decodes the body of an UPDATE.
pub(super) fn decode(body: &[u8], negotiated: &Negotiated) -> Result<Value, Malformed> {
    let sections = split(body, negotiated)?;
    let (mut withdrawn, mut nlri) = (Vec::new(), Vec::new());
    for (family, section) in sections.withdrawals() {
        read(family, section, negotiated, &mut withdrawn)?;
    }
    let mut attrs = Map::new();
    let mut treatment = sections.treatment();
    let mut errors = sections.errors.clone();
    let mut add = |decoded: margay_bgp::wire::attribute::Decoded| {
        treatment = treatment.max(decoded.treatment);
        // Both kinds of prefixes in one message share their attributes, errors too.
        decoded.errors.into_iter().for_each(|error| {
            if !errors.contains(&error) {
                errors.push(error);
            }
        });
        let next_hop = attrs.get("nextHop").cloned();
        attrs.extend(attributes(&decoded.attributes));
        if let Some(plain) = next_hop {
            let mp = attrs.insert("nextHop".into(), plain);
            attrs.extend(mp.map(|mp| ("mpNextHop".to_owned(), mp)));
        }
    };
    for (family, section, block) in sections.announced() {
        read(family, section, negotiated, &mut nlri)?;
        add(Attributes::decode(&block, negotiated));
    }
    if let Some(block) = sections.orphans() {
        add(Attributes::decode(&block, negotiated));
    }
    if treatment == Treatment::SessionReset {
        return Err(reset(&errors));
    }
    let mut answer = json!({
        "type": "UPDATE",
        "withdrawn": withdrawn,
        "attrs": attrs,
        "nlri": nlri,
        "treatment": treatment.name(),
    });
    if !errors.is_empty() {
        answer["errors"] = errors.iter().map(error).collect();
    }
    if let Some(family) = sections.is_end_of_rib() {
        answer["endOfRib"] = json!({ "afi": family.afi(), "safi": family.safi() });
    }
    if let Some(skipped) = sections.skipped {
        answer["skipped"] = json!({ "afi": skipped.afi, "safi": skipped.safi });
    }
    Ok(answer)
}

/// The error that ends the session: the first of the strongest.
fn reset(errors: &[AttributeError]) -> Malformed {
    let strongest = errors.iter().rev().max_by_key(|error| error.treatment);
    match strongest {
        Some(error) => Malformed::new(&error.notification(), error.to_string()),
        None => UpdateError::Lengths { section: "path attributes", length: 0, left: 0 }.into(),
    }
}

fn error(error: &AttributeError) -> Value {
    json!({
        "attribute": error.code,
        "treatment": error.treatment.name(),
        "detail": error.to_string(),
    })
}

fn read(
    family: Family,
    section: &[u8],
    negotiated: &Negotiated,
    out: &mut Vec<Value>,
) -> Result<(), Malformed> {
    let add_path = negotiated.add_path_rx.contains(family);
    for nlri in prefixes(family, section, add_path) {
        let (path_id, prefix) = nlri?;
        let mut entry = json!({ "prefix": prefix });
        if add_path {
            entry["pathId"] = json!(path_id);
        }
        out.push(entry);
    }
    Ok(())
}

/// The attributes that are there.
fn attributes(set: &Attributes) -> Map<String, Value> {
    let mut attrs = Map::new();
    let mut say = |name: &str, value: Value| drop(attrs.insert(name.to_owned(), value));
    say("origin", json!(set.origin.to_string()));
    say("asPath", as_path(&set.as_path));
    match set.next_hop {
        None => (),
        Some(NextHop::V6Pair { global, link_local }) => {
            say("nextHop", json!(global));
            say("nextHopLinkLocal", json!(link_local));
        }
        Some(next_hop) => say("nextHop", json!(next_hop.to_string())),
    }
    set.med.into_iter().for_each(|med| say("med", json!(med)));
    set.local_pref.into_iter().for_each(|value| say("localPref", json!(value)));
    if set.atomic_aggregate {
        say("atomicAggregate", json!(true));
    }
    if let Some(by) = set.aggregator {
        say("aggregator", json!({ "asn": by.asn, "routerId": by.router_id }));
    }
    let lists = [
        ("communities", texts(&set.communities)),
        ("extCommunities", texts(&set.extended_communities)),
        ("largeCommunities", texts(&set.large_communities)),
        ("clusterList", texts(&set.cluster_list)),
    ];
    for (name, texts) in lists.into_iter().filter(|(_, texts)| !texts.is_empty()) {
        say(name, json!(texts));
    }
    set.originator_id.into_iter().for_each(|id| say("originatorId", json!(id)));
    if !set.unknown.is_empty() {
        let unknown = set.unknown.iter().map(|unknown| {
            let flags = format!("{:#04x}", unknown.flags);
            json!({ "code": unknown.code, "flags": flags, "value": hex(&unknown.value) })
        });
        say("unknown", unknown.collect());
    }
    attrs
}

fn texts(elements: &[impl std::fmt::Display]) -> Vec<String> {
    elements.iter().map(ToString::to_string).collect()
}

/// AS numbers in order; a set is a list within it, a confederation's segment an object.
fn as_path(path: &AsPath) -> Value {
    let mut elements = Vec::new();
    for segment in path.segments() {
        let asns: Vec<u32> = segment.asns().collect();
        match segment.kind {
            SegmentKind::Sequence => elements.extend(asns.into_iter().map(|asn| json!(asn))),
            SegmentKind::Set => elements.push(json!(asns)),
            SegmentKind::ConfedSequence => elements.push(json!({ "confedSequence": asns })),
            SegmentKind::ConfedSet => elements.push(json!({ "confedSet": asns })),
        }
    }
    Value::Array(elements)
}
