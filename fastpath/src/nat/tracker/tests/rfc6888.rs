//! RFC 6888, common requirements for carrier-grade NATs, as far as they are of the data plane.
//!
//! REQ-1 is RFC 4787, 5382 and 5508. Not met: REQ-8 (ports rest for 120 s before they are given to
//! somebody else) and REQ-12 (a log of mappings).

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
fn req_7_filtering_can_be_endpoint_independent() {
    let mut bench = Bench::new(Rules { filtering: Filtering::EndpointIndependent, ..rules() });
    let (outside, _) = bench.udp("10.1.0.5:4000", SERVER).unwrap();
    assert!(bench.udp("203.0.113.1:1", &outside.to_string()).is_ok());
}
