//! A flow of the model: all its packets, from which its state is read whenever somebody asks.

use crate::flow::Direction::{self, Original, Reply};
use crate::flow::tests::tcp_history;
use crate::flow::{Signal, State, Tuple};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Chunks of SCTP (RFC 9260 3.2).
const INIT: u8 = 1;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// Whether a first packet may say this.
pub(super) fn begins(signal: Signal) -> bool {
    match signal {
        Signal::Tcp(flags) => flags & (FIN | SYN | RST | ACK) == SYN || flags & 23 == ACK,
        Signal::Query { asks } => asks,
        Signal::Sctp(chunk) => ![ABORT, COOKIE_ACK, SHUTDOWN_COMPLETE].contains(&chunk),
        Signal::Udp | Signal::Other => true,
    }
}

#[derive(Debug, Clone)]
pub(in super::super) struct Plain {
    pub(in super::super) original: Tuple,
    pub(in super::super) translated: Tuple,
    pub(in super::super) mapped: bool,
    pub(in super::super) assured: bool,
    pub(in super::super) last_s: u64,
    pub(in super::super) packets: [u32; 2],
    outside_first: bool,
    /// Directions as the one who began sees them.
    history: Vec<(Direction, Signal)>,
}

impl Plain {
    pub(super) fn new(tuples: (Tuple, Tuple), signal: Signal, now_s: u64) -> Plain {
        Plain {
            original: tuples.0,
            translated: tuples.1,
            mapped: false,
            assured: false,
            last_s: now_s,
            packets: [1, 0],
            outside_first: false,
            history: vec![(Original, signal)],
        }
    }

    pub(super) fn begun_outside(&mut self) {
        self.outside_first = true;
        self.mapped = true;
        self.packets = [0, 1];
    }

    pub(in super::super) fn arriving(&self, direction: Direction) -> Tuple {
        match direction {
            Original => self.original,
            Reply => self.translated.reversed(),
        }
    }

    pub(in super::super) fn leaving(&self, direction: Direction) -> Tuple {
        match direction {
            Original => self.translated,
            Reply => self.original.reversed(),
        }
    }

    pub(super) fn note(&mut self, direction: Direction, signal: Signal, now_s: u64) {
        self.last_s = now_s;
        self.packets[usize::from(direction == Reply)] += 1;
        let from = if self.outside_first { direction.other() } else { direction };
        let ended = matches!(self.state(), State::TcpTimeWait | State::TcpClose);
        if ended && from == Original && signal == Signal::Tcp(SYN) {
            self.history.clear();
        }
        self.history.push((from, signal));
    }

    pub(in super::super) fn state(&self) -> State {
        let answered = self.history.iter().position(|(from, _)| *from == Reply);
        match self.original.protocol {
            6 => {
                let flags = self.history.iter().filter_map(|(from, signal)| match signal {
                    Signal::Tcp(flags) => Some((*from, *flags)),
                    _ => None,
                });
                tcp_history::state_of(&flags.collect::<Vec<_>>())
            }
            17 => {
                // Fragments behind the first carry no word of the flow.
                let third = answered
                    .is_some_and(|at| self.history[at..].contains(&(Original, Signal::Udp)));
                if third { State::UdpStream } else { State::Udp }
            }
            1 | 58 => State::Icmp,
            132 => self.sctp(),
            _ => State::Generic,
        }
    }

    fn sctp(&self) -> State {
        let chunks = self.history.iter().filter_map(|(_, signal)| match signal {
            Signal::Sctp(chunk) => Some(*chunk),
            _ => None,
        });
        chunks.enumerate().fold(State::SctpClosed, |state, (at, chunk)| match (chunk, state) {
            (INIT, _) if at == 0 => State::SctpCookieWait,
            (_, _) if at == 0 => State::SctpEstablished,
            (ABORT | SHUTDOWN_COMPLETE, _) => State::SctpClosed,
            (INIT, State::SctpClosed) => State::SctpCookieWait,
            (_, State::SctpClosed) => State::SctpClosed,
            (SHUTDOWN, _) => State::SctpShutdown,
            (COOKIE_ECHO, State::SctpCookieWait) => State::SctpCookieEchoed,
            (COOKIE_ACK, State::SctpCookieEchoed) => State::SctpEstablished,
            (_, state) => state,
        })
    }

    /// The second in which it ends if nothing comes: Linux's defaults, and for what is translated
    /// RFC 4787 REQ-5, RFC 5382 REQ-5 and RFC 5508 REQ-2.
    pub(super) fn end_s(&self) -> u64 {
        let (linux, least) = match self.state() {
            State::TcpSynSent | State::TcpSynSent2 => (120, 240),
            State::TcpSynRecv | State::TcpCloseWait => (60, 240),
            State::TcpFinWait => (120, 240),
            State::TcpEstablished => (5 * 24 * 3600, 7440),
            State::TcpLastAck => (30, 0),
            State::TcpTimeWait => (120, 0),
            State::TcpClose => (10, 0),
            State::Udp => (30, 120),
            State::UdpStream => (120, 120),
            State::Icmp => (30, 60),
            State::SctpCookieWait | State::SctpCookieEchoed | State::SctpShutdown => (3, 0),
            State::SctpEstablished => (210, 0),
            State::SctpClosed => (10, 0),
            State::Generic => (600, 0),
        };
        let is_translated = self.original != self.translated;
        self.last_s + if is_translated { linux.max(least) } else { linux }
    }
}
