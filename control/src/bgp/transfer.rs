//! Bytes from and to the sockets: large reads into one buffer, from which messages go straight to
//! session and RIB; UPDATEs are made when their socket takes them and has taken those before.

use std::net::Shutdown;
use std::time::Instant;

use super::connection::{Brought, Stage};
use super::speaker::{Established, SLICE, Speaker};
use super::timers::Timer;

/// UPDATEs that are made for one peer at once, in bytes.
const FILL: usize = 64 << 10;
/// Least room for reading, behind the beginning of a message.
const LEAST_READ: usize = 16 << 10;

impl Speaker {
    /// Reads from connections with something to read, in turns.
    pub(super) fn read_some(&mut self) {
        let began = Instant::now();
        while let Some(token) = self.readable.pop_front() {
            self.read(token);
            if self.connections.get(&token).is_some_and(|one| one.readable) {
                self.readable.push_back(token);
            }
            if began.elapsed() >= SLICE {
                break;
            }
        }
    }

    fn read(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        let kept = connection.partial.len();
        if buffer.len() < kept + LEAST_READ {
            buffer.resize(kept + LEAST_READ, 0);
        }
        buffer[..kept].copy_from_slice(&connection.partial);
        connection.partial.clear();
        match connection.read(&mut buffer[kept..]) {
            Brought::Nothing => connection.partial.extend_from_slice(&buffer[..kept]),
            Brought::End => self.ended(token),
            Brought::Bytes(length) => {
                if let Some(peer) = self.peers.get_mut(&connection.peer) {
                    peer.bytes.0 += length as u64;
                }
                let length = kept + length;
                let done = self.feed(token, &buffer[..length]);
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.partial.extend_from_slice(&buffer[done.min(length)..length]);
                }
            }
        }
        self.buffer = buffer;
    }

    /// Gives what was read to the session, and UPDATEs to the RIB. How much is done with.
    fn feed(&mut self, token: u64, bytes: &[u8]) -> usize {
        let mut done = 0;
        let mut key = None;
        self.now_ns = self.clock();
        while let Some(connection) = self.connections.get(&token)
            && connection.stage == Stage::Open
            && let Some(peer) = self.peers.get_mut(&connection.peer)
        {
            key = Some(connection.peer);
            let fed = peer.feed(connection.id, &bytes[done..], &mut self.rib, self.now_ns);
            done += fed.consumed;
            let is_over = fed.action.is_none();
            let key = connection.peer;
            if let Some(action) = fed.action {
                self.act(key, action);
                self.drain(key);
            }
            if let (Some(body), Some(peer)) = (fed.update, self.peers.get_mut(&key)) {
                peer.update(body, &mut self.rib, self.now_ns);
                self.drain(key);
            }
            if is_over {
                break;
            }
        }
        match key {
            Some(key) => self.drain(key),
            // Closing: nobody wants it.
            None => done = bytes.len(),
        }
        self.status_later();
        let is_open = self.connections.get(&token).is_some_and(|one| one.stage == Stage::Open);
        if is_open { done } else { bytes.len() }
    }

    /// The other side has closed a connection, or it broke.
    fn ended(&mut self, token: u64) {
        let Some(connection) = self.connections.get(&token) else { return };
        let (key, conn, stage) = (connection.peer, connection.id, connection.stage);
        self.forget(token);
        if stage == Stage::Open
            && let Some(peer) = self.peers.get_mut(&key)
        {
            peer.session.closed(conn, self.now_ns);
            self.drain(key);
        }
    }

    /// Writes what waits for a connection.
    pub(super) fn flush(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let was_readable = connection.readable;
        let written = connection.flush();
        if connection.readable && !was_readable {
            self.readable.push_back(token);
        }
        if connection.stage == Stage::Closing {
            if connection.output.is_empty() {
                // The other side reads all, and then this end.
                let _ = connection.socket.shutdown(Shutdown::Write);
            }
            return;
        }
        let pending = connection.output.pending().len();
        let (key, conn) = (connection.peer, connection.id);
        self.wrote(key, conn, written, pending);
    }

    fn wrote(
        &mut self,
        key: u32,
        conn: margay_bgp::session::ConnId,
        written: usize,
        pending: usize,
    ) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.bytes.1 += written as u64;
        peer.session.wrote(conn, written, pending, self.now_ns);
        if pending > 0 {
            self.timers.arm(Timer::Session(key), peer.session.poll_timeout());
        }
    }

    /// Makes UPDATEs for the sockets that take them, in turns. True when some were
    /// written.
    pub(super) fn write_some(&mut self) -> bool {
        let began = Instant::now();
        let count = self.established.len();
        let mut is_any = false;
        for turn in 0..count {
            let at = (self.next_writer + turn) % count;
            let Some(&one) = self.established.get(at) else { break };
            is_any |= self.fill(one);
            if began.elapsed() >= SLICE {
                self.next_writer = at + 1;
                return true;
            }
        }
        is_any
    }

    /// Makes and writes UPDATEs for one peer. True when there were some: more may follow, also by
    /// work of the RIB that waited for these to be taken.
    fn fill(&mut self, one: Established) -> bool {
        if !self.rib.has_output(one.id) {
            return false;
        }
        let Some(connection) = self.connections.get_mut(&one.token) else { return false };
        if !connection.writable || !connection.output.is_empty() {
            return false;
        }
        self.filled.clear();
        self.rib.fill(one.id, FILL, &mut self.filled);
        if self.filled.is_empty() {
            return false;
        }
        let written = connection.write(&self.filled);
        if connection.readable && !self.readable.contains(&one.token) {
            self.readable.push_back(one.token);
        }
        let pending = connection.output.pending().len();
        let conn = connection.id;
        self.wrote(one.key, conn, written, pending);
        self.status_later();
        true
    }
}
