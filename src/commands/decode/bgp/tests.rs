use super::*;
use crate::commands::decode::{BgpLine, batch, bgp_answer};
use margay_bgp::wire::frame::message;

fn decoded(kind: Kind, body: &[u8], session: &str) -> Value {
    let session = serde_json::from_str(session).unwrap();
    serde_json::to_value(bgp_answer(&hex(&message(kind, body)), &session)).unwrap()
}

/// An UPDATE of attributes and prefixes.
fn update(attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = (attributes.len() as u16).to_be_bytes();
    [&[0, 0], &length[..], &attributes, nlri].concat()
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 16, 2, 1, 0, 0, 0xfd, 0xe8, 1, 2, 0, 1, 0, 0, 0, 0, 0, 7];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];

#[test]
fn an_update_is_shown_whole() {
    let others: &[&[u8]] = &[
        ORIGIN,
        AS_PATH,
        NEXT_HOP,
        &[0x80, 4, 4, 0, 0, 0, 9],
        &[0x40, 5, 4, 0, 0, 0, 100],
        &[0x40, 6, 0],
        &[0xc0, 7, 8, 0, 0, 0xfd, 0xe8, 10, 0, 0, 1],
        &[0xc0, 8, 4, 0xfd, 0xe8, 0, 1],
        &[0x80, 9, 4, 10, 0, 0, 2],
        &[0x80, 10, 4, 10, 0, 0, 3],
        &[0xc0, 16, 8, 0, 2, 0xfd, 0xe8, 0, 0, 0, 5],
        &[0xc0, 32, 12, 0, 0, 0xfd, 0xe8, 0, 0, 0, 1, 0, 0, 0, 2],
        &[0xe0, 99, 2, 1, 2],
    ];
    let value = decoded(Kind::Update, &update(others, &[8, 10]), "{}");
    let expected = json!({
        "type": "UPDATE",
        "withdrawn": [],
        "attrs": {
            "origin": "igp",
            "asPath": [65000, [65536, 7]],
            "nextHop": "192.0.2.1",
            "med": 9,
            "localPref": 100,
            "atomicAggregate": true,
            "aggregator": { "asn": 65000, "routerId": "10.0.0.1" },
            "communities": ["65000:1"],
            "originatorId": "10.0.0.2",
            "clusterList": ["10.0.0.3"],
            "extCommunities": ["rt:65000:5"],
            "largeCommunities": ["65000:1:2"],
            "unknown": [{ "code": 99, "flags": "0xe0", "value": "0102" }],
        },
        "nlri": [{ "prefix": "10.0.0.0/8" }],
        "treatment": "ok",
    });
    assert_eq!(value, expected);
}

#[test]
fn the_session_says_how_bytes_read() {
    let path: &[u8] = &[0x40, 2, 4, 2, 1, 0xfd, 0xe8];
    let body = update(&[ORIGIN, path, NEXT_HOP], &[0, 0, 0, 7, 8, 10]);
    let value = decoded(Kind::Update, &body, r#"{"asn4":false,"addpath":[[1,1]]}"#);
    assert_eq!(value["attrs"]["asPath"], json!([65000]));
    assert_eq!(value["nlri"], json!([{ "prefix": "10.0.0.0/8", "pathId": 7 }]));
    let body = update(&[ORIGIN, path, NEXT_HOP], &[8, 10]);
    assert_eq!(decoded(Kind::Update, &body, "{}")["treatment"], "treat-as-withdraw");
}

#[test]
fn errors_say_their_treatment() {
    let discarded: &[u8] = &[0x40, 6, 1, 0];
    let value =
        decoded(Kind::Update, &update(&[ORIGIN, AS_PATH, NEXT_HOP, discarded], &[8, 10]), "{}");
    assert_eq!(value["treatment"], "attribute-discard");
    assert_eq!(value["errors"][0]["attribute"], 6);
    let value = decoded(Kind::Update, &update(&[ORIGIN, AS_PATH], &[8, 10]), "{}");
    assert_eq!(value["treatment"], "treat-as-withdraw");
    assert_eq!(value["errors"][0]["detail"], "NEXT_HOP: missing");
    let reset = [
        (update(&[ORIGIN, AS_PATH, NEXT_HOP, &[0x40, 99, 0]], &[8, 10]), 2),
        (update(&[&[0x40, 1, 1, 9]], &[]), 6),
        (update(&[ORIGIN, AS_PATH, NEXT_HOP], &[33, 10]), 10),
        (vec![0, 9, 0, 0], 1),
    ];
    for (body, subcode) in reset {
        let error = &decoded(Kind::Update, &body, "{}")["error"];
        assert_eq!((&error["code"], &error["subcode"]), (&json!(3), &json!(subcode)));
        assert_eq!(error["treatment"], "session-reset");
    }
}

#[test]
fn other_messages_have_their_type() {
    assert_eq!(decoded(Kind::Keepalive, &[], "{}"), json!({ "type": "KEEPALIVE" }));
    let value = decoded(Kind::Notification, &[6, 2, 3, b'b', b'y', b'e'], "{}");
    assert_eq!((&value["code"], &value["communication"]), (&json!(6), &json!("bye")));
    let value = decoded(Kind::RouteRefresh, &[0, 2, 1, 1], "{}");
    assert_eq!((&value["afi"], &value["subtype"]), (&json!(2), &json!("begin")));
    let body = [4, 0xfd, 0xe8, 0, 90, 10, 0, 0, 1, 8, 2, 6, 1, 4, 0, 1, 0, 1];
    let value = decoded(Kind::Open, &body, "{}");
    assert_eq!((&value["asn"], &value["holdTime"]), (&json!(65000), &json!(90)));
    let multiprotocol = json!({ "code": 1, "name": "multiprotocol", "afi": 1, "safi": 1 });
    assert_eq!(value["capabilities"], json!([multiprotocol]));
    let value = decoded(Kind::Update, &[0, 0, 0, 0], "{}");
    assert_eq!(value["endOfRib"], json!({ "afi": 1, "safi": 1 }));
}

#[test]
fn a_message_is_one_whole_message() {
    let bytes = message(Kind::Update, &[0, 0, 0, 0]);
    for bad in [&bytes[..10], &bytes[..22], &[&bytes[..], &[0]].concat()] {
        let error = decode(bad, &Session::default()).unwrap_err();
        assert_eq!((error.code, error.subcode), (1, 2), "{}", error.detail);
    }
}

#[test]
fn a_batch_answers_each_line() {
    let update = hex(&message(Kind::Update, &[0, 0, 0, 0]));
    let input = format!(
        "{{\"hex\":\"{update}\",\"session\":{{\"asn4\":false}}}}\n{{\"hex\":\"zz\"}}\n{{}}\n\
         {{\"hex\":\"{}\"}}\n",
        hex(&frame::KEEPALIVE)
    );
    let mut out = Vec::new();
    batch::run(input.as_bytes(), &mut out, |line: BgpLine| bgp_answer(&line.hex, &line.session))
        .unwrap();
    let lines: Vec<Value> = String::from_utf8(out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[0]["type"], &lines[3]["type"]), (&json!("UPDATE"), &json!("KEEPALIVE")));
    assert!(lines[1]["error"].is_string() && lines[2]["error"].is_string());
}

/// The messages that other codecs are known to have read past the end of.
#[test]
fn wrong_lengths_are_errors() {
    let Some(data) = std::env::var_os("MARGAY_DATA") else {
        return println!("SKIPPED wrong_lengths_are_errors: MARGAY_DATA names no folder");
    };
    let mut files = 0;
    for file in std::fs::read_dir(std::path::Path::new(&data).join("gobgp-bad-len")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let answer = decode(&bytes, &Session::default());
        let sound = answer.as_ref().is_ok_and(|value| value["treatment"] == "ok");
        assert!(!sound && !answer.is_ok_and(|value| value["type"] == "OPEN"), "{}", hex(&bytes));
        files += 1;
    }
    assert_eq!(files, 11);
}
