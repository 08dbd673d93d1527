//! A generated cluster: namespaces with pods of ten kinds, policies between the kinds, and
//! network sets that some policies allow.

use crate::random::Random;
use ipnet::{IpNet, Ipv4Net};
use margay_acl::classifier::Question;
use margay_acl::compile::Compiler;
use margay_acl::model::*;
use margay_acl::packet::{Packet, Transport, protocol};
use margay_acl::selector::Selector;
use margay_acl::{Direction, Stage};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const NAMESPACES: usize = 500;
const PODS: usize = 40;
const PODS_HERE: usize = 2;
const POLICIES: usize = 20;
const KINDS: usize = 10;
const SETS: usize = 80;
const RANGES: usize = 1000;

pub(crate) struct Cluster {
    ranges: Vec<Vec<IpNet>>,
}

fn labels(pairs: &[(&str, String)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn selector(text: &str) -> Selector {
    Selector::parse(text).expect("a good selector")
}

fn address(namespace: usize, pod: usize) -> IpAddr {
    let number = (namespace * PODS + pod) as u32;
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let mut random = Random(1);
        let mut range = || {
            let length = [16, 20, 24, 24, 28, 32, 32, 32][random.below(8)];
            let address = Ipv4Addr::from_bits(0x2000_0000 + (random.next() as u32 >> 1));
            IpNet::V4(Ipv4Net::new_assert(address, length).trunc())
        };
        let ranges = (0..SETS).map(|_| (0..RANGES).map(|_| range()).collect()).collect();
        Cluster { ranges }
    }

    pub(crate) fn policies(&self) -> usize {
        NAMESPACES * POLICIES
    }

    pub(crate) fn members(&self) -> usize {
        NAMESPACES * PODS + SETS * RANGES
    }

    pub(crate) fn updates(&self) -> Vec<Update> {
        let tier = Tier { order: Some(1e6), default_action: TierAction::Deny };
        let mut updates = vec![Update::Tier("default".to_owned(), Some(tier))];
        for set in 0..SETS {
            updates.push(self.network_set(set, self.ranges[set].clone()));
        }
        for namespace in 0..NAMESPACES {
            let name = format!("kns.n{namespace}");
            let pairs = [("pcns.team", format!("t{}", namespace % 25))];
            let allow = vec![Rule::new(Action::Allow)];
            let profile = Profile { labels: labels(&pairs), ingress: allow.clone(), egress: allow };
            updates.push(Update::Profile(name, Some(Arc::new(profile))));
            updates.extend((0..PODS).map(|pod| self.pod(namespace, pod, pod % KINDS)));
            updates.extend((0..POLICIES).map(|policy| self.policy(namespace, policy, 8000)));
        }
        updates
    }

    fn network_set(&self, number: usize, nets: Vec<IpNet>) -> Update {
        let set = NetworkSet {
            labels: labels(&[("feed", format!("f{}", number % 20))]),
            profiles: Vec::new(),
            nets,
        };
        Update::NetworkSet(format!("set{number}"), Some(Arc::new(set)))
    }

    fn pod(&self, namespace: usize, pod: usize, kind: usize) -> Update {
        let pairs = [
            ("app", format!("a{kind}")),
            ("pod", format!("p{pod}")),
            ("projectcalico.org/namespace", format!("n{namespace}")),
        ];
        let place = if pod < PODS_HERE { Place::Workload } else { Place::Elsewhere };
        let endpoint = Endpoint {
            labels: labels(&pairs),
            addresses: vec![address(namespace, pod)],
            ports: vec![NamedPort { name: "http".to_owned(), protocol: protocol::TCP, port: 8080 }],
            profiles: vec![format!("kns.n{namespace}")],
            place,
        };
        Update::Endpoint(format!("n{namespace}/p{pod}"), Some(Arc::new(endpoint)))
    }

    /// Half of a namespace's policies are for the kinds that run here.
    fn policy(&self, namespace: usize, number: usize, port: u16) -> Update {
        let here = format!("projectcalico.org/namespace == 'n{namespace}'");
        let kind = if number.is_multiple_of(2) { number / 2 % PODS_HERE } else { number % KINDS };
        let rule = |source: Option<String>, ports: Vec<Port>| {
            let mut rule = Rule::new(Action::Allow);
            rule.protocol = Some(protocol::TCP);
            rule.source.selector = source.map(|text| selector(&text));
            rule.destination.ports = ports;
            rule
        };
        let port = port + number as u16;
        let mut ingress = vec![
            rule(
                Some(format!("app == 'a{}' && {here}", (kind + number) % KINDS)),
                vec![Port::Range(port, port), Port::Named("http".to_owned())],
            ),
            rule(
                Some(format!("pcns.team == 't{}'", (namespace + number) % 25)),
                vec![Port::Range(9000, 9000 + number as u16)],
            ),
            rule(Some(format!("feed == 'f{number}'")), vec![Port::Range(443, 443)]),
        ];
        let mut nets = rule(None, vec![Port::Range(80, 80)]);
        nets.source.nets = vec!["10.0.0.0/9".parse().expect("a range")];
        nets.source.not_nets = vec![IpNet::new_assert(address(namespace, 0), 24).trunc()];
        ingress.push(nets);
        let mut egress = rule(None, vec![Port::Range(port, port)]);
        egress.destination.selector = Some(selector(&here));
        let mut dns = rule(None, vec![Port::Range(53, 53)]);
        dns.protocol = Some(protocol::UDP);
        let policy = Policy {
            tier: "default".to_owned(),
            order: Some(1000.0),
            selector: selector(&format!("app == 'a{kind}' && {here}")),
            scope: Scope::Local,
            staged: None,
            ingress: Some(ingress),
            egress: Some(vec![egress, dns]),
        };
        let key = PolicyKey {
            kind: Kind::NetworkPolicy,
            namespace: format!("n{namespace}"),
            name: format!("p{number}"),
        };
        Update::Policy(key, Some(Arc::new(policy)))
    }

    /// Packets between endpoints here and pods or outside addresses, both ways.
    pub(crate) fn questions(&self, compiler: &Compiler, count: usize) -> Vec<Question> {
        let mut random = Random(2);
        let ports = [53, 80, 443, 8000, 8004, 8080, 9000, 9007];
        let mut packet = || {
            let (namespace, pod) = (random.below(NAMESPACES), random.below(PODS_HERE));
            let endpoint = compiler.handle(&format!("n{namespace}/p{pod}")).expect("it is here");
            let near = address(namespace, random.below(PODS));
            let far = address(random.below(NAMESPACES), random.below(PODS));
            let set = &self.ranges[random.below(SETS)];
            let peer = match random.below(4) {
                0 => near,
                1 => far,
                2 => set[random.below(RANGES)].addr(),
                _ => IpAddr::V4(Ipv4Addr::from_bits(random.next() as u32)),
            };
            let own = address(namespace, pod);
            let direction = Direction::ALL[random.below(2)];
            let (source, destination) = match direction {
                Direction::Ingress => (peer, own),
                Direction::Egress => (own, peer),
            };
            let transport = Transport::Ports {
                source: 1024 + random.below(60_000) as u16,
                destination: ports[random.below(ports.len())],
            };
            let protocol = if random.below(8) == 0 { protocol::UDP } else { protocol::TCP };
            let packet = Packet { source, destination, protocol, transport };
            Question { endpoint, stage: Stage::Normal, direction, packet }
        };
        (0..count).map(|_| packet()).collect()
    }

    /// Another pod elsewhere becomes of another kind.
    pub(crate) fn relabelled(&self, at: usize) -> Update {
        let pod = PODS_HERE + at % (PODS - PODS_HERE);
        self.pod(at * 7 % NAMESPACES, pod, (pod + 1 + at / NAMESPACES) % KINDS)
    }

    /// Another pod here becomes of another kind.
    pub(crate) fn relabelled_here(&self, at: usize) -> Update {
        let pod = at % PODS_HERE;
        self.pod(at * 7 % NAMESPACES, pod, (pod + 1 + at / NAMESPACES) % KINDS)
    }

    /// A network set gets another range in the place of its first.
    pub(crate) fn other_member(&self, at: usize) -> Update {
        let mut nets = self.ranges[at % SETS].clone();
        nets[0] = IpNet::new_assert(IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + at as u32)), 32);
        self.network_set(at % SETS, nets)
    }

    /// A policy gets another port.
    pub(crate) fn other_policy(&self, at: usize) -> Update {
        self.policy(at * 7 % NAMESPACES, at % POLICIES, 8001 + at as u16)
    }
}
