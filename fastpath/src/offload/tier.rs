//! One worker's part of the offload: which flows it has given to the XDP program, and what came of
//! them.
//!
//! A few packets of each burst are looked at. A flow that is met [`OFFLOAD_AFTER`] times gets a row
//! of the map; one that comes to the worker again because the generation was raised is decided anew
//! at once. Rows are read in turn: what was carried is counted, and idle flows come back. A row
//! rests for [`REST_NS`] before it is another flow's: a program that is just running may use it.

use super::decide::{Decided, Limited, decide};
use super::outer::Outer;
use super::{Decision, FlowMap, Key, layout};
use crate::counters::WorkerCounters;
use crate::flow::{self, Direction, SessionId, Tuple};
use crate::nat::Tracker;
use crate::packet::{Gso, Packet};
use crate::pipeline::View;
use crate::port::PortId;
use crate::tunnel::PathMtus;
use ahash::{AHashMap, RandomState};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

mod count;

/// Packets of a burst that are looked at, at most.
pub(crate) const SAMPLES: usize = 4;
/// Times that a flow is met before it is offloaded: below that, what is saved later does not pay
/// for the system calls.
pub(crate) const OFFLOAD_AFTER: u8 = 8;
/// Flows that are counted until then, by hash; of those that clash one at a time is.
const CANDIDATES: usize = 8192;
/// Time that a flow has for it while another one waits for its place, in nanoseconds.
const CANDIDATE_NS: u64 = 250_000_000;
/// Flows that one worker offloads between two ticks, at most.
pub(crate) const INSTALLS_PER_TICK: usize = 1024;
/// Rows that a tick reads.
const ROWS_PER_TICK: usize = 4096;
/// Time without a packet after which a flow comes back to the worker, in nanoseconds.
pub(crate) const IDLE_NS: u64 = 10_000_000_000;
/// Time before a row is used again, in nanoseconds; a program runs for less than a millisecond.
const REST_NS: u64 = 100_000_000;

/// A flow that is met often.
#[derive(Debug, Clone, Copy, Default)]
struct Candidate {
    tag: u32,
    met: u8,
    /// When it was met first, on the data plane's clock.
    since_ns: u64,
}

/// A row in use.
#[derive(Debug)]
struct Row {
    key: Key,
    decision: Decision,
    /// The session that it counts for, by number and original tuple.
    session: Option<(SessionId, Tuple, Direction)>,
    limits: [Option<Limited>; 2],
    _outer: Option<Arc<Outer>>,
    /// What of the row is counted already.
    packets: u64,
    bytes: u64,
    extra: u64,
    /// When it was used last, on the data plane's clock.
    used_ns: u64,
}

/// One worker's part.
#[derive(Debug)]
pub(crate) struct Tier {
    map: Arc<FlowMap>,
    paths: Arc<PathMtus>,
    /// What to take from the kernel's clock to have the data plane's.
    clock_ns: u64,
    first: u32,
    rows: Vec<Option<Row>>,
    free: Vec<u32>,
    resting: VecDeque<(u64, u32)>,
    by_key: AHashMap<Key, u32>,
    /// Rows by session and direction; 0 for none.
    by_session: AHashMap<SessionId, [u32; 2]>,
    candidates: Box<[Candidate]>,
    random: RandomState,
    picked: Vec<(usize, Key)>,
    /// They may have been left unfinished by their sender.
    takes_unfinished: bool,
    /// As it was before the tables were read that packets are decided by.
    generation: u64,
    budget: usize,
    hand: usize,
    turn: usize,
    /// The latest time that was told.
    now_ns: u64,
}

impl Tier {
    /// The part of worker `worker` of `workers`. `clock_ns` is what the kernel's monotonic clock is
    /// ahead of the data plane's.
    pub(crate) fn new(
        map: Arc<FlowMap>,
        (worker, workers): (u16, u16),
        clock_ns: u64,
        paths: Arc<PathMtus>,
    ) -> Box<Tier> {
        let share = FlowMap::share(worker, workers);
        map.set_clock(clock_ns);
        Box::new(Tier {
            generation: map.current(),
            map,
            paths,
            clock_ns,
            first: share.start,
            rows: Vec::new(),
            free: share.rev().collect(),
            resting: VecDeque::new(),
            by_key: AHashMap::new(),
            by_session: AHashMap::new(),
            candidates: vec![Candidate::default(); CANDIDATES].into(),
            random: RandomState::new(),
            picked: Vec::with_capacity(SAMPLES),
            takes_unfinished: false,
            budget: INSTALLS_PER_TICK,
            hand: 0,
            turn: 0,
            now_ns: 0,
        })
    }

    /// The worker is about to look whether there are new tables. What it decides after that is of
    /// this generation, or of a later one, which then costs nothing but another look.
    #[inline]
    pub(crate) fn begin_turn(&mut self) {
        self.generation = self.map.current();
    }

    /// All decisions are void, and the packets of all flows the workers'.
    pub(crate) fn raise(&self) {
        self.map.raise();
    }

    /// Flows that are offloaded now; also those that wait to be decided anew.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Notes the flows of some packets of a burst, before anything is done to them.
    #[inline]
    pub(crate) fn pick(&mut self, port: PortId, burst: &[Packet]) {
        self.picked.clear();
        if !self.map.is_ingress(port) {
            return;
        }
        self.turn = self.turn.wrapping_add(1);
        // Programs of tc know what a sender has left undone.
        self.takes_unfinished = self.map.is_by_tc(port);
        let step = burst.len().div_ceil(SAMPLES).max(1);
        for at in (self.turn % step..burst.len()).step_by(step) {
            let packet = &burst[at];
            // Those may be a tunnel's, and are the workers'.
            if packet.offload().gso == Gso::Udp {
                continue;
            }
            let length = if self.takes_unfinished { packet.len() } else { packet.head().len() };
            if let Some(key) = Key::of_head(port, packet.head(), length) {
                self.picked.push((at, key));
            }
        }
    }

    /// Offloads what has been met often enough. `goes_on` tells which packets are to be routed, and
    /// are finished, if they must be.
    #[inline]
    pub(crate) fn consider(
        &mut self,
        view: View<'_>,
        tracker: &mut Option<Tracker>,
        goes_on: impl Fn(usize, bool) -> bool,
    ) {
        self.now_ns = view.now_ns;
        for at in 0..self.picked.len() {
            let (packet, key) = self.picked[at];
            if goes_on(packet, !self.takes_unfinished) {
                self.meet(view, tracker, key);
            }
        }
    }

    fn meet(&mut self, view: View<'_>, tracker: &mut Option<Tracker>, key: Key) {
        if let Some(row) = self.by_key.get(&key).copied() {
            if self.generation_of(row) != self.generation {
                self.decide_anew(view, tracker, (key, row));
            }
        } else if self.is_heavy(&key)
            && self.budget > 0
            && let Some(decided) = decide(view, (&self.map, &self.paths), tracker.as_ref(), &key)
        {
            self.budget -= 1;
            self.install(view, tracker, key, decided);
        }
    }

    /// Counts a flow; true each time that it has been met often.
    fn is_heavy(&mut self, key: &Key) -> bool {
        let now_ns = self.now_ns;
        let hash = self.random.hash_one(key);
        let candidate = &mut self.candidates[hash as usize % CANDIDATES];
        let tag = (hash >> 32) as u32;
        if candidate.tag != tag {
            if candidate.met > 0 && now_ns < candidate.since_ns + CANDIDATE_NS {
                return false;
            }
            *candidate = Candidate { tag, met: 0, since_ns: now_ns };
        }
        candidate.met += 1;
        let is_heavy = candidate.met >= OFFLOAD_AFTER;
        if is_heavy {
            candidate.met = 0;
        }
        is_heavy
    }

    fn generation_of(&self, row: u32) -> u64 {
        self.map.records.word(row, layout::GENERATION).load(Ordering::Relaxed)
    }

    fn set_generation(&self, row: u32, generation: u64) {
        self.map.records.word(row, layout::GENERATION).store(generation, Ordering::Release);
    }

    fn row(&self, row: u32) -> Option<&Row> {
        self.rows.get((row - self.first) as usize)?.as_ref()
    }

    /// A flow whose decision is void: mostly it is the same again. A record is never rewritten
    /// while a program may read it, so another decision takes another row.
    #[cold]
    fn decide_anew(
        &mut self,
        view: View<'_>,
        tracker: &mut Option<Tracker>,
        (key, row): (Key, u32),
    ) {
        let decided = decide(view, (&self.map, &self.paths), tracker.as_ref(), &key);
        let Some(decided) = decided else {
            return self.retire(tracker, row);
        };
        let session = self.row(row).and_then(|row| row.session);
        let same_session = session.map(|(id, _, direction)| (id, direction)) == decided.tracked;
        if same_session && self.row(row).is_some_and(|row| row.decision == decided.decision) {
            if self.map.is_by_tc(key.port) {
                self.map.records.word(row, layout::WENT_NS).store(0, Ordering::Release);
            }
            return self.set_generation(row, self.generation);
        }
        self.retire(tracker, row);
        self.install(view, tracker, key, decided);
    }

    fn install(
        &mut self,
        view: View<'_>,
        tracker: &mut Option<Tracker>,
        key: Key,
        Decided { decision, tracked, limits, outer }: Decided,
    ) {
        let Some(row) = self.free.pop() else { return };
        let records = &self.map.records;
        for (at, word) in decision.words(&key.tuple).into_iter().enumerate() {
            records.word(row, 1 + at).store(word, Ordering::Relaxed);
        }
        for word in layout::PACKETS..layout::WORDS {
            records.word(row, word).store(0, Ordering::Relaxed);
        }
        self.set_generation(row, self.generation);
        if !self.map.insert(&key, row) {
            self.set_generation(row, 0);
            self.free.push(row);
            return;
        }
        let mut session = None;
        if let (Some((id, direction)), Some(tracker)) = (tracked, tracker.as_mut()) {
            session = tracker.original(id).map(|original| (id, original, direction));
            let by_tc = self.map.is_by_tc(key.port);
            tracker.set_tier(id, if by_tc { flow::Tier::Tc } else { flow::Tier::Xdp });
        }
        let at = (row - self.first) as usize;
        if at >= self.rows.len() {
            self.rows.resize_with(at + 1, || None);
        }
        let used_ns = view.now_ns;
        self.rows[at] = Some(Row {
            key,
            decision,
            session,
            limits,
            _outer: outer,
            packets: 0,
            bytes: 0,
            extra: 0,
            used_ns,
        });
        self.by_key.insert(key, row);
        if let Some((id, direction)) = tracked {
            let rows = self.by_session.entry(id).or_default();
            let before = std::mem::replace(&mut rows[direction as usize], row);
            if before != 0 {
                // It came in by another port before.
                self.retire(tracker, before);
            }
        }
    }

    /// The packets of a row's flow are the worker's again.
    fn retire(&mut self, tracker: &mut Option<Tracker>, row: u32) {
        self.set_generation(row, 0);
        let Some(entry) = self.row(row) else { return };
        let (key, session) = (entry.key, entry.session);
        if self.by_key.get(&key) == Some(&row) {
            self.by_key.remove(&key);
            self.map.remove(&key, row);
        }
        if let Some((id, original, direction)) = session
            && let Some(rows) = self.by_session.get_mut(&id)
            && rows[direction as usize] == row
        {
            rows[direction as usize] = 0;
            if *rows == [0; 2] {
                self.by_session.remove(&id);
                if let Some(tracker) = tracker.as_mut()
                    && tracker.session(id, &original).is_some()
                {
                    tracker.set_tier(id, flow::Tier::Worker);
                }
            }
        }
        self.resting.push_back((self.now_ns, row));
    }

    /// Takes back the flows of sessions that have ended, or have come to another state.
    #[inline]
    pub(crate) fn follow(&mut self, tracker: &mut Option<Tracker>) {
        while let Some(id) = tracker.as_mut().and_then(Tracker::take_withdrawn) {
            let rows = self.by_session.remove(&id).unwrap_or_default();
            for row in rows.into_iter().filter(|row| *row != 0) {
                self.retire(tracker, row);
            }
        }
    }

    /// Reads some rows, ends what is idle, and frees rows that have rested.
    pub(crate) fn tick(
        &mut self,
        tracker: &mut Option<Tracker>,
        counters: &WorkerCounters,
        now_ns: u64,
    ) {
        (self.budget, self.now_ns) = (INSTALLS_PER_TICK, now_ns);
        for _ in 0..ROWS_PER_TICK.min(self.rows.len()) {
            self.hand = (self.hand + 1) % self.rows.len();
            let row = self.first + self.hand as u32;
            if self.generation_of(row) == 0 {
                continue;
            }
            self.read(row, tracker, counters);
            if self.row(row).is_some_and(|row| row.used_ns + IDLE_NS < now_ns) {
                self.retire(tracker, row);
            }
        }
        while let Some((since_ns, row)) = self.resting.front().copied() {
            if since_ns + REST_NS > now_ns {
                break;
            }
            self.resting.pop_front();
            self.read(row, tracker, counters);
            self.rows[(row - self.first) as usize] = None;
            self.free.push(row);
        }
    }

    /// Takes everything back, for the end of the worker.
    pub(crate) fn clear(&mut self) {
        let rows: Vec<u32> = self.by_key.values().copied().collect();
        rows.into_iter().for_each(|row| self.retire(&mut None, row));
    }
}
