//! `show flows`: what the packet path tracks, as `conntrack -L` has it, with filters; and the end
//! of flows.

use crate::status::Status;
use margay_fastpath::dataplane::Flow;
use margay_fastpath::flow::{Address, Session, Tier, Tuple};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Flows that one answer has at most.
pub const MAX_LISTED: usize = 100_000;
/// Those that it has where nothing else is said.
pub const USUAL_LIMIT: usize = 1000;

/// One direction of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TupleAnswer {
    /// Who sends.
    pub src: IpAddr,
    /// The port; the identifier of an ICMP query.
    pub src_port: u16,
    /// To whom.
    pub dst: IpAddr,
    /// The port; the type of an ICMP query.
    pub dst_port: u16,
}

impl From<Tuple> for TupleAnswer {
    fn from(tuple: Tuple) -> TupleAnswer {
        TupleAnswer {
            src: tuple.src.into(),
            src_port: tuple.src_port,
            dst: tuple.dst.into(),
            dst_port: tuple.dst_port,
        }
    }
}

/// A flow.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowAnswer {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp` or the number.
    pub protocol: String,
    /// Where it is in its life: conntrack's names.
    pub state: String,
    /// As the one who began sends.
    pub original: TupleAnswer,
    /// As the answers come in.
    pub reply: TupleAnswer,
    /// An address or port is changed on the way.
    pub translated: bool,
    /// It is not given up for a new one when the table is full.
    pub assured: bool,
    /// Packets of both directions.
    pub packets: [u32; 2],
    /// Bytes of both together.
    pub bytes: u64,
    /// Seconds that it lives on without a packet.
    pub timeout_seconds: u32,
    /// The worker that has it.
    pub worker: usize,
    /// Who carries its packets: `worker`, or `xdp` or `tc` where a program does for one direction
    /// or both.
    #[serde(default)]
    pub tier: String,
}

/// Which flows are meant: those that all that is said holds for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FlowFilter {
    /// Any address of it.
    pub address: Option<IpAddr>,
    /// Who began it.
    pub src: Option<IpAddr>,
    /// To whom.
    pub dst: Option<IpAddr>,
    /// Any port of it.
    pub port: Option<u16>,
    /// Name or number.
    pub protocol: Option<String>,
    /// Name of the state.
    pub state: Option<String>,
    /// Only those that are translated, or are not.
    pub translated: Option<bool>,
    /// Flows at most.
    pub limit: Option<usize>,
}

/// What was ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndedAnswer {
    /// Flows that are no more.
    pub ended: usize,
}

const PROTOCOLS: [(&str, u8); 5] =
    [("tcp", 6), ("udp", 17), ("icmp", 1), ("icmpv6", 58), ("sctp", 132)];

pub(super) fn protocol_name(number: u8) -> String {
    let known = PROTOCOLS.iter().find(|(_, other)| *other == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

impl FlowFilter {
    /// True when nothing is asked but a number of flows.
    fn is_everything(&self) -> bool {
        let addresses = [self.address, self.src, self.dst];
        addresses.iter().all(Option::is_none)
            && self.port.is_none()
            && self.protocol.is_none()
            && self.state.is_none()
            && self.translated.is_none()
    }

    fn keeps(&self, session: &Session) -> bool {
        let (original, reply) = (session.original(), session.translated().reversed());
        let is = |wanted: Option<IpAddr>, any: &[Address]| {
            wanted.is_none_or(|wanted| any.contains(&wanted.into()))
        };
        let ports = [original.src_port, original.dst_port, reply.src_port, reply.dst_port];
        is(self.address, &[original.src, original.dst, reply.src, reply.dst])
            && is(self.src, &[original.src])
            && is(self.dst, &[original.dst, reply.src])
            && self.port.is_none_or(|port| ports.contains(&port))
            && self.translated.is_none_or(|wanted| wanted == session.is_translated())
            && self.protocol.as_deref().is_none_or(|wanted| {
                wanted.eq_ignore_ascii_case(&protocol_name(original.protocol))
                    || wanted.parse() == Ok(original.protocol)
            })
            && self
                .state
                .as_deref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(session.state().name()))
    }

    fn find(&self, status: &Status, limit: usize) -> Vec<Flow> {
        status.dataplane().flows(limit, |session| self.keeps(session))
    }
}

fn answer_of(flow: Flow) -> FlowAnswer {
    let session = &flow.session;
    FlowAnswer {
        protocol: protocol_name(session.original().protocol),
        state: session.state().name().to_owned(),
        original: session.original().into(),
        reply: session.translated().reversed().into(),
        translated: session.is_translated(),
        assured: session.is_assured(),
        packets: session.packets,
        bytes: session.bytes,
        timeout_seconds: flow.lives_on_s,
        worker: flow.worker,
        tier: name_of(session.tier()).to_owned(),
    }
}

fn name_of(tier: Tier) -> &'static str {
    match tier {
        Tier::Worker => "worker",
        Tier::Xdp => "xdp",
        Tier::Tc => "tc",
    }
}

pub(crate) fn list(status: &Status, filter: &FlowFilter) -> Vec<FlowAnswer> {
    let limit = filter.limit.unwrap_or(USUAL_LIMIT).min(MAX_LISTED);
    filter.find(status, limit).into_iter().map(answer_of).collect()
}

/// Ends the flows that the filter means; one that means everything is an error.
pub(crate) fn end(status: &Status, filter: &FlowFilter) -> Result<EndedAnswer, String> {
    if filter.is_everything() {
        return Err("no filter: say which flows are to end\n\
                    hint: such as --address, --port or --translated true"
            .to_owned());
    }
    let mut ended = 0;
    loop {
        let flows = filter.find(status, MAX_LISTED);
        let gone = status.dataplane().end_flows(&flows);
        ended += gone;
        if flows.len() < MAX_LISTED || gone == 0 {
            return Ok(EndedAnswer { ended });
        }
    }
}
