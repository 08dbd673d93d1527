//! Rules for the kernel's own packets: that it takes every kind of them, does what they say, and
//! takes a rule set whole or not at all.

use crate::{in_namespace, sh};
use margay_acl::model::Family;
use margay_control::kernel::nft::{
    self, Act, Chain, Hook, Match, Members, NftError, Rule, Ruleset, Set, Side, state,
};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long a connection may take that is not expected to come about.
const WAIT: Duration = Duration::from_millis(200);
/// How long one may take that is.
const PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 4000;

fn input(rules: Vec<Rule>) -> Ruleset {
    let hook = Some((Hook::Input, 0));
    Ruleset { sets: Vec::new(), chains: vec![Chain { name: "in".to_owned(), hook, rules }] }
}

/// Whether a connection to a listener on loopback comes about.
fn connects(address: &str) -> bool {
    let to = SocketAddr::new(address.parse().unwrap(), PORT);
    match TcpStream::connect_timeout(&to, WAIT) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::TimedOut => false,
        Err(error) => panic!("{to}: {error}"),
    }
}

/// Whether one does so at last, on a machine that may be busy.
fn connects_at_last(address: &str) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if connects(address) {
            return true;
        }
    }
    false
}

/// Conditions of each kind, with whether a connection to loopback meets them.
fn conditions(v4: bool) -> Vec<(Match, bool)> {
    let family = if v4 { Family::V4 } else { Family::V6 };
    let device =
        |name: &str, prefix, not| Match::Device { out: false, name: name.to_owned(), prefix, not };
    let address = |set: &str, not| {
        let set = format!("{set}{}", if v4 { 4 } else { 6 });
        Match::Address { side: Side::Destination, family, set, not }
    };
    let socket = |not| {
        let set = if v4 { "sockets4" } else { "sockets6" }.to_owned();
        Match::Socket { side: Side::Destination, family, set, not }
    };
    let port = |range, not| Match::Port { side: Side::Destination, range, not };
    let protocol = |number, not| Match::Protocol { number, not };
    vec![
        (device("lo", false, false), true),
        (device("lo", false, true), false),
        (device("l", true, false), true),
        (device("l", false, false), false),
        (Match::KnownDevice("devices".to_owned()), true),
        (Match::NoKnownDevice("devices".to_owned()), false),
        (Match::Family(family), true),
        (Match::Family(if v4 { Family::V6 } else { Family::V4 }), false),
        (protocol(6, false), true),
        (protocol(17, false), false),
        (protocol(6, true), false),
        (address("near", false), true),
        (address("near", true), false),
        (address("far", false), false),
        (address("all", false), true),
        (socket(false), true),
        (socket(true), false),
        (port((PORT, PORT), false), true),
        (port((PORT, PORT), true), false),
        (port((3999, 4001), false), true),
        (port((1, 3999), false), false),
        (port((1, 3999), true), true),
        (Match::Icmp { kind: 8, code: None, not: false }, false),
        (Match::Icmp { kind: 8, code: Some(0), not: false }, false),
        (Match::Discovery, false),
        (Match::State(state::INVALID), false),
        (Match::State(state::ESTABLISHED | state::RELATED), false),
        (Match::Mark(1 << 16), false),
    ]
}

fn sets() -> Vec<Set> {
    let v4 = |first: &str, last: &str| vec![(first.parse().unwrap(), last.parse().unwrap())];
    let v6 = |first: &str, last: &str| vec![(first.parse().unwrap(), last.parse().unwrap())];
    let six = "::1".parse().unwrap();
    let (near, far) = (v4("127.0.0.0", "127.0.0.1"), v4("10.0.0.0", "10.255.255.255"));
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    [
        ("near4", Members::V4(near)),
        ("far4", Members::V4(far)),
        ("all4", Members::V4(v4("0.0.0.0", "255.255.255.255"))),
        ("near6", Members::V6(v6("::1", "::1"))),
        ("far6", Members::V6(v6("::2", "::ffff"))),
        ("all6", Members::V6(v6("::", last))),
        ("sockets4", Members::Sockets4(vec![([127, 0, 0, 1].into(), 6, PORT)])),
        ("sockets6", Members::Sockets6(vec![(six, 6, PORT)])),
        ("devices", Members::Devices(vec!["eth7".to_owned(), "lo".to_owned()])),
    ]
    .map(|(name, members)| Set { name: name.to_owned(), members })
    .into()
}

#[test]
fn each_condition_holds_when_it_should() {
    in_namespace(async || {
        let listen =
            |address: &str| TcpListener::bind((address.parse::<IpAddr>().unwrap(), PORT)).unwrap();
        let _listeners = ["127.0.0.1", "::1"].map(listen);
        for (address, is_v4) in [("127.0.0.1", true), ("::1", false)] {
            for (condition, holds) in conditions(is_v4) {
                let port = Match::Port { side: Side::Destination, range: (PORT, PORT), not: false };
                let tcp = Match::Protocol { number: 6, not: false };
                let matches = vec![tcp, port, condition.clone()];
                let rules = input(vec![Rule::new(matches, Act::Drop)]);
                nft::replace(&Ruleset { sets: sets(), ..rules }).unwrap();
                if holds {
                    assert!(!connects(address), "{address}: {condition:?} does not hold");
                } else {
                    assert!(connects_at_last(address), "{address}: {condition:?} holds");
                }
            }
        }
        nft::remove().unwrap();
        assert!(connects_at_last("127.0.0.1"));
        nft::remove().unwrap();
    });
}

#[test]
fn chains_marks_and_returns_do_what_they_say() {
    in_namespace(async || {
        let _listener = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
        let tcp = || vec![Match::Protocol { number: 6, not: false }];
        let jump = |to: &str| Rule::new(Vec::new(), Act::Jump(to.to_owned()));
        let marked = |act| Rule::new(vec![Match::Mark(1 << 16)], act);
        let put = |own: Vec<Rule>| {
            let raw = Rule {
                matches: tcp(),
                acts: vec![Act::SetMark(1 << 16), Act::Untrack, Act::Accept],
            };
            let chains = vec![
                Chain::regular("own".to_owned(), own),
                Chain {
                    name: "raw".to_owned(),
                    hook: Some((Hook::Prerouting, -300)),
                    rules: vec![raw],
                },
                Chain {
                    name: "in".to_owned(),
                    hook: Some((Hook::Input, 0)),
                    rules: vec![jump("own"), Rule::new(tcp(), Act::Drop)],
                },
            ];
            nft::replace(&Ruleset { sets: Vec::new(), chains }).unwrap();
        };
        put(vec![marked(Act::Accept)]);
        assert!(connects_at_last("127.0.0.1"));
        put(vec![marked(Act::Return), Rule::new(Vec::new(), Act::Accept)]);
        assert!(!connects("127.0.0.1"));
        put(Vec::new());
        assert!(!connects("127.0.0.1"));
    });
}

#[test]
fn what_the_kernel_refuses_changes_nothing_and_is_named() {
    in_namespace(async || {
        let _listener = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
        let tcp = vec![Match::Protocol { number: 6, not: false }];
        nft::replace(&input(vec![Rule::new(tcp, Act::Drop)])).unwrap();
        let wrong = input(vec![Rule::new(Vec::new(), Act::Jump("nowhere".to_owned()))]);
        match nft::replace(&wrong).unwrap_err() {
            NftError::Refused { what, .. } => assert_eq!(what, "rule 0 of chain in"),
            other => panic!("{other}"),
        }
        assert!(!connects("127.0.0.1"), "the rules before are in force");
        // A set of many members is many messages of one batch.
        let many = (0..20_000u32).map(|at| {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + 2 * at);
            (address, address)
        });
        let set = Set { name: "many".to_owned(), members: Members::V4(many.collect()) };
        nft::replace(&Ruleset { sets: vec![set], chains: Vec::new() }).unwrap();
        assert!(connects_at_last("127.0.0.1"));
    });
}

#[test]
fn a_table_that_somebody_took_or_replaced_is_told_from_ours() {
    in_namespace(async || {
        assert_eq!(nft::look().unwrap(), None);
        nft::replace(&Ruleset { sets: sets(), ..input(Vec::new()) }).unwrap();
        let first = nft::look().unwrap().unwrap();
        assert_eq!(first.parts as usize, sets().len() + 1, "sets and a chain");
        assert_eq!(nft::look().unwrap(), Some(first), "looking changes nothing");
        nft::replace(&Ruleset { sets: sets(), ..input(Vec::new()) }).unwrap();
        assert_ne!(nft::look().unwrap().unwrap().handle, first.handle);
        nft::remove().unwrap();
        assert_eq!(nft::look().unwrap(), None);
    });
}

/// What nft reads in rules that log.
#[test]
fn lines_of_the_log_are_as_nft_writes_them() {
    in_namespace(async || {
        if std::process::Command::new("nft").arg("--version").output().is_err() {
            println!("SKIPPED: nft is not installed");
            return;
        }
        let log = |text: &str| Act::Log(text.to_owned());
        let tcp = || vec![Match::Protocol { number: 6, not: false }];
        let limit = |count, unit_s, burst| Act::Limit { count, unit_s, burst };
        let rules = vec![
            Rule { matches: tcp(), acts: vec![log("calico-packet: ")] },
            Rule { matches: tcp(), acts: vec![limit(10, 1, 7), log("a: ")] },
            Rule { matches: tcp(), acts: vec![limit(9999, 86_400, 9999), log(&"x".repeat(127))] },
            Rule::new(tcp(), Act::Drop),
        ];
        nft::replace(&input(rules)).unwrap();
        let listed = sh("nft list table inet margay");
        for line in [
            "log prefix \"calico-packet: \" level info",
            "limit rate 10/second burst 7 packets log prefix \"a: \" level info",
            &format!("limit rate 9999/day burst 9999 packets log prefix \"{}\"", "x".repeat(127)),
        ] {
            assert!(listed.contains(line), "{line}: {listed}");
        }
        nft::remove().unwrap();
    });
}

/// Tables of others, written down by nft itself.
#[test]
fn tables_of_others_stay_as_they_are() {
    in_namespace(async || {
        if std::process::Command::new("nft").arg("--version").output().is_err() {
            println!("SKIPPED: nft is not installed");
            return;
        }
        sh("nft '\
            table inet other { \
                set margay { type ipv4_addr; elements = { 192.0.2.1 }; }; \
                chain in { type filter hook input priority 0; ip saddr @margay drop; }; }; \
            table ip margay { \
                chain in { type filter hook input priority 0; tcp dport 9 drop; }; }'");
        let before = sh("nft list ruleset");
        assert!(before.contains("table ip margay"), "{before}");
        nft::replace(&Ruleset { sets: sets(), ..input(Vec::new()) }).unwrap();
        let during = sh("nft list ruleset");
        assert!(during.contains("table inet margay") && during.starts_with(&before), "{during}");
        nft::remove().unwrap();
        assert_eq!(sh("nft list ruleset"), before);
    });
}
