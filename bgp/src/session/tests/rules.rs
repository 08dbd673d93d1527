//! What has broken other speakers, each as a rule with a number: the collisions, restarts, hold
//! times and limits of the field.

use super::*;
use crate::session::collision::DECISION_TIME_NS;
use crate::wire::frame::message;
use crate::{Family, FamilySet};

const V4: FamilySet = FamilySet::EMPTY.with(Family::Ipv4Unicast);

fn down(actions: &[Action]) -> Option<Down> {
    actions.iter().find_map(|action| match action {
        Action::Down(down) => Some(down.clone()),
        _ => None,
    })
}

fn up(actions: &[Action]) -> Option<Up> {
    actions.iter().find_map(|action| match action {
        Action::Up(up) => Some(Up::clone(up)),
        _ => None,
    })
}

#[test]
fn rule_1_an_unproven_connection_ends_no_other() {
    for state in [State::OpenSent, State::OpenConfirm, State::Established] {
        let (mut session, conn, now) = at(state);
        let second = session.accepted(now).unwrap();
        let actions = drain(&mut session);
        assert!(!has_close(&actions, conn) && !has_close(&actions, second), "{state:?}");
        assert_eq!(session.state(), state);
    }
}

#[test]
fn rule_1_established_wins_over_a_proven_one() {
    let (mut session, conn, now) = at(State::Established);
    let second = second_with_open(&mut session, now + SECOND_NS);
    let actions = drain(&mut session);
    assert_eq!(notified(&actions), Some((6, 7)));
    assert!(has_close(&actions, second) && !has_close(&actions, conn));
    assert_eq!(session.state(), State::Established);
}

/// RFC 4271 section 6.8 and RFC 6286 section 2.3: the higher identifier's, then the higher AS's.
#[test]
fn rule_1_of_two_proven_ones_the_identifier_decides() {
    for (ours, theirs, ours_wins) in [(1, 2, false), (3, 2, true), (2, 2, false)] {
        let identified =
            |id, last| Config { router_id: std::net::Ipv4Addr::new(10, 0, 0, last), ..config(id) };
        let open = identified(2, theirs).open(false).encode();
        let (mut session, first, now) = at_with(identified(1, ours), State::OpenConfirm, &open);
        let second = session.accepted(now).unwrap();
        session.receive(second, &open, now);
        session.timer(now + DECISION_TIME_NS);
        let actions = drain(&mut session);
        assert_eq!(notified(&actions), Some((6, 7)));
        let (stays, goes) = if ours_wins { (first, second) } else { (second, first) };
        assert!(has_close(&actions, goes) && !has_close(&actions, stays), "{ours} {theirs}");
        assert_eq!(session.state(), State::OpenConfirm);
    }
}

#[test]
fn rule_1_what_was_agreed_belongs_to_the_connection() {
    let (mut session, _, now) = at(State::OpenConfirm);
    let mut other = config(2);
    other.hold_time_s = 30;
    let second = session.accepted(now).unwrap();
    session.receive(second, &other.open(false).encode(), now);
    session.timer(now + DECISION_TIME_NS);
    assert_eq!(session.times_s(), Some((30, 10)));
}

fn is_answered(actions: &[Action], conn: ConnId) -> bool {
    actions.contains(&Action::Keepalive(conn))
}

/// The first connection has our KEEPALIVE, so the peer's side of it may be Established: it is not
/// closed in favour of a better one before the peer has had time to say so.
#[test]
fn rule_1_an_answered_connection_is_given_time() {
    let (mut session, first, now) = at(State::OpenConfirm);
    let second = second_with_open(&mut session, now);
    let actions = drain(&mut session);
    assert!(notified(&actions).is_none() && !is_answered(&actions, second));
    session.receive(first, &frame::KEEPALIVE, now + 1);
    let actions = drain(&mut session);
    assert_eq!(up(&actions).unwrap().conn, first);
    assert!(has_close(&actions, second) && !has_close(&actions, first));
    // And if it is the peer that gives up the first, the second is used.
    let (mut session, first, now) = at(State::OpenConfirm);
    let second = second_with_open(&mut session, now);
    session.receive(second, &frame::KEEPALIVE, now + 1);
    session.receive(first, &Notification::new(6, 7).encode(), now + 2);
    let actions = drain(&mut session);
    assert!(is_answered(&actions, second));
    assert_eq!(up(&actions).unwrap().conn, second);
}

/// The peer has the higher identifier and has begun a connection too, whose OPEN is on its way: a
/// KEEPALIVE over ours would let it come up over the one that is about to be closed.
#[test]
fn rule_1_a_likely_loser_is_not_answered_yet() {
    let (mut session, ours, now) = at(State::OpenSent);
    let theirs = session.accepted(now).unwrap();
    session.receive(ours, &peer_open(), now);
    let actions = drain(&mut session);
    assert!(!is_answered(&actions, ours) && notified(&actions).is_none());
    session.receive(theirs, &peer_open(), now + 1);
    let actions = drain(&mut session);
    assert!(is_answered(&actions, theirs) && !is_answered(&actions, ours));
    assert!(has_close(&actions, ours) && notified(&actions) == Some((6, 7)));
}

/// The peer gives up a first connection of its own, which waits, for a second one: that one waits
/// too for what becomes of ours, and only one is answered in the end.
#[test]
fn rule_1_three_connections_end_in_one() {
    let (mut session, ours, now) = at(State::OpenConfirm);
    let ids = [0, 1].map(|_| second_with_open(&mut session, now));
    let actions = drain(&mut session);
    assert!(has_close(&actions, ids[0]) && !is_answered(&actions, ids[1]));
    session.receive(ids[1], &frame::KEEPALIVE, now);
    session.timer(now + DECISION_TIME_NS);
    let actions = drain(&mut session);
    assert!(has_close(&actions, ours) && is_answered(&actions, ids[1]));
    assert_eq!(up(&actions).unwrap().conn, ids[1]);
}

#[test]
fn rule_1_waiting_for_another_connection_is_bounded() {
    let (mut session, ours, now) = at(State::OpenSent);
    let silent = session.accepted(now).unwrap();
    session.receive(ours, &peer_open(), now);
    drain(&mut session);
    assert_eq!(session.poll_timeout(), Some(now + DECISION_TIME_NS));
    session.timer(now + DECISION_TIME_NS - 1);
    assert!(drain(&mut session).is_empty());
    session.timer(now + DECISION_TIME_NS);
    let actions = drain(&mut session);
    assert!(is_answered(&actions, ours) && !has_close(&actions, silent));
}

/// RFC 4271 section 8.2.2 has no place for it, whether the first is answered yet or not.
#[test]
fn rule_1_a_second_open_is_an_error_while_the_first_waits() {
    let (mut session, ours, now) = at(State::OpenSent);
    session.accepted(now).unwrap();
    session.receive(ours, &peer_open(), now);
    session.receive(ours, &peer_open(), now);
    let actions = drain(&mut session);
    assert!(has_close(&actions, ours));
    assert_eq!(notified(&actions), Some((5, 2)));
}

#[test]
fn rule_1_a_loser_is_no_error() {
    let (mut session, conn, now) = at(State::OpenSent);
    session.receive(conn, &Notification::new(6, 7).encode(), now);
    assert_eq!(session.state(), State::Active);
}

#[test]
fn newer_connections_push_out_the_silent_one() {
    let (mut session, _, now) = at(State::Active);
    let ids: Vec<ConnId> = (0..5).map(|_| session.accepted(now).unwrap()).collect();
    assert_eq!(session.connections.len(), 2);
    let actions = drain(&mut session);
    assert!(has_close(&actions, ids[0]) && !has_close(&actions, ids[4]));
}

/// Rule 2: the forwarding bit says what happens while we are away, not whether we have been.
#[test]
fn rule_2_the_forwarding_bit_is_always_set() {
    for restarted in [false, true] {
        let open = Config { restarted, ..config(1) }.open(restarted);
        let restart = open.graceful_restart().unwrap();
        assert_eq!(restart.restarted, restarted);
        assert!(!restart.families.is_empty());
        assert!(restart.families.iter().all(|family| family.forwarding));
    }
}

#[test]
fn rule_2_only_the_first_session_has_the_restart_bit() {
    let restarted = Config { restarted: true, ..config(1) };
    let mut session = Session::new(restarted);
    session.start(1);
    for expected in [true, false] {
        let conn = session.accepted(1).unwrap();
        let actions = drain(&mut session);
        let open = actions.iter().find_map(|action| match action {
            Action::Send(_, bytes) => Open::decode(&bytes[19..]).ok(),
            _ => None,
        });
        assert_eq!(open.unwrap().graceful_restart().unwrap().restarted, expected);
        session.receive(conn, &peer_open(), 1);
        session.receive(conn, &frame::KEEPALIVE, 1);
        session.closed(conn, 1);
        drain(&mut session);
    }
}

#[test]
fn rule_2_who_cannot_be_reached_is_not_waited_for() {
    let (mut session, conn, now) = at(State::Connect);
    assert!(session.is_expected());
    session.connect_failed(conn, now);
    assert!(!session.is_expected());
    session.accepted(now).unwrap();
    assert!(session.is_expected());
    session.stop(&StopReason::Deconfigured, now);
    assert!(!session.is_expected());
}

/// RFC 4724 section 4.2: routes stay after a loss without a word.
#[test]
fn routes_stay_for_a_peer_that_is_lost_until_its_time_is_over() {
    let (mut session, conn, now) = at(State::Established);
    session.closed(conn, now);
    let found = down(&drain(&mut session)).unwrap();
    assert_eq!((found.reason, found.retain, found.restart_time_s), (DownReason::Closed, V4, 120));
    session.timer(now + 120 * SECOND_NS - 1);
    assert!(!drain(&mut session).contains(&Action::DropStale(V4)));
    session.timer(now + 120 * SECOND_NS);
    assert!(drain(&mut session).contains(&Action::DropStale(V4)));
}

#[test]
fn routes_go_after_a_notification() {
    let (mut session, conn, now) = at(State::Established);
    session.receive(conn, &Notification::new(6, 4).encode(), now);
    assert!(down(&drain(&mut session)).unwrap().retain.is_empty());
}

fn with_notification(id: u8) -> Config {
    let mut config = config(id);
    config.restart.as_mut().unwrap().notification = true;
    config
}

/// RFC 8538 section 4: routes stay after a NOTIFICATION, and go after a Hard Reset.
#[test]
fn routes_stay_after_a_notification_when_both_want_it() {
    let open = with_notification(2).open(false).encode();
    for (sent, retain) in [
        (Notification::new(4, 0), V4),
        (Notification::new(6, 4), V4),
        (Notification::new(6, 2).into_hard_reset(), FamilySet::EMPTY),
    ] {
        let (mut session, conn, now) = at_with(with_notification(1), State::Established, &open);
        session.receive(conn, &sent.encode(), now);
        assert_eq!(down(&drain(&mut session)).unwrap().retain, retain, "{sent}");
    }
    let (mut session, conn, now) = at_with(config(1), State::Established, &open);
    session.receive(conn, &Notification::new(6, 4).encode(), now);
    assert!(down(&drain(&mut session)).unwrap().retain.is_empty());
}

/// RFC 8538 section 3: an end for good is a Hard Reset.
#[test]
fn a_shutdown_is_a_hard_reset_for_who_would_keep_routes() {
    let open = with_notification(2).open(false).encode();
    let (mut session, _, now) = at_with(with_notification(1), State::Established, &open);
    session.stop(&StopReason::Deconfigured, now);
    assert_eq!(notified(&drain(&mut session)), Some((6, 9)));
}

/// RFC 4724 section 4.2: without the family or its forwarding bit, stale routes MUST go at once.
#[test]
fn stale_routes_go_when_the_new_open_does_not_keep_them() {
    let mut lost = config(2);
    lost.restart.as_mut().unwrap().forwarding = FamilySet::EMPTY;
    let mut none = config(2);
    none.restart = None;
    for (returned, kept) in [(config(2), V4), (lost, FamilySet::EMPTY), (none, FamilySet::EMPTY)] {
        let (mut session, conn, now) = at(State::Established);
        session.closed(conn, now);
        let conn = session.accepted(now).unwrap();
        drain(&mut session);
        session.receive(conn, &returned.open(true).encode(), now);
        session.receive(conn, &frame::KEEPALIVE, now);
        let actions = drain(&mut session);
        assert_eq!(up(&actions).unwrap().stale, kept);
        assert_eq!(actions.contains(&Action::DropStale(V4)), kept.is_empty());
        session.timer(now + 200 * SECOND_NS);
        assert!(!drain(&mut session).contains(&Action::DropStale(V4)));
    }
}

/// RFC 4724 section 4.2: a peer with graceful restart that comes back has lost the old connection.
#[test]
fn a_returning_peer_replaces_its_old_connection() {
    let (mut session, conn, now) = at(State::Established);
    let now = now + COLLISION_WINDOW_NS;
    let second = second_with_open(&mut session, now);
    let actions = drain(&mut session);
    let found = down(&actions).unwrap();
    assert_eq!((found.reason, found.retain), (DownReason::Replaced, V4));
    assert_eq!(notified(&actions), None);
    assert!(has_close(&actions, conn) && !has_close(&actions, second));
    session.receive(second, &frame::KEEPALIVE, now);
    let found = up(&drain(&mut session)).unwrap();
    assert_eq!((found.conn, found.stale), (second, V4));
}

#[test]
fn without_graceful_restart_the_old_connection_stays() {
    let plain = |id| Config { restart: None, ..config(id) };
    let open = plain(2).open(false).encode();
    let (mut session, conn, now) = at_with(plain(1), State::Established, &open);
    let now = now + COLLISION_WINDOW_NS;
    let second = session.accepted(now).unwrap();
    session.receive(second, &open, now);
    let actions = drain(&mut session);
    assert_eq!((notified(&actions), has_close(&actions, conn)), (Some((6, 7)), false));
}

/// Rule 6: bytes that wait count, whether or not their messages have been looked at.
#[test]
fn rule_6_the_hold_time_is_fed_by_bytes() {
    let (mut session, conn, mut now) = at(State::Established);
    for _ in 0..10 {
        now += 200 * SECOND_NS;
        session.heard(conn, now);
        session.timer(now);
        session.wrote(conn, 19, 0, now);
    }
    assert_eq!(session.state(), State::Established);
    session.timer(now + 240 * SECOND_NS);
    assert_eq!(notified(&drain(&mut session)), Some((4, 0)));
}

#[test]
fn rule_6_bytes_before_the_open_do_not_buy_time() {
    let (mut session, conn, now) = at(State::OpenSent);
    session.heard(conn, now + 200 * SECOND_NS);
    session.timer(now + 240 * SECOND_NS);
    assert_eq!(notified(&drain(&mut session)), Some((4, 0)));
}

/// Rule 6: a late owner sends one KEEPALIVE, not all that it has missed.
#[test]
fn rule_6_keepalives_do_not_pile_up() {
    let (mut session, conn, now) = at(State::Established);
    session.heard(conn, now + 200 * SECOND_NS);
    session.timer(now + 230 * SECOND_NS);
    assert_eq!(drain(&mut session), [Action::Keepalive(conn)]);
}

/// Rule 7 and RFC 9687 section 3: the peer lives, and takes nothing.
#[test]
fn rule_7_a_stuck_receiver_is_given_up_after_the_send_hold_time() {
    let (mut session, conn, start) = at(State::Established);
    session.wrote(conn, 100, 1000, start);
    let mut now = start;
    while session.state() == State::Established {
        now += SECOND_NS;
        session.heard(conn, now);
        session.wrote(conn, 0, 1000, now);
        session.timer(now);
        assert!(now < start + 1000 * SECOND_NS);
    }
    assert_eq!(notified(&drain(&mut session)), Some((8, 0)));
    assert_eq!((now - start) / SECOND_NS, 480);
}

#[test]
fn rule_7_progress_and_an_empty_queue_put_it_off() {
    let (mut session, conn, start) = at(State::Established);
    let mut now = start;
    for written in 0..2000 {
        now += SECOND_NS;
        session.heard(conn, now);
        session.wrote(conn, written % 2, 1000, now);
        session.timer(now);
    }
    session.wrote(conn, 1000, 0, now);
    for _ in 0..2000 {
        now += SECOND_NS;
        session.heard(conn, now);
        session.timer(now);
        session.wrote(conn, 19, 0, now);
    }
    assert_eq!(session.state(), State::Established);
}

/// Rule 12: the limit for receiving is ours alone.
#[test]
fn rule_12_long_messages_are_taken_when_we_have_said_so() {
    let long = message(Kind::Update, &[0; 5000]);
    for (ours, taken) in [(true, true), (false, false)] {
        let config = Config { extended_message: ours, ..config(1) };
        let (mut session, conn, now) = at_with(config, State::Established, &peer_open());
        let received = session.receive(conn, &long, now);
        assert_eq!(received.update.is_some(), taken);
        assert_eq!(notified(&drain(&mut session)), (!taken).then_some((1, 2)));
    }
}

/// Rule 18: each error waits longer, up to the limit.
#[test]
fn rule_18_errors_wait_longer_and_longer() {
    let (mut session, _, mut now) = at(State::Active);
    let mut waits = Vec::new();
    for _ in 0..5 {
        let conn = session.accepted(now).unwrap();
        session.receive(conn, &[0; 19], now);
        assert_eq!((session.state(), session.accepted(now)), (State::Idle, None));
        let until = session.poll_timeout().unwrap();
        waits.push((until - now) / SECOND_NS);
        now = until;
        session.timer(now);
    }
    for (wait, least) in waits.iter().zip([5, 10, 20, 30, 30]) {
        assert!((least..=least * 5 / 4).contains(wait), "{waits:?}");
    }
}

/// Event 28: the RIB has found an error in an UPDATE.
#[test]
fn a_reset_names_its_reason_and_comes_back() {
    let (mut session, conn, now) = at(State::Established);
    session.reset(&Notification::new(3, 1), now);
    let actions = drain(&mut session);
    assert_eq!(notified(&actions), Some((3, 1)));
    assert!(has_close(&actions, conn) && down(&actions).is_some());
    session.timer(session.poll_timeout().unwrap());
    assert_eq!(session.state(), State::Connect);
}
