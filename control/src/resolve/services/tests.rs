//! Services as Kubernetes documents them, to endpoints.

use super::*;
use crate::scratch;
use crate::store::directory::Directory;
use margay_fastpath::flow::Tuple;
use margay_fastpath::service::{Asker, Choice, Clients};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  externalIPs: [198.51.100.200]
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}
  ipFamilies: [IPv4]
  ports:
    - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
    - {name: dns, port: 53, protocol: UDP}
status: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}
";

fn slice(conditions: [&str; 3]) -> String {
    let [a, b, c] = conditions;
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports:
  - {{name: http, port: 8080, protocol: TCP}}
  - {{name: dns, port: 5353, protocol: UDP}}
endpoints:
  - {{addresses: [10.1.0.1], nodeName: me, conditions: {{{a}}}}}
  - {{addresses: [10.1.0.2], nodeName: other, conditions: {{{b}}}}}
  - {{addresses: [10.1.0.3], nodeName: other, conditions: {{{c}}}}}
"
    )
}

fn model(texts: &[&str]) -> Model {
    let scratch = scratch::Directory::new("services");
    for (at, text) in texts.iter().enumerate() {
        scratch.write(&format!("{at}.yaml"), text);
    }
    let mut directory = Directory::new(scratch.path());
    let mut model = Model::default();
    directory.scan().into_iter().for_each(|event| model.apply(event));
    assert!(directory.report().faults.is_empty(), "{:?}", directory.report().faults);
    model
}

fn resolved(texts: &[&str], before: Option<&Services>) -> (Services, Vec<(IpNet, Class)>) {
    let node_addresses = ["172.16.0.1", "fd16::1"].map(|text| text.parse().unwrap());
    let inputs = ServiceInputs { node: "me", node_addresses: &node_addresses, before };
    services(inputs, &model(texts)).unwrap()
}

fn chosen(text: &str, to: &str, protocol: u8) -> Vec<String> {
    chosen_by(false, text, to, protocol)
}

fn chosen_by(is_pod: bool, text: &str, to: &str, protocol: u8) -> Vec<String> {
    let (services, _) = resolved(&[SERVICE, text], None);
    let clients = Clients::default();
    let asker = Asker { is_pod, clients: &clients, now_s: 0 };
    let at: std::net::SocketAddr = to.parse().unwrap();
    let mut found = std::collections::BTreeSet::new();
    for port in 0..500u16 {
        let tuple = Tuple {
            src: IpAddr::from([192, 0, port.to_be_bytes()[0], port as u8]).into(),
            dst: at.ip().into(),
            src_port: port,
            dst_port: at.port(),
            protocol,
        };
        match services.choose(&tuple, asker) {
            Some(Choice::Endpoint { endpoint, masquerade }) => {
                let how = if masquerade { "hidden" } else { "kept" };
                found.insert(format!("{:?}:{} {how}", endpoint.address, endpoint.port));
            }
            Some(Choice::NoEndpoint) => drop(found.insert("none".to_owned())),
            None => drop(found.insert("no service".to_owned())),
        }
    }
    found.into_iter().collect()
}

#[test]
fn addresses_ports_and_policies_lead_to_endpoints() {
    let all = slice(["ready: true", "ready: true", "ready: false"]);
    let both = ["10.1.0.1:8080 hidden", "10.1.0.2:8080 hidden"];
    assert_eq!(chosen(&all, "10.96.0.1:80", 6), both);
    assert_eq!(chosen(&all, "10.96.0.1:53", 17), both.map(|at| at.replace("8080", "5353")));
    for external in ["198.51.100.200:80", "203.0.113.9:80", "172.16.0.1:30080"] {
        assert_eq!(chosen(&all, external, 6), ["10.1.0.1:8080 kept"], "policy Local");
        assert_eq!(chosen_by(true, &all, external, 6), both, "no hindrance for pods");
    }
    let elsewhere = slice(["ready: false", "ready: true", "ready: true"]);
    assert_eq!(chosen(&elsewhere, "172.16.0.1:30080", 6), ["none"], "no endpoint is here");
    for (at, protocol) in [
        ("10.96.0.1:81", 6),
        ("10.96.0.1:80", 17),
        ("10.96.0.2:80", 6),
        ("172.16.0.1:80", 6),
        ("10.96.0.1:30080", 6),
        ("[fd16::1]:30080", 6),
    ] {
        assert_eq!(chosen(&all, at, protocol), ["no service"]);
    }
}

#[test]
fn endpoints_that_end_serve_only_where_no_other_is_ready() {
    let ending = "ready: false, serving: true, terminating: true";
    let one = slice([ending, "ready: true", "ready: false"]);
    assert_eq!(chosen(&one, "10.96.0.1:80", 6), ["10.1.0.2:8080 hidden"]);
    assert_eq!(chosen(&one, "203.0.113.9:80", 6), ["10.1.0.1:8080 kept"], "here it is the last");
    let none = slice(["ready: false", "ready: false", "ready: false, terminating: true"]);
    assert_eq!(chosen(&none, "10.96.0.1:80", 6), ["none"]);
    // Not said is ready.
    assert_eq!(chosen(&slice(["", "ready: false", "ready: false"]), "10.96.0.1:80", 6).len(), 1);
}

#[test]
fn affinity_has_the_time_that_the_service_says() {
    let read = |text: &str| model(&[text]).services.into_values().next().unwrap().affinity_s;
    assert_eq!(read(SERVICE), Some(600));
    let unsaid =
        SERVICE.replace("  sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}\n", "");
    assert_eq!(read(&unsaid), Some(10_800), "Kubernetes' default");
    assert_eq!(read(&unsaid.replace("ClientIP", "None")), None);
}

#[test]
fn an_affinity_of_no_time_is_named() {
    let scratch = scratch::Directory::new("services");
    scratch.write("wrong.yaml", &SERVICE.replace("600", "0"));
    let mut directory = Directory::new(scratch.path());
    directory.scan();
    let faults = format!("{:?}", directory.report().faults);
    assert!(faults.contains("timeoutSeconds") && faults.contains("from 1 to 86400"), "{faults}");
}

#[test]
fn endpoints_that_are_gone_are_known_with_their_class() {
    let all = slice(["ready: true", "ready: true", "ready: true"]);
    let (before, _) = resolved(&[SERVICE, &all], None);
    let fewer = all.replace("10.1.0.3", "10.1.0.4");
    let (after, classes) = resolved(&[SERVICE, &fewer], Some(&before));
    let gone = endpoint("10.1.0.3".parse().unwrap(), 8080, 6);
    assert!(before.is_endpoint(&gone) && !after.is_endpoint(&gone));
    assert!(after.backends().any(|backend| *backend == gone));
    assert!(classes.contains(&("10.1.0.3/32".parse().unwrap(), Class::BACKEND)));
}
