//! The first packet of a flow: whether it may begin one, and what it is translated to.

use super::{Asked, Tracker, Verdict, Way};
use crate::drop_reason::DropReason;
use crate::flow::{Address, Direction, Refused, Removed, SessionId, Tuple};
use crate::nat::ports::PortSet;
use crate::nat::rules::{Class, Filtering, Rules};
use crate::nat::subject::Part;
use crate::packet::Packet;
use margay_tunnels::wire::protocol;

/// Ports that are tried for one that no mapping has but another flow to the same place.
const PORT_TRIES: usize = 4;
/// Ports that are tried once all have a mapping.
const REUSE_TRIES: usize = 64;
/// Sessions of a mapping that are looked at for the address of a stranger.
const FILTER_TRIES: usize = 256;

pub(super) type Begun = Result<(SessionId, Direction), Verdict>;

pub(super) fn refused(why: Refused) -> Verdict {
    Verdict::Drop(match why {
        Refused::Full => DropReason::FlowTableFull,
        Refused::SourceLimit => DropReason::FlowLimit,
        Refused::Clash | Refused::Invalid => DropReason::FlowInvalid,
    })
}

impl Tracker {
    /// A new flow for a packet that belongs to none.
    #[cold]
    pub(super) fn begin(&mut self, rules: &Rules, asked: &Asked) -> Begun {
        let is_stray = matches!(asked.part, Part::Error { .. } | Part::Later(_));
        match asked.settled() {
            Way::Back => Err(Verdict::Go),
            Way::Service if is_stray => Err(Verdict::Drop(DropReason::FlowInvalid)),
            Way::Service => self.begin_service(rules, asked),
            Way::Out if is_stray => Err(Verdict::Drop(DropReason::FlowInvalid)),
            Way::Out => self.begin_out(rules, asked),
            Way::In if is_stray => Err(unsolicited(asked)),
            Way::In => self.begin_in(rules, asked),
            Way::Through | Way::Policed if is_stray => Err(passes_unless_policed(asked)),
            Way::Through | Way::Policed => self.begin_untranslated(asked),
        }
    }

    fn begin_untranslated(&mut self, asked: &Asked) -> Begun {
        if asked.policed && asked.signal.begins().is_none() {
            return Err(refused(Refused::Invalid));
        }
        self.admit(asked, asked.tuple)?;
        match self.insert((asked.tuple, asked.tuple), asked) {
            Ok(id) => Ok((id, Direction::Original)),
            // It is not translated, so it passes as if nobody looked.
            Err(Refused::Invalid | Refused::Clash) => Err(passes_unless_policed(asked)),
            Err(why) => Err(refused(why)),
        }
    }

    /// Makes a session; one that gave way for it is forgotten first.
    pub(super) fn insert(
        &mut self,
        tuples: (Tuple, Tuple),
        asked: &Asked,
    ) -> Result<SessionId, Refused> {
        let mut gave_way = None;
        let signal = (asked.signal, asked.bytes);
        let made = self.table.insert(tuples, signal, self.now_s, &mut gave_way);
        if let Some(removed) = gave_way {
            self.forget(&removed);
        }
        made
    }

    fn begin_out(&mut self, rules: &Rules, asked: &Asked) -> Begun {
        let tuple = asked.tuple;
        let Some(outside) = rules.outside_of(tuple.src) else { return Err(Verdict::Go) };
        if asked.signal.begins().is_none() {
            return Err(Verdict::Drop(DropReason::FlowInvalid));
        }
        self.admit(asked, tuple)?;
        let made = match tuple.protocol {
            protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6 => {
                self.begin_with_port(rules, asked, outside)?
            }
            // Their ports, if they have any, can't be changed; answers to the host's own address
            // would be the host's.
            _ if rules.ranges.class(outside).has(Class::LOCAL) => {
                return Err(Verdict::Drop(DropReason::NatProtocol));
            }
            _ => match self.insert((tuple, Tuple { src: outside, ..tuple }), asked) {
                Err(Refused::Clash) => return Err(self.exhausted()),
                made => made.map_err(refused)?,
            },
        };
        Ok((made, Direction::Original))
    }

    fn begin_with_port(
        &mut self,
        rules: &Rules,
        asked: &Asked,
        outside: Address,
    ) -> Result<SessionId, Verdict> {
        let tuple = asked.tuple;
        if let Some(with) = self.table.mapping_of(tuple.src, tuple.src_port, tuple.protocol) {
            let Some(known) = self.table.get(with).map(|session| session.translated()) else {
                return Err(refused(Refused::Invalid));
            };
            let translated = Tuple { src: known.src, src_port: known.src_port, ..tuple };
            match self.insert((tuple, translated), asked) {
                Ok(id) => return self.join_mapping(rules, id, &translated),
                // Another inside host has this port towards the same place.
                Err(Refused::Clash) => {}
                Err(why) => return Err(refused(why)),
            }
            return self.begin_reusing(rules, asked, (tuple, outside));
        }
        for _ in 0..PORT_TRIES {
            let Some(port) = self.take_port(rules, outside, &tuple) else { break };
            let translated = Tuple { src: outside, src_port: port, ..tuple };
            match self.insert((tuple, translated), asked) {
                Ok(id) if self.table.begin_mapping(id) => return Ok(id),
                Ok(id) => {
                    self.table.remove(id);
                    self.give_port(outside, tuple.protocol, port);
                    return Err(refused(Refused::Full));
                }
                Err(why) => {
                    self.give_port(outside, tuple.protocol, port);
                    if why != Refused::Clash {
                        return Err(refused(why));
                    }
                }
            }
        }
        self.begin_reusing(rules, asked, (tuple, outside))
    }

    /// The session that had the mapping may just have given way to this one.
    fn join_mapping(
        &mut self,
        rules: &Rules,
        id: SessionId,
        translated: &Tuple,
    ) -> Result<SessionId, Verdict> {
        let tuple = match self.table.get(id) {
            Some(session) => session.original(),
            None => return Err(refused(Refused::Invalid)),
        };
        match self.table.mapping_of(tuple.src, tuple.src_port, tuple.protocol) {
            Some(with) => self.table.share_mapping(id, with),
            None => {
                self.port_set(rules, translated.src, tuple.protocol).take(translated.src_port);
                if !self.table.begin_mapping(id) {
                    self.table.remove(id);
                    self.give_port(translated.src, tuple.protocol, translated.src_port);
                    return Err(refused(Refused::Full));
                }
            }
        }
        Ok(id)
    }

    /// With no port left, one that is in use towards other places will do (what Linux always does):
    /// the flow has no mapping of its own.
    pub(super) fn begin_reusing(
        &mut self,
        rules: &Rules,
        asked: &Asked,
        (towards, outside): (Tuple, Address),
    ) -> Result<SessionId, Verdict> {
        let (tuple, range) = (asked.tuple, rules.ports_of(outside));
        let class = rules.ranges.class(outside);
        let (pairs, workers) = (range.first >> 1..=range.last >> 1, rules.workers.max(1));
        for _ in 0..REUSE_TRIES {
            let draw = self.draw();
            let pair = pairs.start() + (draw >> 1) as u16 % (pairs.end() - pairs.start() + 1);
            let pair = (pair - pair % workers).saturating_add(self.worker);
            let port = pair.wrapping_mul(2) | (draw & 1) as u16;
            if !range.contains(port)
                || !rules.is_for_nat(class, port)
                || rules.owner(port) != self.worker
            {
                continue;
            }
            let translated = Tuple { src: outside, src_port: port, ..towards };
            match self.insert((tuple, translated), asked) {
                Err(Refused::Clash) => {}
                made => return made.map_err(refused),
            }
        }
        Err(self.exhausted())
    }

    fn exhausted(&mut self) -> Verdict {
        self.exhausted += 1;
        Verdict::Drop(DropReason::NatPortsExhausted)
    }

    /// The inside port itself if it is free (RFC 4787 4.2.1), else a random one (RFC 6056).
    fn take_port(&mut self, rules: &Rules, outside: Address, tuple: &Tuple) -> Option<u16> {
        let wanted = tuple.src_port;
        if self.port_set(rules, outside, tuple.protocol).take(wanted) {
            return Some(wanted);
        }
        let start = self.draw() as u16;
        self.port_set(rules, outside, tuple.protocol).take_any(start, wanted)
    }

    pub(super) fn port_set(&mut self, rules: &Rules, outside: Address, number: u8) -> &mut PortSet {
        let worker = self.worker;
        self.ports.entry((outside, number)).or_insert_with(|| {
            let class = rules.ranges.class(outside);
            PortSet::new(rules.ports_of(outside), |port| {
                rules.owner(port) == worker && rules.is_for_nat(class, port)
            })
        })
    }

    pub(super) fn give_port(&mut self, outside: Address, number: u8, port: u16) {
        if let Some(set) = self.ports.get_mut(&(outside, number)) {
            set.give(port);
        }
    }

    /// An ended session's port is free again once nobody else has its mapping.
    pub(super) fn forget(&mut self, removed: &Removed) {
        self.claims.release(removed.id);
        let Tuple { src, src_port, protocol, .. } = removed.session.translated();
        if removed.ends_mapping {
            self.give_port(src, protocol, src_port);
        }
    }

    fn draw(&mut self) -> u64 {
        self.draws += 1;
        self.random.hash_one(self.draws)
    }

    /// The second half of a hairpin: the packet comes from an outside address now, and so the way
    /// is not [`Way::Out`] again.
    #[cold]
    pub(super) fn once_more(&mut self, rules: &Rules, packet: &mut Packet, now_ns: u64) -> Verdict {
        let asked = match self.prepare(rules, packet, now_ns) {
            Ok(asked) if asked.way != Way::Out => asked,
            Ok(_) => return Verdict::Drop(DropReason::FlowInvalid),
            Err(Verdict::Go) => return Verdict::Rewritten,
            Err(decided) => return decided,
        };
        let found = self.table.find(&asked.tuple);
        match self.carry_out(rules, packet, &asked, found, now_ns) {
            Verdict::Go => Verdict::Rewritten,
            verdict => verdict,
        }
    }

    /// A stranger's packet to a mapping, as far as the filter lets it in.
    fn begin_in(&mut self, rules: &Rules, asked: &Asked) -> Begun {
        let Tuple { src, dst, src_port, dst_port, protocol } = asked.tuple;
        let with = self.table.mapping_at(dst, dst_port, protocol);
        let with = with.filter(|with| self.lets_in(rules, *with, src));
        let Some(with) = with.filter(|_| asked.signal.begins().is_some()) else {
            return Err(unsolicited(asked));
        };
        let Some(inside) = self.table.get(with).map(|session| session.original()) else {
            return Err(unsolicited(asked));
        };
        let original = Tuple { dst: src, dst_port: src_port, ..inside };
        let translated = asked.tuple.reversed();
        let Tuple { src: dst, src_port: dst_port, .. } = original;
        self.admit(asked, Tuple { dst, dst_port, ..asked.tuple })?;
        let id = match self.insert((original, translated), asked) {
            Ok(id) => id,
            Err(Refused::Clash | Refused::Invalid) => return Err(unsolicited(asked)),
            Err(why) => return Err(refused(why)),
        };
        self.table.begun_outside(id);
        self.join_mapping(rules, id, &translated)?;
        Ok((id, Direction::Reply))
    }

    fn lets_in(&self, rules: &Rules, with: SessionId, stranger: Address) -> bool {
        match rules.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressAndPortDependent => false,
            Filtering::AddressDependent => self
                .table
                .mapped_with(with)
                .take(FILTER_TRIES)
                .any(|session| session.original().dst == stranger),
        }
    }
}

/// A packet without a flow, which nobody translates.
fn passes_unless_policed(asked: &Asked) -> Verdict {
    if asked.policed { refused(Refused::Invalid) } else { Verdict::Go }
}

/// To the host's own address it is the host's; to another one it is nobody's.
fn unsolicited(asked: &Asked) -> Verdict {
    if asked.local { Verdict::Go } else { Verdict::Drop(DropReason::NatUnsolicited) }
}
