//! One worker's translation: from a burst of packets to what happens to each.
//!
//! A packet of a known flow takes one look-up, and leaves as its session says. For others the rules
//! decide: from inside to outside is translated, from outside to an outside address belongs to a
//! mapping or to nobody, and from outside to inside is only tracked, so that its answers are not
//! taken for new flows. A packet from inside to another inside one's outside address (a hairpin,
//! RFC 4787 REQ-9) takes both ways, one after the other.

use super::fragments::{Found, Fragments};
use super::ports::PortSet;
use super::rewrite::{is_error_whole, translate, translate_error};
use super::rules::{Class, Rules};
use super::subject::{Part, addresses, subject};
use crate::drop_reason::DropReason;
use crate::flow::{BATCH, Direction, FlowTable, Seen, SessionId, Signal, Tuple};
use crate::packet::Packet;
use crate::port::PortId;
use crate::service::Clients;
use ahash::{AHashMap, RandomState};
use std::sync::Arc;
use upkeep::{EXPIRE_BUDGET, MadeFor};

mod alike;
mod begin;
mod connections;
mod guard;
mod hosts;
mod offloaded;
mod services;
mod upkeep;
mod way;

use alike::Likely;
use connections::Claims;
use guard::Guard;
pub use guard::HITS_MAX;
pub use upkeep::NatReport;
use way::{Way, is_for_nat, way_of, way_of_error};

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it is.
    Go,
    /// It goes on with other addresses.
    Rewritten,
    /// It ends here.
    Drop(DropReason),
    /// Another worker has its flow.
    HandOver(u16),
    /// It waits for its first fragment: to be given to [`Tracker::wait`].
    Wait,
}

/// A packet whose flow is to be looked up.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: usize,
    way: Way,
    /// What it is if no flow is found; `None` if it passes as it is then.
    otherwise: Option<Way>,
    /// As it arrives; of an ICMP error as the quoted packet's answer would.
    tuple: Tuple,
    signal: Signal,
    part: Part,
    bytes: u32,
    /// Its destination, or that of what an error quotes, is an outside address.
    to_outside: bool,
    /// The outside address is the host's own: what is nobody's is the host's.
    local: bool,
    /// The port that it came in by.
    in_port: PortId,
    /// Code of an ICMP message.
    icmp_code: u8,
    /// Policy is to be asked.
    policed: bool,
    /// It came out of a tunnel.
    tunnelled: bool,
    /// Untracked rules of a host endpoint have accepted it.
    accepted: bool,
}

impl Asked {
    /// Its way, once it is known that it belongs to no flow of a service.
    fn settled(&self) -> Way {
        match self.way {
            Way::Back => self.otherwise.unwrap_or(Way::Back),
            way => way,
        }
    }
}

type Flow = Option<(SessionId, Direction)>;

/// What is kept between the two halves of a burst.
#[derive(Debug)]
struct Scratch {
    likely: Vec<Likely>,
    asked: Vec<Asked>,
    tuples: [Tuple; BATCH],
    found: [Flow; BATCH],
}

/// One worker's flows and ports.
#[derive(Debug)]
pub struct Tracker {
    worker: u16,
    table: FlowTable,
    ports: AHashMap<(crate::flow::Address, u8), PortSet>,
    fragments: Fragments,
    random: RandomState,
    draws: u64,
    generation: u64,
    made_for: MadeFor,
    exhausted: u64,
    now_s: u32,
    clients: Arc<Clients>,
    guard: Guard,
    claims: Claims,
    scratch: Option<Box<Scratch>>,
    /// Number of the rules and the policy in force, see [`alike`].
    epoch: u32,
    /// Flows of this burst whose way out is to be asked about.
    pub begun: Vec<hosts::Begun>,
    /// Fragments whose first one has come: to be tracked and routed after the burst.
    pub released: Vec<Packet>,
    /// Fragments that have waited too long, or had to make room: to be dropped.
    pub expired: Vec<Packet>,
}

fn seconds(now_ns: u64) -> u32 {
    (now_ns / 1_000_000_000) as u32
}

impl Tracker {
    /// For the worker of this number. Errors when there is no address space for the table.
    pub fn new(rules: &Rules, worker: u16, seed: u64, now_ns: u64) -> std::io::Result<Tracker> {
        let now_s = seconds(now_ns);
        let table = FlowTable::new(rules.limits.clone(), rules.timeouts.clone(), seed, now_s)?;
        Ok(Tracker {
            worker,
            table,
            ports: AHashMap::new(),
            fragments: Fragments::new(rules.timeouts.fragment_s()),
            random: RandomState::with_seeds(seed, seed >> 7, !seed, seed.rotate_left(13)),
            draws: 0,
            generation: rules.generation,
            made_for: MadeFor::of(rules),
            exhausted: 0,
            now_s,
            clients: Arc::default(),
            guard: Guard::default(),
            claims: Claims::default(),
            scratch: Some(Box::new(Scratch {
                likely: Vec::with_capacity(BATCH),
                asked: Vec::with_capacity(BATCH),
                tuples: [Tuple::default(); BATCH],
                found: [None; BATCH],
            })),
            epoch: 1,
            begun: Vec::new(),
            released: Vec::new(),
            expired: Vec::new(),
        })
    }

    /// Shares which endpoints clients of services have had.
    #[must_use]
    pub fn with_clients(self, clients: Arc<Clients>) -> Tracker {
        Tracker { clients, ..self }
    }

    /// Tracks and rewrites up to [`BATCH`] parsed packets whose verdict is [`Verdict::Go`]; others
    /// are none of its business. `verdicts` has one for each.
    pub fn track(
        &mut self,
        rules: &Rules,
        packets: &mut [Packet],
        verdicts: &mut [Verdict],
        now_ns: u64,
    ) {
        self.follow_rules(rules);
        self.now_s = seconds(now_ns);
        self.guard.now_ns = now_ns;
        let Some(mut scratch) = self.scratch.take() else { return };
        let alike = self.find_alike(packets, verdicts, &mut scratch.likely);
        scratch.asked.clear();
        for (at, (packet, verdict)) in packets.iter_mut().zip(&mut *verdicts).enumerate() {
            if *verdict != Verdict::Go || alike >> at & 1 != 0 {
                continue;
            }
            match self.prepare(rules, packet, now_ns) {
                Ok(asked) => scratch.asked.push(Asked { at, ..asked }),
                Err(decided) => *verdict = decided,
            }
        }
        let count = scratch.asked.len();
        for (tuple, asked) in scratch.tuples.iter_mut().zip(&scratch.asked) {
            *tuple = asked.tuple;
        }
        self.table.find_batch(&scratch.tuples[..count], &mut scratch.found[..count]);
        let new = || {
            let all = scratch.asked.iter().zip(&scratch.found);
            all.filter(|(asked, found)| found.is_none() && asked.settled() == Way::Out)
        };
        new().for_each(|(asked, _)| self.prefetch_new(rules, &asked.tuple));
        new().for_each(|(asked, _)| self.table.prefetch_mapping(&asked.tuple));
        let changes = self.table.changes();
        let mut short = scratch.likely.iter().peekable();
        for (asked, found) in scratch.asked.iter().zip(&scratch.found) {
            self.pass_before(asked.at, &mut short, (rules, now_ns), (packets, verdicts));
            let mut found = *found;
            // A packet before this one may have begun its flow, or ended it.
            if self.table.changes() != changes {
                found = found.filter(|found| self.still_is(*found, &asked.tuple));
                found = found.or_else(|| self.table.find(&asked.tuple));
            }
            let packet = &mut packets[asked.at];
            verdicts[asked.at] = self.carry_out(rules, packet, asked, found, now_ns);
        }
        self.pass_before(BATCH, &mut short, (rules, now_ns), (packets, verdicts));
        self.scratch = Some(scratch);
    }

    /// Fetches what a new flow will need, if it keeps its port.
    fn prefetch_new(&self, rules: &Rules, tuple: &Tuple) {
        if let Some(src) = rules.outside_of(tuple.src) {
            self.table.prefetch_new(tuple, &Tuple { src, ..*tuple });
        }
    }

    fn still_is(&self, (id, direction): (SessionId, Direction), tuple: &Tuple) -> bool {
        self.table.get(id).is_some_and(|session| session.arriving(direction) == *tuple)
    }

    /// What is to be looked up for a packet, or what happens to it without. Most packets that are
    /// only forwarded leave by the first lines.
    #[inline]
    fn prepare(&mut self, rules: &Rules, packet: &Packet, now_ns: u64) -> Result<Asked, Verdict> {
        if rules.only_tracks() && !self.guard.concerns_packet(packet) {
            return Err(Verdict::Go);
        }
        let (src, dst) = addresses(packet).ok_or_else(|| self.without_flow(packet))?;
        let policed = self.guard.concerns(packet.in_port, dst);
        let (src, dst) = (rules.ranges.class(src), rules.ranges.class(dst));
        let way = way_of(rules, src, dst);
        if way.is_none() && !services::may_be(src, dst) && !policed {
            return Err(Verdict::Go);
        }
        self.ask(rules, packet, (dst, way, policed), now_ns)
    }

    /// What is to be looked up for a packet that may be translated.
    fn ask(
        &mut self,
        rules: &Rules,
        packet: &Packet,
        (dst, way, policed): (Class, Option<Way>, bool),
        now_ns: u64,
    ) -> Result<Asked, Verdict> {
        let subject = subject(packet).ok_or_else(|| self.without_flow(packet))?;
        let to_outside = dst.has(Class::OUTSIDE);
        let way = match subject.part {
            Part::Error { .. } => way_of_error(rules, &subject.tuple).or(way),
            _ => way,
        };
        let mut tuple = subject.tuple;
        match subject.part {
            Part::Cut => return Err(Verdict::Drop(DropReason::Truncated)),
            Part::Error { .. } if is_error_whole(packet) => tuple = tuple.reversed(),
            Part::Error { .. } => return Err(Verdict::Drop(DropReason::BadChecksum)),
            Part::First(id) => {
                let (released, expired) = (&mut self.released, &mut self.expired);
                self.fragments.first((&tuple, id), now_ns, released, expired);
            }
            Part::Later(id) => match self.fragments.later(&tuple, id) {
                Found::Tuple(whole) => tuple = whole,
                Found::Unknown => return Err(Verdict::Wait),
            },
            Part::Whole => {}
        }
        let is_error = matches!(subject.part, Part::Error { .. });
        let is_hosts = to_outside && !is_error && !is_for_nat(rules, dst, &tuple, subject.signal);
        let otherwise = way.filter(|_| !is_hosts).or(policed.then_some(Way::Policed));
        let way = services::way_of(rules, &tuple).or(otherwise).ok_or(Verdict::Go)?;
        let owner = services::owner(rules, &tuple).or_else(|| {
            Some(rules.owner(match otherwise? {
                Way::Out => tuple.src_port,
                // The same for both directions.
                Way::Policed => tuple.src_port ^ tuple.dst_port,
                _ => tuple.dst_port,
            }))
        });
        if let Some(owner) = owner.filter(|owner| *owner != self.worker) {
            return Err(Verdict::HandOver(owner));
        }
        let bytes = (packet.len() - usize::from(packet.l3)) as u32;
        let to_outside = match is_error {
            true => rules.ranges.class(tuple.dst).has(Class::OUTSIDE),
            false => to_outside,
        };
        let (signal, part, local) = (subject.signal, subject.part, dst.has(Class::LOCAL));
        let code = packet.head().get(usize::from(packet.l4) + 1).copied();
        let (in_port, icmp_code) = (packet.in_port, code.unwrap_or_default());
        let accepted = self.ask_untracked(packet, (&tuple, icmp_code), part)?;
        let asked = Asked {
            at: 0,
            way,
            otherwise,
            tuple,
            signal,
            part,
            bytes,
            to_outside,
            local,
            in_port,
            icmp_code,
            policed,
            tunnelled: packet.is_from_tunnel(),
            accepted,
        };
        Ok(asked)
    }

    fn carry_out(
        &mut self,
        rules: &Rules,
        packet: &mut Packet,
        asked: &Asked,
        found: Flow,
        now_ns: u64,
    ) -> Verdict {
        self.guard.accepted_before = false;
        let flow = match found {
            Some(flow) => self.keep(flow, asked).map(|()| flow),
            None => self.begin_counted(rules, asked),
        };
        let (id, direction) = match flow {
            Ok(flow) => flow,
            Err(verdict) => return verdict,
        };
        if found.is_some() && !matches!(asked.part, Part::Error { .. }) {
            let seen = Seen { direction, signal: asked.signal, bytes: asked.bytes };
            self.table.seen(id, seen, self.now_s);
            self.release_if_over(id);
        }
        let Some(session) = self.table.get(id) else { return Verdict::Go };
        let leaving = session.leaving(direction);
        let verdict = rewrite(packet, asked, &leaving);
        if asked.policed && verdict == Verdict::Rewritten {
            packet.set_asked(asked.accepted || self.guard.accepted_before);
        }
        let to_outside = match leaving.dst == asked.tuple.dst {
            true => asked.to_outside,
            false => rules.ranges.class(leaving.dst).has(Class::OUTSIDE),
        };
        let is_hairpin = asked.settled() == Way::Out && to_outside;
        if is_hairpin {
            return self.once_more(rules, packet, now_ns);
        }
        self.note_alike(asked, (id, direction));
        verdict
    }
}

fn rewrite(packet: &mut Packet, asked: &Asked, leaving: &Tuple) -> Verdict {
    if *leaving == asked.tuple {
        return Verdict::Go;
    }
    let Part::Error { src, dst } = asked.part else {
        translate(packet, leaving, !matches!(asked.part, Part::Later(_)));
        return Verdict::Rewritten;
    };
    // RFC 5508 REQ-4 and REQ-5: a router inside is not to be seen from outside; one outside stays
    // who it is.
    let src = match src == asked.tuple.src || asked.settled() == Way::Out {
        true => leaving.src,
        false => src,
    };
    let dst = if dst == asked.tuple.dst { leaving.dst } else { dst };
    translate_error(packet, (src, dst), &leaving.reversed());
    Verdict::Rewritten
}

#[cfg(test)]
mod tests;
