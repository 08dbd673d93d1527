//! What is counted: tables, routes and packets of each case.

use crate::policy::policy;
use crate::tables;
use crate::traffic::{FRAME, NEIGHBOR, ROUTER, Traffic};
use margay_fastpath::fib::{Fib, FibWriter};
use margay_fastpath::flow::{Limits, Timeouts};
use margay_fastpath::nat::{Class, OWN_RANGE, Ranges, Rules};
use margay_fastpath::tables::{Tables, TargetId};
use margay_tunnels::wire::{ethernet, ipv4, ipv6, protocol};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Packets of a case.
const PACKETS: u32 = 1024;
/// Room for flows.
const SESSIONS: usize = 1 << 14;
/// Rules that match nothing, before the one that lets packets pass.
const RULES: u32 = 100;

/// One case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) tables: Tables,
    pub(crate) fib: Arc<Fib>,
    /// Packets that go first.
    pub(crate) before: Vec<Vec<u8>>,
    /// The packets that count, made of what the first ones looked like as they left.
    pub(crate) frames: fn(&[Vec<u8>]) -> Vec<Vec<u8>>,
    /// Whether those have gone through once before they count.
    pub(crate) is_warm: bool,
}

/// All cases, in the order in which they are counted.
pub(crate) const CASES: [fn() -> Case; 5] = [route_v4, route_v6, known, first, nat];

fn route_v4() -> Case {
    let nets = (0..256u32).map(|third| format!("198.18.{third}.0/24"));
    let frames = |_: &[Vec<u8>]| {
        let frames = (0..PACKETS).map(|flow| {
            let dst = Ipv4Addr::from(0xc612_0001 + (flow << 6));
            let src = Ipv4Addr::from(0x0a00_0001 + flow);
            frame(ethernet::IPV4, &ipv4::header(src, dst, protocol::UDP, 64, 26))
        });
        frames.collect()
    };
    let (name, before) = ("route-v4", Vec::new());
    Case { name, tables: tables(), fib: routes(nets), before, frames, is_warm: true }
}

fn route_v6() -> Case {
    let nets = (0..256u32).map(|third| format!("2001:db8:{third:x}::/48"));
    let frames = |_: &[Vec<u8>]| {
        let frames = (0..PACKETS).map(|flow| {
            let dst = Ipv6Addr::new(0x2001, 0xdb8, (flow % 256) as u16, 0, 0, 0, 0, flow as u16);
            let src = Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, 1);
            frame(ethernet::IPV6, &ipv6::header(src, dst, protocol::UDP, 64, 6))
        });
        frames.collect()
    };
    let (name, before) = ("route-v6", Vec::new());
    Case { name, tables: tables(), fib: routes(nets), before, frames, is_warm: true }
}

/// Packets of flows that policy has let pass.
fn known() -> Case {
    let before = forth(0);
    Case { name: "known", frames: |_| forth(0), before, is_warm: true, ..first() }
}

/// The first packets of flows, which policy is asked about.
fn first() -> Case {
    let limits = Limits { sessions: SESSIONS, per_source: 0 };
    let nat = Some(Rules::tracking(limits, Timeouts::default(), 1).into());
    let tables = Tables { nat, policy: Some(Arc::new(policy(RULES, RULES))), ..tables() };
    let fib = routes(["0.0.0.0/0".to_owned()].into_iter());
    let before = forth(PACKETS);
    Case { name: "first", tables, fib, before, frames: |_| forth(0), is_warm: false }
}

/// Packets of flows that are translated, every second one an answer.
fn nat() -> Case {
    let class = |text: &str, class: Class| (text.parse().expect("a prefix"), class);
    let limits = Limits { sessions: SESSIONS, per_source: 0 };
    let rules = Rules {
        generation: 1,
        ranges: Ranges::new(&[
            class("10.0.0.0/8", Class(Class::POOL.0 | Class::INSIDE.0)),
            class("203.0.113.0/24", Class::OUTSIDE),
        ]),
        outside_v4: (0..16).map(|last| Ipv4Addr::new(203, 0, 113, last)).collect(),
        ports: OWN_RANGE,
        ..Rules::tracking(limits, Timeouts::default(), 1)
    };
    let frames = |seen: &[Vec<u8>]| {
        let mut traffic = Traffic::new(PACKETS, 1);
        let numbers = 0..PACKETS;
        numbers.clone().zip(seen).for_each(|(number, frame)| traffic.learn(number, frame));
        let frames = numbers.map(|number| match number % 2 {
            0 => made(|frame| traffic.forth(number, frame)),
            _ => made(|frame| traffic.back(number, frame)),
        });
        frames.collect()
    };
    let tables = Tables { nat: Some(rules.into()), ..tables() };
    Case { name: "nat", tables, frames, before: forth(0), is_warm: true, ..first() }
}

/// The flows from number `first` on, from inside.
fn forth(first: u32) -> Vec<Vec<u8>> {
    let traffic = Traffic::new(2 * PACKETS, 1);
    (first..first + PACKETS).map(|number| made(|frame| traffic.forth(number, frame))).collect()
}

fn made(write: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = vec![0; FRAME];
    write(&mut bytes);
    bytes
}

/// A frame of UDP behind this header.
fn frame(kind: u16, header: &[u8]) -> Vec<u8> {
    let mut bytes = ethernet::header(ROUTER, NEIGHBOR, kind).to_vec();
    bytes.extend(header);
    bytes.resize(FRAME.max(bytes.len() + 8), 0);
    bytes
}

fn routes(nets: impl Iterator<Item = String>) -> Arc<Fib> {
    let (mut writer, fib) = FibWriter::new();
    for net in nets {
        writer.insert(net.parse().expect("a prefix"), TargetId(1)).expect("room for a route");
    }
    fib
}

/// One port each way.
fn tables() -> Tables {
    tables::tables(1, [ROUTER, NEIGHBOR])
}
