//! OPEN by RFC 4271 sections 4.2 and 6.2, RFC 5492, RFC 6793, RFC 7607 and RFC 9072.

use super::*;
use crate::wire::{HEADER_LEN, MAX_LEN};

fn open() -> Open {
    Open {
        asn: 64_512,
        hold_time_s: 240,
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: vec![Capability::family(Family::Ipv4Unicast), Capability::RouteRefresh],
    }
}

/// A body with these optional parameters, their length included.
fn body(parameters: &[u8]) -> Vec<u8> {
    [&[4, 0xfc, 0, 0, 240, 10, 0, 0, 1][..], parameters].concat()
}

#[test]
fn an_open_reads_and_writes_as_drawn() {
    let drawn = body(&[10, 2, 8, 1, 4, 0, 1, 0, 1, 2, 0]);
    assert_eq!(open().encode(), frame::message(Kind::Open, &drawn));
    assert_eq!(Open::decode(&drawn), Ok(open()));
}

#[test]
fn capabilities_may_come_in_a_parameter_each() {
    let drawn = body(&[12, 2, 6, 1, 4, 0, 1, 0, 1, 2, 2, 2, 0]);
    assert_eq!(Open::decode(&drawn), Ok(open()));
}

/// RFC 4271 section 6.2: the data field is the version that we have.
#[test]
fn another_version_is_told_ours() {
    for version in [0, 3, 5, 255] {
        let mut bytes = body(&[0]);
        bytes[0] = version;
        assert_eq!(Open::decode(&bytes), Err(Notification::with_data(2, 1, &[0, 4])));
    }
}

/// RFC 7607 section 2: AS 0 in either place is a Bad Peer AS.
#[test]
fn as_zero_is_refused() {
    let mut bytes = body(&[0]);
    bytes[1..3].fill(0);
    assert_eq!(Open::decode(&bytes), Err(Notification::new(2, 2)));
    let bytes = body(&[8, 2, 6, 65, 4, 0, 0, 0, 0]);
    assert_eq!(Open::decode(&bytes), Err(Notification::new(2, 2)));
}

/// RFC 6793 section 4.1: the capability has the AS number, and AS_TRANS stands in for it.
#[test]
fn a_four_octet_as_is_in_the_capability() {
    let asn = 4_200_000_000;
    let wide = Open { asn, capabilities: vec![Capability::FourOctetAs(asn)], ..open() };
    let bytes = wide.encode();
    assert_eq!(bytes[HEADER_LEN + 1..HEADER_LEN + 3], AS_TRANS.to_be_bytes());
    assert_eq!(Open::decode(&bytes[HEADER_LEN..]), Ok(wide));
}

/// RFC 6286 section 2.1: the identifier is not zero, and may be any other number.
#[test]
fn identifiers_are_numbers_except_zero() {
    let mut bytes = body(&[0]);
    bytes[5..9].fill(0);
    assert_eq!(Open::decode(&bytes), Err(Notification::new(2, 3)));
    bytes[5..9].fill(255);
    assert!(Open::decode(&bytes).is_ok());
}

#[test]
fn hold_times_of_one_and_two_seconds_must_be_rejected() {
    for (hold_time_s, accepted) in [(0, true), (1, false), (2, false), (3, true), (255, true)] {
        let mut bytes = body(&[0]);
        bytes[4] = hold_time_s;
        match Open::decode(&bytes) {
            Ok(open) => assert!(accepted && open.hold_time_s == u16::from(hold_time_s)),
            Err(error) => assert!(!accepted && error == Notification::new(2, 6)),
        }
    }
}

#[test]
fn an_unknown_parameter_is_unsupported() {
    for kind in [0, 1, 3, 254] {
        let bytes = body(&[3, kind, 1, 0]);
        assert_eq!(Open::decode(&bytes), Err(Notification::new(2, 4)));
    }
}

#[test]
fn parameters_that_do_not_fill_their_length_are_malformed() {
    let cases: [&[u8]; 9] = [
        &[],
        &[1],
        &[0, 2],
        &[1, 2],
        &[2, 2, 1],
        &[4, 2, 4, 2, 0],
        &[3, 2, 2, 2],
        &[9, 2, 0],
        &[4, 2, 0, 2, 0, 2],
    ];
    for parameters in cases {
        assert_eq!(Open::decode(&body(parameters)), Err(Notification::new(2, 0)), "{parameters:?}");
    }
}

/// RFC 9072 section 2: type 255 means the long form, whatever the short length says.
#[test]
fn long_parameters_are_known_by_their_type() {
    for short in [1, 9, 254, 255] {
        let bytes = body(&[short, 255, 0, 13, 2, 0, 10, 1, 4, 0, 1, 0, 1, 2, 0, 6, 0]);
        let mut expected = open();
        expected.capabilities.push(Capability::ExtendedMessage);
        assert_eq!(Open::decode(&bytes), Ok(expected));
    }
}

#[test]
fn long_parameters_are_cut_off_nowhere() {
    let whole = body(&[255, 255, 0, 13, 2, 0, 10, 1, 4, 0, 1, 0, 1, 2, 0, 6, 0]);
    for length in 10..whole.len() {
        assert_eq!(Open::decode(&whole[..length]), Err(Notification::new(2, 0)), "{length}");
    }
    for at in [11, 12, 14, 15] {
        let mut wrong = whole.clone();
        wrong[at] = 0xff;
        assert!(Open::decode(&wrong).is_err(), "{at}");
    }
}

/// RFC 9072 section 2: the short form when it is enough, and the long one when it is not.
#[test]
fn the_long_form_is_written_only_when_needed() {
    for (count, extended) in [(0, false), (1, false), (126, false), (127, true), (1000, true)] {
        let capabilities = vec![Capability::RouteRefresh; count];
        let bytes = Open { capabilities: capabilities.clone(), ..open() }.encode();
        assert!(bytes.len() <= MAX_LEN);
        assert_eq!(bytes.get(HEADER_LEN + 10) == Some(&255), extended, "{count}");
        let read = Open::decode(&bytes[HEADER_LEN..]).unwrap();
        assert_eq!(read.capabilities, capabilities);
    }
}

#[test]
fn of_several_restart_capabilities_the_last_counts() {
    let restart = |time_s| {
        Capability::GracefulRestart(GracefulRestart { time_s, ..GracefulRestart::default() })
    };
    let open = Open { capabilities: vec![restart(1), restart(2)], ..open() };
    assert_eq!(open.graceful_restart().unwrap().time_s, 2);
}

#[test]
fn of_several_add_path_entries_the_first_counts() {
    use crate::wire::capability::AddPath;
    let entry = |receive| AddPath { afi: 1, safi: 1, receive, send: !receive };
    let capabilities = vec![Capability::AddPath(vec![entry(true), entry(false)])];
    let open = Open { capabilities, ..open() };
    assert_eq!(open.add_path(Family::Ipv4Unicast), (true, false));
    assert_eq!(open.add_path(Family::Ipv6Unicast), (false, false));
}

#[test]
fn without_family_capabilities_there_is_ipv4_only() {
    let plain = Open { capabilities: vec![Capability::RouteRefresh], ..open() };
    assert!(plain.carries(Family::Ipv4Unicast) && !plain.carries(Family::Ipv6Unicast));
    let v6 = Open { capabilities: vec![Capability::family(Family::Ipv6Unicast)], ..open() };
    assert!(!v6.carries(Family::Ipv4Unicast) && v6.carries(Family::Ipv6Unicast));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
        let _ = Open::decode(&body(&bytes));
    }

    #[test]
    fn what_was_read_reads_the_same_once_written(parameters: Vec<u8>) {
        let mut bytes = body(&[u8::try_from(parameters.len() + 2).unwrap_or(0), 2]);
        bytes.push(u8::try_from(parameters.len()).unwrap_or(0));
        bytes.extend_from_slice(&parameters);
        if let Ok(open) = Open::decode(&bytes) {
            proptest::prop_assert_eq!(Open::decode(&open.encode()[HEADER_LEN..]), Ok(open));
        }
    }
}
