//! From what runs to what is wanted. Policies, limits and BFD change under a session; what was
//! said in an OPEN, or is a matter of its socket, ends it and begins another.

use std::sync::Arc;
use std::time::SystemTime;

use margay_bgp::rib::{MAX_PEERS, RibOptions};
use margay_bgp::session::{self, SECOND_NS, Session, StopReason};
use margay_bgp::wire::Notification;
use margay_bgp::wire::notification::{ADMINISTRATIVE_RESET, CEASE};

use super::listener::Keys;
use super::peer::Peer;
use super::speaker::Speaker;
use super::timers::Timer;
use super::{BgpConfig, Instance, PeerConfig};

/// How long sessions may take to say goodbye when the thread ends.
const FAREWELL_NS: u64 = SECOND_NS;

/// True when a session of the one kind cannot go on as one of the other.
fn needs_new_session(old: &PeerConfig, new: &PeerConfig) -> bool {
    let plain =
        |config: &session::Config| session::Config { restarted: false, seed: 0, ..config.clone() };
    plain(&old.session) != plain(&new.session)
}

impl Speaker {
    /// Looks into the letter box.
    pub(super) fn take_inbox(&mut self) {
        let inbox = self.shared.take();
        for (next_hop, metric) in inbox.next_hops {
            self.rib.set_next_hop(next_hop, metric);
        }
        for name in inbox.resets {
            if let Some(&key) = self.names.get(&name) {
                self.reset(key, &Notification::new(CEASE, ADMINISTRATIVE_RESET));
            }
        }
        self.ask(inbox.questions);
        if inbox.config.is_some() {
            self.waiting = inbox.config;
        }
        if let Some(reason) = inbox.stop {
            self.stop(&reason);
        }
    }

    fn stop(&mut self, reason: &StopReason) {
        self.stopping = true;
        self.waiting = None;
        self.listeners.close();
        for key in self.names.values().copied().collect::<Vec<u32>>() {
            self.end_watch(key);
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.session.stop(reason, self.now_ns);
                self.drain(key);
            }
        }
        self.timers.arm(Timer::End, Some(self.now_ns + FAREWELL_NS));
    }

    pub(super) fn reset(&mut self, key: u32, why: &Notification) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.reset(why, self.now_ns);
            self.drain(key);
        }
    }

    /// Has this configuration from now on.
    pub(super) fn configure(&mut self, config: BgpConfig) {
        let is_first = self.instance.is_none();
        let BgpConfig { instance, peers, own_routes } = config;
        for (name, key) in self.names.clone() {
            let Some(peer) = self.peers.get(&key) else { continue };
            match peers.get(&name) {
                None => self.remove(&name, &StopReason::Deconfigured),
                Some(new) if needs_new_session(&peer.config, new) => {
                    self.remove(&name, &StopReason::ConfigChange);
                }
                Some(_) => (),
            }
        }
        self.set_instance(instance);
        let keys = keys(peers.values());
        let is_rekeyed = self.listeners.set_keys(keys);
        if is_rekeyed {
            // Connections that came under other keys; their peers are not known at this moment.
            self.accept();
        }
        self.listen();
        for (name, config) in peers {
            match self.names.get(&name) {
                Some(&key) => self.change(key, config),
                None => self.add_peer(name, config),
            }
        }
        self.own_routes.want(own_routes);
        if is_first && self.holding {
            self.begin_hold();
        }
        self.status_soon();
    }

    fn set_instance(&mut self, instance: Instance) {
        if self.instance.as_ref() == Some(&instance) {
            return;
        }
        self.rib.set_options(RibOptions {
            router_id: instance.router_id,
            cluster_id: instance.cluster_id,
            max_ecmp: instance.max_ecmp,
            track_next_hops: true,
        });
        self.listeners.want(&instance.listen, instance.port);
        self.instance = Some(instance);
    }

    fn remove(&mut self, name: &str, reason: &StopReason) {
        let Some(key) = self.names.remove(name) else { return };
        self.end_watch(key);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.session.stop(reason, self.now_ns);
            self.drain(key);
        }
        self.timers.disarm(Timer::Session(key));
        if let Some(peer) = self.peers.remove(&key) {
            self.rib.remove_peer(peer.id);
        }
    }

    fn add_peer(&mut self, name: String, config: PeerConfig) {
        let key = self.new_key();
        let label: Arc<str> = name.as_str().into();
        let Some(id) = self.rib.add_peer(Peer::options(&label, &config)) else {
            tracing::error!(peer = %name, limit = MAX_PEERS, "BGP has too many peers");
            return;
        };
        let session = Session::new(session::Config {
            restarted: self.holding,
            seed: self.seed(&name),
            ..config.session.clone()
        });
        let blocked = self.why_blocked(&config);
        let peer = Peer {
            name: label,
            config,
            session,
            id,
            connections: Vec::new(),
            local: None,
            since: SystemTime::now(),
            ups: 0,
            bytes: (0, 0),
            blocked,
            watch: None,
            last_down: None,
        };
        self.peers.insert(key, peer);
        self.names.insert(name, key);
        self.start(key);
    }

    /// Starts the session of a peer, unless something keeps it from being safe.
    fn start(&mut self, key: u32) {
        if let Some(peer) = self.peers.get_mut(&key)
            && peer.blocked.is_none()
        {
            peer.session.start(self.now_ns);
            self.drain(key);
        }
    }

    /// RFC 2385, and rather no session than one without its key.
    fn why_blocked(&self, config: &PeerConfig) -> Option<String> {
        let socket = &config.session.socket;
        let keyless = || self.listeners.keyless.get(&socket.remote).cloned();
        let other_key = || {
            let mut others = self.peers_at(socket.remote).into_iter();
            let differs = |key| {
                self.peers.get(&key).is_some_and(|other: &Peer| {
                    other.config.session.socket.md5_key != socket.md5_key
                })
            };
            others.any(differs).then(|| "another peer of this address has another key".to_owned())
        };
        keyless().or_else(other_key)
    }

    /// What changes under a session.
    fn change(&mut self, key: u32, config: PeerConfig) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.config == config {
            return;
        }
        let (before, after) = (&peer.config, &config);
        let is_for_rib = Peer::options(&peer.name, before) != Peer::options(&peer.name, after);
        let is_watched = before.bfd != after.bfd;
        peer.config = config;
        if is_for_rib {
            self.rib.set_peer(peer.id, Peer::options(&peer.name, &peer.config));
        }
        if is_watched {
            self.watch(key);
        }
    }
}

/// The keys of these peers by address; the first one's where several share one.
fn keys<'a>(peers: impl Iterator<Item = &'a PeerConfig>) -> Keys {
    let mut keys = Keys::new();
    for socket in peers.map(|peer| &peer.session.socket) {
        if let Some(key) = &socket.md5_key {
            keys.entry(socket.remote).or_insert_with(|| key.clone());
        }
    }
    keys
}
