use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn decoded(bytes: &[u8]) -> Value {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    serde_json::to_value(answer(&hex)).unwrap()
}

fn layer<'a>(value: &'a Value, name: &str) -> &'a Value {
    let layers = value["layers"].as_array().unwrap_or_else(|| panic!("no layers: {value}"));
    layers.iter().find(|layer| layer["layer"] == name).unwrap_or(&Value::Null)
}

/// Frames made by an independent writer.
mod made {
    use etherparse::PacketBuilder;

    pub(super) fn tcp4() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(4000, 179, 7, 1000)
            .syn();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"abc").unwrap();
        bytes
    }

    pub(super) fn udp6() -> Vec<u8> {
        let mut to = [0; 16];
        to[15] = 2;
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv6([1; 16], to, 9)
            .udp(53, 5353);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"hello").unwrap();
        bytes
    }

    pub(super) fn echo4() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .icmpv4_echo_request(5, 6);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &[]).unwrap();
        bytes
    }
}

#[test]
fn tcp_over_ipv4_shows_each_layer() {
    let mut bytes = made::tcp4();
    bytes.extend([0; 3]);
    let value = decoded(&bytes);
    assert_eq!(value["length"], bytes.len());
    let link = layer(&value, "ethernet");
    assert_eq!(link["dst"], "02:00:00:00:00:02");
    assert_eq!((&link["etherType"], &link["padding"]), (&json!("0x0800"), &json!(3)));
    let ip = layer(&value, "ipv4");
    assert_eq!((&ip["src"], &ip["dst"]), (&json!("10.0.0.1"), &json!("10.0.0.2")));
    assert_eq!((&ip["ttl"], &ip["checksumValid"]), (&json!(64), &json!(true)));
    let tcp = layer(&value, "tcp");
    assert_eq!((&tcp["srcPort"], &tcp["dstPort"]), (&json!(4000), &json!(179)));
    assert_eq!((&tcp["flags"], &tcp["checksumValid"]), (&json!(["SYN"]), &json!(true)));
    assert_eq!(layer(&value, "payload")["bytes"], "616263");
}

#[test]
fn a_flipped_bit_makes_a_checksum_invalid_and_is_no_error() {
    let mut bytes = made::tcp4();
    *bytes.last_mut().unwrap() ^= 1;
    bytes[22] ^= 1;
    let value = decoded(&bytes);
    assert_eq!(layer(&value, "tcp")["checksumValid"], false);
    assert_eq!(layer(&value, "ipv4")["checksumValid"], false);
}

#[test]
fn an_unfinished_checksum_is_named() {
    use margay_tunnels::wire::checksum;
    let mut bytes = made::tcp4();
    let sum = checksum::pseudo_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 6, 23);
    bytes[50..52].copy_from_slice(&checksum::fold(sum).to_be_bytes());
    let value = decoded(&bytes);
    assert_eq!(layer(&value, "tcp")["checksumPartial"], true);
    assert_eq!(layer(&value, "tcp")["checksumValid"], false);
}

#[test]
fn udp_over_ipv6_and_its_missing_checksum() {
    let mut bytes = made::udp6();
    let value = decoded(&bytes);
    assert_eq!(layer(&value, "ipv6")["hopLimit"], 9);
    assert_eq!(layer(&value, "udp")["checksumValid"], true);
    bytes[60..62].fill(0);
    assert_eq!(layer(&decoded(&bytes), "udp")["checksumValid"], false);
}

#[test]
fn icmp_echo_and_error_with_its_quote() {
    let value = decoded(&made::echo4());
    let echo = layer(&value, "icmp");
    assert_eq!((&echo["name"], &echo["sequence"]), (&json!("echo-request"), &json!(6)));
    assert_eq!(echo["checksumValid"], true);

    let inner = &made::tcp4()[14..14 + 28];
    let mut error = vec![3, 4, 0, 0, 0, 0, 0x05, 0x78];
    error.extend(inner);
    let mut bytes = made::echo4()[..14].to_vec();
    let length = error.len() as u16;
    bytes.extend(margay_tunnels::wire::ipv4::header(
        [10, 0, 0, 9].into(),
        [10, 0, 0, 1].into(),
        1,
        64,
        length,
    ));
    bytes.extend(error);
    let value = decoded(&bytes);
    let icmp = layer(&value, "icmp");
    assert_eq!((&icmp["mtu"], &icmp["checksumValid"]), (&json!(1400), &json!(false)));
    let quoted = &icmp["quoted"];
    assert_eq!((&quoted["srcPort"], &quoted["dst"]), (&json!(4000), &json!("10.0.0.2")));
}

#[test]
fn arp_and_neighbor_discovery() {
    let mut arp = vec![0xff; 6];
    arp.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
    let value = decoded(&arp);
    let shown = layer(&value, "arp");
    assert_eq!((&shown["operation"], &shown["targetAddress"]), (&json!(1), &json!("169.254.1.1")));
    assert_eq!(shown["senderMac"], "02:00:00:00:00:01");

    let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
    body.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0xec, 0xee, 0xee, 0xff, 0xfe, 0xee, 0xee, 0xee]);
    body.extend([1, 1, 2, 0, 0, 0, 0, 7]);
    let mut bytes = vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 0x86, 0xdd];
    let (src, dst) = ("fe80::7".parse().unwrap(), "ff02::1".parse().unwrap());
    bytes.extend(margay_tunnels::wire::ipv6::header(src, dst, 58, 255, body.len() as u16));
    bytes.extend(body);
    let value = decoded(&bytes);
    let shown = layer(&value, "icmpv6");
    assert_eq!(shown["name"], "neighbor-solicitation");
    assert_eq!(shown["target"], "fe80::ecee:eeff:feee:eeee");
    assert_eq!(shown["linkAddress"], "02:00:00:00:00:07");
}

#[test]
fn ip_in_ip_is_opened() {
    let inner = made::tcp4()[14..].to_vec();
    let mut bytes = made::tcp4()[..14].to_vec();
    let length = inner.len() as u16;
    let (src, dst) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    bytes.extend(margay_tunnels::wire::ipv4::header(src, dst, 4, 64, length));
    bytes.extend(inner);
    let value = decoded(&bytes);
    let names: Vec<_> =
        value["layers"].as_array().unwrap().iter().map(|layer| layer["layer"].clone()).collect();
    assert_eq!(names, ["ethernet", "ipv4", "ipv4", "tcp", "payload"]);
}

#[test]
fn malformed_frames_name_the_layer_and_the_place() {
    let whole = made::tcp4();
    let cases: [(Vec<u8>, &str, &str); 5] = [
        (whole[..10].to_vec(), "truncated", "ethernet"),
        (whole[..30].to_vec(), "truncated", "ipv4"),
        ([&whole[..14], &[0x55], &whole[15..]].concat(), "ip-header-invalid", "ipv4"),
        ([&whole[..14], &[0x44], &whole[15..]].concat(), "ip-header-invalid", "ipv4"),
        ([&whole[..46], &[0x40], &whole[47..]].concat(), "transport-header-invalid", "tcp"),
    ];
    for (bytes, code, layer) in cases {
        let value = decoded(&bytes);
        assert_eq!(value["error"]["code"], code, "{value}");
        assert_eq!(value["error"]["layer"], layer);
        assert_eq!(value["error"]["treatment"], "drop");
    }
    let mut cut_extension = made::udp6();
    cut_extension[20] = 0;
    cut_extension[55] = 200;
    assert_eq!(decoded(&cut_extension)["error"]["code"], "ipv6-extension-invalid");
}

#[test]
fn bad_hex_says_what_and_where() {
    for (hex, detail) in [
        ("0x0g", "'g' at character 1 is no hex digit"),
        ("abc", "an odd number of hex digits"),
        ("", "no bytes"),
    ] {
        let value = serde_json::to_value(answer(hex)).unwrap();
        assert_eq!(value["error"]["code"], "hex-invalid");
        assert_eq!(value["error"]["detail"], detail);
    }
    let long = "00".repeat(MAX_BYTES + 1);
    assert!(bytes_of(&long).is_err());
    assert!(bytes_of(&long[2..]).is_ok());
    assert_eq!(bytes_of("0xAb:cd ef").unwrap(), [0xab, 0xcd, 0xef]);
}

#[test]
fn a_batch_answers_each_line_in_order_and_goes_on() {
    let frame: String = made::echo4().iter().map(|byte| format!("{byte:02x}")).collect();
    let long = "x".repeat(batch::MAX_LINE + 10);
    let input = format!("{{\"hex\":\"{frame}\"}}\nnonsense\n{long}\n\n{{\"hex\":\"00\"}}\n");
    let mut out = Vec::new();
    batch::run(input.as_bytes(), &mut out, |line: Line| answer(&line.hex)).unwrap();
    let lines: Vec<Value> =
        out.split(|byte| *byte == b'\n').flat_map(serde_json::from_slice).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(layer(&lines[0], "icmp")["type"], 8);
    assert!(lines[1]["error"].is_string());
    assert!(lines[2]["error"].as_str().unwrap().starts_with("line longer"));
    assert_eq!(lines[3]["error"]["code"], "truncated");
}

/// Bytes that get past the first checks more often than chance lets them.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let seeds = prop_oneof![Just(made::tcp4()), Just(made::udp6()), Just(made::echo4())];
    let edits = prop::collection::vec((0usize..80, any::<u8>()), 0..6);
    (seeds, edits, 0usize..120).prop_map(|(mut bytes, edits, length)| {
        for (at, value) in edits {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.resize(length.max(1), 0xa5);
        bytes
    })
}

proptest! {
    #[test]
    fn no_input_panics(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 1..200), hostile()]
    ) {
        let value = decoded(&bytes);
        prop_assert!(value["layers"].is_array() || value["error"]["detail"].is_string());
    }

    #[test]
    fn no_text_panics(text in ".{0,40}") {
        let _ = answer(&text);
    }
}
