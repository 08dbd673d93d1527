//! Random packets: new flows, more of old ones, answers, strangers, hairpins, errors, fragments.

use super::list::Plain;
use super::probe::{Probe, Shape};
use crate::flow::{Address, Direction, Signal, Tuple};
use crate::nat::Rules;
use std::net::IpAddr;

/// Fragments on their way at most; the oldest is then sent.
const ON_THEIR_WAY: usize = 24;

pub(super) struct Traffic {
    outside: [Address; 2],
    fragments: Vec<Probe>,
    next_id: u16,
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

impl Traffic {
    pub(super) fn new(rules: &Rules) -> Traffic {
        let outside = [rules.outside_v4[0].into(), rules.outside_v6[0].into()];
        Traffic { outside, fragments: Vec::new(), next_id: 0 }
    }

    pub(super) fn next(&mut self, flows: &[Plain], below: &mut impl FnMut(u64) -> u64) -> Probe {
        let kind = below(20);
        if self.fragments.len() > ON_THEIR_WAY || kind == 0 && !self.fragments.is_empty() {
            let at = below(self.fragments.len() as u64) as usize;
            return self.fragments.swap_remove(at);
        }
        let v6 = below(4) == 0;
        let known = match flows.len() {
            0 => None,
            count => Some(&flows[below(count as u64) as usize]),
        };
        let probe = match (kind, known) {
            (1..=5, Some(flow)) => more(flow, Direction::Reply, below),
            (6..=8, Some(flow)) => more(flow, Direction::Original, below),
            (9..=10, Some(flow)) => return self.error(flow, below),
            (11, Some(flow)) => self.to_mapping(flow, far(v6, below), below),
            (12, Some(flow)) => self.to_mapping(flow, pod(v6, below), below),
            (13, _) => between(far(v6, below), pod(v6, below), below),
            (14, _) => between(pod(v6, below), pod(false, below), below),
            (15, _) => between(far(v6, below), self.outside[usize::from(v6)], below),
            _ => between(pod(v6, below), far(v6, below), below),
        };
        if below(12) == 0 { self.in_fragments(probe, below) } else { probe }
    }

    /// One piece of it now; the other later, or never.
    fn in_fragments(&mut self, probe: Probe, below: &mut impl FnMut(u64) -> u64) -> Probe {
        self.next_id = self.next_id.wrapping_add(1);
        let first = Probe { shape: Shape::First(self.next_id), ..probe };
        let later = Probe { shape: Shape::Later(self.next_id), ..probe };
        let (now, then) = if below(2) == 0 { (first, later) } else { (later, first) };
        if below(5) > 0 {
            self.fragments.push(then);
        }
        now
    }

    /// From somebody to an outside endpoint that is in use, perhaps.
    fn to_mapping(&self, flow: &Plain, from: Address, below: &mut impl FnMut(u64) -> u64) -> Probe {
        let at = flow.translated;
        if at.src.is_v4() != from.is_v4() {
            return between(from, self.outside[usize::from(!from.is_v4())], below);
        }
        let probe = between(from, at.src, below);
        let port = |probe: &Probe| Tuple { dst_port: at.src_port, ..probe.tuple };
        match (at.protocol, probe.tuple.protocol) {
            (6, 6) | (17, 17) => Probe { tuple: port(&probe), ..probe },
            _ => probe,
        }
    }

    /// An error about a packet of the flow, from its receiver, a router, or the wrong place.
    fn error(&self, flow: &Plain, below: &mut impl FnMut(u64) -> u64) -> Probe {
        let direction = if below(2) == 0 { Direction::Original } else { Direction::Reply };
        let signal = signal(flow, direction, below);
        let mut tuple = flow.leaving(direction);
        if matches!(tuple.protocol, 6 | 17) && below(12) == 0 {
            tuple.src_port ^= 64;
        }
        let v6 = !tuple.src.is_v4();
        let teller = match below(3) {
            0 if direction == Direction::Original => router(v6),
            0 => pod(v6, below),
            _ => tuple.dst,
        };
        let teller = if teller.is_v4() == tuple.src.is_v4() { teller } else { tuple.dst };
        Probe { tuple, signal, shape: Shape::Error { teller, told: tuple.src } }
    }
}

fn router(v6: bool) -> Address {
    address(if v6 { "2001:db8:9::77" } else { "203.0.113.77" })
}

fn pod(v6: bool, below: &mut impl FnMut(u64) -> u64) -> Address {
    let host = 1 + below(3);
    match (v6, below(16)) {
        (true, _) => address(&format!("2001:db8:1::{host}")),
        (false, 0) => address("10.2.0.1"),
        (false, _) => address(&format!("10.1.0.{host}")),
    }
}

fn far(v6: bool, below: &mut impl FnMut(u64) -> u64) -> Address {
    let host = 1 + below(3);
    match (v6, below(16)) {
        (true, _) => address(&format!("2001:db8:9::{host}")),
        (false, 0) => address("172.16.0.9"),
        (false, 1) => address("172.16.0.1"),
        (false, _) => address(&format!("198.51.100.{host}")),
    }
}

/// A packet of any protocol between two hosts, with few ports, so that they meet.
fn between(src: Address, dst: Address, below: &mut impl FnMut(u64) -> u64) -> Probe {
    let dst = match src.is_v4() == dst.is_v4() {
        true => dst,
        false => far(!src.is_v4(), below),
    };
    let (src_port, dst_port) = (port(below), port(below));
    let (protocol, signal) = match below(12) {
        0..=3 => (6, Signal::Tcp([2, 2, 2, 18, 16, 17, 4, 0][below(8) as usize])),
        4..=7 => (17, Signal::Udp),
        8..=9 => {
            let query = Signal::Query { asks: below(6) > 0 };
            (if src.is_v4() { 1 } else { 58 }, query)
        }
        10 => (132, Signal::Sctp(chunk(below))),
        _ => (47, Signal::Other),
    };
    let tuple = Tuple { src, dst, src_port, dst_port, protocol };
    let tuple = match signal {
        Signal::Query { asks } => {
            let question = if src.is_v4() { 8 } else { 128 };
            match asks {
                true => Tuple { dst_port: question, ..tuple },
                false => Tuple { src_port: question, ..tuple },
            }
        }
        Signal::Other => Tuple { src_port: 0, dst_port: 0, ..tuple },
        _ => tuple,
    };
    Probe { tuple, signal, shape: Shape::Whole }
}

fn port(below: &mut impl FnMut(u64) -> u64) -> u16 {
    let near = below(4) as u16;
    match below(4) {
        0 => 61_000 + near,
        1 => 53 + near,
        _ => 4000 + near,
    }
}

fn chunk(below: &mut impl FnMut(u64) -> u64) -> u8 {
    [1, 1, 2, 10, 11, 0, 6, 7, 14][below(9) as usize]
}

/// One more packet of a flow.
fn more(flow: &Plain, direction: Direction, below: &mut impl FnMut(u64) -> u64) -> Probe {
    let tuple = flow.arriving(direction);
    Probe { tuple, signal: signal(flow, direction, below), shape: Shape::Whole }
}

fn signal(flow: &Plain, direction: Direction, below: &mut impl FnMut(u64) -> u64) -> Signal {
    match flow.original.protocol {
        // Mostly what a connection goes on with.
        6 => Signal::Tcp([18, 18, 16, 16, 16, 16, 17, 17, 2, 4][below(10) as usize]),
        17 => Signal::Udp,
        1 | 58 => Signal::Query { asks: direction == Direction::Original },
        132 => Signal::Sctp(chunk(below)),
        _ => Signal::Other,
    }
}
