//! Sequences of packets through a pipeline that translates, serves and polices: a pod that may
//! send datagrams and be asked by TCP at port 80, one that may nothing, one that nobody restricts,
//! a service, an outside address of its own and one that is the host's.

use crate::body::{Way, mac, mend};
use ipnet::IpNet;
use margay_acl::compile::Compiler;
use margay_acl::model::{self, Action, Place, Port, Profile, Rule, Update};
use margay_acl::{Direction, Stage};
use margay_fastpath::drop_reason::DropReason;
use margay_fastpath::flow::{Address, Limits, Timeouts};
use margay_fastpath::nat::{Class, Filtering, PortRange, Ranges, Rules};
use margay_fastpath::policy::{Endpoint, Layout, Policy, Seat, ToHost};
use margay_fastpath::port::PortId;
use margay_fastpath::replay::{Fate, Sent};
use margay_fastpath::service::{self, Service, Services};
use margay_fastpath::tables::Tables;
use margay_tunnels::wire::{checksum, ethernet, ipv4, ipv6, protocol};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Sessions at most: few, so that tables get full.
const SESSIONS: usize = 24;
/// Packets sent that answers are made from.
const REMEMBERED: usize = 16;
/// The port of the pod that may nothing, and what is behind it.
pub const CLOSED: usize = 3;
const CLOSED_NETS: [&str; 4] =
    ["10.8.0.0/16", "10.1.0.0/24", "2001:db8:8::/48", "2001:db8:2::/120"];
/// The port of the pod with rules, and what is behind it.
const WEB: usize = 1;
const WEB_NETS: [&str; 2] = ["10.0.0.0/16", "2001:db8:1::/48"];

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn endpoint(address: &str, port: u16, protocol: u8) -> service::Endpoint {
    let address: IpAddr = address.parse().expect("an address");
    service::Endpoint { address: Address::from(address), port, protocol }
}

fn services() -> Services {
    let one = |protocol| {
        let endpoints = [("10.7.0.9", 8080), ("10.0.0.9", 80), ("10.8.0.9", 80)];
        let endpoints = endpoints.map(|(address, port)| endpoint(address, port, protocol));
        (vec![endpoint("10.5.0.1", 80, protocol)], Service::new(endpoints.to_vec(), true))
    };
    Services::new([one(protocol::TCP), one(protocol::UDP)], [])
}

fn rules() -> Rules {
    let pool = Class::POOL.0 | Class::INSIDE.0;
    let classes = [
        ("10.0.0.0/16", pool | Class::HERE.0),
        ("10.7.0.0/16", pool | Class::HERE.0),
        ("10.8.0.0/16", pool | Class::HERE.0),
        ("10.9.0.0/16", Class::POOL.0),
        ("2001:db8:1::/48", pool),
        ("2001:db8:7::/48", pool),
        ("10.5.0.1/32", Class::FRONTEND.0),
        ("10.7.0.9/32", Class::BACKEND.0),
        ("10.0.0.9/32", Class::BACKEND.0),
        ("10.8.0.9/32", Class::BACKEND.0),
        ("192.0.2.1/32", Class::LOCAL.0 | Class::NODE.0 | Class::OUTSIDE.0),
        ("192.0.2.100/32", Class::OUTSIDE.0),
        ("2001:db8:ff::100/128", Class::OUTSIDE.0),
    ];
    Rules {
        generation: 1,
        ranges: Ranges::new(&classes.map(|(prefix, bits)| (net(prefix), Class(bits)))),
        outside_v4: vec![Ipv4Addr::new(192, 0, 2, 100), Ipv4Addr::new(192, 0, 2, 1)],
        outside_v6: vec!["2001:db8:ff::100".parse().expect("an address")],
        ports: PortRange { first: 61_000, last: 61_007 },
        taken: vec![61_001],
        exclude_nodes: false,
        filtering: Filtering::AddressDependent,
        limits: Limits { sessions: SESSIONS, per_source: 0 },
        timeouts: Timeouts::default(),
        workers: 1,
        services: Some(services()),
    }
}

fn policy() -> Policy {
    let mut compiler = Compiler::new();
    let allow = |number: u8, ports: Vec<Port>| {
        let mut rule = Rule::new(Action::Allow);
        rule.protocol = Some(number);
        rule.destination.ports = ports;
        rule
    };
    let web = vec![allow(protocol::TCP, vec![Port::Range(80, 80)])];
    let out = [protocol::UDP, protocol::ICMP, protocol::ICMPV6].map(|number| allow(number, vec![]));
    for (name, ingress, egress) in [("web", web, out.to_vec()), ("closed", vec![], vec![])] {
        let profile = Profile { labels: BTreeMap::new(), ingress, egress };
        let update = Update::Profile(name.to_owned(), Some(Arc::new(profile)));
        compiler.apply(update).expect("a profile");
        let endpoint = model::Endpoint {
            labels: BTreeMap::new(),
            addresses: Vec::new(),
            ports: Vec::new(),
            profiles: vec![name.to_owned()],
            place: Place::Workload,
        };
        let update = Update::Endpoint(name.to_owned(), Some(Arc::new(endpoint)));
        compiler.apply(update).expect("an endpoint");
    }
    let classifier = compiler.commit().expect("few rules");
    let endpoint = |name: &str| {
        let handle = compiler.handle(name).expect("an endpoint that was added");
        let open = Direction::ALL.map(|way| classifier.is_open(handle, Stage::Normal, way));
        assert_eq!(open, [false; 2]);
        let connections = [None, None];
        Endpoint { name: name.into(), handle: Some(handle), staged: None, open: false, connections }
    };
    let behind = WEB_NETS.map(|text| (net(text), 0)).into_iter();
    let behind: Vec<_> = behind.chain(CLOSED_NETS.map(|text| (net(text), 1))).collect();
    Policy::new(Layout {
        generation: 1,
        endpoints: vec![endpoint("web"), endpoint("closed")],
        classifier: classifier.clone(),
        staged: None,
        guards: &[],
        tunnels: None,
        seats: &[
            (PortId(WEB as u16), Seat::Endpoint(0)),
            (PortId(CLOSED as u16), Seat::Endpoint(1)),
        ],
        behind: &behind,
        local: &["192.0.2.1".parse().expect("an address")],
        to_host: ToHost::Accept,
        rejudges: false,
    })
}

/// A pipeline with flows, and what it sent last.
pub struct Conversation {
    way: Way,
    sent: Vec<Sent>,
}

impl Default for Conversation {
    fn default() -> Conversation {
        let way = Way::with(|plain| Tables {
            nat: Some(rules().into()),
            policy: Some(policy().into()),
            ..plain
        });
        Conversation { way, sent: Vec::new() }
    }
}

impl Conversation {
    /// One packet, and what must hold of a pod that may nothing. No port here refuses sources that
    /// are not its own, and known flows pass: nobody else begins flows in the pod's name, and what
    /// it sends in others' names may be one of theirs.
    pub fn packet(&mut self, ingress: usize, bytes: &[u8]) -> Fate {
        let is_of_closed = |src: IpAddr| CLOSED_NETS.iter().any(|text| net(text).contains(&src));
        let source = addresses(bytes).map(|(src, _)| src);
        if ingress != CLOSED && source.is_some_and(is_of_closed) {
            return Fate::Dropped(DropReason::Spoofed);
        }
        let fate = self.way.packet(ingress, bytes);
        if ingress == CLOSED && source.is_none_or(is_of_closed) {
            let silent = matches!(fate, Fate::Dropped(_) | Fate::Answered | Fate::Waiting);
            assert!(silent, "{fate:?} from the pod that may not send");
        }
        let passed = self.way.sent().iter().filter(|sent| !sent.made_here);
        for sent in passed.clone().filter(|_| fate != Fate::Answered) {
            let to_closed = addresses(&sent.bytes).is_some_and(|(_, dst)| is_of_closed(dst));
            assert!(!to_closed, "to the pod that may not");
        }
        self.sent.extend(passed.cloned());
        let old = self.sent.len().saturating_sub(REMEMBERED);
        self.sent.drain(..old);
        fate
    }

    /// Time passes.
    pub fn pass(&mut self, seconds: u64) {
        self.way.pass(seconds);
    }

    /// An answer to, or an ICMP error about, one of the last packets, and the port that it comes
    /// in by; `None` when there are none.
    pub fn reaction(&self, which: usize, error: bool) -> Option<(usize, Vec<u8>)> {
        let sent = self.sent.get(which % self.sent.len().max(1))?;
        let port = usize::from(sent.port.0);
        let bytes = if error { complaint(&sent.bytes) } else { answer(&sent.bytes) };
        // The host's port has no number here.
        Some((port, bytes)).filter(|(port, _)| *port <= CLOSED)
    }

    /// Ends all flows.
    pub fn forget(&mut self) {
        self.way.forget();
        self.sent.clear();
    }

    /// What a fuzzer gives: steps, each of a byte of choices, two of time and length, and bytes
    /// that are a packet, or lie over a reaction to one.
    pub fn fuzzed(&mut self, input: &[u8]) {
        let mut rest = input;
        while let [choices, high, low, behind @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([high & 7, *low]));
            let (given, behind) = behind.split_at(length.min(behind.len()));
            rest = behind;
            self.pass(u64::from(high >> 3) * u64::from(high >> 3));
            let reaction = self.reaction(usize::from(choices >> 4 & 7), choices & 8 != 0);
            let (ingress, mut bytes) = match reaction.filter(|_| choices & 0x80 != 0) {
                Some((port, mut bytes)) => {
                    bytes.iter_mut().skip(14).zip(given).for_each(|(byte, over)| *byte ^= over);
                    (port, bytes)
                }
                None => (usize::from(choices & 3), given.to_vec()),
            };
            if choices & 4 == 0 {
                mend(&mut bytes);
            }
            if let Some(to) = bytes.first_chunk_mut::<6>() {
                *to = mac(ingress).0;
            }
            self.packet(ingress, &bytes);
        }
        self.forget();
    }
}

/// Source and destination of an IP packet.
fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let link = ethernet::View::new(frame)?;
    match link.ethertype() {
        ethernet::IPV4 => {
            ipv4::View::new(link.payload()).map(|ip| (ip.src().into(), ip.dst().into()))
        }
        ethernet::IPV6 => {
            ipv6::View::new(link.payload()).map(|ip| (ip.src().into(), ip.dst().into()))
        }
        _ => None,
    }
}

/// The packet with its addresses and ports the other way round, an ICMP question as its answer.
fn answer(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let Some(ip) = bytes.get_mut(ethernet::HEADER_LEN..) else { return bytes };
    let (addresses, len, header, number) = match ip.first().map(|byte| byte >> 4) {
        Some(4) if ip.len() >= 20 => (12, 4, usize::from(ip[0] & 15) * 4, ip[9]),
        Some(6) if ip.len() >= 40 => (8, 16, 40, ip[6]),
        _ => return bytes,
    };
    let (src, dst) = ip[addresses..].split_at_mut(len);
    src.swap_with_slice(&mut dst[..len]);
    ip[if len == 4 { 8 } else { 7 }] = 64;
    let Some(transport) = ip.get_mut(header..).filter(|rest| rest.len() >= 4) else { return bytes };
    match number {
        protocol::TCP | protocol::UDP => {
            let (src, dst) = transport.split_at_mut(2);
            src.swap_with_slice(&mut dst[..2]);
        }
        protocol::ICMP if transport[0] == 8 => transport[0] = 0,
        protocol::ICMPV6 if transport[0] == 128 => transport[0] = 129,
        _ => {}
    }
    bytes
}

/// An ICMP error about a packet, from a router on its way.
fn complaint(frame: &[u8]) -> Vec<u8> {
    let quoted = frame.get(ethernet::HEADER_LEN..).unwrap_or_default();
    let mut icmp = vec![11, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(&quoted[..quoted.len().min(500)]);
    let len = icmp.len() as u16;
    let link = |ethertype| ethernet::header(mac(0), mac(9), ethertype).to_vec();
    if let Some(ip) = ipv6::View::new(quoted).filter(|_| quoted[0] >> 4 == 6) {
        icmp[0] = 3;
        let (router, to) = ("2001:db8:99::1".parse().expect("an address"), ip.src());
        let pseudo = checksum::pseudo_v6(router, to, protocol::ICMPV6, icmp.len());
        let sum = checksum::finish(checksum::sum(&icmp) + pseudo);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let header = ipv6::header(router, to, protocol::ICMPV6, 64, len);
        return [link(ethernet::IPV6), header.to_vec(), icmp].concat();
    }
    let Some(ip) = ipv4::View::new(quoted) else { return frame.to_vec() };
    let sum = checksum::finish(checksum::sum(&icmp));
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = ipv4::header([203, 0, 113, 1].into(), ip.src(), protocol::ICMP, 64, len);
    [link(ethernet::IPV4), header.to_vec(), icmp].concat()
}
