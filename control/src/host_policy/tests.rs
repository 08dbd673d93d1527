//! The rules, carried out by a slow and plain reading of them, say what the reference says of
//! policy: for random policies, and packets that begin connections.

use super::*;
use crate::kernel::nft::{Members, Side};
use margay_acl::Verdict;
use margay_acl::model::{self, Action, Failsafe, Family, Place, PolicyKey, Scope, Update};
use margay_acl::packet::{Packet, Transport, protocol};
use margay_acl::reference;
use margay_acl::selector::Selector;
use margay_tunnels::wire::ethernet::Mac;
use proptest::prelude::*;
use std::net::IpAddr;
use std::sync::Arc;

/// A packet at a base chain.
struct Walk<'a> {
    ruleset: &'a Ruleset,
    packet: Packet,
    device: (bool, &'a str),
    /// Source link address.
    link: [u8; 6],
    mark: u32,
    /// Lines of the log, and whether their number is limited.
    logged: Vec<(String, bool)>,
    limited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Accept,
    Drop,
    Back,
}

impl Walk<'_> {
    fn base(&mut self, name: &str) -> bool {
        !self.ruleset.chains.iter().any(|chain| chain.name == name) || self.chain(name) != End::Drop
    }

    fn chain(&mut self, name: &str) -> End {
        let mut chains = self.ruleset.chains.iter();
        let chain = chains.find(|chain| chain.name == name).expect("a chain of that name");
        for rule in &chain.rules {
            if !rule.matches.iter().all(|condition| self.holds(condition)) {
                continue;
            }
            for act in &rule.acts {
                match act {
                    Act::Accept => return End::Accept,
                    Act::Drop => return End::Drop,
                    Act::Return => return End::Back,
                    Act::SetMark(bit) => self.mark |= bit,
                    Act::Untrack => {}
                    Act::Limit { .. } => self.limited = true,
                    Act::Log(prefix) => self.logged.push((prefix.clone(), self.limited)),
                    Act::Jump(to) => match self.chain(to) {
                        End::Back => {}
                        end => return end,
                    },
                }
            }
        }
        End::Back
    }

    fn holds(&self, condition: &Match) -> bool {
        let packet = &self.packet;
        let is_v4 = packet.source.is_ipv4();
        let address = |side| match side {
            Side::Source => packet.source,
            Side::Destination => packet.destination,
        };
        let port =
            |side| packet.ports().map(|(from, to)| if side == Side::Source { from } else { to });
        match condition {
            Match::Device { out, name, prefix, not } => {
                let found = self.device.1;
                let same = if *prefix { found.starts_with(&**name) } else { found == name };
                *out == self.device.0 && same != *not
            }
            Match::SourceLink { at, bytes, not } => {
                self.link[*at as usize..].starts_with(bytes) != *not
            }
            Match::KnownDevice(set) => self.has_device(set),
            Match::NoKnownDevice(set) => !self.has_device(set),
            Match::Family(family) => (*family == Family::V4) == is_v4,
            Match::Protocol { number, not } => (packet.protocol == *number) != *not,
            Match::Icmp { kind, code, not } => packet.icmp().is_some_and(|(own, own_code)| {
                (own == *kind && code.is_none_or(|code| code == own_code)) != *not
            }),
            Match::Address { side, set, not, .. } => self.has(set, address(*side)) != *not,
            Match::Socket { side, set, not, .. } => port(*side).is_some_and(|port| {
                self.has_socket(set, (address(*side), packet.protocol, port)) != *not
            }),
            Match::Port { side, range, not } => {
                port(*side).is_some_and(|port| (range.0..=range.1).contains(&port) != *not)
            }
            Match::Discovery => {
                packet.protocol == protocol::ICMP6
                    && packet.icmp().is_some_and(|(kind, _)| (133..=137).contains(&kind))
            }
            Match::State(_) => false,
            Match::Mark(bit) => self.mark & bit != 0,
        }
    }

    fn members(&self, set: &str) -> &Members {
        &self.ruleset.sets.iter().find(|one| one.name == set).expect("a set").members
    }

    fn has_device(&self, set: &str) -> bool {
        match self.members(set) {
            Members::Devices(names) => names.iter().any(|name| name == self.device.1),
            other => panic!("{other:?}"),
        }
    }

    fn has(&self, set: &str, address: IpAddr) -> bool {
        match (self.members(set), address) {
            (Members::V4(ranges), IpAddr::V4(address)) => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&address))
            }
            (Members::V6(ranges), IpAddr::V6(address)) => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&address))
            }
            other => panic!("{other:?}: a family that was not looked at"),
        }
    }

    fn has_socket(&self, set: &str, (address, number, port): (IpAddr, u8, u16)) -> bool {
        match (self.members(set), address) {
            (Members::Sockets4(all), IpAddr::V4(own)) => all.contains(&(own, number, port)),
            (Members::Sockets6(all), IpAddr::V6(own)) => all.contains(&(own, number, port)),
            other => panic!("{other:?}: a family that was not looked at"),
        }
    }
}

/// What the rules make of a packet that begins a connection of the host's.
fn by_rules(ruleset: &Ruleset, direction: Direction, device: &str, packet: Packet) -> bool {
    by_rules_with(ruleset, (direction, device, hand_over::JUDGED), packet)
}

fn by_rules_with(
    ruleset: &Ruleset,
    (direction, device, link): (Direction, &str, Mac),
    packet: Packet,
) -> bool {
    let out = direction == Direction::Egress;
    let (logged, limited) = (Vec::new(), false);
    let (device, link) = ((out, device), link.0);
    let mut walk = Walk { ruleset, packet, device, link, mark: 0, logged, limited };
    match direction {
        Direction::Ingress => {
            ["unknown-pods", "raw-in", "pre-dnat", "input"].iter().all(|base| walk.base(base))
        }
        Direction::Egress => ["raw-out", "output"].iter().all(|base| walk.base(base)),
    }
}

/// What the reference makes of it.
fn by_policy(model: &Model, endpoint: &str, direction: Direction, packet: &Packet) -> bool {
    for stage in [Stage::Untracked, Stage::PreDnat, Stage::Normal] {
        match reference::evaluate(model, endpoint, stage, direction, packet).verdict {
            Verdict::Allow => return true,
            Verdict::Deny => return false,
            Verdict::Continue => {}
        }
    }
    true
}

/// Choices that follow from a seed.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: u64) -> u64 {
        // Knuth's MMIX.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn some<T>(&mut self, of: impl FnOnce(&mut Choices) -> T) -> Option<T> {
        (self.below(3) == 0).then(|| of(self))
    }

    fn selector(&mut self) -> Selector {
        let text = self.one(&["app == 'a'", "app != 'a'", "has(zone)", "app == 'nobody'", "all()"]);
        Selector::parse(text).unwrap()
    }

    fn nets(&mut self) -> Vec<ipnet::IpNet> {
        let nets =
            ["10.0.0.0/30", "10.0.0.2/32", "10.0.0.0/24", "2001:db8::/126", "2001:db8::2/128"];
        (0..self.below(3)).map(|_| self.one(&nets).parse().unwrap()).collect()
    }

    fn ports(&mut self) -> Vec<model::Port> {
        let one = |own: &mut Choices| match own.below(3) {
            0 => model::Port::Named("web".to_owned()),
            1 => model::Port::Range(22, 22),
            _ => model::Port::Range(80, 81),
        };
        (0..self.below(3)).map(|_| one(self)).collect()
    }

    fn entity(&mut self, has_ports: bool) -> model::Entity {
        model::Entity {
            nets: self.some(Choices::nets).unwrap_or_default(),
            not_nets: self.some(Choices::nets).unwrap_or_default(),
            selector: self.some(Choices::selector),
            not_selector: self.some(Choices::selector),
            set: self.some(|own| own.one(&["nets", "sockets", "missing"]).to_owned()),
            ports: if has_ports { self.ports() } else { Vec::new() },
            not_ports: if has_ports && self.below(2) == 0 { self.ports() } else { Vec::new() },
        }
    }

    fn rule(&mut self) -> model::Rule {
        let action =
            self.one(&[Action::Allow, Action::Allow, Action::Deny, Action::Pass, Action::Log]);
        let number =
            self.one(&[None, Some(protocol::TCP), Some(protocol::UDP), Some(protocol::ICMP)]);
        let is_icmp = number == Some(protocol::ICMP);
        let icmp = |own: &mut Choices| {
            let code = own.one(&[None, Some(0), Some(1)]);
            model::Icmp { kind: own.one(&[3, 8]), code }
        };
        model::Rule {
            family: self.some(|own| own.one(&[Family::V4, Family::V6])),
            protocol: number,
            not_protocol: self.some(|own| own.one(&[protocol::TCP, protocol::UDP])),
            icmp: if is_icmp { self.some(icmp) } else { None },
            not_icmp: if is_icmp { self.some(icmp) } else { None },
            source: self.entity(!is_icmp),
            destination: self.entity(!is_icmp),
            ..model::Rule::new(action)
        }
    }

    fn rules(&mut self) -> Option<Vec<model::Rule>> {
        (self.below(4) > 0).then(|| (0..self.below(4)).map(|_| self.rule()).collect())
    }

    fn policy(&mut self) -> model::Policy {
        let scopes = [Scope::Local, Scope::Local, Scope::Forward, Scope::PreDnat, Scope::Untracked];
        model::Policy {
            tier: self.one(&["default", "first", "missing"]).to_owned(),
            order: self.some(|own| own.below(9) as f64),
            selector: self.selector(),
            scope: self.one(&scopes),
            staged: None,
            ingress: self.rules(),
            egress: self.rules(),
        }
    }

    fn address(&mut self, is_v4: bool) -> IpAddr {
        let host = self.below(6);
        let text = if is_v4 { format!("10.0.0.{host}") } else { format!("2001:db8::{host}") };
        text.parse().unwrap()
    }

    fn packet(&mut self) -> Packet {
        let is_v4 = self.below(2) == 0;
        let number = self.one(&[
            protocol::TCP,
            protocol::TCP,
            protocol::UDP,
            protocol::ICMP,
            protocol::SCTP,
            47,
        ]);
        let ports = [22, 53, 80, 81, 179, 4000];
        let transport = match number {
            protocol::ICMP => Transport::Icmp { kind: self.one(&[3, 8]), code: self.one(&[0, 1]) },
            47 => Transport::Absent,
            _ => Transport::Ports { source: self.one(&ports), destination: self.one(&ports) },
        };
        let (source, destination) = (self.address(is_v4), self.address(is_v4));
        Packet { source, destination, protocol: number, transport }
    }
}

/// Two host endpoints, some other endpoints, and random policy.
fn model(choices: &mut Choices) -> Model {
    let mut model = Model::default();
    let mut put = |update| model.apply(update).unwrap();
    let tier = |default_action| model::Tier { order: Some(1.0), default_action };
    let pass = choices.one(&[model::TierAction::Pass, model::TierAction::Deny]);
    put(Update::Tier("first".to_owned(), Some(tier(pass))));
    put(Update::Tier("default".to_owned(), Some(tier(model::TierAction::Deny))));
    for (at, place) in [
        Place::Host { every_interface: false },
        Place::Host { every_interface: true },
        Place::Workload,
        Place::Elsewhere,
    ]
    .into_iter()
    .enumerate()
    {
        let app = choices.one(&["a", "b"]);
        let zone = choices.some(|_| ("zone".to_owned(), "z".to_owned()));
        let endpoint = model::Endpoint {
            labels: [("app".to_owned(), app.to_owned())].into_iter().chain(zone).collect(),
            addresses: vec![choices.address(true), choices.address(false)],
            ports: vec![model::NamedPort {
                name: "web".to_owned(),
                protocol: choices.one(&[protocol::TCP, protocol::UDP]),
                port: choices.one(&[80, 4000]),
            }],
            profiles: choices
                .one(&[&[][..], &["own"], &["gone", "own"], &["own", "gone"]])
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
            place,
        };
        put(Update::Endpoint(format!("e{at}"), Some(Arc::new(endpoint))));
    }
    let sockets = (0..4).map(|at| (choices.address(at % 2 == 0), protocol::TCP, 80)).collect();
    let sets = [
        ("nets", model::AddressSet::Nets(choices.nets())),
        ("sockets", model::AddressSet::Ports(sockets)),
    ];
    for (name, set) in sets {
        put(Update::AddressSet(name.to_owned(), Some(Arc::new(set))));
    }
    let labels = [("app".to_owned(), "a".to_owned())].into();
    let set = model::NetworkSet { labels, profiles: Vec::new(), nets: choices.nets() };
    put(Update::NetworkSet("set".to_owned(), Some(Arc::new(set))));
    let rules = |choices: &mut Choices| choices.rules().unwrap_or_default();
    let (ingress, egress) = (rules(choices), rules(choices));
    let profile = model::Profile { labels: model::Labels::new(), ingress, egress };
    put(Update::Profile("own".to_owned(), Some(Arc::new(profile))));
    for at in 0..choices.below(6) {
        let kind = model::Kind::GlobalNetworkPolicy;
        let key = PolicyKey { kind, namespace: String::new(), name: format!("p{at}") };
        put(Update::Policy(key, Some(Arc::new(choices.policy()))));
    }
    let net = choices.some(|_| "10.0.0.0/30".parse().unwrap());
    put(Update::Settings(model::Settings {
        failsafe_in: vec![Failsafe { protocol: protocol::TCP, port: 22, net }],
        failsafe_out: vec![Failsafe { protocol: protocol::UDP, port: 53, net: None }],
        ..model::Settings::default()
    }));
    model
}

fn of_model(model: &Model, has_host_endpoints: bool) -> Ruleset {
    let assigned = [("e0", Device::Named("eth0".to_owned())), ("e1", Device::EveryOther)];
    let endpoints =
        assigned.map(|(endpoint, device)| Assigned { endpoint: endpoint.to_owned(), device });
    // `cali1` is e2; `cali3` has rules that let everything pass.
    let pod = |endpoint: &str, device: &str, rules| Pod {
        endpoint: endpoint.to_owned(),
        device: device.to_owned(),
        rules,
        by_tap: Vec::new(),
    };
    let tap = Pod { by_tap: vec!["10.0.0.5/32".parse().unwrap()], ..pod("t", "calit", None) };
    let pods = [tap, pod("e2", "cali1", Some(7)), pod("open", "cali3", None)];
    let (prefix, host_device) = ("cali", "margay0");
    let endpoints = if has_host_endpoints { &endpoints[..] } else { &[] };
    let closed_to_pods = false;
    let log = &LogAction::default();
    ruleset(Inputs { model, endpoints, prefix, host_device, pods: &pods, closed_to_pods, log })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn the_rules_say_what_policy_says(seed in any::<u64>()) {
        let mut choices = Choices(seed);
        let model = model(&mut choices);
        let ruleset = of_model(&model, true);
        let of_pods = of_model(&model, false);
        for _ in 0..40 {
            let packet = choices.packet();
            let (stage, egress) = (Stage::Normal, Direction::Egress);
            let expected = reference::evaluate(&model, "e2", stage, egress, &packet).verdict;
            for rules in [&ruleset, &of_pods] {
                let found = by_rules(rules, Direction::Ingress, "cali1", packet);
                prop_assert_eq!(found, expected == Verdict::Allow, "pod {:?}", packet);
            }
            for (endpoint, device) in [("e0", "eth0"), ("e1", "eth1")] {
                for direction in Direction::ALL {
                    let expected = by_policy(&model, endpoint, direction, &packet);
                    let found = by_rules(&ruleset, direction, device, packet);
                    prop_assert_eq!(found, expected, "{} {:?} {:?}", endpoint, direction, packet);
                    if direction == Direction::Ingress {
                        let link = hand_over::address(Some(device), false);
                        let by_worker = (direction, "margay0", link);
                        let found = by_rules_with(&ruleset, by_worker, packet);
                        prop_assert_eq!(found, expected, "{} by a worker {:?}", endpoint, packet);
                        let link = hand_over::address(Some(device), true);
                        let normal = reference::evaluate(
                            &model, endpoint, Stage::Normal, direction, &packet);
                        let asked = (direction, "margay0", link);
                        let found = by_rules_with(&ruleset, asked, packet);
                        let expected = normal.verdict == Verdict::Allow;
                        prop_assert_eq!(found, expected, "{} translated {:?}", endpoint, packet);
                    }
                }
            }
        }
    }
}

#[test]
fn pods_that_are_known_loopback_and_what_workers_have_judged_pass() {
    let mut choices = Choices(1);
    let mut model = model(&mut choices);
    model.policies.clear();
    model.profiles.clear();
    let ruleset = of_model(&model, true);
    let transport = Transport::Ports { source: 4000, destination: 4001 };
    let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    let packet = Packet { source, destination, protocol: protocol::TCP, transport };
    let passes = |device| by_rules(&ruleset, Direction::Ingress, device, packet);
    assert!(["lo", "margay0", "cali3"].into_iter().all(passes));
    assert!(!passes("eth0") && !passes("eth1"), "no policy and no profile allows nothing");
    assert!(!passes("cali2"), "no endpoint names it");
    let kind = Transport::Icmp { kind: 135, code: 0 };
    let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
    let (source, destination) = (v6(1), v6(2));
    let ask = Packet { source, destination, protocol: protocol::ICMP6, transport: kind };
    assert!(["cali2", "eth0"].iter().all(|dev| by_rules(&ruleset, Direction::Ingress, dev, ask)));
}

#[test]
fn tunnels_are_guarded_by_the_endpoint_of_all_devices() {
    let mut model = model(&mut Choices(1));
    model.policies.clear();
    model.profiles.clear();
    let ruleset = of_model(&model, true);
    let transport = Transport::Ports { source: 4000, destination: 4001 };
    let (source, destination) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let packet = Packet { source, destination, protocol: protocol::TCP, transport };
    let inner = (Direction::Ingress, "margay0", hand_over::address(None, false));
    assert!(!by_rules_with(&ruleset, inner, packet), "nothing allows it");
    let failsafe = Transport::Ports { source: 4000, destination: 22 };
    assert!(by_rules_with(&ruleset, inner, Packet { transport: failsafe, ..packet }));
    let out = |packet| by_rules(&ruleset, Direction::Egress, "margay0", packet);
    assert!(!out(packet), "into a tunnel");
    let to_pod = Packet { destination: [10, 0, 0, 5].into(), ..packet };
    assert!(out(to_pod), "to a pod of its own");
    let none = of_model(&model, false);
    assert!(
        by_rules_with(&none, inner, packet)
            && by_rules(&none, Direction::Egress, "margay0", packet)
    );
}

#[test]
fn without_host_endpoints_only_pods_are_looked_at() {
    let model = Model::default();
    let inputs = Inputs {
        model: &model,
        endpoints: &[],
        prefix: "cali",
        host_device: "margay0",
        pods: &[],
        closed_to_pods: false,
        log: &LogAction::default(),
    };
    let plain = ruleset(inputs);
    assert_eq!((plain.chains.len(), plain.sets.len()), (1, 0));
    let closed = ruleset(Inputs { closed_to_pods: true, ..inputs });
    let transport = Transport::Absent;
    let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    let packet = Packet { source, destination, protocol: 47, transport };
    let passes = |device| by_rules(&closed, Direction::Ingress, device, packet);
    assert!(!passes("cali1") && passes("eth0") && passes("margay0"));
}

#[test]
fn rules_with_action_log_write_a_line_and_go_on() {
    let mut model = Model::default();
    let labels: model::Labels = [("app".to_owned(), "a".to_owned())].into();
    let place = Place::Host { every_interface: false };
    let endpoint =
        model::Endpoint { labels, addresses: vec![], ports: vec![], profiles: vec![], place };
    model.apply(Update::Endpoint("e0".to_owned(), Some(Arc::new(endpoint)))).unwrap();
    let on = |action, port| {
        let mut rule = model::Rule::new(action);
        rule.protocol = Some(protocol::TCP);
        rule.destination.ports = vec![model::Port::Range(port, port)];
        rule
    };
    let rules = vec![on(Action::Log, 80), on(Action::Allow, 80), on(Action::Log, 81)];
    for scope in [Scope::Local, Scope::PreDnat, Scope::Untracked] {
        let policy = model::Policy {
            tier: "default".to_owned(),
            order: None,
            selector: Selector::parse("all()").unwrap(),
            scope,
            staged: None,
            ingress: Some(rules.clone()),
            egress: None,
        };
        let (kind, namespace) = (model::Kind::GlobalNetworkPolicy, String::new());
        let key = PolicyKey { kind, namespace, name: "logs".to_owned() };
        model.apply(Update::Policy(key, Some(Arc::new(policy)))).unwrap();
        let base = match scope {
            Scope::PreDnat => "pre-dnat",
            Scope::Untracked => "raw-in",
            _ => "input",
        };
        let rate = Some(crate::config::LogRate { count: 3, unit_s: 60 });
        let limited = LogAction { prefix: "%k %n".to_owned(), rate, burst: 2 };
        for (log, line) in [(LogAction::default(), "calico-packet: "), (limited, "gnp logs: ")] {
            let device = Device::Named("eth0".to_owned());
            let endpoints = [Assigned { endpoint: "e0".to_owned(), device }];
            let (prefix, host_device, pods) = ("cali", "margay0", &[][..]);
            let (log, closed_to_pods) = (&log, false);
            let endpoints = &endpoints[..];
            let model = &model;
            let inputs =
                Inputs { model, endpoints, prefix, host_device, pods, closed_to_pods, log };
            let ruleset = ruleset(inputs);
            let lines = |port| {
                let transport = Transport::Ports { source: 4000, destination: port };
                let (source, destination) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
                let packet = Packet { source, destination, protocol: protocol::TCP, transport };
                let (device, logged) = ((false, "eth0"), Vec::new());
                let (ruleset, mark, limited) = (&ruleset, 0, false);
                let link = [0; 6];
                let mut walk = Walk { ruleset, packet, device, link, mark, logged, limited };
                let passes = walk.base(base);
                (passes, walk.logged)
            };
            let once = vec![(line.to_owned(), log.rate.is_some())];
            assert_eq!(lines(80), (true, once.clone()), "{scope:?}");
            assert_eq!(lines(81), (scope != Scope::Local, once), "{scope:?}: Log ends nothing");
            assert_eq!(lines(82).1, []);
            assert!(ruleset.logs() && !ruleset.without_log().logs());
        }
    }
}
