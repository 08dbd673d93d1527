//! What sessions ask for, done: connections begun, closed and accepted, and the RIB told.

use std::time::SystemTime;

use margay_bgp::session::{Action, ConnId, SECOND_NS, Up};
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::connection::{Connection, Stage};
use super::socket;
use super::speaker::{Established, Speaker};
use super::timers::Timer;

/// How long a connection that is being closed may take to write what waits and to hear the other
/// side's end.
const LINGER_NS: u64 = 2 * SECOND_NS;

impl Speaker {
    /// Does what the session of a peer asks for, until it asks for nothing.
    pub(super) fn drain(&mut self, key: u32) {
        while let Some(action) = self.peers.get_mut(&key).and_then(|p| p.session.poll_action()) {
            self.act(key, action);
        }
        if let Some(peer) = self.peers.get(&key) {
            self.timers.arm(Timer::Session(key), peer.session.poll_timeout());
        }
    }

    pub(super) fn act(&mut self, key: u32, action: Action) {
        match action {
            Action::Connect(conn) => self.connect(key, conn),
            Action::Close(conn) => self.close(key, conn),
            Action::Send(conn, bytes) => self.send(key, conn, Some(&bytes)),
            Action::Keepalive(conn) => self.send(key, conn, None),
            Action::Up(up) => self.up(key, &up),
            Action::Down(down) => self.down(key, &down),
            Action::Refresh(refresh) => {
                if let Some(peer) = self.peers.get(&key) {
                    self.rib.refresh(peer.id, &refresh);
                }
            }
            Action::DropStale(families) => {
                if let Some(peer) = self.peers.get(&key) {
                    self.rib.drop_stale(peer.id, families);
                }
            }
        }
    }

    fn connect(&mut self, key: u32, conn: ConnId) {
        self.status_soon();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let begun = socket::connect(&peer.config.session.socket);
        let begun = begun.map(|socket| Connection::new(key, conn, socket, Stage::Connecting));
        let is_there = begun.and_then(|connection| self.add(connection));
        if let (Err(why), Some(peer)) = (is_there, self.peers.get_mut(&key)) {
            tracing::debug!(peer = %peer.name, %why, "BGP cannot connect");
            peer.session.connect_failed(conn, self.now_ns);
        }
    }

    /// Looks after a connection from now on.
    fn add(&mut self, connection: Connection) -> std::io::Result<()> {
        let (key, conn, token) = (connection.peer, connection.id, self.new_token());
        let edges = EpollFlags::EPOLLET | EpollFlags::EPOLLRDHUP;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | edges;
        self.epoll.add(&connection.socket, EpollEvent::new(flags, token))?;
        self.connections.insert(token, connection);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.connections.push((conn, token));
        }
        Ok(())
    }

    /// Takes what has come to the listeners.
    pub(super) fn accept(&mut self) {
        for (stream, from) in self.listeners.accept() {
            let keys = self.peers_at(from);
            if keys.is_empty() {
                self.unknown_peers += 1;
                continue;
            }
            for key in keys {
                let Some(peer) = self.peers.get_mut(&key) else { continue };
                let wanted = &peer.config.session.socket;
                if peer.blocked.is_some() || socket::prepare(&stream, wanted).is_err() {
                    continue;
                }
                if let Some(conn) = peer.session.accepted(self.now_ns) {
                    let connection = Connection::new(key, conn, stream, Stage::Open);
                    if self.add(connection).is_err()
                        && let Some(peer) = self.peers.get_mut(&key)
                    {
                        peer.session.closed(conn, self.now_ns);
                    }
                    self.drain(key);
                    break;
                }
                self.drain(key);
            }
        }
    }

    /// Notes what a connection is ready for.
    pub(super) fn note(&mut self, token: u64, events: EpollFlags) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let ends = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        connection.is_ending |= events.intersects(ends);
        if connection.stage == Stage::Connecting {
            self.connect_ends(token);
        }
        // The same event may tell of the peer's first message, and no other will.
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.writable |= events.contains(EpollFlags::EPOLLOUT);
        if events.intersects(ends | EpollFlags::EPOLLIN) && !connection.readable {
            connection.readable = true;
            self.readable.push_back(token);
        }
        if events.contains(EpollFlags::EPOLLOUT) {
            self.flush(token);
        }
    }

    /// A connection that was begun is there, or has failed.
    fn connect_ends(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let (key, conn) = (connection.peer, connection.id);
        let is_whole = matches!(connection.socket.take_error(), Ok(None));
        let is_there = is_whole && connection.socket.peer_addr().is_ok();
        (connection.stage, connection.writable) = (Stage::Open, is_there);
        if !is_there {
            self.forget(token);
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if is_there {
            peer.session.connected(conn, self.now_ns);
        } else {
            peer.session.connect_failed(conn, self.now_ns);
        }
        self.drain(key);
    }

    /// The session has done with a connection.
    fn close(&mut self, key: u32, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(token) = peer.token(conn) else { return };
        peer.connections.retain(|(id, _)| *id != conn);
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.stage == Stage::Connecting {
            return self.forget(token);
        }
        connection.stage = Stage::Closing;
        connection.output.truncate();
        self.timers.arm(Timer::Linger(token), Some(self.now_ns + LINGER_NS));
        self.flush(token);
    }

    /// Lets go of a connection.
    pub(super) fn forget(&mut self, token: u64) {
        self.timers.disarm(Timer::Linger(token));
        if let Some(connection) = self.connections.remove(&token)
            && let Some(peer) = self.peers.get_mut(&connection.peer)
        {
            peer.connections.retain(|(_, other)| *other != token);
        }
    }

    /// Writes a message of the session, or a KEEPALIVE.
    pub(super) fn send(&mut self, key: u32, conn: ConnId, message: Option<&[u8]>) {
        let Some(token) = self.peers.get(&key).and_then(|peer| peer.token(conn)) else { return };
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match message {
            Some(message) => connection.output.insert(message),
            None => connection.output.insert_keepalive(),
        }
        self.flush(token);
    }

    fn up(&mut self, key: u32, up: &Up) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(token) = peer.token(up.conn) else { return };
        let local = self.connections.get(&token).and_then(Connection::local);
        let Some(local) = local else { return };
        (peer.local, peer.since, peer.ups) = (Some(local), SystemTime::now(), peer.ups + 1);
        tracing::info!(peer = %peer.name, address = %peer.config.session.socket.remote, "BGP up");
        self.rib.up(peer.id, up, local);
        self.established.push(Established { key, token, id: peer.id });
        self.watch(key);
        self.status_soon();
    }

    fn down(&mut self, key: u32, down: &margay_bgp::session::Down) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        (peer.local, peer.since) = (None, SystemTime::now());
        peer.last_down = Some(down.reason.to_string());
        tracing::info!(peer = %peer.name, reason = %down.reason, "BGP down");
        self.rib.down(peer.id, down.retain);
        self.established.retain(|one| one.key != key);
        self.status_soon();
    }
}
