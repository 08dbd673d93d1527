//! RFC 4787, NAT behavioural requirements for unicast UDP, clause by clause.
//!
//! REQ-10 (application gateways off by default) holds by having none; REQ-7 (addresses of both
//! realms overlap) is not supported; REQ-14 is tested with fragments.

use super::*;

const POD: &str = "10.1.0.5:4000";
const SERVERS: [&str; 3] = ["198.51.100.1:53", "198.51.100.1:54", "198.51.100.2:53"];

fn filtering(filtering: Filtering) -> Bench {
    Bench::new(Rules { filtering, ..rules() })
}

#[test]
fn req_1_the_mapping_does_not_depend_on_the_far_end() {
    let mut bench = Bench::new(rules());
    bench.udp("10.1.0.4:4000", SERVERS[0]).unwrap();
    let outside: Vec<_> = SERVERS.iter().map(|server| bench.udp(POD, server).unwrap().0).collect();
    assert!(outside.iter().all(|endpoint| *endpoint == outside[0]), "{outside:?}");
    assert_ne!(outside[0].port(), 4000, "that port is another pod's");
}

#[test]
fn req_2_all_sessions_of_an_inside_address_have_one_outside_address() {
    let outside_v4: Vec<_> = (1..=8).map(|host| Ipv4Addr::new(192, 0, 2, host)).collect();
    let mut bench = Bench::new(Rules { outside_v4, ..rules() });
    let mut used = std::collections::BTreeSet::new();
    for host in 1..=100 {
        let all: std::collections::BTreeSet<IpAddr> = (0..20)
            .map(|port| {
                let pod = format!("10.1.1.{host}:{}", 3000 + port);
                bench.udp(&pod, SERVERS[port % 3]).unwrap().0.ip()
            })
            .collect();
        assert_eq!(all.len(), 1);
        used.extend(all);
    }
    assert_eq!(used.len(), 8, "and all outside addresses are used");
}

#[test]
fn req_3_no_two_inside_endpoints_have_the_same_port_and_well_known_ones_stay_apart() {
    let mut bench = Bench::new(rules());
    let mut seen = std::collections::BTreeSet::new();
    for host in 0..250 {
        for port in [80, 4000, 5000, 6001] {
            let (outside, _) =
                bench.udp(&format!("10.1.2.{host}:{port}"), SERVERS[host % 3]).unwrap();
            assert!(outside.port() >= 1024);
            assert!(seen.insert(outside), "{outside} given twice");
        }
    }
}

#[test]
fn req_4_the_parity_of_ports_is_kept() {
    let mut bench = Bench::new(Rules { workers: 2, ..host_rules() });
    for host in 0..250 {
        for port in [4000, 4001] {
            let (outside, _) = bench.udp(&format!("10.1.2.{host}:{port}"), SERVERS[0]).unwrap();
            assert_eq!(outside.port() % 2, port % 2);
        }
    }
}

#[test]
fn req_5_a_mapping_lives_two_minutes_at_least() {
    let mut bench = filtering(Filtering::EndpointIndependent);
    let (outside, _) = bench.udp(POD, SERVERS[0]).unwrap();
    let outside = outside.to_string();
    bench.pass(119);
    assert_eq!(bench.udp(SERVERS[0], &outside), Ok((to(SERVERS[0]), to(POD))));
    bench.pass(121);
    let late = bench.udp(SERVERS[0], &outside);
    assert_eq!(late, Err(Verdict::Drop(DropReason::NatUnsolicited)));
    assert_eq!(bench.sessions(), 0);
}

#[test]
fn req_6_packets_from_inside_refresh_the_mapping() {
    let mut bench = Bench::new(rules());
    let (outside, _) = bench.udp(POD, SERVERS[0]).unwrap();
    for _ in 0..10 {
        bench.pass(110);
        assert_eq!(bench.udp(POD, SERVERS[0]), Ok((outside, to(SERVERS[0]))));
    }
    assert_eq!(bench.udp(SERVERS[0], &outside.to_string()), Ok((to(SERVERS[0]), to(POD))));
}

#[test]
fn req_8_filtering_is_what_the_setting_says() {
    // Who may answer a packet to SERVERS[0]: itself, its other port, another host.
    for (setting, lets_in) in [
        (Filtering::EndpointIndependent, [true, true, true]),
        (Filtering::AddressDependent, [true, true, false]),
        (Filtering::AddressAndPortDependent, [true, false, false]),
    ] {
        for (server, expected) in SERVERS.iter().zip(lets_in) {
            let mut bench = filtering(setting);
            let (outside, _) = bench.udp(POD, SERVERS[0]).unwrap();
            let got = bench.udp(server, &outside.to_string());
            if expected {
                assert_eq!(got, Ok((to(server), to(POD))), "{setting:?}");
                // And the answer to a stranger leaves by the same mapping.
                assert_eq!(bench.udp(POD, server), Ok((outside, to(server))));
            } else {
                assert_eq!(got, Err(Verdict::Drop(DropReason::NatUnsolicited)), "{setting:?}");
            }
        }
    }
}

#[test]
fn req_9_hairpins_work_and_show_the_outside_source() {
    for (workers, host) in [(1, false), (4, false), (4, true)] {
        let base = if host { host_rules() } else { rules() };
        let mut bench =
            Bench::new(Rules { workers, filtering: Filtering::EndpointIndependent, ..base });
        let (one, other) = ("10.1.0.5:4000", "10.1.0.6:5002");
        let outside_one = bench.udp(one, SERVERS[0]).unwrap().0;
        let outside_other = bench.udp(other, SERVERS[0]).unwrap().0;
        let there = bench.udp(one, &outside_other.to_string());
        assert_eq!(there, Ok((outside_one, to(other))), "{workers} workers");
        let back = bench.udp(other, &outside_one.to_string());
        assert_eq!(back, Ok((outside_other, to(one))));
        // To oneself, from another port.
        let own = bench.udp("10.1.0.5:4444", &outside_one.to_string()).unwrap();
        assert_eq!((own.0.ip(), own.1), (outside_one.ip(), to(one)));
    }
}

#[test]
fn req_11_behaviour_does_not_change_with_load() {
    let mut bench = Bench::new(rules());
    for port in 10_000..14_000 {
        bench.udp(&format!("10.1.3.1:{port}"), SERVERS[0]).unwrap();
    }
    let outside: Vec<_> = SERVERS.iter().map(|server| bench.udp(POD, server).unwrap().0).collect();
    assert!(outside.iter().all(|endpoint| *endpoint == outside[0]));
}

#[test]
fn req_12_an_icmp_error_does_not_end_the_mapping() {
    let mut bench = Bench::new(rules());
    let (outside, _) = bench.udp(POD, SERVERS[0]).unwrap();
    let sent = bench.send(&udp(POD, SERVERS[0], b"data")).unwrap();
    for code in [0, 1, 3] {
        let error = super::icmp::unreachable([203, 0, 113, 7], [192, 0, 2, 1], code, &sent[14..]);
        bench.send(&error).unwrap();
    }
    assert_eq!(bench.udp(SERVERS[0], &outside.to_string()), Ok((to(SERVERS[0]), to(POD))));
}

#[test]
fn req_13_a_packet_that_is_too_big_is_told_to_the_pod() {
    let mut bench = Bench::new(rules());
    bench.udp("10.1.0.4:4000", SERVERS[0]).unwrap();
    let big = udp(POD, SERVERS[0], &[7; 1400]);
    let sent = bench.send(&big).unwrap();
    let error = icmp::unreachable([203, 0, 113, 7], [192, 0, 2, 1], 4, &sent[14..]);
    let told = bench.send(&error).unwrap();
    assert_eq!(endpoints(&told).1.ip(), to(POD).ip());
    assert_eq!(told[40..42], error[40..42], "the MTU stays what it is");
    assert_eq!(icmp::quote_of(&told, 20)[14..], big[14..14 + 28]);
}

#[test]
fn ports_are_used_again_towards_other_places_when_they_run_out_and_exhaustion_is_counted() {
    let ports = PortRange { first: 61_000, last: 61_003 };
    let mut bench = Bench::new(Rules { ports, ..host_rules() });
    let mut outside = Vec::new();
    for host in 1..=4 {
        outside.push(bench.udp(&format!("10.1.0.{host}:4000"), SERVERS[0]).unwrap().0);
    }
    assert_eq!(bench.workers[0].report().ports[0].used, 4);
    let fifth = bench.udp("10.1.0.5:4000", SERVERS[0]);
    assert_eq!(fifth, Err(Verdict::Drop(DropReason::NatPortsExhausted)));
    assert_eq!(bench.workers[0].report().exhausted, 1);
    let elsewhere = bench.udp("10.1.0.5:4000", SERVERS[1]).unwrap().0;
    assert!(outside.contains(&elsewhere));
    let back = bench.udp(SERVERS[1], &elsewhere.to_string());
    assert_eq!(back, Ok((to(SERVERS[1]), to(POD))));
    // The first ones keep their answers.
    for (host, outside) in (1..=4).zip(&outside) {
        let back = bench.udp(SERVERS[0], &outside.to_string()).unwrap();
        assert_eq!(back.1, to(&format!("10.1.0.{host}:4000")));
    }
    bench.pass(1000);
    assert_eq!((bench.sessions(), bench.workers[0].report().ports[0].used), (0, 0));
}
