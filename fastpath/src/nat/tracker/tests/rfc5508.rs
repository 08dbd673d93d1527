//! RFC 5508, NAT behavioural requirements for ICMP, clause by clause.
//!
//! REQ-6 and REQ-9 (policies of the operator), REQ-8 (errors that margay makes, see the pipeline),
//! REQ-10 (what is forwarded) and REQ-11 (other types are dropped when they belong to no flow).

use super::icmp::{echo, echo_id, quote_of, unreachable, unreachable_v6};
use super::*;

const POD: [u8; 4] = [10, 1, 0, 5];
const OTHER: [u8; 4] = [10, 1, 0, 6];
const SERVER: [u8; 4] = [198, 51, 100, 1];
const ROUTER: [u8; 4] = [203, 0, 113, 7];
const OUTSIDE: [u8; 4] = [192, 0, 2, 1];

fn addresses(bytes: &[u8]) -> ([u8; 4], [u8; 4]) {
    (bytes[26..30].try_into().unwrap(), bytes[30..34].try_into().unwrap())
}

#[test]
fn req_1_queries_go_out_and_their_answers_come_back_and_ids_do_not_depend_on_the_far_end() {
    let mut bench = Bench::new(rules());
    let sent = bench.send(&echo(POD, SERVER, 4000, true)).unwrap();
    let elsewhere = bench.send(&echo(POD, ROUTER, 4000, true)).unwrap();
    assert_eq!(echo_id(&sent), echo_id(&elsewhere));
    let back = bench.send(&echo(SERVER, OUTSIDE, echo_id(&sent), false)).unwrap();
    assert_eq!((addresses(&back), echo_id(&back)), ((SERVER, POD), 4000));
    // Two pods with one id do not get each other's answers.
    let same = bench.send(&echo(OTHER, SERVER, 4000, true)).unwrap();
    assert_ne!(echo_id(&same), echo_id(&sent));
    let back = bench.send(&echo(SERVER, OUTSIDE, echo_id(&same), false)).unwrap();
    assert_eq!((addresses(&back), echo_id(&back)), ((SERVER, OTHER), 4000));
}

#[test]
fn req_2_a_query_lives_a_minute_at_least() {
    let mut bench = Bench::new(rules());
    let sent = bench.send(&echo(POD, SERVER, 4000, true)).unwrap();
    bench.pass(59);
    assert!(bench.send(&echo(SERVER, OUTSIDE, echo_id(&sent), false)).is_ok());
    bench.pass(61);
    let late = bench.send(&echo(SERVER, OUTSIDE, echo_id(&sent), false));
    assert_eq!(late, Err(Verdict::Drop(DropReason::NatUnsolicited)));
}

#[test]
fn req_3_an_error_with_a_wrong_checksum_or_about_no_flow_is_dropped() {
    let mut bench = Bench::new(rules());
    let sent = bench.send(&udp("10.1.0.5:4000", "198.51.100.1:53", b"data")).unwrap();
    let mut error = unreachable(ROUTER, OUTSIDE, 1, &sent[14..]);
    error[50] ^= 1;
    assert_eq!(bench.send(&error), Err(Verdict::Drop(DropReason::BadChecksum)));
    let mut unknown = sent.clone();
    unknown[35] ^= 1;
    let error = unreachable(ROUTER, OUTSIDE, 1, &unknown[14..]);
    assert_eq!(bench.send(&error), Err(Verdict::Drop(DropReason::NatUnsolicited)));
}

#[test]
fn req_4_an_error_from_outside_reaches_the_pod_with_its_own_packet_quoted() {
    let mut bench = Bench::new(rules());
    for datagram in [
        udp("10.1.0.5:4000", "198.51.100.1:53", b"data"),
        tcp("10.1.0.5:4000", "198.51.100.1:80", 2),
        echo(POD, SERVER, 4000, true),
    ] {
        bench.send(&echo(OTHER, SERVER, 4000, true)).unwrap();
        bench.send(&udp("10.1.0.6:4000", "198.51.100.1:53", b"data")).unwrap();
        bench.send(&tcp("10.1.0.6:4000", "198.51.100.1:80", 2)).unwrap();
        let sent = bench.send(&datagram).unwrap();
        assert_ne!(sent[34..], datagram[34..]);
        let error = bench.send(&unreachable(ROUTER, OUTSIDE, 4, &sent[14..])).unwrap();
        assert_eq!(addresses(&error), (ROUTER, POD), "the router stays who it is");
        // Byte for byte what the pod has sent, checksums and all, as far as it is quoted.
        assert_eq!(quote_of(&error, 20)[14..], datagram[14..14 + 28]);
    }
}

#[test]
fn req_4_from_the_far_end_itself_and_over_ipv6() {
    let mut bench = Bench::new(rules());
    let datagram = udp("[2001:db8:1::5]:4000", "[2001:db8:9::1]:53", b"some data");
    bench.send(&udp("[2001:db8:1::6]:4000", "[2001:db8:9::1]:53", b"x")).unwrap();
    let sent = bench.send(&datagram).unwrap();
    let error = unreachable_v6("2001:db8:9::1", "2001:db8:ff::1", &sent[14..]);
    let error = bench.send(&error).unwrap();
    assert_eq!(endpoints(&error).1.ip(), to("[2001:db8:1::5]:0").ip());
    assert_eq!(quote_of(&error, 40)[14..], datagram[14..]);
}

#[test]
fn req_5_an_error_from_inside_shows_the_outside_address_only() {
    let mut bench = Bench::new(rules());
    let sent = bench.send(&udp("10.1.0.5:4000", "198.51.100.1:53", b"data")).unwrap();
    let (outside, _) = endpoints(&sent);
    let answer = udp("198.51.100.1:53", &outside.to_string(), b"back");
    let received = bench.send(&answer).unwrap();
    // From the pod itself, and from a router inside.
    for teller in [POD, [10, 1, 7, 7]] {
        let error = bench.send(&unreachable(teller, SERVER, 3, &received[14..])).unwrap();
        assert_eq!(addresses(&error), (OUTSIDE, SERVER));
        assert_eq!(quote_of(&error, 20)[14..], answer[14..14 + 28]);
    }
    // About a packet of no flow it must not show an inside address.
    let stray = udp("198.51.100.1:9", "10.1.0.5:4000", b"back");
    let error = bench.send(&unreachable(POD, SERVER, 3, &stray[14..]));
    assert_eq!(error, Err(Verdict::Drop(DropReason::FlowInvalid)));
}

#[test]
fn req_7_errors_about_hairpins_are_translated_both_times() {
    let mut bench =
        Bench::new(Rules { filtering: Filtering::EndpointIndependent, workers: 2, ..rules() });
    let outside = bench.udp("10.1.0.6:5002", "198.51.100.1:53").unwrap().0;
    let question = udp("10.1.0.5:4000", &outside.to_string(), b"data");
    let received = bench.send(&question).unwrap();
    assert_eq!(endpoints(&received).1, to("10.1.0.6:5002"));
    let error = bench.send(&unreachable(OTHER, OUTSIDE, 3, &received[14..])).unwrap();
    assert_eq!(addresses(&error), (OUTSIDE, POD));
    assert_eq!(quote_of(&error, 20)[14..], question[14..14 + 28]);
}

#[test]
fn pings_of_the_host_and_to_it_are_left_to_the_host() {
    let mut bench = Bench::new(host_rules());
    let host = [172, 16, 0, 1];
    for asks in [true, false] {
        let ping = echo(SERVER, host, 1234, asks);
        assert_eq!(bench.send(&ping).unwrap(), ping);
    }
    let sent = bench.send(&echo(POD, SERVER, 1234, true)).unwrap();
    assert!(echo_id(&sent) >= 61_000);
    let back = bench.send(&echo(SERVER, host, echo_id(&sent), false)).unwrap();
    assert_eq!((addresses(&back), echo_id(&back)), ((SERVER, POD), 1234));
}
