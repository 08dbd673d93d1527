//! What the BGP session's fuzz target and its test run: inputs in any order and bytes of any kind
//! through one session, and after each what must hold whatever they were.

use margay_bgp::session::{Action, Config, ConnId, MAX_ACTIONS, Session, State, StopReason};
use margay_bgp::wire::{HEADER_LEN, MAX_LEN, Notification, frame};
use std::net::{IpAddr, Ipv4Addr};

/// Actions that one input may leave beyond [`MAX_ACTIONS`]: the ends of all connections.
const MORE_ACTIONS: usize = 16;
/// Ours, or an attempt at it, and two of the peer.
const MAX_CONNECTIONS: usize = 3;

/// Runs one input: each step is a byte that says what happens and bytes that say how. Returns how
/// often the session came up.
pub fn steps(input: &[u8]) -> usize {
    let mut world = World::new(input.first().copied().unwrap_or(0));
    let mut rest = input.get(1..).unwrap_or_default();
    while let [what, how, behind @ ..] = rest {
        rest = world.step(*what, *how, behind);
        world.check();
    }
    world.ups
}

/// One session, and what its owner knows of it.
struct World {
    session: Session,
    now_ns: u64,
    open: Vec<ConnId>,
    up: Option<ConnId>,
    ups: usize,
    attempt: Option<ConnId>,
}

impl World {
    fn new(flags: u8) -> World {
        let (ours, peer) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut config = Config::new(65_001, ours, 65_002, IpAddr::V4(peer));
        config.passive = flags & 1 != 0;
        config.extended_message = flags & 2 != 0;
        config.restarted = flags & 4 != 0;
        if let Some(restart) = &mut config.restart {
            restart.notification = flags & 8 != 0;
        }
        World {
            session: Session::new(config),
            now_ns: 1,
            open: Vec::new(),
            up: None,
            ups: 0,
            attempt: None,
        }
    }

    /// Does one thing, and gives back the bytes that it did not use.
    fn step<'a>(&mut self, what: u8, how: u8, behind: &'a [u8]) -> &'a [u8] {
        let now_ns = self.now_ns;
        let conn = self.open.get(usize::from(how) % MAX_CONNECTIONS).copied();
        let conn = conn.unwrap_or(ConnId(u32::from(how)));
        match what % 16 {
            0 => self.session.start(now_ns),
            1 => self.session.stop(&StopReason::Shutdown("fuzz".to_owned()), now_ns),
            2 => self.session.stop(&StopReason::Restart, now_ns),
            3 => {
                self.attempt.take_if(|attempt| *attempt == conn);
                self.session.connected(conn, now_ns);
            }
            4 => {
                let failed = self.attempt.take().unwrap_or(ConnId(u32::MAX));
                self.open.retain(|open| *open != failed);
                self.session.connect_failed(failed, now_ns);
            }
            5 => self.open.extend(self.session.accepted(now_ns)),
            6 => {
                self.attempt.take_if(|attempt| *attempt == conn);
                self.open.retain(|open| *open != conn);
                self.session.closed(conn, now_ns);
            }
            7 => self.pass(u64::from(how) * 100_000_000),
            8 => self.session.wrote(conn, usize::from(how & 1), usize::from(how >> 1), now_ns),
            9 => self.session.reset(&Notification::new(6, how), now_ns),
            10 => self.receive(conn, &peer_open(how)),
            11 => self.receive(conn, &frame::KEEPALIVE),
            12 => self.pass(self.session.poll_timeout().map_or(0, |at| at.saturating_sub(now_ns))),
            13 => {
                let (body, rest) = behind.split_at(behind.len().min(usize::from(how)));
                let kinds = [
                    frame::Kind::Open,
                    frame::Kind::Update,
                    frame::Kind::Notification,
                    frame::Kind::RouteRefresh,
                ];
                self.receive(conn, &frame::message(kinds[usize::from(what >> 4) % 4], body));
                return rest;
            }
            _ => {
                let (bytes, rest) = behind.split_at(behind.len().min(usize::from(how)));
                self.receive(conn, bytes);
                return rest;
            }
        }
        behind
    }

    fn pass(&mut self, time_ns: u64) {
        self.now_ns += time_ns;
        self.session.timer(self.now_ns);
    }

    fn receive(&mut self, conn: ConnId, bytes: &[u8]) {
        let mut at = 0;
        self.session.heard(conn, self.now_ns);
        loop {
            let received = self.session.receive(conn, &bytes[at..], self.now_ns);
            at += received.consumed;
            assert!(at <= bytes.len());
            self.check();
            if let Some(update) = received.update {
                assert!(update.len() + HEADER_LEN <= 65_535);
                assert_eq!(self.up, Some(conn), "an UPDATE without a session");
            }
            if received.consumed == 0 {
                return;
            }
        }
    }

    /// Takes the actions, and looks at all that can be seen.
    fn check(&mut self) {
        let mut count = 0;
        while let Some(action) = self.session.poll_action() {
            count += 1;
            match action {
                Action::Connect(conn) => {
                    assert_eq!(self.attempt.replace(conn), None, "two attempts");
                    self.open.push(conn);
                }
                Action::Close(conn) => {
                    self.attempt.take_if(|attempt| *attempt == conn);
                    self.open.retain(|open| *open != conn);
                }
                Action::Send(conn, bytes) => {
                    assert!(self.open.contains(&conn), "bytes for a closed connection");
                    let message = frame::first(&bytes, MAX_LEN).expect("ours are right");
                    assert_eq!(message.expect("and whole").wire_len(), bytes.len());
                }
                Action::Keepalive(conn) => assert!(self.open.contains(&conn)),
                Action::Up(up) => {
                    self.ups += 1;
                    assert_eq!(self.up.replace(up.conn), None, "up twice");
                }
                Action::Down(down) => assert_eq!(self.up.take(), Some(down.conn), "down twice"),
                Action::Refresh(_) => assert!(self.up.is_some()),
                Action::DropStale(families) => assert!(!families.is_empty()),
            }
        }
        assert!(count <= MAX_ACTIONS + MORE_ACTIONS, "{count} actions");
        assert!(self.open.len() <= MAX_CONNECTIONS, "{:?}", self.open);
        assert_eq!(self.up.is_some(), self.session.state() == State::Established);
    }
}

/// An OPEN that is right, or nearly.
fn peer_open(flavour: u8) -> Vec<u8> {
    let (ours, peer) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
    let mut config = Config::new(65_002, ours, 65_001, IpAddr::V4(peer));
    config.hold_time_s = [240, 3, 0, 90][usize::from(flavour) % 4];
    if flavour & 4 != 0 {
        config.restart = None;
    }
    let mut bytes = config.open(flavour & 8 != 0).encode();
    let at = usize::from(flavour) % bytes.len();
    if flavour & 16 != 0 {
        bytes[at] ^= flavour;
    }
    bytes
}
