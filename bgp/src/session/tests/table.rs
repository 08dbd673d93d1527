//! RFC 4271 section 8.2.2 as a table: in each state, what each event leads to.

use super::*;
use crate::wire::route_refresh::Subtype;
use crate::{Family, wire::frame::message};

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Input {
    Start,
    Stop,
    RetryOrIdleTimer,
    HoldTimer,
    KeepaliveTimer,
    Connected,
    Accepted,
    Lost,
    GoodOpen,
    BadOpen,
    BadHeader,
    Notification,
    Keepalive,
    Update,
    Refresh,
}
use Input::*;

const INPUTS: [Input; 15] = [
    Start,
    Stop,
    RetryOrIdleTimer,
    HoldTimer,
    KeepaliveTimer,
    Connected,
    Accepted,
    Lost,
    GoodOpen,
    BadOpen,
    BadHeader,
    Notification,
    Keepalive,
    Update,
    Refresh,
];

fn apply(session: &mut Session, input: Input, conn: ConnId, now: u64) -> u64 {
    let bytes = match input {
        GoodOpen => peer_open(),
        BadOpen => message(Kind::Open, &[3, 0, 1, 0, 90, 1, 1, 1, 1, 0]),
        BadHeader => vec![0; 19],
        Notification => crate::wire::Notification::new(6, 4).encode(),
        Keepalive => frame::KEEPALIVE.to_vec(),
        Update => message(Kind::Update, &[0; 4]),
        Refresh => RouteRefresh { family: Family::Ipv4Unicast, subtype: Subtype::Request }.encode(),
        _ => Vec::new(),
    };
    if !bytes.is_empty() {
        session.receive(conn, &bytes, now);
    }
    let due = |session: &Session, wanted: fn(&Connection) -> Option<u64>| {
        session.connections.first().and_then(wanted)
    };
    let at = match input {
        RetryOrIdleTimer => match session.phase {
            Phase::Holding { until_ns } | Phase::Connect { until_ns, .. } => Some(until_ns),
            Phase::Active { retry_at } => retry_at,
            Phase::Stopped => None,
        },
        HoldTimer => due(session, |one| one.hold_at),
        KeepaliveTimer => due(session, |one| one.keepalive_at),
        _ => None,
    };
    match input {
        Start => session.start(now),
        Stop => session.stop(&StopReason::Shutdown("maintenance".into()), now),
        Connected => session.connected(conn, now),
        Accepted => drop(session.accepted(now)),
        Lost => session.closed(conn, now),
        _ => at.into_iter().for_each(|at| session.timer(at)),
    }
    at.unwrap_or(now)
}

/// The state after it, and the NOTIFICATION that goes out.
fn expected(state: State, input: Input) -> (State, Option<(u8, u8)>) {
    use State::*;
    let stays = (state, None);
    let fails = |code, subcode| (Idle, Some((code, subcode)));
    let fsm = match state {
        OpenSent => 1,
        OpenConfirm => 2,
        _ => 3,
    };
    match (state, input) {
        (Idle, Start) => (Active, None),
        (Idle, _) => stays,
        (Connect | Active, Stop) => (Idle, None),
        (Connect | Active, Accepted) => (OpenSent, None),
        (Connect, Input::Connected) => (OpenSent, None),
        (Connect, Lost) => (Active, None),
        (Connect, RetryOrIdleTimer) => stays,
        (Active, RetryOrIdleTimer) => (Connect, None),
        (Connect | Active, _) => stays,
        (_, Stop) => fails(6, 2),
        (_, HoldTimer) => fails(4, 0),
        (_, Lost) => (Active, None),
        (_, BadOpen) => fails(2, 1),
        (_, BadHeader) => fails(1, 1),
        (_, Input::Notification) => (Idle, None),
        (OpenSent, GoodOpen) => (OpenConfirm, None),
        (_, GoodOpen) => fails(5, fsm),
        (OpenSent | OpenConfirm, Update | Refresh) => fails(5, fsm),
        (OpenSent, Keepalive) => fails(5, 1),
        (OpenConfirm, Keepalive) => (Established, None),
        _ => stays,
    }
}

const STATES: [State; 6] = [
    State::Idle,
    State::Connect,
    State::Active,
    State::OpenSent,
    State::OpenConfirm,
    State::Established,
];

#[test]
fn every_state_meets_every_event_as_rfc_4271_section_8_says() {
    for state in STATES {
        for input in INPUTS {
            let (mut session, conn, now) = at(state);
            apply(&mut session, input, conn, now);
            let actions = drain(&mut session);
            let found = (session.state(), notified(&actions));
            assert_eq!(found, expected(state, input), "{state:?} {input:?}");
            let was_up = state == State::Established;
            let is_down = was_up && session.state() != State::Established;
            let told = actions.iter().any(|action| matches!(action, Action::Down(_)));
            assert_eq!(told, is_down, "{state:?} {input:?}");
            if state >= State::OpenSent && session.state() < state {
                assert!(has_close(&actions, conn), "{state:?} {input:?}");
            }
        }
    }
}

#[test]
fn a_keepalive_goes_out_at_its_time() {
    for state in [State::OpenConfirm, State::Established] {
        let (mut session, conn, now) = at(state);
        let at = apply(&mut session, KeepaliveTimer, conn, now);
        assert_eq!(drain(&mut session), [Action::Keepalive(conn)]);
        assert!((60 * SECOND_NS..=80 * SECOND_NS).contains(&(at - now)), "{at}");
    }
}

/// RFC 6608 section 3: the data field MUST be the type of the message.
#[test]
fn a_message_out_of_place_is_named() {
    let (mut session, conn, now) = at(State::OpenSent);
    apply(&mut session, Refresh, conn, now);
    let sent = crate::wire::Notification::with_data(5, 1, &[5]);
    assert!(drain(&mut session).contains(&Action::Send(conn, sent.encode())));
}

#[test]
fn garbage_in_every_state_ends_the_connection_and_nothing_else() {
    let mut random = Jitter::new(1);
    for state in STATES {
        for _ in 0..200 {
            let (mut session, conn, now) = at(state);
            let bytes: Vec<u8> = (0..64).map(|_| random.number().to_le_bytes()[0]).collect();
            session.receive(conn, &bytes, now);
            let expected = if state >= State::OpenSent { State::Idle } else { state };
            assert_eq!(session.state(), expected);
            drain(&mut session);
            // It still works.
            session.stop(&StopReason::ConfigChange, now);
            session.start(now);
            assert_eq!(session.state(), State::Active);
        }
    }
}

#[test]
fn stop_reasons_are_told_by_their_subcode() {
    let cases = [
        (StopReason::Shutdown("why".into()), Some((6, 2))),
        (StopReason::Deconfigured, Some((6, 3))),
        (StopReason::ConfigChange, Some((6, 6))),
        (StopReason::Restart, None),
    ];
    for (reason, expected) in cases {
        let (mut session, conn, now) = at(State::Established);
        session.stop(&reason, now);
        let actions = drain(&mut session);
        assert_eq!(notified(&actions), expected);
        assert!(has_close(&actions, conn));
        assert_eq!((session.state(), session.poll_timeout()), (State::Idle, None));
    }
}

#[test]
fn wrong_as_and_wrong_identifier_are_refused() {
    let mut wrong = config(2);
    wrong.local_asn = 65_009;
    let cases = [(wrong.open(false).encode(), (2, 2))];
    for (open, expected) in cases {
        let (mut session, conn, now) = at(State::OpenSent);
        session.receive(conn, &open, now);
        assert_eq!(notified(&drain(&mut session)), Some(expected));
    }
    let mut ibgp = config(1);
    ibgp.remote_asn = ibgp.local_asn;
    let ours = ibgp.open(false).encode();
    let (mut session, conn, now) = at_with(ibgp, State::OpenSent, &[]);
    session.receive(conn, &ours, now);
    assert_eq!(notified(&drain(&mut session)), Some((2, 3)));
}

#[test]
fn a_hold_time_of_zero_means_no_timers() {
    let mut other = config(2);
    other.hold_time_s = 0;
    let (mut session, conn, now) =
        at_with(config(1), State::Established, &other.open(false).encode());
    session.wrote(conn, 19, 0, now);
    assert_eq!(session.poll_timeout(), None);
    assert_eq!(session.times_s(), Some((0, 0)));
}

#[test]
fn the_lower_hold_time_and_the_configured_keepalive_time_count() {
    let mut ours = config(1);
    ours.keepalive_time_s = 7;
    let mut other = config(2);
    other.hold_time_s = 90;
    let open = other.open(false).encode();
    let (session, ..) = at_with(ours.clone(), State::Established, &open);
    assert_eq!(session.times_s(), Some((90, 7)));
    ours.keepalive_time_s = 60;
    let (session, ..) = at_with(ours, State::Established, &open);
    assert_eq!(session.times_s(), Some((90, 30)));
}

#[test]
fn a_two_octet_peer_is_read_as_such() {
    let mut open = config(2).open(false);
    open.capabilities.clear();
    let (session, ..) = at_with(config(1), State::Established, &open.encode());
    assert!(!session.peer().unwrap().0.asn4);
}

#[test]
fn refreshes_are_handed_on_and_their_number_is_bounded() {
    let (mut session, conn, now) = at(State::Established);
    let one = RouteRefresh { family: Family::Ipv4Unicast, subtype: Subtype::Request };
    let other = RouteRefresh { family: Family::Ipv6Unicast, subtype: Subtype::Request };
    session.receive(conn, &other.encode(), now);
    assert_eq!(drain(&mut session), []);
    let many = one.encode().repeat(100);
    let received = session.receive(conn, &many, now);
    assert_eq!(received.consumed, MAX_ACTIONS * 23);
    assert_eq!(drain(&mut session).len(), MAX_ACTIONS);
    let received = session.receive(conn, &many[received.consumed..], now);
    assert_eq!(received.consumed, (100 - MAX_ACTIONS) * 23);
    let bad = message(Kind::RouteRefresh, &[0, 1, 1, 1, 0]);
    session.receive(conn, &bad, now);
    assert!(notified(&drain(&mut session)).is_some_and(|why| why == (7, 1)));
}

#[test]
fn updates_are_handed_out_one_by_one_as_they_stand() {
    let (mut session, conn, now) = at(State::Established);
    let bytes = [&frame::KEEPALIVE[..], &message(Kind::Update, &[0, 0, 0, 0]), &[255; 5]].concat();
    let received = session.receive(conn, &bytes, now);
    assert_eq!(received, Received { consumed: 42, update: Some(&[0; 4]) });
    let received = session.receive(conn, &bytes[42..], now);
    assert_eq!(received, Received { consumed: 0, update: None });
}
