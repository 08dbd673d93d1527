//! One peer: its configuration, its session, and what is known of both.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use margay_bgp::session::{self, ConnId, Session, State};
use margay_bgp::wire::Notification;

use super::watch::Watch;
use super::{PeerConfig, PeerStatus};
use margay_bgp::rib::{PeerId, PeerOptions, Rib};

/// A peer.
pub(super) struct Peer {
    pub(super) name: Arc<str>,
    pub(super) config: PeerConfig,
    pub(super) session: Session,
    pub(super) id: PeerId,
    /// Its connections, by the session's number and by ours.
    pub(super) connections: Vec<(ConnId, u64)>,
    /// Our address of the session that is up.
    pub(super) local: Option<IpAddr>,
    pub(super) since: SystemTime,
    pub(super) ups: u64,
    /// Bytes read and written.
    pub(super) bytes: (u64, u64),
    /// Why no session is tried.
    pub(super) blocked: Option<String>,
    pub(super) watch: Option<Watch>,
    /// Why the session was last up no more.
    pub(super) last_down: Option<String>,
}

/// What became of bytes that were read.
pub(super) struct Fed<'a> {
    /// So many are done with.
    pub(super) consumed: usize,
    /// What has to be done before the rest, and before `update`.
    pub(super) action: Option<session::Action>,
    /// An UPDATE that the RIB has not had.
    pub(super) update: Option<&'a [u8]>,
}

impl Peer {
    /// The RIB's part of the configuration.
    pub(super) fn options(name: &Arc<str>, config: &PeerConfig) -> PeerOptions {
        PeerOptions {
            name: Arc::clone(name),
            address: config.session.socket.remote,
            local_asn: config.session.local_asn,
            remote_asn: config.session.remote_asn,
            client_of: config.client_of,
            next_hop: config.next_hop,
            allowed_own_as: config.allowed_own_as,
            import: Arc::clone(&config.import),
            export: Arc::clone(&config.export),
            max_prefixes: config.max_prefixes,
        }
    }

    /// Gives messages to the session, and UPDATEs to the RIB, up to the first action.
    pub(super) fn feed<'a>(
        &mut self,
        conn: ConnId,
        bytes: &'a [u8],
        rib: &mut Rib,
        now_ns: u64,
    ) -> Fed<'a> {
        let mut consumed = 0;
        loop {
            let got = self.session.receive(conn, &bytes[consumed..], now_ns);
            consumed += got.consumed;
            let action = self.session.poll_action();
            if action.is_some() {
                return Fed { consumed, action, update: got.update };
            }
            match got.update {
                Some(body) => self.update(body, rib, now_ns),
                None if got.consumed == 0 || consumed == bytes.len() => {
                    return Fed { consumed, action: None, update: None };
                }
                None => (),
            }
        }
    }

    /// Gives an UPDATE to the RIB, and ends the session if it has to.
    pub(super) fn update(&mut self, body: &[u8], rib: &mut Rib, now_ns: u64) {
        if let Err(why) = rib.update(self.id, body) {
            self.reset(&why, now_ns);
        }
    }

    /// Ends the session for `why`.
    pub(super) fn reset(&mut self, why: &Notification, now_ns: u64) {
        self.session.reset(why, now_ns);
    }

    /// Our number of a connection.
    pub(super) fn token(&self, conn: ConnId) -> Option<u64> {
        self.connections.iter().find(|(id, _)| *id == conn).map(|(_, token)| *token)
    }

    /// True while the session is up.
    pub(super) fn is_up(&self) -> bool {
        self.session.state() == State::Established
    }

    /// Why the last session ended, or what has kept one from coming up since.
    fn last_error(&self) -> Option<String> {
        let latest = || self.session.last_error().map(ToString::to_string);
        if self.is_up() { self.last_down.clone() } else { latest() }
    }

    pub(super) fn status(&self, rib: &Rib) -> PeerStatus {
        let (local, remote) = (self.config.session.local_asn, self.config.session.remote_asn);
        let agreed = self.session.peer().filter(|_| self.is_up());
        PeerStatus {
            id: self.id,
            address: self.config.session.socket.remote,
            local: self.local,
            local_asn: local,
            remote_asn: remote,
            state: self.session.state(),
            since: self.since,
            last_error: self.last_error(),
            blocked: self.blocked.clone(),
            agreed: agreed.map(|(agreed, open)| (*agreed, open.clone())),
            times_s: self.session.times_s(),
            counts: rib.peer_counts(self.id),
            bytes: self.bytes,
            ups: self.ups,
            bfd: self.watch.as_ref().map(Watch::status),
        }
    }
}
