//! ExaBGP's vectors: exact messages, with what they say beside them as JSON.

use super::{data, normal, session};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::wire::as_path::AsPath;
use margay_bgp::wire::attribute::Attributes;
use margay_bgp::wire::nlri::prefixes;
use margay_bgp::wire::treatment::Treatment;
use margay_bgp::wire::update::split;
use margay_bgp::wire::{HEADER_LEN, Negotiated};
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;
use std::path::Path;

/// Messages that are against the RFCs that they would have to follow, by file and why.
const REFUSED: [(&str, &str); 2] = [
    ("extended-nexthop.ci", "IPv6 prefixes with a next hop of 4 bytes: nothing allows them"),
    ("conf-generic-attribute.ci", "an unknown attribute that is not optional (RFC 4271, 6.3)"),
];

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|letter| letter.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// Messages of a file, each with its JSON if there is one.
fn vectors(text: &str) -> Vec<(Vec<u8>, Option<Value>)> {
    let mut vectors: Vec<(Vec<u8>, Option<Value>)> = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        match (parts.next(), parts.next()) {
            (Some("raw"), Some(hex)) => vectors.push((bytes_of(hex), None)),
            (Some("json"), Some(text)) => {
                vectors.last_mut().expect("a readable vector").1 =
                    Some(serde_json::from_str(text).expect("JSON"));
            }
            _ => (),
        }
    }
    vectors
}

/// The decoded message in the words of the vectors; `None` for what is not of our families.
fn said(body: &[u8], with: &Negotiated) -> Result<Option<Value>, String> {
    let sections = split(body, with).map_err(|error| error.to_string())?;
    if sections.skipped.is_some() {
        return Ok(None);
    }
    let mut update = Map::new();
    let names = |family| match family {
        Family::Ipv4Unicast => "ipv4 unicast",
        Family::Ipv6Unicast => "ipv6 unicast",
    };
    let nlri = |family: Family, bytes: &[u8]| -> Result<Value, String> {
        let add_path = with.add_path_rx.contains(family);
        let all: Result<Vec<Value>, _> = prefixes(family, bytes, add_path)
            .map(|nlri| {
                let (id, prefix) = nlri?;
                let mut entry = json!({ "nlri": prefix.to_string() });
                if add_path {
                    entry["path-information"] = json!(Ipv4Addr::from_bits(id).to_string());
                }
                Ok(entry)
            })
            .collect();
        all.map(Value::Array).map_err(|error: margay_bgp::wire::nlri::NlriError| error.to_string())
    };
    for (family, bytes) in sections.withdrawals() {
        update.entry("withdraw").or_insert(json!({}))[names(family)] = nlri(family, bytes)?;
    }
    for (family, bytes, block) in sections.announced() {
        let decoded = Attributes::decode(&block, with);
        if decoded.treatment != Treatment::Accept {
            return Err(decoded.errors[0].to_string());
        }
        let raw = normal::attributes(&block.material()[..3].concat());
        let mut again = Vec::new();
        decoded.attributes.encode(with, &mut again);
        assert_eq!(again, normal::canonical(&raw, bytes == sections.nlri));
        let next_hop =
            decoded.attributes.next_hop.expect("a readable vector").address().to_string();
        update.insert("attribute".into(), attributes(&decoded.attributes));
        let announce = update.entry("announce").or_insert(json!({}));
        announce[names(family)] = json!({ next_hop: nlri(family, bytes)? });
    }
    if let Some(block) = sections.orphans() {
        update.insert("attribute".into(), attributes(&Attributes::decode(&block, with).attributes));
    }
    Ok(Some(update.into()))
}

fn attributes(set: &Attributes) -> Value {
    let mut said = json!({ "origin": set.origin.to_string() });
    let mut say = |name: &str, value: Value| said[name] = value;
    if set.as_path != AsPath::default() {
        let asns: Vec<u32> = set.as_path.asns().collect();
        say("as-path", json!({ "0": { "element": "as-sequence", "value": asns } }));
    }
    set.med.into_iter().for_each(|med| say("med", json!(med)));
    set.local_pref.into_iter().for_each(|value| say("local-preference", json!(value)));
    if set.atomic_aggregate {
        say("atomic-aggregate", json!(true));
    }
    if let Some(by) = set.aggregator {
        say("aggregator", json!(format!("{}:{}", by.asn, by.router_id)));
    }
    if !set.communities.is_empty() {
        let all: Vec<_> = set.communities.iter().map(|it| json!([it.asn(), it.value()])).collect();
        say("community", json!(all));
    }
    if !set.large_communities.is_empty() {
        let parts = |it: &margay_bgp::wire::community::LargeCommunity| {
            json!([it.global, it.local1, it.local2])
        };
        say("large-community", set.large_communities.iter().map(parts).collect());
    }
    if !set.extended_communities.is_empty() {
        let value =
            |it: &margay_bgp::wire::community::ExtendedCommunity| json!(u64::from_be_bytes(it.0));
        say("extended-community", set.extended_communities.iter().map(value).collect());
    }
    set.originator_id.into_iter().for_each(|id| say("originator-id", json!(id.to_string())));
    if !set.cluster_list.is_empty() {
        let ids: Vec<String> = set.cluster_list.iter().map(Ipv4Addr::to_string).collect();
        say("cluster-list", json!(ids));
    }
    said
}

/// What the vector expects, in the shape of [`attributes`].
fn expected(json: &Value) -> Option<Value> {
    let mut update = json["neighbor"]["message"]["update"].clone();
    if let Some(attributes) = update.get_mut("attribute").and_then(Value::as_object_mut) {
        attributes.retain(|name, _| {
            !name.starts_with("attribute-0x") && !name.contains("-ipv6") && name != "bgp-prefix-sid"
        });
        let all = attributes.get_mut("extended-community").and_then(Value::as_array_mut);
        all.into_iter().flatten().for_each(|one| *one = one["value"].clone());
    }
    update.is_object().then_some(update)
}

/// Without next hops: one of ours stands for both addresses of a pair.
fn check(name: &str, text: &str, with: &Negotiated) -> (usize, usize) {
    let (mut compared, mut refused) = (0, 0);
    for (message, json) in vectors(text) {
        if message.get(18) != Some(&2) {
            continue;
        }
        match said(&message[HEADER_LEN..], with) {
            Ok(None) => (),
            Ok(Some(said)) => {
                let Some(expected) = json.as_ref().and_then(expected) else { continue };
                assert_eq!(said, expected, "{name}: {message:02x?}");
                compared += 1;
            }
            Err(error) => {
                println!("{name}: {error}");
                assert!(REFUSED.iter().any(|(file, _)| *file == name), "{name}: {error}");
                refused += 1;
            }
        }
    }
    (compared, refused)
}

#[test]
fn exabgp_messages_say_what_they_say_to_exabgp() {
    let Some(data) = data("exabgp_messages_say_what_they_say_to_exabgp") else { return };
    let (mut compared, mut refused) = (0, 0);
    let mut files: Vec<_> = std::fs::read_dir(data.join("exabgp-vectors/encoding"))
        .expect("a readable vector")
        .map(|file| file.expect("a readable vector").path())
        .collect();
    files.sort();
    for file in files {
        let name = file.file_name().expect("a readable vector").to_string_lossy().into_owned();
        let with_paths = ["conf-addpath.ci", "conf-path-information.ci"].contains(&&*name);
        let all = FamilySet::from_iter(Family::ALL);
        let add_path_rx = if with_paths { all } else { FamilySet::EMPTY };
        let with = Negotiated { add_path_rx, ..session(name != "conf-no-asn4.ci") };
        let counts =
            check(&name, &std::fs::read_to_string(&file).expect("a readable vector"), &with);
        (compared, refused) = (compared + counts.0, refused + counts.1);
    }
    println!("{compared} compared, {refused} refused");
    assert!(compared >= 50, "{compared}");
    assert!(refused <= 4, "{refused}");
}

#[test]
fn exabgp_decoding_vectors_say_what_they_say_to_exabgp() {
    let Some(data) = data("exabgp_decoding_vectors_say_what_they_say_to_exabgp") else { return };
    let said_of = |file: &Path| {
        let text = std::fs::read_to_string(file).expect("a readable vector");
        let mut lines = text.lines().skip(1);
        let message = bytes_of(lines.next().expect("a readable vector"));
        let json: Value = serde_json::from_str(lines.next().expect("a readable vector")).unwrap();
        (said(&message[HEADER_LEN..], &session(true)), expected(&json))
    };
    for name in ["ipv4-unicast-1", "ipv4-unicast-2"] {
        let (said, expected) = said_of(&data.join("exabgp-vectors/decoding").join(name));
        assert_eq!(said, Ok(expected), "{name}");
    }
}
