//! RFC 6888, common requirements for carrier-grade NATs, as far as they are of the data plane.
//!
//! REQ-1 is RFC 4787, 5382 and 5508. Not met: REQ-8 (ports rest for 120 s before they are given to
//! somebody else), REQ-11 D where the whole table is full (flows that nobody has answered give way
//! then, as Linux's do), and REQ-12 (a log of mappings).

use super::*;

const SERVER: &str = "198.51.100.1:53";

#[test]
fn req_2_outside_addresses_are_paired() {
    let outside_v4: Vec<_> = (1..=3).map(|host| Ipv4Addr::new(192, 0, 2, host)).collect();
    let mut bench = Bench::new(Rules { outside_v4, workers: 3, ..rules() });
    let one = bench.udp("10.1.0.5:4000", SERVER).unwrap().0.ip();
    for port in 1..100 {
        assert_eq!(bench.udp(&format!("10.1.0.5:{}", 4000 + port), SERVER).unwrap().0.ip(), one);
        let syn = bench.tcp((&format!("10.1.0.5:{}", 4000 + port), SERVER), 2);
        assert_eq!(syn.unwrap().0.ip(), one);
    }
}

#[test]
fn req_3_outside_addresses_need_not_be_neighbours() {
    let outside_v4: Vec<_> = [3, 9, 14].map(|host| Ipv4Addr::new(192, 0, 2, host)).to_vec();
    let mut bench = Bench::new(Rules { outside_v4: outside_v4.clone(), ..rules() });
    let seen: std::collections::BTreeSet<IpAddr> = (1..60)
        .map(|host| bench.udp(&format!("10.1.0.{host}:4000"), SERVER).unwrap().0.ip())
        .collect();
    assert_eq!(seen, outside_v4.into_iter().map(IpAddr::from).collect());
}

#[test]
fn req_4_a_subscriber_has_no_more_flows_than_it_may() {
    let limits = Limits { sessions: 1000, per_source: 10 };
    let mut bench = Bench::new(Rules { limits, ..rules() });
    for port in 0..10 {
        assert!(bench.udp(&format!("10.1.0.5:{}", 4000 + port), SERVER).is_ok());
    }
    let over = bench.udp("10.1.0.5:4010", SERVER);
    assert_eq!(over, Err(Verdict::Drop(DropReason::FlowLimit)));
    assert!(bench.udp("10.1.0.6:4010", SERVER).is_ok());
    // What was refused holds no port.
    assert_eq!(bench.workers[0].report().ports[0].used, 11);
    bench.pass(200);
    assert!(bench.udp("10.1.0.5:4010", SERVER).is_ok());
}

#[test]
fn req_5_a_full_table_keeps_what_is_established() {
    let limits = Limits { sessions: 50, per_source: 0 };
    let mut bench = Bench::new(Rules { limits, ..rules() });
    let client = "10.1.0.5:4000";
    let (outside, _) = bench.tcp((client, SERVER), 2).unwrap();
    bench.tcp((SERVER, &outside.to_string()), 18).unwrap();
    bench.tcp((client, SERVER), 16).unwrap();
    for at in 0..500 {
        let flood = format!("10.1.{}.{}:99", 4 + at / 250, at % 250);
        let _ = bench.tcp((&flood, SERVER), 2);
        assert!(bench.sessions() <= 50);
        let used: u32 = bench.workers[0].report().ports.iter().map(|ports| ports.used).sum();
        assert_eq!(
            used as usize,
            bench.sessions(),
            "each session has its port, and no other is used"
        );
    }
    let answer = bench.tcp((SERVER, &outside.to_string()), 16);
    assert_eq!(answer, Ok((to(SERVER), to(client))));
}

#[test]
fn req_11_without_a_port_the_packet_is_dropped_and_no_mapping_makes_room() {
    let ports = PortRange { first: 61_000, last: 61_015 };
    let mut bench = Bench::new(Rules { ports, ..host_rules() });
    let mut mapped = Vec::new();
    for host in 1..=40 {
        let pod = format!("10.1.0.{host}:4000");
        match bench.udp(&pod, SERVER) {
            Ok((outside, _)) => mapped.push((pod, outside)),
            refused => {
                assert_eq!(refused, Err(Verdict::Drop(DropReason::NatPortsExhausted)));
            }
        }
    }
    assert_eq!(mapped.len(), 16);
    for (pod, outside) in mapped {
        assert_eq!(bench.udp(SERVER, &outside.to_string()), Ok((to(SERVER), to(&pod))));
    }
}

#[test]
fn req_7_filtering_can_be_endpoint_independent() {
    let mut bench = Bench::new(Rules { filtering: Filtering::EndpointIndependent, ..rules() });
    let (outside, _) = bench.udp("10.1.0.5:4000", SERVER).unwrap();
    assert!(bench.udp("203.0.113.1:1", &outside.to_string()).is_ok());
}
