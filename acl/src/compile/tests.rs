//! Random models: the classifier against the reference evaluator, and against itself when the
//! same state is reached in other ways. The pools of names and addresses are small, so that
//! things meet.

mod again;

use super::*;
use crate::classifier::Question;
use crate::model::*;
use crate::origin::Origin;
use crate::packet::{Packet, Transport};
use crate::reference::evaluate;
use crate::selector::Selector;
use crate::{Direction, Stage, Verdict};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

const ADDRESSES: [&str; 10] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.1.1",
    "10.0.1.2",
    "192.0.2.1",
    "255.255.255.255",
    "fd00::1",
    "fd00::2",
    "fd00:1::1",
    "::",
];
const NETS: [&str; 10] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.1/32",
    "10.0.1.0/31",
    "192.0.2.0/24",
    "::/0",
    "fd00::/16",
    "fd00::/64",
    "fd00:1::1/128",
];
const SELECTORS: [&str; 9] = [
    "all()",
    "a == '1'",
    "a == '2'",
    "a != '1'",
    "has(b)",
    "!has(a)",
    "a in {'1', '2'} && b == '1'",
    "a == '1' || b == '2'",
    "p == '1'",
];
const PORTS: [u16; 6] = [0, 53, 80, 443, 8080, 65535];
const PROTOCOLS: [u8; 6] = [1, 6, 17, 58, 132, 4];
const NAMES: [&str; 2] = ["http", "dns"];

fn address() -> impl Strategy<Value = IpAddr> {
    select(&ADDRESSES[..]).prop_map(|text| text.parse().unwrap())
}

fn net() -> impl Strategy<Value = IpNet> {
    select(&NETS[..]).prop_map(|text| text.parse().unwrap())
}

fn selector() -> impl Strategy<Value = Selector> {
    select(&SELECTORS[..]).prop_map(|text| Selector::parse(text).unwrap())
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[ab]", "[12]", 0..3)
}

/// Mostly nothing.
fn seldom<T: std::fmt::Debug + Clone + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    prop_oneof![3 => Just(None), 1 => strategy.prop_map(Some)].boxed()
}

fn few<T: std::fmt::Debug + Clone + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Vec<T>> {
    prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(strategy, 1..3)].boxed()
}

fn port() -> impl Strategy<Value = Port> {
    let number = || select(&PORTS[..]);
    prop_oneof![
        number().prop_map(|port| Port::Range(port, port)),
        (number(), number()).prop_map(|(first, last)| Port::Range(first, last)),
        select(&NAMES[..]).prop_map(|name| Port::Named(name.to_owned())),
    ]
}

fn entity() -> impl Strategy<Value = Entity> {
    let set = seldom(select(&["s0", "s1", "missing"][..]).prop_map(str::to_owned));
    let fields = (
        few(net()),
        few(net()),
        seldom(selector()),
        seldom(selector()),
        set,
        few(port()),
        few(port()),
    );
    fields.prop_map(|(nets, not_nets, selector, not_selector, set, ports, not_ports)| Entity {
        nets,
        not_nets,
        selector,
        not_selector,
        set,
        ports,
        not_ports,
    })
}

fn icmp() -> impl Strategy<Value = Icmp> {
    (select(&[0u8, 8, 128, 255][..]), prop::option::of(select(&[0u8, 1, 255][..])))
        .prop_map(|(kind, code)| Icmp { kind, code })
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        4 => Just(Action::Allow),
        4 => Just(Action::Deny),
        2 => Just(Action::Pass),
        1 => Just(Action::Log)
    ];
    let protocol = || select(&PROTOCOLS[..]);
    let family = seldom(prop_oneof![Just(Family::V4), Just(Family::V6)]);
    let protocols = (prop::option::of(protocol()), seldom(protocol()));
    let header = (action, family, protocols, seldom(icmp()), seldom(icmp()));
    (header, entity(), entity()).prop_map(|(header, source, destination)| {
        let (action, family, (protocol, not_protocol), icmp, not_icmp) = header;
        Rule { action, family, protocol, not_protocol, icmp, not_icmp, source, destination }
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec(rule(), 0..5)
}

fn name(stem: &'static str, count: u8) -> impl Strategy<Value = String> {
    (0..count).prop_map(move |number| format!("{stem}{number}"))
}

fn policy_update() -> impl Strategy<Value = Update> {
    let scope = prop_oneof![
        4 => Just(Scope::Local),
        2 => Just(Scope::Forward),
        1 => Just(Scope::PreDnat),
        1 => Just(Scope::Untracked)
    ];
    let order = prop::option::of(select(&[-1.0, 0.0, 10.0][..]));
    let staged = prop_oneof![
        5 => Just(None),
        1 => Just(Some(StagedAction::Set)),
        1 => Just(Some(StagedAction::Delete))
    ];
    let directions = (prop::option::of(rules()), prop::option::of(rules()));
    let policy = (name("t", 3), order, selector(), scope, staged.clone(), directions);
    let policy = policy.prop_map(|(tier, order, selector, scope, staged, (ingress, egress))| {
        Arc::new(Policy { tier, order, selector, scope, staged, ingress, egress })
    });
    (name("n", 6), seldom_removed(policy)).prop_map(|(name, policy)| {
        let is_staged = policy.as_ref().is_some_and(|policy| policy.staged.is_some());
        let kind =
            if is_staged { Kind::StagedGlobalNetworkPolicy } else { Kind::GlobalNetworkPolicy };
        Update::Policy(PolicyKey { kind, namespace: String::new(), name }, policy)
    })
}

fn seldom_removed<T: std::fmt::Debug + Clone + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    prop_oneof![5 => strategy.prop_map(Some), 1 => Just(None)].boxed()
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let place = prop_oneof![
        2 => Just(Place::Elsewhere),
        4 => Just(Place::Workload),
        2 => any::<bool>().prop_map(|every_interface| Place::Host { every_interface })
    ];
    let port = (select(&NAMES[..]), select(&PROTOCOLS[1..3]), select(&PORTS[..]))
        .prop_map(|(name, protocol, port)| NamedPort { name: name.to_owned(), protocol, port });
    let profiles = prop::collection::vec(name("p", 3), 0..3);
    let fields = (labels(), prop::collection::vec(address(), 0..3), few(port), profiles, place);
    fields.prop_map(|(labels, addresses, ports, profiles, place)| Endpoint {
        labels,
        addresses,
        ports,
        profiles,
        place,
    })
}

fn other_update() -> impl Strategy<Value = Update> {
    let tier_action = prop_oneof![Just(TierAction::Deny), Just(TierAction::Pass)];
    let tier = (prop::option::of(select(&[1.0, 2.0][..])), tier_action)
        .prop_map(|(order, default_action)| Tier { order, default_action });
    let profile = (prop::collection::btree_map("[abp]", "[12]", 0..3), rules(), rules())
        .prop_map(|(labels, ingress, egress)| Arc::new(Profile { labels, ingress, egress }));
    let set = (labels(), prop::collection::vec(name("p", 2), 0..2), few(net()))
        .prop_map(|(labels, profiles, nets)| Arc::new(NetworkSet { labels, profiles, nets }));
    let member = (address(), select(&PROTOCOLS[1..3]), select(&PORTS[..]));
    let told = prop_oneof![
        prop::collection::vec(net(), 0..3).prop_map(AddressSet::Nets),
        prop::collection::vec(member, 0..4).prop_map(AddressSet::Ports),
    ];
    let failsafe = (select(&PROTOCOLS[1..3]), select(&PORTS[..]), seldom(net()))
        .prop_map(|(protocol, port, net)| Failsafe { protocol, port, net });
    let failsafe = prop::collection::vec(failsafe, 0..2);
    let settings = (failsafe.clone(), failsafe, seldom(select(&PORTS[..])), any::<bool>())
        .prop_map(|(failsafe_in, failsafe_out, vxlan_port_denied, denies_ipip)| Settings {
            failsafe_in,
            failsafe_out,
            vxlan_port_denied,
            denies_ipip,
        });
    prop_oneof![
        2 => (name("t", 3), seldom_removed(tier)).prop_map(|(name, it)| Update::Tier(name, it)),
        2 => (name("p", 3), seldom_removed(profile))
            .prop_map(|(name, it)| Update::Profile(name, it)),
        2 => (name("set", 3), seldom_removed(set))
            .prop_map(|(name, it)| Update::NetworkSet(name, it)),
        2 => (name("s", 2), seldom_removed(told.prop_map(Arc::new)))
            .prop_map(|(name, it)| Update::AddressSet(name, it)),
        1 => settings.prop_map(Update::Settings),
        6 => (name("e", 6), seldom_removed(endpoint().prop_map(Arc::new)))
            .prop_map(|(name, it)| Update::Endpoint(name, it)),
    ]
}

fn update() -> impl Strategy<Value = Update> {
    prop_oneof![policy_update(), other_update()]
}

fn packet() -> impl Strategy<Value = Packet> {
    let transport = prop_oneof![
        5 => (select(&PORTS[..]), select(&PORTS[..]))
            .prop_map(|(source, destination)| Transport::Ports { source, destination }),
        2 => icmp().prop_map(|icmp| {
            Transport::Icmp { kind: icmp.kind, code: icmp.code.unwrap_or(7) }
        }),
        1 => Just(Transport::Absent),
    ];
    (address(), address(), select(&PROTOCOLS[..]), transport).prop_filter_map(
        "both addresses are of one family",
        |(source, destination, protocol, transport)| {
            let packet = Packet { source, destination, protocol, transport };
            (source.is_ipv4() == destination.is_ipv4()).then_some(packet)
        },
    )
}

/// Every packet at every endpoint, stage and direction.
fn questions(compiler: &Compiler, packets: &[Packet]) -> Vec<Question> {
    let names = compiler.model().endpoints.keys();
    let endpoints: Vec<Handle> = names.filter_map(|name| compiler.handle(name)).collect();
    let at = |packet: &Packet| {
        let (packet, endpoints) = (*packet, endpoints.clone());
        places().flat_map(move |(stage, direction)| {
            let question = move |endpoint| Question { endpoint, stage, direction, packet };
            endpoints.clone().into_iter().map(question)
        })
    };
    packets.iter().flat_map(at).collect()
}

/// What a classifier says of a packet everywhere.
fn outcomes(compiler: &Compiler, packet: &Packet) -> Vec<(String, Verdict, Origin, Vec<Origin>)> {
    let classifier = compiler.snapshot();
    let mut found = Vec::new();
    for (name, endpoint) in &compiler.model().endpoints {
        let handle = compiler.handle(name);
        assert_eq!(handle.is_some(), endpoint.place != Place::Elsewhere, "{name}");
        let Some(handle) = handle else { continue };
        for (stage, direction) in places() {
            let mut logged = Vec::new();
            let classes = classifier.classes(packet);
            let place = (handle, stage, direction);
            let outcome = classifier
                .decide_and_log(place, packet, classes, |origin| logged.push(origin.clone()));
            assert_eq!(outcome.logged, !logged.is_empty());
            assert_eq!(classifier.classify(handle, stage, direction, packet), outcome);
            let origin = classifier.origin(&outcome).clone();
            found.push((
                format!("{name} {stage:?} {direction:?}"),
                outcome.verdict,
                origin,
                logged,
            ));
        }
    }
    found
}

fn places() -> impl Iterator<Item = (Stage, Direction)> {
    Stage::ALL.into_iter().flat_map(|stage| Direction::ALL.map(|direction| (stage, direction)))
}

/// What the reference says.
fn expected(model: &Model, packet: &Packet) -> Vec<(String, Verdict, Origin, Vec<Origin>)> {
    let mut found = Vec::new();
    for (name, endpoint) in &model.endpoints {
        if endpoint.place == Place::Elsewhere {
            continue;
        }
        for (stage, direction) in places() {
            let why = evaluate(model, name, stage, direction, packet);
            let place = format!("{name} {stage:?} {direction:?}");
            found.push((place, why.verdict, why.origin, why.logged));
        }
    }
    found
}

/// Questions, and what the reference says to each.
type Expected = Vec<(Question, Verdict)>;

/// What the reference says to each question of the packets.
fn verdicts(compiler: &Compiler, packets: &[Packet]) -> Expected {
    let model = compiler.model();
    let mut found = Vec::new();
    for name in model.endpoints.keys() {
        let Some(endpoint) = compiler.handle(name) else { continue };
        for ((stage, direction), packet) in
            places().flat_map(|at| packets.iter().map(move |p| (at, p)))
        {
            let verdict = evaluate(model, name, stage, direction, packet).verdict;
            found.push((Question { endpoint, stage, direction, packet: *packet }, verdict));
        }
    }
    found
}

/// Asks up to `most` snapshots, old ones among them, again and again, until there are no more; the
/// first question that one of them answered as the policy that it was made of does not.
fn read(snapshots: &Receiver<(Arc<Classifier>, Expected)>, most: usize) -> Option<Question> {
    let mut known = Vec::new();
    for turn in 0.. {
        let next = snapshots.try_recv();
        let is_end = matches!(next, Err(TryRecvError::Disconnected));
        known.extend(next);
        if known.len() > most {
            known.remove(turn % known.len());
        }
        for (classifier, expected) in &known {
            let is_wrong = |(question, verdict): &&(Question, Verdict)| {
                let Question { endpoint, stage, direction, packet } = question;
                classifier.classify(*endpoint, *stage, *direction, packet).verdict != *verdict
            };
            if let Some((question, _)) = expected.iter().find(is_wrong) {
                return Some(*question);
            }
        }
        if is_end {
            return None;
        }
    }
    None
}

/// Everything of a snapshot that must not depend on how it came about.
fn shape(compiler: &Compiler) -> (Counts, [usize; 3]) {
    let size = compiler.snapshot().size();
    (compiler.counts(), [size.programs, size.lanes, size.table_bytes])
}

fn compiled(updates: impl IntoIterator<Item = Update>, batch: usize) -> Compiler {
    let mut compiler = Compiler::new();
    for (at, update) in updates.into_iter().enumerate() {
        compiler.apply(update).unwrap();
        if at % batch == batch - 1 {
            compiler.commit().unwrap();
        }
    }
    compiler.commit().unwrap();
    compiler
}

/// The updates that make a model from nothing.
fn whole(model: &Model) -> Vec<Update> {
    let mut updates = vec![Update::Settings(model.settings.clone())];
    updates
        .extend(model.tiers.iter().map(|(name, it)| Update::Tier(name.clone(), Some(it.clone()))));
    let policies = model.policies.iter();
    updates.extend(policies.map(|(key, it)| Update::Policy(key.clone(), Some(it.clone()))));
    let profiles = model.profiles.iter();
    updates.extend(profiles.map(|(name, it)| Update::Profile(name.clone(), Some(it.clone()))));
    let sets = model.network_sets.iter();
    updates.extend(sets.map(|(name, it)| Update::NetworkSet(name.clone(), Some(it.clone()))));
    let sets = model.address_sets.iter();
    updates.extend(sets.map(|(name, it)| Update::AddressSet(name.clone(), Some(it.clone()))));
    let endpoints = model.endpoints.iter();
    updates.extend(endpoints.map(|(name, it)| Update::Endpoint(name.clone(), Some(it.clone()))));
    updates
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn readers_get_the_verdicts_of_one_snapshot_while_the_next_are_made(
        updates in prop::collection::vec(update(), 10..60),
        batch in 1usize..6,
        packets in prop::collection::vec(packet(), 4),
        most in 1usize..20,
    ) {
        let (sender, snapshots) = channel();
        let reader = std::thread::spawn(move || read(&snapshots, most));
        let mut compiler = Compiler::new();
        for some in updates.chunks(batch) {
            for update in some {
                compiler.apply(update.clone()).unwrap();
            }
            let classifier = compiler.commit().unwrap();
            sender.send((classifier, verdicts(&compiler, &packets))).unwrap();
        }
        drop(sender);
        prop_assert_eq!(reader.join().unwrap(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_classifier_says_what_the_reference_says(
        updates in prop::collection::vec(update(), 10..60),
        batch in 1usize..20,
        packets in prop::collection::vec(packet(), 40),
    ) {
        let mut compiler = Compiler::new();
        for some in updates.chunks(batch) {
            for update in some {
                compiler.apply(update.clone()).unwrap();
            }
            compiler.commit().unwrap();
            for packet in packets.iter().take(4) {
                prop_assert_eq!(outcomes(&compiler, packet), expected(compiler.model(), packet));
            }
        }
        prop_assert_eq!(compiler.faults().count(), 0);
        let (classifier, questions) = (compiler.snapshot(), questions(&compiler, &packets));
        let mut together = classifier.outcomes(questions.len());
        classifier.classify_all(&questions, &mut together);
        for (question, outcome) in questions.iter().zip(&together) {
            let Question { endpoint, stage, direction, packet } = question;
            let single = classifier.classify(*endpoint, *stage, *direction, packet);
            prop_assert_eq!(*outcome, single);
        }
        for packet in &packets {
            prop_assert_eq!(outcomes(&compiler, packet), expected(compiler.model(), packet));
        }
    }

    #[test]
    fn what_comes_out_does_not_depend_on_the_way(
        updates in prop::collection::vec(update(), 10..60),
        batch in 1usize..20,
        detour in subsequence((0..60usize).collect::<Vec<_>>(), 0..20),
        packets in prop::collection::vec(packet(), 20),
    ) {
        let direct = compiled(updates.clone(), batch);
        let scratch = whole(direct.model());
        let mut reversed = scratch.clone();
        reversed.reverse();
        let twice: Vec<Update> =
            updates.iter().flat_map(|update| [update.clone(), update.clone()]).collect();
        // Things that come again after others went, then the state as it should be.
        let mut again = updates.clone();
        again.extend(detour.iter().filter_map(|at| updates.get(*at).cloned()));
        let names = again.clone();
        again.extend(names.iter().map(removal).filter(|gone| is_absent(direct.model(), gone)));
        again.extend(scratch.iter().cloned());
        let others = [
            compiled(updates.clone(), 1),
            compiled(updates.clone(), usize::MAX),
            compiled(scratch, usize::MAX),
            compiled(reversed, 3),
            compiled(twice, batch),
            compiled(again, batch),
        ];
        for (at, other) in others.iter().enumerate() {
            prop_assert_eq!(other.model(), direct.model(), "way {}", at);
            prop_assert_eq!(shape(other), shape(&direct), "way {}", at);
            for packet in &packets {
                prop_assert_eq!(outcomes(other, packet), outcomes(&direct, packet), "way {}", at);
            }
        }
    }

    #[test]
    fn with_everything_removed_nothing_is_left(
        updates in prop::collection::vec(update(), 10..60),
        batch in 1usize..20,
    ) {
        let mut compiler = compiled(updates.clone(), batch);
        for (at, update) in updates.iter().enumerate() {
            compiler.apply(removal(update)).unwrap();
            if at % batch == 0 {
                compiler.commit().unwrap();
            }
        }
        compiler.commit().unwrap();
        let (counts, _) = shape(&compiler);
        let prefixes = compiler.model().settings.failsafe_in.iter()
            .chain(&compiler.model().settings.failsafe_out)
            .filter_map(|failsafe| failsafe.net)
            .collect::<BTreeSet<_>>();
        prop_assert_eq!(counts.prefixes, prefixes.len());
        prop_assert_eq!(counts.codes, 0);
        prop_assert_eq!(compiler.snapshot().size().programs, 0);
    }
}

/// The update that removes what an update is about; settings stay.
fn removal(update: &Update) -> Update {
    match update.clone() {
        Update::Tier(name, _) => Update::Tier(name, None),
        Update::Policy(key, _) => Update::Policy(key, None),
        Update::Profile(name, _) => Update::Profile(name, None),
        Update::Endpoint(name, _) => Update::Endpoint(name, None),
        Update::NetworkSet(name, _) => Update::NetworkSet(name, None),
        Update::AddressSet(name, _) => Update::AddressSet(name, None),
        Update::Settings(settings) => Update::Settings(settings),
    }
}

fn is_absent(model: &Model, removal: &Update) -> bool {
    match removal {
        Update::Tier(name, _) => !model.tiers.contains_key(name),
        Update::Policy(key, _) => !model.policies.contains_key(key),
        Update::Profile(name, _) => !model.profiles.contains_key(name),
        Update::Endpoint(name, _) => !model.endpoints.contains_key(name),
        Update::NetworkSet(name, _) => !model.network_sets.contains_key(name),
        Update::AddressSet(name, _) => !model.address_sets.contains_key(name),
        Update::Settings(_) => false,
    }
}
