//! The cluster as files: those of a namespace in one, each network set in one, and what changes in
//! files of its own.

use std::fmt::Write;
use std::net::Ipv4Addr;

use anyhow::Result;
use margay::lab::store::Store;

use crate::random::Random;

const PODS: usize = 40;
const PODS_HERE: usize = 2;
const POLICIES: usize = 20;
const KINDS: usize = 10;
const SETS: usize = 80;
const RANGES: usize = 1000;
/// The node with the daemon.
const HERE: &str = "edge1";
/// The host outside, which an endpoint elsewhere has as its address.
const OUTSIDE: &str = "198.51.100.10";

/// Whose label changes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    Here,
    Elsewhere,
}

impl Who {
    /// The port that the label opens.
    pub(crate) fn port(self) -> u16 {
        match self {
            Who::Here => 81,
            Who::Elsewhere => 80,
        }
    }
}

pub(crate) struct Cluster {
    pub(crate) namespaces: usize,
    pub(crate) store: Store,
}

impl Cluster {
    pub(crate) fn endpoints(&self) -> usize {
        self.namespaces * PODS
    }

    pub(crate) fn policies(&self) -> usize {
        self.namespaces * POLICIES
    }

    /// Writes everything; how many endpoints are here.
    pub(crate) fn write_all(&self) -> Result<usize> {
        let mut random = Random(1);
        for set in 0..SETS {
            let mut nets = String::new();
            for _ in 0..RANGES {
                let length = [16, 20, 24, 24, 28, 32, 32, 32][random.below(8)];
                let bits = 0x2000_0000 + (random.next() as u32 >> 1);
                let net = Ipv4Addr::from(bits & (u32::MAX << (32 - length)));
                write!(nets, "{net}/{length}, ")?;
            }
            let text = format!(
                "{{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {{name: \
                 set{set}, labels: {{feed: f{}}}}}, spec: {{nets: [{nets}]}}}}",
                set % 20
            );
            self.write(&format!("set{set}"), &text)?;
        }
        for namespace in 0..self.namespaces {
            self.write(&format!("n{namespace}"), &namespace_text(namespace))?;
        }
        self.put_label(Who::Here, false)?;
        self.put_label(Who::Elsewhere, false)?;
        self.write("gates", GATES)?;
        Ok(self.namespaces * PODS_HERE)
    }

    /// Gives the endpoint the label that lets datagrams pass, or takes it away.
    pub(crate) fn put_label(&self, who: Who, opens: bool) -> Result<()> {
        match who {
            Who::Elsewhere => {
                let role = if opens { "friend" } else { "stranger" };
                let labels = format!("role: {role}");
                self.write("guest", &endpoint("lab", "guest", "there", OUTSIDE, &labels))
            }
            Who::Here => {
                let path = self.store.directory().join(POD_FILE);
                let text = std::fs::read_to_string(&path)?;
                let lines = text.lines().filter(|line| !line.trim().starts_with("gate:"));
                let mut changed = String::new();
                for line in lines {
                    writeln!(changed, "{line}")?;
                    if line.trim() == "labels:" {
                        let gate = if opens { "open" } else { "shut" };
                        writeln!(changed, "    gate: {gate}")?;
                    }
                }
                let draft = path.with_extension("draft");
                std::fs::write(&draft, changed)?;
                Ok(std::fs::rename(&draft, &path)?)
            }
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.store.directory().join(format!("bench-{name}.yaml"));
        let draft = path.with_extension("draft");
        std::fs::write(&draft, text)?;
        Ok(std::fs::rename(&draft, &path)?)
    }
}

/// The endpoint of the only pod with traffic.
const POD_FILE: &str = "workloadendpoint-edge1-k8s-veth--a-eth0.yaml";

/// What lets datagrams pass: to port 81 by the pod's own label, to port 80 by the sender's.
const GATES: &str = "\
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: own, namespace: lab}, \
spec: {selector: gate == 'open', types: [Ingress], ingress: [\
{action: Allow, protocol: UDP, destination: {ports: [81]}}]}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: peer, namespace: lab}, \
spec: {selector: pod == 'veth-a', types: [Ingress], ingress: [\
{action: Allow, protocol: UDP, source: {selector: role == 'friend'}, destination: {ports: [80]}}]}}
";

fn endpoint(namespace: &str, name: &str, node: &str, address: &str, labels: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {{name: \
         {node}-k8s-{name}-eth0, namespace: {namespace}, labels: {{{labels}, \
         projectcalico.org/namespace: {namespace}}}}}, spec: {{node: {node}, orchestrator: k8s, \
         pod: {name}, endpoint: eth0, interfaceName: cali{namespace}{name}, ipNetworks: \
         [{address}/32], profiles: [kns.{namespace}], ports: [{{name: http, protocol: TCP, port: \
         8080}}]}}}}\n"
    )
}

fn namespace_text(namespace: usize) -> String {
    let name = format!("n{namespace}");
    let mut documents = vec![format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{team: t{}}}}}}}\n",
        namespace % 25
    )];
    for pod in 0..PODS {
        let node = if pod < PODS_HERE { HERE } else { "there" };
        let address = Ipv4Addr::from(0x0a00_0000 + (namespace * PODS + pod) as u32).to_string();
        let labels = format!("app: a{}", pod % KINDS);
        documents.push(endpoint(&name, &format!("p{pod}"), node, &address, &labels));
    }
    documents.extend((0..POLICIES).map(|number| policy(namespace, number)));
    documents.join("---\n")
}

/// Half of a namespace's policies are for the kinds that run here.
fn policy(namespace: usize, number: usize) -> String {
    let kind = if number.is_multiple_of(2) { number / 2 % PODS_HERE } else { number % KINDS };
    let (port, above) = (8000 + number, 9000 + number);
    let (peer, team) = ((kind + number) % KINDS, (namespace + number) % 25);
    let own = Ipv4Addr::from((0x0a00_0000 + (namespace * PODS) as u32) & 0xffff_ff00);
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {{name: p{number}, \
         namespace: n{namespace}}}, spec: {{order: 1000, selector: app == 'a{kind}', types: \
         [Ingress, Egress], ingress: [\
         {{action: Allow, protocol: TCP, source: {{selector: app == 'a{peer}'}}, destination: \
         {{ports: [{port}, http]}}}}, \
         {{action: Allow, protocol: TCP, source: {{namespaceSelector: team == 't{team}'}}, \
         destination: {{ports: ['9000:{above}']}}}}, \
         {{action: Allow, protocol: TCP, source: {{selector: feed == 'f{number}', \
         namespaceSelector: global()}}, destination: {{ports: [443]}}}}, \
         {{action: Allow, protocol: TCP, source: {{nets: [10.0.0.0/9], notNets: [{own}/24]}}, \
         destination: {{ports: [80]}}}}], egress: [\
         {{action: Allow, protocol: TCP, destination: {{selector: all(), ports: [{port}]}}}}, \
         {{action: Allow, protocol: UDP, destination: {{ports: [53]}}}}]}}}}\n"
    )
}
