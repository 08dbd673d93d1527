//! The states of a session, and what a packet does to them.
//!
//! TCP follows RFC 9293 as an onlooker sees it: by SYN, FIN, RST and ACK, without windows. The
//! names are Linux's (`nf_conntrack_proto_tcp`, `_sctp`), and so is what begins a session: TCP may
//! be picked up in the middle (`nf_conntrack_tcp_loose`), but not by a FIN or RST.

use super::session::Direction;
use margay_tunnels::wire::tcp;

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// SYN seen.
    TcpSynSent,
    /// SYN seen from both sides: a simultaneous open.
    TcpSynSent2,
    /// SYN and SYN+ACK seen.
    TcpSynRecv,
    /// The handshake is done, or was not seen.
    TcpEstablished,
    /// One side has sent FIN.
    TcpFinWait,
    /// That FIN has been acknowledged.
    TcpCloseWait,
    /// Both sides have sent FIN.
    TcpLastAck,
    /// Both have been acknowledged.
    TcpTimeWait,
    /// Reset.
    TcpClose,
    /// Datagrams one way only.
    Udp,
    /// Datagrams both ways.
    UdpStream,
    /// An ICMP or ICMPv6 query.
    Icmp,
    /// INIT seen.
    SctpCookieWait,
    /// COOKIE ECHO seen.
    SctpCookieEchoed,
    /// The association stands, or its beginning was not seen.
    SctpEstablished,
    /// SHUTDOWN seen.
    SctpShutdown,
    /// Aborted, or shut down.
    SctpClosed,
    /// Any other protocol.
    Generic,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [State; 18] = [
        State::TcpSynSent,
        State::TcpSynSent2,
        State::TcpSynRecv,
        State::TcpEstablished,
        State::TcpFinWait,
        State::TcpCloseWait,
        State::TcpLastAck,
        State::TcpTimeWait,
        State::TcpClose,
        State::Udp,
        State::UdpStream,
        State::Icmp,
        State::SctpCookieWait,
        State::SctpCookieEchoed,
        State::SctpEstablished,
        State::SctpShutdown,
        State::SctpClosed,
        State::Generic,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The name that people and scripts see: conntrack's where it has one.
    pub const fn name(self) -> &'static str {
        match self {
            State::TcpSynSent => "SYN_SENT",
            State::TcpSynSent2 => "SYN_SENT2",
            State::TcpSynRecv => "SYN_RECV",
            State::TcpEstablished | State::SctpEstablished => "ESTABLISHED",
            State::TcpFinWait => "FIN_WAIT",
            State::TcpCloseWait => "CLOSE_WAIT",
            State::TcpLastAck => "LAST_ACK",
            State::TcpTimeWait => "TIME_WAIT",
            State::TcpClose => "CLOSE",
            State::SctpCookieWait => "COOKIE_WAIT",
            State::SctpCookieEchoed => "COOKIE_ECHOED",
            State::SctpShutdown => "SHUTDOWN",
            State::SctpClosed => "CLOSED",
            State::Udp => "UNREPLIED",
            State::UdpStream => "STREAM",
            State::Icmp | State::Generic => "OPEN",
        }
    }

    /// The sysctl of Linux, below `net.netfilter`, that says how long it lasts.
    pub const fn sysctl(self) -> &'static str {
        match self {
            State::TcpSynSent | State::TcpSynSent2 => "nf_conntrack_tcp_timeout_syn_sent",
            State::TcpSynRecv => "nf_conntrack_tcp_timeout_syn_recv",
            State::TcpEstablished => "nf_conntrack_tcp_timeout_established",
            State::TcpFinWait => "nf_conntrack_tcp_timeout_fin_wait",
            State::TcpCloseWait => "nf_conntrack_tcp_timeout_close_wait",
            State::TcpLastAck => "nf_conntrack_tcp_timeout_last_ack",
            State::TcpTimeWait => "nf_conntrack_tcp_timeout_time_wait",
            State::TcpClose => "nf_conntrack_tcp_timeout_close",
            State::Udp => "nf_conntrack_udp_timeout",
            State::UdpStream => "nf_conntrack_udp_timeout_stream",
            State::Icmp => "nf_conntrack_icmp_timeout",
            State::SctpCookieWait => "nf_conntrack_sctp_timeout_cookie_wait",
            State::SctpCookieEchoed => "nf_conntrack_sctp_timeout_cookie_echoed",
            State::SctpEstablished => "nf_conntrack_sctp_timeout_established",
            State::SctpShutdown => "nf_conntrack_sctp_timeout_shutdown_sent",
            State::SctpClosed => "nf_conntrack_sctp_timeout_closed",
            State::Generic => "nf_conntrack_generic_timeout",
        }
    }
}

/// What of a packet matters to its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// TCP, with its flags.
    Tcp(u8),
    /// UDP.
    Udp,
    /// An ICMP query or its answer.
    Query {
        /// True for the question.
        asks: bool,
    },
    /// SCTP, with the type of its first chunk.
    Sctp(u8),
    /// Any other protocol.
    Other,
}

/// Chunk types (RFC 9260 3.2).
const INIT: u8 = 1;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// What a session knows beside its state, as bits of [`super::Session`].
pub(super) const FIN_ORIGINAL: u8 = 1;
pub(super) const FIN_REPLY: u8 = 2;
/// The last FIN came from the side that answers.
pub(super) const LAST_FIN_REPLY: u8 = 4;
/// A packet has come back.
pub(super) const REPLIED: u8 = 8;
/// It was begun by the side that [`Direction::Reply`] comes from.
pub(super) const BEGUN_BY_REPLY: u8 = 32;
/// Packets of it may be carried without the table seeing them.
pub(super) const OFFLOADED: u8 = 64;
/// They are by a program of tc, at least in one direction.
pub(super) const BY_TC: u8 = 128;
/// Worth keeping when room is short: both sides have taken part in more than a greeting.
pub(super) const ASSURED: u8 = 16;

impl Signal {
    /// The state that a first packet like this begins a session with; `None` when it cannot.
    pub fn begins(self) -> Option<State> {
        Some(match self {
            Signal::Tcp(flags) if flags & (tcp::RST | tcp::FIN) != 0 => return None,
            Signal::Tcp(flags) => match flags & (tcp::SYN | tcp::ACK) {
                tcp::SYN => State::TcpSynSent,
                tcp::ACK => State::TcpEstablished,
                _ => return None,
            },
            Signal::Udp => State::Udp,
            Signal::Query { asks } => return asks.then_some(State::Icmp),
            Signal::Sctp(INIT) => State::SctpCookieWait,
            Signal::Sctp(ABORT | SHUTDOWN_COMPLETE | COOKIE_ACK) => return None,
            Signal::Sctp(_) => State::SctpEstablished,
            Signal::Other => State::Generic,
        })
    }
}

/// State and bits after a packet.
pub(super) fn next(state: State, bits: u8, signal: Signal, from: Direction) -> (State, u8) {
    let bits = if from == Direction::Reply { bits | REPLIED } else { bits };
    match signal {
        Signal::Tcp(flags) => next_tcp(state, bits, flags, from),
        Signal::Udp if bits & REPLIED != 0 => match from {
            // Only a third packet makes a stream of a question and its answer.
            Direction::Original => (State::UdpStream, bits | ASSURED),
            Direction::Reply => (state, bits),
        },
        Signal::Sctp(chunk) => next_sctp(state, bits, chunk),
        _ => (state, bits),
    }
}

fn next_tcp(state: State, bits: u8, flags: u8, from: Direction) -> (State, u8) {
    let (syn, ack) = (flags & tcp::SYN != 0, flags & tcp::ACK != 0);
    if flags & tcp::RST != 0 {
        return (State::TcpClose, bits);
    }
    if syn {
        return (next_syn(state, ack, from), after_syn(state, bits, ack, from));
    }
    if flags & tcp::FIN != 0 {
        return next_fin(state, bits, from);
    }
    if !ack {
        return (state, bits);
    }
    let last_fin = match bits & LAST_FIN_REPLY {
        0 => Direction::Original,
        _ => Direction::Reply,
    };
    match state {
        State::TcpSynRecv if from == Direction::Original => (State::TcpEstablished, bits | ASSURED),
        // Picked up in the middle: it counts once both sides have spoken.
        State::TcpEstablished if bits & REPLIED != 0 => (state, bits | ASSURED),
        State::TcpFinWait if from != last_fin => (State::TcpCloseWait, bits),
        State::TcpLastAck if from != last_fin => (State::TcpTimeWait, bits),
        _ => (state, bits),
    }
}

/// Whether a SYN opens a connection anew in the place of one that has ended.
fn reopens(state: State, ack: bool, from: Direction) -> bool {
    let ended = matches!(state, State::TcpTimeWait | State::TcpClose);
    ended && !ack && from == Direction::Original
}

fn next_syn(state: State, ack: bool, from: Direction) -> State {
    match (state, ack, from) {
        _ if reopens(state, ack, from) => State::TcpSynSent,
        (State::TcpSynSent, false, Direction::Reply) => State::TcpSynSent2,
        (State::TcpSynSent, true, Direction::Reply) | (State::TcpSynSent2, true, _) => {
            State::TcpSynRecv
        }
        _ => state,
    }
}

fn after_syn(state: State, bits: u8, ack: bool, from: Direction) -> u8 {
    if reopens(state, ack, from) { 0 } else { bits }
}

fn next_fin(state: State, bits: u8, from: Direction) -> (State, u8) {
    let (own, last) = match from {
        Direction::Original => (FIN_ORIGINAL, 0),
        Direction::Reply => (FIN_REPLY, LAST_FIN_REPLY),
    };
    match state {
        State::TcpSynSent | State::TcpSynSent2 | State::TcpTimeWait | State::TcpClose => {
            (state, bits)
        }
        _ if bits & own != 0 => (state, bits),
        _ => {
            let bits = bits & !LAST_FIN_REPLY | own | last;
            let both = bits & FIN_ORIGINAL != 0 && bits & FIN_REPLY != 0;
            (if both { State::TcpLastAck } else { State::TcpFinWait }, bits)
        }
    }
}

fn next_sctp(state: State, bits: u8, chunk: u8) -> (State, u8) {
    match (chunk, state) {
        (ABORT | SHUTDOWN_COMPLETE, _) => (State::SctpClosed, bits),
        (INIT, State::SctpClosed) => (State::SctpCookieWait, 0),
        (_, State::SctpClosed) => (state, bits),
        (COOKIE_ECHO, State::SctpCookieWait) => (State::SctpCookieEchoed, bits),
        (COOKIE_ACK, State::SctpCookieEchoed) => (State::SctpEstablished, bits | ASSURED),
        (SHUTDOWN, _) => (State::SctpShutdown, bits),
        (_, State::SctpEstablished) if bits & REPLIED != 0 => (state, bits | ASSURED),
        _ => (state, bits),
    }
}
