//! One BFD session: the state machine of RFC 5880 section 6.2, poll sequences (6.5), and the
//! negotiation of timers (6.8.2 to 6.8.7). Same style as the BGP session: times are nanoseconds of
//! any monotonic clock, and actions are taken out after each input.

use std::collections::VecDeque;

use super::packet::{Diagnostic, Malformed, PACKET_LEN, Packet, State};
use crate::session::Jitter;

/// The least transmit interval that is announced while not Up, in microseconds (section 6.8.3).
pub const SLOW_TX_US: u32 = 1_000_000;

/// How far the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// RFC 5881: packets come with a TTL of 255.
    SingleHop,
    /// RFC 5883: with at least this TTL.
    Multihop(u8),
}

/// What a session is configured to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Our number for it; unique among our sessions, not 0.
    pub discriminator: u32,
    /// How far the peer may be.
    pub path: Path,
    /// The least time between packets that we would like to send, in microseconds.
    pub desired_min_tx_us: u32,
    /// The least time between packets that we can take, in microseconds.
    pub required_min_rx_us: u32,
    /// After so many lost packets in a row the peer gives us up.
    pub detect_mult: u8,
    /// Send nothing before the peer does (section 6.1).
    pub passive: bool,
    /// Differs from session to session.
    pub seed: u64,
}

/// One thing to do, or to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send this UDP payload with a TTL of 255.
    Send([u8; PACKET_LEN]),
    /// Both sides hear each other.
    Up,
    /// They did, and don't any more.
    Down(Diagnostic),
    /// The peer has stopped its session: no failure of the path (RFC 5882 section 3.2).
    PeerAdminDown,
}

/// Why a packet was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is wrong by itself.
    Malformed(Malformed),
    /// It has come from too far (RFC 5881 section 5).
    Ttl(u8),
    /// It is for another session.
    Discriminator(u32),
    /// This session is stopped.
    AdminDown,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    config: Config,
    state: State,
    diagnostic: Diagnostic,
    /// What the peer's packets have last said.
    remote: Option<Packet>,
    /// A poll sequence is under way; `poll_again` when values have changed meanwhile.
    pub(super) polling: bool,
    poll_again: bool,
    /// The intervals in force, which follow the configured ones when the rules allow.
    pub(super) tx_us: u32,
    pub(super) rx_us: u32,
    last_tx_ns: u64,
    pub(super) next_tx_ns: Option<u64>,
    detect_ns: Option<u64>,
    jitter: Jitter,
    actions: VecDeque<Action>,
}

impl Session {
    /// One that is stopped.
    pub fn new(config: Config) -> Session {
        let detect_mult = config.detect_mult.max(1);
        let required_min_rx_us = config.required_min_rx_us.max(1);
        let desired_min_tx_us = config.desired_min_tx_us.max(1);
        Session {
            config: Config { detect_mult, required_min_rx_us, desired_min_tx_us, ..config },
            state: State::AdminDown,
            diagnostic: Diagnostic::NONE,
            remote: None,
            polling: false,
            poll_again: false,
            tx_us: SLOW_TX_US.max(desired_min_tx_us),
            rx_us: required_min_rx_us,
            last_tx_ns: 0,
            next_tx_ns: None,
            detect_ns: None,
            jitter: Jitter::new(config.seed),
            actions: VecDeque::new(),
        }
    }

    /// Looks for the peer from now on.
    pub fn enable(&mut self, now_ns: u64) {
        if self.state == State::AdminDown {
            self.state = State::Down;
            self.diagnostic = Diagnostic::NONE;
            // Anywhere in the first interval, so that many sessions don't send at once.
            self.next_tx_ns =
                self.may_send().then(|| now_ns + self.jitter.number() % 1_000_000_000);
        }
    }

    /// Stops, and tells the peer for as long as it needs to hear it (section 6.8.16).
    pub fn disable(&mut self, now_ns: u64) {
        if self.state != State::AdminDown {
            self.change(State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN, now_ns);
        }
    }

    /// Other intervals from now on (section 6.8.3). Slower sending and faster giving up wait until
    /// the peer knows.
    pub fn set_intervals(&mut self, tx_us: u32, rx_us: u32, now_ns: u64) {
        (self.config.desired_min_tx_us, self.config.required_min_rx_us) =
            (tx_us.max(1), rx_us.max(1));
        if self.state != State::Up {
            return self.apply_intervals(now_ns);
        }
        self.poll_again = self.polling;
        self.polling = true;
        self.tx_us = self.tx_us.min(self.announced_tx_us());
        self.rx_us = self.rx_us.max(self.config.required_min_rx_us);
        self.send(false, now_ns);
    }

    /// A UDP payload has come with this TTL (section 6.8.6).
    pub fn receive(&mut self, payload: &[u8], ttl: u8, now_ns: u64) -> Result<(), Refused> {
        let least_ttl = match self.config.path {
            Path::SingleHop => super::TTL,
            Path::Multihop(least) => least,
        };
        if ttl < least_ttl {
            return Err(Refused::Ttl(ttl));
        }
        let packet = Packet::decode(payload).map_err(Refused::Malformed)?;
        let ours = self.config.discriminator;
        if packet.your_discriminator != 0 && packet.your_discriminator != ours {
            return Err(Refused::Discriminator(packet.your_discriminator));
        }
        if self.state == State::AdminDown {
            return Err(Refused::AdminDown);
        }
        self.remote = Some(packet);
        if self.polling && packet.final_ {
            self.end_poll(now_ns);
        }
        self.advance(packet.state, now_ns);
        self.detect_ns = Some(now_ns + self.detection_time_ns(&packet));
        if packet.poll {
            self.send(true, now_ns);
        }
        self.reschedule(now_ns);
        Ok(())
    }

    /// The state machine of section 6.2, on a state of the other side.
    fn advance(&mut self, theirs: State, now_ns: u64) {
        let signaled = Diagnostic::NEIGHBOR_SIGNALED_DOWN;
        match (self.state, theirs) {
            (State::Init | State::Up, State::AdminDown) => {
                let was_up = self.state == State::Up;
                self.state = State::Init;
                self.change(State::Down, signaled, now_ns);
                if was_up {
                    self.actions.push_back(Action::PeerAdminDown);
                }
            }
            (State::Down, State::Down) => self.change(State::Init, Diagnostic::NONE, now_ns),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.change(State::Up, Diagnostic::NONE, now_ns);
            }
            (State::Up, State::Down) => self.change(State::Down, signaled, now_ns),
            _ => (),
        }
    }

    fn change(&mut self, state: State, diagnostic: Diagnostic, now_ns: u64) {
        let before = std::mem::replace(&mut self.state, state);
        // The diagnostic says why Up was last left; it goes when Up is back.
        if diagnostic != Diagnostic::NONE || state == State::Up {
            self.diagnostic = diagnostic;
        }
        // Section 6.8.3: the announced interval has changed, which the peer must confirm.
        self.polling = state == State::Up;
        self.poll_again = false;
        self.apply_intervals(now_ns);
        match (before, state) {
            (_, State::Up) => self.actions.push_back(Action::Up),
            (State::Up, _) => self.actions.push_back(Action::Down(diagnostic)),
            _ => (),
        }
        // Section 6.8.7: what differs from the last packet is not held back.
        if self.may_send() {
            self.send(false, now_ns);
        }
    }

    fn end_poll(&mut self, now_ns: u64) {
        self.polling = std::mem::take(&mut self.poll_again);
        if !self.polling {
            self.apply_intervals(now_ns);
        }
    }

    fn apply_intervals(&mut self, now_ns: u64) {
        (self.tx_us, self.rx_us) = (self.announced_tx_us(), self.config.required_min_rx_us);
        self.reschedule(now_ns);
    }

    /// Runs the timers that are due.
    pub fn timer(&mut self, now_ns: u64) {
        if self.detect_ns.is_some_and(|at| at <= now_ns) {
            self.detect_ns = None;
            // Section 6.8.1: its number is forgotten too.
            self.remote = None;
            if self.state == State::AdminDown {
                self.next_tx_ns = None;
            } else if self.state != State::Down {
                self.change(State::Down, Diagnostic::DETECTION_TIME_EXPIRED, now_ns);
            }
            if !self.may_send() {
                self.next_tx_ns = None;
            }
        }
        if self.next_tx_ns.is_some_and(|at| at <= now_ns) {
            self.send(false, now_ns);
        }
    }

    fn send(&mut self, final_: bool, now_ns: u64) {
        let packet = Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            // Section 6.5: never both.
            poll: self.polling && !final_,
            final_,
            independent: false,
            demand: false,
            detect_mult: self.config.detect_mult,
            my_discriminator: self.config.discriminator,
            your_discriminator: self.remote.map_or(0, |remote| remote.my_discriminator),
            desired_min_tx_us: self.announced_tx_us(),
            required_min_rx_us: self.config.required_min_rx_us,
            required_min_echo_rx_us: 0,
        };
        self.actions.push_back(Action::Send(packet.encode()));
        if !final_ {
            self.last_tx_ns = now_ns;
            self.next_tx_ns = None;
            self.reschedule(now_ns);
        }
    }

    /// Sets the time of the next periodic packet: by the interval in force from the last one, and
    /// not later than it was to be.
    fn reschedule(&mut self, now_ns: u64) {
        let Some(interval_ns) = self.interval_ns() else { return self.next_tx_ns = None };
        let most = if self.config.detect_mult == 1 { 90 } else { 100 };
        let at = self.last_tx_ns + self.jitter.percent_of(interval_ns, 75, most);
        let at = at.max(now_ns);
        let is_far = |planned: u64| planned > now_ns + interval_ns || planned > at;
        if self.next_tx_ns.is_none_or(is_far) {
            self.next_tx_ns = Some(at);
        }
    }

    /// The transmit interval of section 6.8.7; `None` when there are no periodic packets.
    fn interval_ns(&self) -> Option<u64> {
        let least_us = self.remote.map_or(1, |remote| remote.required_min_rx_us);
        let is_silenced = self.remote.is_some_and(|remote| {
            let both_up = self.state == State::Up && remote.state == State::Up;
            remote.demand && both_up && !self.polling
        });
        let is_over = self.state == State::AdminDown && self.detect_ns.is_none();
        let periodic = self.may_send() && least_us > 0 && !is_silenced && !is_over;
        periodic.then(|| u64::from(self.tx_us.max(least_us)) * 1000)
    }

    /// Section 6.1: the passive side speaks when spoken to.
    fn may_send(&self) -> bool {
        !self.config.passive || self.remote.is_some()
    }

    /// Section 6.8.3: not Up is slow.
    fn announced_tx_us(&self) -> u32 {
        let wanted = self.config.desired_min_tx_us;
        if self.state == State::Up { wanted } else { wanted.max(SLOW_TX_US) }
    }

    /// Section 6.8.4.
    fn detection_time_ns(&self, remote: &Packet) -> u64 {
        let interval_us = u64::from(self.rx_us.max(remote.desired_min_tx_us));
        u64::from(remote.detect_mult) * interval_us * 1000
    }
}

/// What can be seen from outside.
impl Session {
    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Session::timer`] is to be called next.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.next_tx_ns.into_iter().chain(self.detect_ns).min()
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The last packet of the peer, unless it is long ago.
    pub fn remote(&self) -> Option<&Packet> {
        self.remote.as_ref()
    }

    /// Why it last left Up.
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// Microseconds between our packets, and after how many without one of the peer's it counts as
    /// gone; `None` where there is nothing to send or to wait for.
    pub fn times_us(&self) -> (Option<u64>, Option<u64>) {
        let detection = self.remote.map(|remote| self.detection_time_ns(&remote) / 1000);
        (self.interval_ns().map(|interval| interval / 1000), detection)
    }
}
