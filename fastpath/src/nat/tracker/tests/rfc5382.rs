//! RFC 5382, NAT behavioural requirements for TCP, clause by clause.
//!
//! REQ-6 (application gateways) holds by having none.

use super::*;

const POD: &str = "10.1.0.5:4000";
const SERVER: &str = "198.51.100.1:80";
const OUTSIDE: &str = "192.0.2.1:4000";
const SYN: u8 = 2;
const ACK: u8 = 16;

fn connected(bench: &mut Bench) {
    assert_eq!(bench.tcp((POD, SERVER), SYN), Ok((to(OUTSIDE), to(SERVER))));
    assert_eq!(bench.tcp((SERVER, OUTSIDE), SYN | ACK), Ok((to(SERVER), to(POD))));
    assert_eq!(bench.tcp((POD, SERVER), ACK), Ok((to(OUTSIDE), to(SERVER))));
}

fn state(bench: &Bench) -> State {
    bench.workers[0].table.iter().next().unwrap().1.state()
}

#[test]
fn req_1_the_mapping_does_not_depend_on_the_far_end() {
    let mut bench = Bench::new(rules());
    bench.tcp(("10.1.0.4:4000", SERVER), SYN).unwrap();
    let first = bench.tcp((POD, SERVER), SYN).unwrap().0;
    for server in ["198.51.100.1:81", "198.51.100.9:80"] {
        assert_eq!(bench.tcp((POD, server), SYN).unwrap().0, first);
    }
}

#[test]
fn req_2_a_simultaneous_open_goes_through() {
    let mut bench = Bench::new(rules());
    bench.tcp((POD, SERVER), SYN).unwrap();
    for (flags, out) in [(SYN, false), (SYN | ACK, true), (SYN | ACK, false), (ACK, true)] {
        if out {
            assert_eq!(bench.tcp((POD, SERVER), flags), Ok((to(OUTSIDE), to(SERVER))));
        } else {
            assert_eq!(bench.tcp((SERVER, OUTSIDE), flags), Ok((to(SERVER), to(POD))));
        }
    }
    assert_eq!(state(&bench), State::TcpEstablished);
}

#[test]
fn req_3_a_connection_from_outside_to_a_mapping_obeys_the_filter() {
    let mut bench = Bench::new(Rules { filtering: Filtering::EndpointIndependent, ..rules() });
    connected(&mut bench);
    let stranger = "203.0.113.9:999";
    assert_eq!(bench.tcp((stranger, OUTSIDE), SYN), Ok((to(stranger), to(POD))));
    assert_eq!(bench.tcp((POD, stranger), SYN | ACK), Ok((to(OUTSIDE), to(stranger))));
    assert_eq!(bench.tcp((stranger, OUTSIDE), ACK), Ok((to(stranger), to(POD))));
    let open = |bench: &Bench| {
        bench.workers[0].table.iter().filter(|(_, at)| at.state() == State::TcpEstablished).count()
    };
    assert_eq!(open(&bench), 2);
    // Not without a SYN.
    let stray = bench.tcp(("203.0.113.8:1", OUTSIDE), 4);
    assert_eq!(stray, Err(Verdict::Drop(DropReason::NatUnsolicited)));
}

#[test]
fn req_4_an_unsolicited_syn_is_not_answered() {
    let mut bench = Bench::new(rules());
    connected(&mut bench);
    let unsolicited = bench.tcp(("203.0.113.9:999", OUTSIDE), SYN);
    assert_eq!(unsolicited, Err(Verdict::Drop(DropReason::NatUnsolicited)));
    // And if the inside opens towards it in the next seconds, the connection comes about.
    bench.pass(5);
    assert_eq!(bench.tcp((POD, "203.0.113.9:999"), SYN).unwrap().0, to(OUTSIDE));
    assert_eq!(bench.tcp(("203.0.113.9:999", OUTSIDE), SYN).unwrap().1, to(POD));
}

#[test]
fn req_5_established_lives_2_hours_4_minutes_and_transitory_4_minutes_at_least() {
    let mut bench = Bench::new(rules());
    connected(&mut bench);
    bench.pass(2 * 3600 + 4 * 60);
    assert_eq!(bench.tcp((SERVER, OUTSIDE), ACK), Ok((to(SERVER), to(POD))));
    let mut bench = Bench::new(rules());
    bench.tcp((POD, SERVER), SYN).unwrap();
    bench.pass(239);
    assert_eq!(bench.tcp((SERVER, OUTSIDE), SYN | ACK), Ok((to(SERVER), to(POD))));
    bench.pass(239);
    assert_eq!(bench.sessions(), 1);
    bench.pass(2);
    assert_eq!(bench.sessions(), 0);
}

#[test]
fn req_7_no_two_inside_endpoints_have_the_same_port() {
    let mut bench = Bench::new(rules());
    let mut seen = std::collections::BTreeSet::new();
    for host in 0..250 {
        let (outside, _) = bench.tcp((&format!("10.1.2.{host}:4000"), SERVER), SYN).unwrap();
        assert!(seen.insert(outside));
    }
}

#[test]
fn req_8_hairpins_work_and_show_the_outside_source() {
    let mut bench =
        Bench::new(Rules { filtering: Filtering::EndpointIndependent, workers: 2, ..rules() });
    bench.tcp((POD, SERVER), SYN).unwrap();
    let other = "10.1.0.6:7002";
    let there = bench.tcp((other, OUTSIDE), SYN).unwrap();
    assert_eq!(there, (to("192.0.2.1:7002"), to(POD)));
    let back = bench.tcp((POD, "192.0.2.1:7002"), SYN | ACK);
    assert_eq!(back, Ok((to(OUTSIDE), to(other))));
}

#[test]
fn req_9_an_icmp_error_about_the_connection_reaches_the_pod() {
    let mut bench = Bench::new(rules());
    bench.tcp(("10.1.0.4:4000", SERVER), SYN).unwrap();
    let syn = tcp(POD, SERVER, SYN);
    let sent = bench.send(&syn).unwrap();
    assert_ne!(endpoints(&sent).0.port(), 4000, "so there is a port to be put back");
    for code in [1, 3, 4] {
        let error = icmp::unreachable([203, 0, 113, 7], [192, 0, 2, 1], code, &sent[14..]);
        let error = bench.send(&error).unwrap();
        assert_eq!(endpoints(&error).1.ip(), to(POD).ip());
        assert_eq!(icmp::quote_of(&error, 20)[14..], syn[14..14 + 28]);
    }
}

#[test]
fn req_10_an_icmp_error_does_not_end_the_connection() {
    let mut bench = Bench::new(rules());
    connected(&mut bench);
    let sent = bench.send(&tcp(POD, SERVER, ACK)).unwrap();
    let error = icmp::unreachable([203, 0, 113, 7], [192, 0, 2, 1], 1, &sent[14..]);
    bench.send(&error).unwrap();
    assert_eq!(state(&bench), State::TcpEstablished);
}

#[test]
fn a_connection_that_both_sides_close_ends_and_its_port_is_free() {
    let mut bench = Bench::new(rules());
    connected(&mut bench);
    bench.tcp((POD, SERVER), ACK | 1).unwrap();
    bench.tcp((SERVER, OUTSIDE), ACK).unwrap();
    bench.tcp((SERVER, OUTSIDE), ACK | 1).unwrap();
    bench.tcp((POD, SERVER), ACK).unwrap();
    assert_eq!(state(&bench), State::TcpTimeWait);
    bench.pass(120);
    assert_eq!(bench.sessions(), 0);
    assert_eq!(bench.workers[0].report().ports[0].used, 0);
}
