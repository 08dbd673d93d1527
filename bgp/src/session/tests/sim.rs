//! Two sessions and a network between them: links with seeded delays, in order within a link and
//! in no order between links, that may break.

use std::collections::BTreeMap;

use super::*;

/// A connection as the network knows it.
struct Link {
    ends: [Option<ConnId>; 2],
    /// When the last thing towards each end arrives.
    last: [u64; 2],
    open: [bool; 2],
}

enum Arrival {
    Syn { from: usize, link: usize, conn: ConnId },
    Accepted { to: usize, link: usize, conn: ConnId },
    Refused { to: usize, conn: ConnId },
    Bytes { to: usize, link: usize, bytes: Vec<u8> },
    Closed { to: usize, link: usize },
}

pub(super) struct Sim {
    pub(super) now: u64,
    pub(super) sides: [Session; 2],
    /// All that each side has told, with the time.
    pub(super) told: [Vec<(u64, Action)>; 2],
    /// Nothing arrives any more, and nobody is told.
    pub(super) black_hole: bool,
    links: Vec<Link>,
    arrivals: BTreeMap<(u64, u64), Arrival>,
    sequence: u64,
    random: Jitter,
    max_delay_ns: u64,
}

impl Sim {
    pub(super) fn new(configs: [Config; 2], seed: u64, max_delay_ns: u64) -> Sim {
        Sim {
            now: 1,
            sides: configs.map(Session::new),
            told: [Vec::new(), Vec::new()],
            black_hole: false,
            links: Vec::new(),
            arrivals: BTreeMap::new(),
            sequence: 0,
            random: Jitter::new(seed),
            max_delay_ns,
        }
    }

    pub(super) fn start(&mut self) {
        for side in 0..2 {
            self.sides[side].start(self.now);
            self.act(side);
        }
    }

    fn post(&mut self, at: u64, arrival: Arrival) {
        self.sequence += 1;
        self.arrivals.insert((at, self.sequence), arrival);
    }

    fn delay(&mut self) -> u64 {
        1 + self.random.number() % self.max_delay_ns
    }

    /// When something sent now over `link` arrives at `to`.
    fn arrives(&mut self, link: usize, to: usize) -> u64 {
        let at = (self.now + self.delay()).max(self.links[link].last[to]);
        self.links[link].last[to] = at;
        at
    }

    fn link_of(&self, side: usize, conn: ConnId) -> Option<usize> {
        self.links.iter().position(|link| link.ends[side] == Some(conn))
    }

    /// Does what a side wants.
    pub(super) fn act(&mut self, side: usize) {
        while let Some(action) = self.sides[side].poll_action() {
            match action {
                Action::Connect(conn) => {
                    let ends = [None, None];
                    self.links.push(Link { ends, last: [0; 2], open: [false; 2] });
                    let link = self.links.len() - 1;
                    self.links[link].ends[side] = Some(conn);
                    let at = self.arrives(link, 1 - side);
                    self.post(at, Arrival::Syn { from: side, link, conn });
                }
                Action::Close(conn) => self.close(side, conn),
                Action::Send(conn, bytes) => self.send(side, conn, bytes),
                Action::Keepalive(conn) => self.send(side, conn, frame::KEEPALIVE.to_vec()),
                told => self.told[side].push((self.now, told)),
            }
        }
    }

    fn send(&mut self, side: usize, conn: ConnId, bytes: Vec<u8>) {
        let Some(link) = self.link_of(side, conn) else { return };
        let at = self.arrives(link, 1 - side);
        self.sides[side].wrote(conn, bytes.len(), 0, self.now);
        self.post(at, Arrival::Bytes { to: 1 - side, link, bytes });
    }

    fn close(&mut self, side: usize, conn: ConnId) {
        let Some(link) = self.link_of(side, conn) else { return };
        self.links[link].open[side] = false;
        self.links[link].ends[side] = None;
        let at = self.arrives(link, 1 - side);
        self.post(at, Arrival::Closed { to: 1 - side, link });
    }

    /// Breaks all links, which both ends notice.
    pub(super) fn break_links(&mut self) {
        for link in 0..self.links.len() {
            for to in 0..2 {
                let at = self.arrives(link, to);
                self.post(at, Arrival::Closed { to, link });
            }
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let now = self.now;
        if self.black_hole {
            return;
        }
        let side = match arrival {
            Arrival::Syn { from, link, conn } => {
                let to = 1 - from;
                let at = self.arrives(link, from);
                match self.sides[to].accepted(now) {
                    Some(theirs) => {
                        self.links[link].ends[to] = Some(theirs);
                        self.links[link].open[to] = true;
                        self.post(at, Arrival::Accepted { to: from, link, conn });
                    }
                    None => self.post(at, Arrival::Refused { to: from, conn }),
                }
                to
            }
            Arrival::Accepted { to, link, conn } => {
                if self.links[link].ends[to] == Some(conn) {
                    self.links[link].open[to] = true;
                    self.sides[to].connected(conn, now);
                }
                to
            }
            Arrival::Refused { to, conn } => {
                self.sides[to].connect_failed(conn, now);
                to
            }
            Arrival::Bytes { to, link, bytes } => {
                if let Some(conn) = self.links[link].ends[to] {
                    let received = self.sides[to].receive(conn, &bytes, now);
                    assert_eq!(received.consumed, bytes.len());
                }
                to
            }
            Arrival::Closed { to, link } => {
                if let Some(conn) = self.links[link].ends[to].take() {
                    self.links[link].open[to] = false;
                    self.sides[to].closed(conn, now);
                }
                to
            }
        };
        self.act(side);
    }

    /// Lets time pass until `until`, or until `done`; true when done.
    pub(super) fn run(&mut self, until: u64, done: impl Fn(&Sim) -> bool) -> bool {
        let mut steps = 0;
        while !done(self) {
            steps += 1;
            assert!(steps < 1_000_000, "nothing is bounded");
            let arrival = self.arrivals.keys().next().map(|(at, _)| *at);
            let timers = self.sides.iter().filter_map(Session::poll_timeout);
            let Some(next) = timers.chain(arrival).min().filter(|next| *next <= until) else {
                self.now = until;
                return done(self);
            };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now)
                && let Some((_, arrival)) = self.arrivals.pop_first()
            {
                self.arrive(arrival);
                continue;
            }
            for side in 0..2 {
                self.sides[side].timer(self.now);
                self.act(side);
            }
        }
        true
    }

    pub(super) fn both(&self, state: State) -> bool {
        self.sides.iter().all(|side| side.state() == state)
    }

    /// The link on which each side is established.
    pub(super) fn links_in_use(&self) -> [Option<usize>; 2] {
        [0, 1].map(|side| {
            let session = &self.sides[side];
            let up = session.connections.iter().find(|one| one.state == ConnState::Established)?;
            self.link_of(side, up.id)
        })
    }

    pub(super) fn connections(&self) -> [usize; 2] {
        [0, 1].map(|side| self.sides[side].connections.len())
    }
}
