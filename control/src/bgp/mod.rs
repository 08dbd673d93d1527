//! The thread that runs BGP: sockets, timers, MD5 keys, and the loop that joins the sessions of
//! [`margay_bgp::session`] with the RIB.
//!
//! [`start`] begins it. [`Handle`] says what is wanted, [`Outputs`] gives what comes of it.

mod actions;
mod bfd;
mod config;
mod connection;
mod handle;
mod listener;
mod output;
mod own;
mod peer;
mod questions;
mod reconfigure;
mod report;
mod socket;
mod speaker;
mod status;
#[cfg(test)]
mod tests;
mod timers;
mod transfer;
mod watch;

pub use config::{Bfd, BgpConfig, Instance, PeerConfig};
pub use handle::{Handle, MAX_CHANGES, MAX_OUTPUTS, MAX_QUESTIONS, Output, Outputs, RouteQuery};
pub use margay_bgp::rib::{
    Best, Change, Direction, NextHopMode, OwnRoute, PeerCounts, PeerId, RibCounts, RouteView,
};
pub use status::{BfdStatus, BgpStatus, PeerStatus};

use std::io;
use std::sync::Arc;

use handle::Shared;
use speaker::Speaker;
use tokio::sync::mpsc;

/// How the thread begins.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Forwarding state of an earlier life is still in force: take the restarting side of
    /// RFC 4724.
    pub restarting: bool,
}

/// Starts the thread. It does nothing before it is given a configuration.
pub fn start(options: Options) -> io::Result<(Handle, Outputs)> {
    let shared = Shared::new()?;
    let (sender, receiver) = mpsc::channel(MAX_OUTPUTS);
    let mut speaker = Speaker::new(options, Arc::clone(&shared), sender)?;
    let thread = std::thread::Builder::new().name("bgp".to_owned()).spawn(move || speaker.run())?;
    let outputs = Outputs { receiver, shared: Arc::clone(&shared) };
    Ok((Handle { shared, thread: Some(thread) }, outputs))
}
