//! Packet filter rules of margay in the kernel: one nf_tables table, replaced whole.
//!
//! A [`Ruleset`] is plain data; `wire` turns it into one batch of netlink messages, which the
//! kernel takes or refuses as a whole (linux/netfilter/nf_tables.h). So no packet meets half a rule
//! set, no program is needed at run time, and tables of others are never touched. What is there
//! outlives the process until [`remove`] is called.

mod attributes;
mod expression;
mod rule;
#[cfg(test)]
mod tests;
mod wire;

pub use rule::{Act, Chain, Hook, Match, Members, Rule, Ruleset, Set, Side, state};

use crate::sys;
use rtnetlink::sys::{Socket, SocketAddr};
use std::io;
use std::os::fd::AsRawFd;
use wire::Batch;

/// Name of the table, in the family `inet`.
pub const TABLE: &str = "margay";
/// Netlink's number for netfilter.
const NETLINK_NETFILTER: isize = 12;
/// Bytes of a batch at most: a rule set that is larger is refused, and the one before stays.
pub const BATCH_MAX: usize = 64 << 20;
/// Bytes of the kernel's answers that are read at a time: an error carries its request's header
/// only.
const ANSWER: usize = 1 << 16;

/// Why rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// No socket, or it takes nothing.
    #[error("nf_tables: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refuses.
    #[error("nf_tables: {what}: {source}")]
    Refused {
        /// Which part of the rules.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// More than [`BATCH_MAX`].
    #[error("nf_tables: {0} bytes of rules and set members, at most {BATCH_MAX}")]
    TooLarge(usize),
}

/// What tells a table from one that somebody has emptied, or put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The kernel's number for it.
    pub handle: u64,
    /// Its chains and sets.
    pub parts: u32,
}

/// Margay's table as it is now; `None` when there is none.
pub fn look() -> Result<Option<Stamp>, NftError> {
    let socket = connected()?;
    socket.set_non_blocking(true)?;
    socket.send(&wire::question(), 0)?;
    let mut answer = Vec::with_capacity(ANSWER);
    socket.recv(&mut answer, 0)?;
    match wire::outcomes(&answer).first() {
        Some((_, code)) if *code == -libc::ENOENT => Ok(None),
        Some((_, code)) => Err(io::Error::from_raw_os_error(-code).into()),
        None => match wire::told(&answer) {
            Some(stamp) => Ok(Some(stamp)),
            None => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        },
    }
}

/// Puts a rule set in the place of the one before, in the network namespace of this thread.
pub fn replace(ruleset: &Ruleset) -> Result<(), NftError> {
    send(wire::replacement(ruleset))
}

/// Removes margay's table, if there is one.
pub fn remove() -> Result<(), NftError> {
    send(wire::removal())
}

fn send(batch: Batch) -> Result<(), NftError> {
    let (bytes, parts) = batch.finish();
    if bytes.len() > BATCH_MAX {
        return Err(NftError::TooLarge(bytes.len()));
    }
    let socket = connected()?;
    // The kernel takes a batch as one datagram, and answers before `send` returns.
    sys::set_send_buffer(&Fd(&socket), bytes.len() + ANSWER)?;
    sys::set_receive_buffer(&Fd(&socket), ANSWER + 1024 * parts.len())?;
    socket.set_non_blocking(true)?;
    let sent = socket.send(&bytes, 0)?;
    if sent != bytes.len() {
        return Err(io::Error::from(io::ErrorKind::WriteZero).into());
    }
    let mut answers = Vec::new();
    loop {
        let mut answer = Vec::with_capacity(ANSWER);
        match socket.recv(&mut answer, 0) {
            Ok(0) => break,
            Ok(_) => answers.extend(wire::outcomes(&answer)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    verdict(&answers, &parts)
}

/// A socket to the kernel.
fn connected() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// The first refusal; without a word about the end of the batch it was not taken either.
fn verdict(answers: &[(u32, i32)], parts: &[String]) -> Result<(), NftError> {
    if let Some((sequence, code)) = answers.iter().find(|(_, code)| *code != 0) {
        let what = parts.get(*sequence as usize).cloned().unwrap_or_default();
        return Err(NftError::Refused { what, source: io::Error::from_raw_os_error(-code) });
    }
    match answers.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel said nothing").into()),
        false => Ok(()),
    }
}

struct Fd<'a>(&'a Socket);

impl AsRawFd for Fd<'_> {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}
