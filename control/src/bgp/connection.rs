//! One TCP connection of a session, with what was read and not understood yet, and what is to be
//! written.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};

use margay_bgp::session::ConnId;

use super::output::Output;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// We have begun it.
    Connecting,
    /// It carries messages.
    Open,
    /// The session has done with it: what waits is written, what comes is dropped.
    Closing,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Whose it is.
    pub(super) peer: u32,
    /// What the session calls it.
    pub(super) id: ConnId,
    pub(super) stage: Stage,
    pub(super) socket: TcpStream,
    /// Bytes wait in the socket, or its end does.
    pub(super) readable: bool,
    /// The socket takes bytes.
    pub(super) writable: bool,
    /// The other side sends no more, or the connection is broken.
    pub(super) is_ending: bool,
    /// The beginning of a message.
    pub(super) partial: Vec<u8>,
    pub(super) output: Output,
}

/// What reading has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brought {
    /// So many bytes.
    Bytes(usize),
    /// None now.
    Nothing,
    /// The end.
    End,
}

impl Connection {
    pub(super) fn new(peer: u32, id: ConnId, socket: TcpStream, stage: Stage) -> Connection {
        Connection {
            peer,
            id,
            stage,
            socket,
            readable: false,
            writable: stage == Stage::Open,
            is_ending: false,
            partial: Vec::new(),
            output: Output::default(),
        }
    }

    /// Our address.
    pub(super) fn local(&self) -> Option<IpAddr> {
        self.socket.local_addr().ok().map(|local| local.ip())
    }

    /// Reads into `room`, which is not empty.
    pub(super) fn read(&mut self, room: &mut [u8]) -> Brought {
        loop {
            return match self.socket.read(room) {
                Ok(0) => Brought::End,
                Ok(length) => {
                    // A short read has emptied the socket: epoll(7).
                    self.readable = length == room.len() || self.is_ending;
                    Brought::Bytes(length)
                }
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) if why.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    Brought::Nothing
                }
                Err(_) => Brought::End,
            };
        }
    }

    /// Writes what waits. How much has gone.
    pub(super) fn flush(&mut self) -> usize {
        let mut written = 0;
        while self.writable && !self.output.is_empty() {
            match (&self.socket).write(self.output.pending()) {
                Ok(length) => {
                    self.output.wrote(length);
                    written += length;
                }
                Err(why) => self.not_written(&why),
            }
        }
        written
    }

    /// Writes messages while nothing waits, and keeps what does not fit. How much has gone.
    pub(super) fn write(&mut self, messages: &[u8]) -> usize {
        let mut written = 0;
        while self.writable && written < messages.len() {
            match (&self.socket).write(&messages[written..]) {
                Ok(length) => written += length,
                Err(why) => self.not_written(&why),
            }
        }
        if written < messages.len() {
            self.output.keep(messages, written);
        }
        written
    }

    fn not_written(&mut self, why: &io::Error) {
        match why.kind() {
            ErrorKind::Interrupted => (),
            ErrorKind::WouldBlock => self.writable = false,
            // What the peer has said before it went is still there to be read.
            _ => (self.writable, self.readable, self.is_ending) = (false, true, true),
        }
    }
}
