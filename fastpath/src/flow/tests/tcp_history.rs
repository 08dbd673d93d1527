//! TCP's states against an oracle that remembers every packet and reads the state off the whole
//! history, where the session keeps a state and four bits.

use super::super::Direction::{self, Original, Reply};
use super::super::protocol::{self, Signal, State};
use super::Random;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The state after all these packets, of which the first began the session.
pub(crate) fn state_of(history: &[(Direction, u8)]) -> State {
    let reset = history.iter().any(|(_, flags)| flags & RST != 0);
    if reset {
        return State::TcpClose;
    }
    let handshake = handshake(history);
    let Some(begun) = handshake.1 else { return handshake.0 };
    // The first FIN of each side that came once there was a connection.
    let fin = |side| {
        let is_fin =
            |(from, flags): &(Direction, u8)| *from == side && flags & FIN != 0 && flags & SYN == 0;
        history.iter().skip(begun).position(is_fin).map(|at| at + begun)
    };
    let acked = |side: Direction, at: usize| {
        history
            .iter()
            .skip(at + 1)
            .any(|(from, flags)| *from != side && flags & ACK != 0 && flags & (SYN | FIN) == 0)
    };
    match (fin(Original), fin(Reply)) {
        (None, None) => handshake.0,
        (Some(at), None) if acked(Original, at) => State::TcpCloseWait,
        (None, Some(at)) if acked(Reply, at) => State::TcpCloseWait,
        (Some(_), None) | (None, Some(_)) => State::TcpFinWait,
        (Some(ours), Some(theirs)) => {
            let (side, last) = if ours > theirs { (Original, ours) } else { (Reply, theirs) };
            if acked(side, last) { State::TcpTimeWait } else { State::TcpLastAck }
        }
    }
}

/// How far the handshake came, and the number of the packet from which on FINs count.
fn handshake(history: &[(Direction, u8)]) -> (State, Option<usize>) {
    if history[0].1 & SYN == 0 {
        return (State::TcpEstablished, Some(0));
    }
    let mut both = false;
    for (at, (from, flags)) in history.iter().enumerate() {
        match (from, flags & (SYN | ACK)) {
            (Reply, SYN) => both = true,
            (from, 18) if both || *from == Reply => {
                let done = history[at..].iter().any(|(from, flags)| {
                    *from == Original && flags & (SYN | FIN) == 0 && flags & ACK != 0
                });
                let fin = history[at..].iter().position(|(_, flags)| flags & (FIN | SYN) == FIN);
                let ack = history[at..].iter().position(|(from, flags)| {
                    *from == Original && flags & (SYN | FIN) == 0 && flags & ACK != 0
                });
                let state = match (done, fin, ack) {
                    (true, Some(fin), Some(ack)) if fin < ack => State::TcpSynRecv,
                    (true, ..) => State::TcpEstablished,
                    _ => State::TcpSynRecv,
                };
                return (state, Some(at + 1));
            }
            _ => {}
        }
    }
    (if both { State::TcpSynSent2 } else { State::TcpSynSent }, None)
}

#[test]
fn a_million_packets_lead_to_the_states_that_their_history_tells() {
    let mut random = Random(1);
    let mut packets = 0;
    while packets < 1_000_000 {
        let first = if random.below(4) == 0 { ACK } else { SYN };
        let mut history = vec![(Original, first)];
        let mut state = Signal::Tcp(first).begins().unwrap();
        let mut bits = 0;
        for _ in 0..12 {
            let from = if random.below(2) == 0 { Original } else { Reply };
            let flags = [SYN, SYN | ACK, ACK, ACK, ACK | FIN, FIN, RST, 0];
            let flags = flags[random.below(8) as usize];
            // A connection that has ended may begin anew: then the history does so too.
            let ended = matches!(state, State::TcpTimeWait | State::TcpClose);
            (state, bits) = protocol::next(state, bits, Signal::Tcp(flags), from);
            if ended && flags == SYN && from == Original {
                history.clear();
            }
            history.push((from, flags));
            packets += 1;
            assert_eq!(state, state_of(&history), "{history:?}");
        }
    }
}

#[test]
fn the_life_of_an_ordinary_connection() {
    let steps = [
        (Reply, SYN | ACK, State::TcpSynRecv),
        (Original, ACK, State::TcpEstablished),
        (Original, ACK, State::TcpEstablished),
        (Reply, ACK | FIN, State::TcpFinWait),
        (Original, ACK, State::TcpCloseWait),
        (Original, ACK | FIN, State::TcpLastAck),
        (Reply, ACK, State::TcpTimeWait),
        (Original, SYN, State::TcpSynSent),
        (Reply, RST | ACK, State::TcpClose),
    ];
    let (mut state, mut bits) = (State::TcpSynSent, 0);
    for (from, flags, expected) in steps {
        (state, bits) = protocol::next(state, bits, Signal::Tcp(flags), from);
        assert_eq!(state, expected, "after {flags:#x} of {from:?}");
    }
}

#[test]
fn rfc_5382_req_2_a_simultaneous_open_is_followed() {
    let (mut state, mut bits) = (State::TcpSynSent, 0);
    for (from, flags, expected) in [
        (Reply, SYN, State::TcpSynSent2),
        (Original, SYN | ACK, State::TcpSynRecv),
        (Reply, SYN | ACK, State::TcpSynRecv),
        (Original, ACK, State::TcpEstablished),
    ] {
        (state, bits) = protocol::next(state, bits, Signal::Tcp(flags), from);
        assert_eq!(state, expected);
    }
}

#[test]
fn what_begins_a_connection_and_what_does_not() {
    for flags in [RST, RST | ACK, FIN, FIN | ACK, SYN | ACK, SYN | FIN, 0] {
        assert_eq!(Signal::Tcp(flags).begins(), None, "{flags:#x}");
    }
    assert_eq!(Signal::Tcp(SYN).begins(), Some(State::TcpSynSent));
    assert_eq!(Signal::Tcp(ACK).begins(), Some(State::TcpEstablished));
}
