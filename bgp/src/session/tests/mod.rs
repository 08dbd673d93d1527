//! Sessions against a table, against each other, and against what has broken others.

mod rules;
mod sim;
mod simulation;
mod table;

use std::net::{IpAddr, Ipv4Addr};

use super::*;

/// Side `id` of a pair, in AS 65000 + `id`.
fn config(id: u8) -> Config {
    let (ours, theirs) = (Ipv4Addr::new(10, 0, 0, id), Ipv4Addr::new(10, 0, 0, 3 - id));
    let asn = |id: u8| 65_000 + u32::from(id);
    let mut config = Config::new(asn(id), ours, asn(3 - id), IpAddr::V4(theirs));
    config.seed = u64::from(id);
    config
}

fn drain(session: &mut Session) -> Vec<Action> {
    std::iter::from_fn(|| session.poll_action()).collect()
}

/// The NOTIFICATION among some actions, by code and subcode.
fn notified(actions: &[Action]) -> Option<(u8, u8)> {
    actions.iter().find_map(|action| match action {
        Action::Send(_, bytes) if bytes[18] == 3 => Some((bytes[19], bytes[20])),
        _ => None,
    })
}

fn has_close(actions: &[Action], conn: ConnId) -> bool {
    actions.contains(&Action::Close(conn))
}

/// The OPEN of the other side of `config(1)`.
fn peer_open() -> Vec<u8> {
    config(2).open(false).encode()
}

/// A session at `state`, its connection, and the time; nothing left to do. Only Connect and later
/// have a connection.
fn at(state: State) -> (Session, ConnId, u64) {
    at_with(config(1), state, &peer_open())
}

fn at_with(config: Config, state: State, peer_open: &[u8]) -> (Session, ConnId, u64) {
    let mut session = Session::new(config);
    let mut now = 1;
    let mut conn = ConnId(0);
    if state >= State::Connect {
        session.start(now);
    }
    if state == State::Active {
        assert_eq!(session.state(), State::Active);
        return (session, conn, now);
    }
    if state >= State::Connect {
        now = session.poll_timeout().unwrap();
        session.timer(now);
        conn = match drain(&mut session)[..] {
            [Action::Connect(conn)] => conn,
            ref other => panic!("{other:?}"),
        };
    }
    if state >= State::OpenSent {
        session.connected(conn, now);
    }
    if state >= State::OpenConfirm {
        assert_eq!(session.receive(conn, peer_open, now).consumed, peer_open.len());
    }
    if state >= State::Established {
        session.receive(conn, &frame::KEEPALIVE, now);
    }
    drain(&mut session);
    assert_eq!(session.state(), state);
    (session, conn, now)
}

/// A further connection from the peer, over which its OPEN comes.
fn second_with_open(session: &mut Session, now: u64) -> ConnId {
    let conn = session.accepted(now).unwrap();
    session.receive(conn, &peer_open(), now);
    conn
}
