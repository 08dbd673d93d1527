//! The scenarios of `tests/cases/policy-live`, which the network tests run with real connections,
//! as questions to the reference evaluator and the classifier: a connection succeeds when the
//! egress rules of the one end and the ingress rules of the other let its first packet pass.

use super::*;

/// Pods of the network with their addresses, and who is no endpoint.
const PLACES: [(&str, [&str; 2]); 6] = [
    ("veth-a", ["10.65.16.1", "fd65:16::1"]),
    ("tap-a", ["10.65.16.2", "fd65:16::2"]),
    ("narrow-a", ["10.65.16.3", "fd65:16::3"]),
    ("veth-b", ["10.65.32.1", "fd65:32::1"]),
    ("tap-b", ["10.65.32.2", "fd65:32::2"]),
    (OUTSIDE, ["198.51.100.10", "2001:db8:100::10"]),
];
const OUTSIDE: &str = "outside";

fn pods() -> String {
    let pods = PLACES.iter().filter(|(name, _)| *name != OUTSIDE);
    let pods = pods.map(|(name, [v4, v6])| {
        format!(
            "{{kind: WorkloadEndpoint, metadata: {{name: {name}, namespace: lab, labels: \
             {{pod: {name}, projectcalico.org/namespace: lab}}}}, spec: {{node: {NODE}, \
             orchestrator: k8s, interfaceName: cali{name}, ipNetworks: [{v4}/32, '{v6}/128'], \
             profiles: [kns.lab]}}}}\n"
        )
    });
    pods.collect::<Vec<_>>().join("---\n")
}

/// The first packet of a connection, and both ends that are pods.
fn question(line: &str) -> (Packet, [Option<String>; 2], bool) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [protocol, from, to, expected] = words[..] else { panic!("{line}") };
    let (to, port) = to.split_once(':').unwrap_or((to, "0"));
    let v6 = protocol.ends_with('6');
    let address = |name: &str| -> IpAddr {
        let found = PLACES.iter().find(|(place, _)| *place == name);
        found.unwrap_or_else(|| panic!("{line}: who is {name}?")).1[usize::from(v6)]
            .parse()
            .unwrap()
    };
    let (protocol, transport) = match (protocol.trim_end_matches('6'), v6) {
        ("icmp", true) => (protocol::ICMP6, Transport::Icmp { kind: 128, code: 0 }),
        ("icmp", false) => (protocol::ICMP, Transport::Icmp { kind: 8, code: 0 }),
        (name, _) => {
            let ports = Transport::Ports { source: 40_000, destination: port.parse().unwrap() };
            (protocol_number(name), ports)
        }
    };
    let packet = Packet { source: address(from), destination: address(to), protocol, transport };
    let ends = [to, from].map(|name| (name != OUTSIDE).then(|| format!("lab/{name}")));
    (packet, ends, expected == "yes")
}

#[test]
fn connections_of_the_network_tests_are_decided_as_written() {
    let mut checked = 0;
    for case in cases("policy-live") {
        let folder = scratch::Directory::new("live");
        folder.write("pods.yaml", &pods());
        let resources = std::fs::read_to_string(case.join("resources.yaml")).unwrap();
        folder.write("resources.yaml", &resources);
        // One case has a policy that cannot be read, on purpose.
        let policies = policies(&Directory::new(folder.path()).scan());
        let text = std::fs::read_to_string(case.join("checks.txt")).unwrap();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (packet, ends, expected) = question(line);
            let passes = |(end, direction): (&Option<String>, Direction)| {
                let Some(end) = end else { return true };
                let why = evaluate(policies.model(), end, Stage::Normal, direction, &packet);
                let handle = policies.handle(end).unwrap();
                let snapshot = policies.classifier();
                let outcome = snapshot.classify(handle, Stage::Normal, direction, &packet);
                assert_eq!(outcome.verdict, why.verdict, "{}: {line}", case.display());
                why.verdict == Verdict::Allow
            };
            let found = ends.iter().zip(Direction::ALL).all(passes);
            assert_eq!(found, expected, "{}: {line}", case.display());
            checked += 1;
        }
    }
    assert!(checked >= 40, "{checked} connections");
}
