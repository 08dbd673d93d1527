//! What the thread tells: best paths and next hops as fast as they are taken, and the status once
//! in a while. Also the end of waiting after a restart of ours (RFC 4724 section 4.1).

use std::sync::Arc;

use margay_bgp::session::SECOND_NS;

use super::BgpStatus;
use super::handle::{MAX_CHANGES, Output};
use super::peer::Peer;
use super::speaker::Speaker;
use super::timers::Timer;

/// The longest wait for End-of-RIB.
pub(super) const MAX_HOLD_NS: u64 = 30 * SECOND_NS;
/// Time between looks at who is still awaited.
const HOLD_STEP_NS: u64 = SECOND_NS / 10;
/// Age of the status after which it is written anew, when something has moved.
const STATUS_NS: u64 = SECOND_NS;
/// The same after a session has come or gone.
const STATUS_SOON_NS: u64 = SECOND_NS / 50;

impl Speaker {
    /// Tells what has changed for as long as there is room; the newest state of the rest waits in
    /// the RIB.
    pub(super) fn tell(&mut self) {
        while self.outputs.capacity() > 0 {
            let mut next_hops = Vec::new();
            self.rib.take_next_hop_requests(&mut next_hops);
            let output = if !next_hops.is_empty() {
                Output::NextHops(next_hops)
            } else if self.rib.has_changes() {
                let mut changes = Vec::new();
                self.rib.take_changes(MAX_CHANGES, &mut changes);
                Output::Changes(changes)
            } else {
                return;
            };
            if self.outputs.try_send(output).is_err() {
                return;
            }
        }
    }

    /// The status has changed so that somebody may wait for it.
    pub(super) fn status_soon(&mut self) {
        self.timers.arm(Timer::Status, Some(self.now_ns + STATUS_SOON_NS));
    }

    /// Some count in it has changed.
    pub(super) fn status_later(&mut self) {
        self.timers.arm(Timer::Status, Some(self.now_ns + STATUS_NS));
    }

    pub(super) fn publish_status(&mut self) {
        let named = self
            .names
            .iter()
            .filter_map(|(name, key)| Some((name.clone(), self.peers.get(key)?.status(&self.rib))));
        self.shared.status.store(Arc::new(BgpStatus {
            instance: self.instance.clone(),
            peers: named.collect(),
            listen_errors: self.listeners.errors.clone(),
            unknown_peers: self.unknown_peers,
            rib: self.rib.counts(),
            holding: self.holding,
        }));
    }

    /// Peers are there: the time for their End-of-RIB runs.
    pub(super) fn begin_hold(&mut self) {
        self.hold_until_ns = self.now_ns + MAX_HOLD_NS;
        self.timers.arm(Timer::Hold, Some(self.now_ns));
    }

    /// Ends the waiting when there is nobody to wait for, or no more time.
    pub(super) fn look_at_hold(&mut self) {
        let is_awaited = |peer: &Peer| awaits(peer, self.rib.has_end_of_rib(peer.id));
        if self.now_ns < self.hold_until_ns && self.peers.values().any(is_awaited) {
            return self.timers.arm(Timer::Hold, Some(self.now_ns + HOLD_STEP_NS));
        }
        self.holding = false;
        self.rib.end_of_hold();
        for peer in self.peers.values_mut() {
            peer.session.restart_done();
        }
        self.status_soon();
    }
}

/// RFC 4724 section 4.1: peers that have just restarted themselves, and those without graceful
/// restart, are not waited for; neither is one that is not reached.
fn awaits(peer: &Peer, has_end_of_rib: bool) -> bool {
    let tells = peer
        .session
        .peer()
        .is_none_or(|(agreed, _)| agreed.restart.is_some_and(|restart| !restart.restarted));
    peer.session.is_expected() && tells && !has_end_of_rib
}
