//! Flows to services, on one worker and on several.

use super::*;
use crate::service::{Endpoint, Service, Services};

const FRONTEND: &str = "10.96.0.1:80";
const PODS: [&str; 3] = ["10.1.0.11:8080", "10.1.0.12:8080", "10.1.0.13:8080"];
/// The node's own address and a port of a service.
const NODE_PORT: &str = "172.16.0.1:30080";
const DNS: &str = "10.96.0.1:53";
const CLIENT: &str = "198.51.100.1:5555";
const SYN: u8 = 2;
const ACK: u8 = 16;

fn endpoint(text: &str) -> Endpoint {
    let at = to(text);
    Endpoint { address: at.ip().into(), port: at.port(), protocol: 6 }
}

fn datagrams(text: &str) -> Endpoint {
    Endpoint { protocol: 17, ..endpoint(text) }
}

/// The service of these endpoints, with NAT beside it. The node is 172.16.0.1.
fn with(pods: &[&str], masquerade: bool, workers: u16) -> Rules {
    let class = |text: &str, bits: u16| (text.parse().unwrap(), Class(bits));
    let ends: Vec<Endpoint> = pods.iter().map(|pod| endpoint(pod)).collect();
    let service = Service::new(ends, masquerade);
    let resolver = Service::new(pods.iter().map(|pod| datagrams(pod)).collect(), masquerade);
    let all = PODS.map(endpoint);
    Rules {
        ranges: Ranges::new(&[
            class("10.1.0.0/16", Class::POOL.0 | Class::INSIDE.0),
            class("10.1.0.0/24", Class::HERE.0),
            class("10.1.0.8/29", Class::BACKEND.0),
            class("10.96.0.1/32", Class::FRONTEND.0),
            class("172.16.0.0/24", Class::NODE.0),
            class("172.16.0.1/32", Class::LOCAL.0 | Class::OUTSIDE.0 | Class::FRONTEND.0),
        ]),
        services: Some(Services::new(
            [
                (vec![endpoint(FRONTEND), endpoint(NODE_PORT)], service),
                (vec![datagrams(DNS)], resolver),
            ],
            all,
        )),
        workers,
        ..host_rules()
    }
}

#[test]
fn a_pod_reaches_a_service_and_the_answer_comes_from_the_service() {
    for workers in [1, 3] {
        let mut bench = Bench::new(with(&PODS, true, workers));
        let mut used = std::collections::BTreeSet::new();
        for port in 4000..4060 {
            let pod = format!("10.1.0.5:{port}");
            let (src, backend) = bench.tcp((&pod, FRONTEND), SYN).unwrap();
            assert_eq!(src, to(&pod), "a pod keeps its address");
            used.insert(backend.to_string());
            let back = bench.tcp((&backend.to_string(), &pod), SYN | ACK);
            assert_eq!(back, Ok((to(FRONTEND), to(&pod))));
            // The flow keeps its endpoint.
            assert_eq!(bench.tcp((&pod, FRONTEND), ACK), Ok((to(&pod), backend)));
        }
        assert_eq!(used.iter().map(String::as_str).collect::<Vec<_>>(), PODS);
    }
}

#[test]
fn a_client_from_outside_looks_like_the_node_unless_endpoints_are_local_only() {
    for workers in [1, 3] {
        let mut bench = Bench::new(with(&PODS, true, workers));
        let (src, backend) = bench.tcp((CLIENT, FRONTEND), SYN).unwrap();
        assert_eq!(src.ip(), to("172.16.0.1:0").ip());
        assert!(bench.rules.ports.contains(src.port()) && PODS.contains(&&*backend.to_string()));
        let back = bench.tcp((&backend.to_string(), &src.to_string()), SYN | ACK);
        assert_eq!(back, Ok((to(FRONTEND), to(CLIENT))));
        let mut bench = Bench::new(with(&PODS, false, workers));
        let (src, backend) = bench.tcp((CLIENT, FRONTEND), SYN).unwrap();
        assert_eq!(src, to(CLIENT));
        let back = bench.tcp((&backend.to_string(), CLIENT), SYN | ACK);
        assert_eq!(back, Ok((to(FRONTEND), to(CLIENT))));
    }
}

#[test]
fn an_endpoint_reaches_itself_by_its_own_service() {
    let mut bench = Bench::new(with(&PODS[..1], true, 1));
    let (src, backend) = bench.tcp(("10.1.0.11:4000", FRONTEND), SYN).unwrap();
    assert_eq!((src.ip(), backend), (to("172.16.0.1:0").ip(), to(PODS[0])));
    let back = bench.tcp((PODS[0], &src.to_string()), SYN | ACK);
    assert_eq!(back, Ok((to(FRONTEND), to("10.1.0.11:4000"))));
}

/// Gives the bench what is left of the service once `gone` is no endpoint any more.
fn take_away(bench: &mut Bench, gone: SocketAddr) {
    let left: Vec<&str> = PODS.into_iter().filter(|pod| to(pod) != gone).collect();
    let workers = bench.rules.workers;
    let mut rules = with(&left, true, workers);
    let ends = left.iter().map(|pod| endpoint(pod)).collect();
    let services = Services::new([(vec![endpoint(FRONTEND)], Service::new(ends, true))], []);
    rules.services = Some(services.after(bench.rules.services.as_ref().unwrap()));
    bench.rules = Rules { generation: bench.rules.generation + 1, ..rules };
}

#[test]
fn flows_outlive_their_endpoint_and_new_ones_avoid_it() {
    for workers in [1, 3] {
        let mut bench = Bench::new(with(&PODS, true, workers));
        let (_, backend) = bench.tcp(("10.1.0.5:4000", FRONTEND), SYN).unwrap();
        // Gone from the service altogether, not only draining.
        take_away(&mut bench, backend);
        let back = bench.tcp((&backend.to_string(), "10.1.0.5:4000"), SYN | ACK);
        assert_eq!(back, Ok((to(FRONTEND), to("10.1.0.5:4000"))));
        let on = bench.tcp(("10.1.0.5:4000", FRONTEND), ACK);
        assert_eq!(on, Ok((to("10.1.0.5:4000"), backend)));
        for port in 4100..4200 {
            let (_, chosen) = bench.tcp((&format!("10.1.0.5:{port}"), FRONTEND), SYN).unwrap();
            assert_ne!(chosen, backend);
        }
    }
}

/// As with kube-proxy, which leaves connections to a deleted Service alone, and ends flows of
/// datagrams.
#[test]
fn connections_outlive_their_service_and_nobody_else_gets_there() {
    for workers in [1, 3] {
        let mut bench = Bench::new(with(&PODS, true, workers));
        let (_, backend) = bench.tcp(("10.1.0.5:4000", FRONTEND), SYN).unwrap();
        bench.udp("10.1.0.5:4000", DNS).unwrap();
        let before = bench.rules.services.take().unwrap();
        bench.rules.services = Some(Services::default().after(&before).after(&before));
        bench.rules.generation += 1;
        let back = bench.tcp((&backend.to_string(), "10.1.0.5:4000"), SYN | ACK);
        assert_eq!(back, Ok((to(FRONTEND), to("10.1.0.5:4000"))));
        let on = bench.tcp(("10.1.0.5:4000", FRONTEND), ACK);
        assert_eq!(on, Ok((to("10.1.0.5:4000"), backend)));
        assert_eq!(bench.sessions(), 1, "that of datagrams has ended");
        let other = bench.tcp(("10.1.0.5:4001", FRONTEND), SYN).unwrap();
        assert_eq!(other.1, to(FRONTEND), "it is an address like any other");
    }
}

/// A client that always asks from the same port, as resolvers do, would never find another.
#[test]
fn datagrams_to_an_endpoint_that_is_gone_find_another_one() {
    for workers in [1, 3] {
        let mut bench = Bench::new(with(&PODS, true, workers));
        let (_, first) = bench.udp("10.1.0.5:4000", DNS).unwrap();
        assert_eq!(bench.udp("10.1.0.5:4000", DNS), Ok((to("10.1.0.5:4000"), first)));
        let plain = "10.1.0.5:4001";
        bench.udp(plain, "198.51.100.1:53").unwrap();
        let mut gone = bench.rules.services.clone().unwrap();
        let left =
            PODS.into_iter().map(datagrams).filter(|pod| IpAddr::from(pod.address) != first.ip());
        let service = Service::new(left.collect(), true);
        gone = Services::new([(vec![datagrams(DNS)], service)], []).after(&gone);
        bench.rules.services = Some(gone);
        bench.rules.generation += 1;
        let before = bench.sessions();
        let (_, second) = bench.udp("10.1.0.5:4000", DNS).unwrap();
        assert_ne!(second, first);
        assert_eq!(bench.sessions(), before, "one has ended, and others were left alone");
    }
}

#[test]
fn a_node_port_is_served_beside_the_hosts_own_ports() {
    for workers in [1, 3] {
        let mut bench = Bench::new(with(&PODS, true, workers));
        for client in [CLIENT, "10.1.0.5:4000", "172.16.0.9:4000"] {
            let (src, backend) = bench.tcp((client, NODE_PORT), SYN).unwrap();
            assert!(PODS.contains(&&*backend.to_string()));
            let back = bench.tcp((&backend.to_string(), &src.to_string()), SYN | ACK);
            assert_eq!(back, Ok((to(NODE_PORT), to(client))));
            let is_here = client.starts_with("10.1.0.");
            assert_eq!(src.ip(), if is_here { to(client) } else { to("172.16.0.1:0") }.ip());
        }
        for port in [30_079, 30_081, 22] {
            let host = format!("172.16.0.1:{port}");
            assert_eq!(bench.tcp((CLIENT, &host), SYN), unchanged(CLIENT, &host));
        }
    }
}

/// Its answers would go straight to it, and not by this node.
#[test]
fn a_pod_of_another_node_looks_like_the_node_too() {
    let mut bench = Bench::new(with(&PODS, true, 1));
    let (src, _) = bench.tcp(("10.1.7.5:4000", NODE_PORT), SYN).unwrap();
    assert_eq!(src.ip(), to("172.16.0.1:0").ip());
    let mut bench = Bench::new(with(&PODS, false, 1));
    let (src, _) = bench.tcp(("10.1.7.5:4000", NODE_PORT), SYN).unwrap();
    assert_eq!(src, to("10.1.7.5:4000"), "endpoints are here");
}

#[test]
fn an_error_about_an_answer_of_a_node_port_reaches_the_endpoint() {
    let mut bench = Bench::new(with(&PODS, false, 1));
    let (_, backend) = bench.tcp((CLIENT, NODE_PORT), SYN).unwrap();
    let answer = tcp(&backend.to_string(), CLIENT, SYN | ACK);
    let sent = bench.send(&answer).unwrap();
    assert_eq!(endpoints(&sent), (to(NODE_PORT), to(CLIENT)));
    let error = icmp::unreachable([198, 51, 100, 254], [172, 16, 0, 1], 1, &sent[14..]);
    let out = bench.send(&error).unwrap();
    assert_eq!(out[30..34], answer[26..30], "to the endpoint");
    assert_eq!(out[42 + 12..42 + 20], answer[26..34], "about what it has sent");
}

#[test]
fn a_service_without_endpoints_is_counted() {
    let mut bench = Bench::new(with(&[], true, 1));
    let refused = bench.tcp((CLIENT, FRONTEND), SYN);
    assert_eq!(refused, Err(Verdict::Drop(DropReason::ServiceNoEndpoint)));
}

#[test]
fn traffic_beside_services_goes_on_as_without_them() {
    for workers in [1, 3] {
        let mut bench = Bench::new(with(&PODS, true, workers));
        let server = "198.51.100.9:443";
        for pod in ["10.1.0.5:4000", "10.1.0.11:4001", PODS[1]] {
            let (outside, dst) = bench.tcp((pod, server), SYN).unwrap();
            assert_eq!((outside.ip(), dst), (to("172.16.0.1:0").ip(), to(server)));
            let back = bench.tcp((server, &outside.to_string()), SYN | ACK);
            assert_eq!(back, Ok((to(server), to(pod))));
        }
        // Straight to an endpoint, from another pod and from outside.
        for client in ["10.1.0.5:4007", CLIENT] {
            assert_eq!(bench.tcp((client, PODS[0]), SYN), unchanged(client, PODS[0]));
            assert_eq!(bench.tcp((PODS[0], client), SYN | ACK), unchanged(PODS[0], client));
        }
    }
}
