//! The loop of the thread. One turn: wait, note which sockets have something, run the timers that
//! are due, read, look into the letter box, let the RIB work, write, and tell results.
//!
//! Each of these takes a few milliseconds at most and goes on in the next turn. Timers come after
//! the sockets were looked at, so that no hold time runs out on a peer whose bytes wait.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use margay_bgp::rib::{PeerId, Rib, RibOptions};
use margay_bgp::session::SECOND_NS;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::sync::mpsc;

use super::connection::Connection;
use super::handle::{Output, Shared};
use super::listener::Listeners;
use super::own::OwnRoutes;
use super::peer::Peer;
use super::questions::Walk;
use super::timers::{Timer, Timers};
use super::watch::Ports;
use super::{BgpConfig, Instance, Options};

/// What an event of `epoll` is about, where it is not a connection: those count from here.
pub(super) const WAKER: u64 = 0;
pub(super) const LISTENER: u64 = 1;
pub(super) const BFD: u64 = 2;
const FIRST_CONNECTION: u64 = 16;

/// Events taken at once.
const MAX_EVENTS: usize = 1024;
/// How long one part of a turn may take: reading, the RIB's work, writing.
pub(super) const SLICE: Duration = Duration::from_millis(2);
/// Steps of the RIB between two looks at the clock.
const WORK_STEPS: usize = 512;
/// Room for what is read at once, and the beginning of a message before it.
const READ_ROOM: usize = 128 << 10;

/// A session that is up, where it is looked for most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Established {
    pub(super) key: u32,
    pub(super) token: u64,
    pub(super) id: PeerId,
}

/// All that the thread owns.
pub(super) struct Speaker {
    pub(super) shared: Arc<Shared>,
    pub(super) outputs: mpsc::Sender<Output>,
    pub(super) epoll: Epoll,
    pub(super) rib: Rib,
    pub(super) instance: Option<Instance>,
    pub(super) peers: AHashMap<u32, Peer>,
    pub(super) names: BTreeMap<String, u32>,
    pub(super) connections: AHashMap<u64, Connection>,
    pub(super) established: Vec<Established>,
    pub(super) listeners: Listeners,
    pub(super) ports: Ports,
    pub(super) timers: Timers,
    pub(super) own_routes: OwnRoutes,
    /// A configuration that waits for the one before it to be in force.
    pub(super) waiting: Option<BgpConfig>,
    /// Questions that are being answered.
    pub(super) walks: VecDeque<Walk>,
    /// Connections with bytes to read.
    pub(super) readable: VecDeque<u64>,
    pub(super) buffer: Vec<u8>,
    pub(super) filled: Vec<u8>,
    /// Whose turn to be written to comes first.
    pub(super) next_writer: usize,
    /// Waiting for End-of-RIB after our restart.
    pub(super) holding: bool,
    pub(super) hold_until_ns: u64,
    pub(super) unknown_peers: u64,
    pub(super) stopping: bool,
    pub(super) now_ns: u64,
    seeds: RandomState,
    began: Instant,
    next_key: u32,
    next_token: u64,
    woken: bool,
    busy: bool,
    ended: bool,
}

impl Speaker {
    pub(super) fn new(
        options: Options,
        shared: Arc<Shared>,
        outputs: mpsc::Sender<Output>,
    ) -> io::Result<Speaker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&shared.waker, EpollEvent::new(EpollFlags::EPOLLIN, WAKER))?;
        let mut rib = Rib::new(RibOptions {
            router_id: Ipv4Addr::UNSPECIFIED,
            cluster_id: None,
            max_ecmp: 1,
            track_next_hops: true,
        });
        if options.restarting {
            rib.hold_selection();
        }
        Ok(Speaker {
            shared,
            outputs,
            epoll,
            rib,
            instance: None,
            peers: AHashMap::new(),
            names: BTreeMap::new(),
            connections: AHashMap::new(),
            established: Vec::new(),
            listeners: Listeners::default(),
            ports: Ports::default(),
            timers: Timers::default(),
            own_routes: OwnRoutes::default(),
            waiting: None,
            walks: VecDeque::new(),
            readable: VecDeque::new(),
            buffer: vec![0; READ_ROOM],
            filled: Vec::new(),
            next_writer: 0,
            holding: options.restarting,
            hold_until_ns: 0,
            unknown_peers: 0,
            stopping: false,
            now_ns: 0,
            seeds: RandomState::new(),
            began: Instant::now(),
            next_key: 0,
            next_token: FIRST_CONNECTION,
            woken: true,
            busy: false,
            ended: false,
        })
    }

    /// Runs until it is told to stop.
    pub(super) fn run(&mut self) {
        let mut events = vec![EpollEvent::empty(); MAX_EVENTS];
        while !self.ended {
            self.wait(&mut events);
            self.run_timers();
            self.read_some();
            if std::mem::take(&mut self.woken) {
                self.take_inbox();
            }
            self.own_routes.apply(&mut self.rib);
            let has_questions = self.answer();
            let has_work = self.work();
            let can_write = self.write_some();
            self.tell();
            self.busy = has_work
                || has_questions
                || can_write
                || !self.readable.is_empty()
                || self.own_routes.is_under_way()
                || self.waiting.is_some();
            if let Some(config) = self.waiting.take_if(|_| !self.own_routes.is_under_way()) {
                self.configure(config);
            }
            self.ended |= self.stopping && self.connections.is_empty();
        }
    }

    /// Waits for the next thing to do, and notes what it is.
    fn wait(&mut self, events: &mut [EpollEvent]) {
        let mut timeout = if self.busy { EpollTimeout::ZERO } else { self.timeout() };
        loop {
            let count = match self.epoll.wait(events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                // Without it there is nothing to wait by.
                Err(_) => return self.ended = true,
            };
            self.now_ns = self.clock();
            for event in &events[..count] {
                match event.data() {
                    WAKER => self.woken = true,
                    LISTENER => self.accept(),
                    BFD => self.hear_bfd(),
                    token => self.note(token, event.events()),
                }
            }
            if count < events.len() {
                break;
            }
            timeout = EpollTimeout::ZERO;
        }
        if self.woken {
            let _ = self.shared.waker.read();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let Some(at_ns) = self.timers.next() else { return EpollTimeout::NONE };
        let left_ms = at_ns.saturating_sub(self.clock()).div_ceil(1_000_000);
        EpollTimeout::try_from(left_ms).unwrap_or(EpollTimeout::MAX)
    }

    pub(super) fn clock(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn run_timers(&mut self) {
        while let Some(timer) = self.timers.due(self.now_ns) {
            match timer {
                Timer::Session(key) => self.session_timer(key),
                Timer::Bfd(key) => self.bfd_timer(key),
                Timer::Linger(token) => self.forget(token),
                Timer::Hold => self.look_at_hold(),
                Timer::Status => self.publish_status(),
                Timer::Listen => self.listen(),
                Timer::End => self.ended = true,
            }
        }
    }

    /// Timers of a session. A peer whose bytes wait here is not a silent one.
    fn session_timer(&mut self, key: u32) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        for (conn, token) in &peer.connections {
            if self.connections.get(token).is_some_and(|one| one.readable && !one.is_ending) {
                peer.session.heard(*conn, self.now_ns);
            }
        }
        peer.session.timer(self.now_ns);
        self.drain(key);
    }

    /// Lets the RIB work for a while. True when more is to be done.
    fn work(&mut self) -> bool {
        let began = Instant::now();
        while self.rib.work(WORK_STEPS) {
            if began.elapsed() >= SLICE {
                return true;
            }
        }
        false
    }

    /// Listens where it is wanted, and tries again later where it could not.
    pub(super) fn listen(&mut self) {
        if !self.listeners.open(&self.epoll, LISTENER) {
            self.timers.arm(Timer::Listen, Some(self.now_ns + 5 * SECOND_NS));
        }
    }

    pub(super) fn new_key(&mut self) -> u32 {
        self.next_key += 1;
        self.next_key
    }

    pub(super) fn new_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// A number of its own for the timers of a peer.
    pub(super) fn seed(&self, name: &str) -> u64 {
        self.seeds.hash_one(name)
    }

    /// Peers at an address.
    pub(super) fn peers_at(&self, address: IpAddr) -> Vec<u32> {
        let here = |peer: &Peer| peer.config.session.socket.remote == address;
        let mut keys: Vec<u32> =
            self.peers.iter().filter(|(_, peer)| here(peer)).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }
}
