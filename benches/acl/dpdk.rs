//! The same generated 5-tuple rules and packets for margay and for `dpdk-test-acl`.
//!
//! The rules have the shape of ClassBench's acl seeds: long prefixes, few different ports. Here
//! they are policies of 1,000 rules for one endpoint; both sides see the same packets, half of
//! which are made to match some rule.

use crate::random::Random;
use ipnet::{IpNet, Ipv4Net};
use margay_acl::classifier::Question;
use margay_acl::compile::Compiler;
use margay_acl::model::*;
use margay_acl::packet::{Packet, Transport, protocol};
use margay_acl::selector::Selector;
use margay_acl::{Direction, Stage};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;

const PACKETS: usize = 65_536;
const ROUNDS: usize = 10;

struct Tuple {
    source: Ipv4Net,
    destination: Ipv4Net,
    ports: (u16, u16),
    protocol: Option<u8>,
}

fn tuples(count: usize) -> Vec<Tuple> {
    let mut random = Random(3);
    let net = |random: &mut Random| {
        let length = [0, 8, 16, 24, 24, 28, 30, 32, 32, 32][random.below(10)];
        let block = 0x0a00_0000 + (random.below(64) << 18) as u32;
        Ipv4Net::new_assert(Ipv4Addr::from_bits(block + random.next() as u32 % (1 << 18)), length)
            .trunc()
    };
    (0..count)
        .map(|_| {
            let port = [22, 25, 53, 80, 110, 143, 443, 1521, 3306, 8080][random.below(10)];
            let ports = match random.below(4) {
                0 => (0, u16::MAX),
                1 => (1024, u16::MAX),
                _ => (port, port),
            };
            let protocol = match ports {
                (0, _) => None,
                _ => Some([protocol::TCP, protocol::UDP][random.below(2)]),
            };
            let (source, destination) = (net(&mut random), net(&mut random));
            Tuple { source, destination, ports, protocol }
        })
        .collect()
}

fn packets(tuples: &[Tuple]) -> Vec<Packet> {
    let mut random = Random(4);
    (0..PACKETS)
        .map(|at| {
            let tuple = &tuples[random.below(tuples.len())];
            let (source, destination) = match at % 2 {
                0 => (tuple.source.addr(), tuple.destination.addr()),
                _ => (Ipv4Addr::from_bits(random.next() as u32), tuple.destination.addr()),
            };
            Packet {
                source: IpAddr::V4(source),
                destination: IpAddr::V4(destination),
                protocol: tuple.protocol.unwrap_or(protocol::TCP),
                transport: Transport::Ports {
                    source: 1024 + random.below(60_000) as u16,
                    destination: tuple.ports.0,
                },
            }
        })
        .collect()
}

/// Prints both sides' cost.
pub(crate) fn report(rules: usize) {
    let tuples = tuples(rules);
    let packets = packets(&tuples);
    let [one_by_one, in_bursts] = ours(&tuples, &packets);
    println!("{rules} rules: {one_by_one:.1} ns one by one, {in_bursts:.1} ns in bursts");
    match theirs(&tuples, &packets) {
        Ok(nanos) => println!("{rules} rules: dpdk-test-acl {nanos:.1} ns a packet"),
        Err(why) => println!("{rules} rules: dpdk-test-acl SKIPPED: {why}"),
    }
}

fn ours(tuples: &[Tuple], packets: &[Packet]) -> [f64; 2] {
    let mut compiler = Compiler::new();
    let endpoint = Endpoint {
        labels: Labels::new(),
        addresses: Vec::new(),
        ports: Vec::new(),
        profiles: Vec::new(),
        place: Place::Workload,
    };
    let update = Update::Endpoint("e".to_owned(), Some(Arc::new(endpoint)));
    compiler.apply(update).expect("within all limits");
    for (number, some) in tuples.chunks(1000).enumerate() {
        let key = PolicyKey {
            kind: Kind::GlobalNetworkPolicy,
            namespace: String::new(),
            name: format!("p{number:02}"),
        };
        let policy = Policy {
            tier: "default".to_owned(),
            order: Some(number as f64),
            selector: Selector::all(),
            scope: Scope::Local,
            staged: None,
            ingress: Some(some.iter().map(rule).collect()),
            egress: None,
        };
        let update = Update::Policy(key, Some(Arc::new(policy)));
        compiler.apply(update).expect("within all limits");
    }
    let busy = super::cpu_s();
    let snapshot = compiler.commit().expect("within all limits");
    println!("{} rules: compiled in {:.2} s of CPU", tuples.len(), super::cpu_s() - busy);
    println!("{:?} faults {}", snapshot.size(), compiler.faults().count());
    let endpoint = compiler.handle("e").expect("it is here");
    let (stage, direction) = (Stage::Normal, Direction::Ingress);
    let question = |packet: &Packet| Question { endpoint, stage, direction, packet: *packet };
    let questions: Vec<Question> = packets.iter().map(question).collect();
    super::costs(&snapshot, &questions, ROUNDS)
}

fn rule(tuple: &Tuple) -> Rule {
    let mut rule = Rule::new(Action::Allow);
    rule.protocol = tuple.protocol;
    rule.source.nets = vec![IpNet::V4(tuple.source)];
    rule.destination.nets = vec![IpNet::V4(tuple.destination)];
    if tuple.ports != (0, u16::MAX) {
        rule.destination.ports = vec![Port::Range(tuple.ports.0, tuple.ports.1)];
    }
    rule
}

fn theirs(tuples: &[Tuple], packets: &[Packet]) -> Result<f64, String> {
    let folder = std::env::temp_dir().join(format!("margay-acl-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let (mut rules, mut traces) = (String::new(), String::new());
    for Tuple { source, destination, ports, protocol } in tuples {
        let protocol = protocol.map_or("0x00/0x00".to_owned(), |one| format!("{one:#04x}/0xff"));
        let (first, last) = ports;
        let _ = writeln!(rules, "@{source} {destination} 0 : 65535 {first} : {last} {protocol}");
    }
    for packet in packets {
        let [source, destination] =
            [packet.source, packet.destination].map(|address| match address {
                IpAddr::V4(address) => address.to_bits(),
                IpAddr::V6(_) => 0,
            });
        let (from, to) = packet.ports().unwrap_or_default();
        let _ = writeln!(traces, "{source} {destination} {from} {to} {}", packet.protocol);
    }
    let (rules_file, traces_file) = (folder.join("rules"), folder.join("traces"));
    let written = std::fs::write(&rules_file, rules)
        .and_then(|()| std::fs::write(&traces_file, traces))
        .map_err(|error| error.to_string());
    let output = written.and_then(|()| {
        let eal = ["--no-huge", "--no-pci", "-l", "0", "-m", "2048"];
        let mut command = Command::new("dpdk-test-acl");
        command.args(eal).args(["--force-max-simd-bitwidth=512", "--"]);
        command.arg(format!("--rulesf={}", rules_file.display()));
        command.arg(format!("--tracef={}", traces_file.display()));
        command.args(["--tracestep=256", "--alg=avx512x32", &format!("--iter={ROUNDS}")]);
        command.output().map_err(|error| format!("dpdk-test-acl: {error}"))
    });
    std::fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
    let output = output?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let rate = text
        .lines()
        .find_map(|line| line.split(", ").find_map(|part| part.strip_suffix(" pkt/sec")));
    let rate: f64 = rate.and_then(|rate| rate.trim().parse().ok()).ok_or_else(|| {
        let cause = text.lines().find(|line| line.contains("Cause") || line.contains("rror"));
        cause.unwrap_or("no figure in its output").to_owned()
    })?;
    Ok(1e9 / rate)
}
