//! BFD beside the sessions: a path that is found dead ends the session at once (RFC 5882 section
//! 4.1), with the NOTIFICATION of RFC 9384.
//!
//! Watching begins when the session first comes up, which tells our address, and goes on while it
//! is down. A peer that stops BFD by itself keeps its session.

use margay_bgp::bfd::Action;
use margay_bgp::wire::Notification;
use margay_bgp::wire::notification::{BFD_DOWN, CEASE};

use super::speaker::{BFD, Speaker};
use super::timers::Timer;
use super::watch::Watch;

impl Speaker {
    /// Watches a peer as its configuration says, if our address towards it is known.
    pub(super) fn watch(&mut self, key: u32) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(wanted) = peer.config.bfd else { return self.end_watch(key) };
        let Some(local) = peer.local else { return };
        let now_ns = self.now_ns;
        if peer.watch.as_mut().is_some_and(|watch| watch.becomes(wanted, local, now_ns)) {
            return self.drain_bfd(key);
        }
        self.end_watch(key);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match self.ports.open((key, &peer.config, wanted), local, (&self.epoll, BFD)) {
            Ok(watch) => peer.watch.insert(watch).session.enable(now_ns),
            Err(why) => tracing::warn!(peer = %peer.name, %why, "BFD has no socket"),
        }
        self.drain_bfd(key);
    }

    /// Does not watch it any more, and tells the peer so.
    pub(super) fn end_watch(&mut self, key: u32) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(mut watch) = peer.watch.take() else { return };
        watch.session.disable(self.now_ns);
        while let Some(action) = watch.session.poll_action() {
            if let Action::Send(packet) = action {
                watch.send(&packet);
            }
        }
        self.timers.disarm(Timer::Bfd(key));
        self.ports.close(&watch, self.peers.values().filter_map(|peer| peer.watch.as_ref()));
    }

    pub(super) fn bfd_timer(&mut self, key: u32) {
        if let Some(watch) = self.watch_of(key) {
            let (session, now_ns) = watch;
            session.session.timer(now_ns);
        }
        self.drain_bfd(key);
    }

    fn watch_of(&mut self, key: u32) -> Option<(&mut Watch, u64)> {
        let now_ns = self.now_ns;
        Some((self.peers.get_mut(&key)?.watch.as_mut()?, now_ns))
    }

    /// Takes packets that have come.
    pub(super) fn hear_bfd(&mut self) {
        for arrival in self.ports.receive() {
            let mut keys = self.peers_at(arrival.from);
            keys.extend(self.ports.peer(&arrival));
            for key in keys.into_iter().rev() {
                let Some((watch, now_ns)) = self.watch_of(key) else { continue };
                if !arrival.is_for(watch) {
                    continue;
                }
                let before = watch.status();
                let taken = watch.session.receive(&arrival.payload, arrival.ttl, now_ns).is_ok();
                let is_news = watch.status().remote != before.remote;
                self.drain_bfd(key);
                if is_news {
                    self.status_soon();
                }
                if taken {
                    break;
                }
            }
        }
    }

    fn drain_bfd(&mut self, key: u32) {
        while let Some((watch, _)) = self.watch_of(key)
            && let Some(action) = watch.session.poll_action()
        {
            match action {
                Action::Send(packet) => watch.send(&packet),
                Action::Up | Action::PeerAdminDown => self.status_soon(),
                Action::Down(_) => {
                    self.reset(key, &Notification::new(CEASE, BFD_DOWN));
                    self.status_soon();
                }
            }
        }
        if let Some((watch, _)) = self.watch_of(key) {
            let next = watch.session.poll_timeout();
            self.timers.arm(Timer::Bfd(key), next);
        }
    }
}
