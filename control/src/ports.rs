//! The life of ports: opened when their device is there, opened anew when it changed, closed when
//! nobody wants them.
//!
//! [`Ports`] decides and remembers; [`crate::devices`] opens. A device that cannot be opened is
//! tried again with growing pauses, and at once when it is another device of the same name.

#[cfg(test)]
mod tests;

use crate::devices::{OpenError, Opened};
use crate::kernel::mirror::Mirror;
use crate::resolve::ports::PortKind;
use margay_fastpath::limit::QueueAccount;
use margay_fastpath::port::PortId;
use margay_tunnels::wire::ethernet::Mac;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// First pause after a port could not be opened; each further one is twice as long.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(50);
/// Longest pause.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(2);
/// Most ports.
pub(crate) const PORTS_MAX: usize = 16_384;

/// All ports by name.
#[derive(Debug)]
pub(crate) struct Ports {
    by_name: BTreeMap<Arc<str>, State>,
    ids: BTreeSet<PortId>,
    load: Vec<usize>,
}

/// One port.
#[derive(Debug)]
pub(crate) struct State {
    /// What it is for.
    pub(crate) kind: PortKind,
    /// How far it is.
    pub(crate) phase: Phase,
}

/// How far a port is.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Not open.
    Waiting {
        /// When it is tried next.
        at: Instant,
        /// How often it failed in a row.
        failures: u32,
        /// Device that it was last tried on.
        device: Option<u32>,
        /// Why it is not open.
        why: String,
    },
    /// Packets go through it.
    Open(Box<Open>),
}

/// An open port.
#[derive(Debug)]
pub(crate) struct Open {
    /// Its number.
    pub(crate) id: PortId,
    /// Device and MTU that it was opened with; `None` for TAPs.
    pub(crate) device: Option<(u32, u32)>,
    /// The first of its workers.
    pub(crate) worker: usize,
    /// Link address of margay there.
    pub(crate) mac: Mac,
    /// Link address of the only station behind it, for TAPs.
    pub(crate) station: Option<Mac>,
    /// MTU of a TAP.
    pub(crate) mtu: Option<u16>,
    /// What becomes of packets from it in the queues of congested ports.
    pub(crate) queue: QueueAccount,
    /// Keeps what must live as long as the port.
    #[allow(dead_code)]
    pub(crate) keep: crate::devices::Keep,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Ports to close, by name.
    pub(crate) close: Vec<Arc<str>>,
    /// Ports to open, by name.
    pub(crate) open: Vec<(Arc<str>, PortKind)>,
}

impl Ports {
    /// No ports, for so many workers.
    pub(crate) fn new(workers: usize) -> Ports {
        Ports { by_name: BTreeMap::new(), ids: BTreeSet::new(), load: vec![0; workers.max(1)] }
    }

    /// All ports, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &State)> {
        self.by_name.iter()
    }

    /// The ports that are open, by name.
    pub(crate) fn open(&self) -> impl Iterator<Item = (&Arc<str>, &PortKind, &Open)> {
        self.by_name.iter().filter_map(|(name, state)| match &state.phase {
            Phase::Open(open) => Some((name, &state.kind, open.as_ref())),
            Phase::Waiting { .. } => None,
        })
    }

    /// The name of an open port.
    pub(crate) fn name_of(&self, id: PortId) -> Option<Arc<str>> {
        self.open().find(|(_, _, open)| open.id == id).map(|(name, ..)| name.clone())
    }

    /// What a port is for.
    pub(crate) fn kind_of(&self, name: &str) -> Option<&PortKind> {
        self.by_name.get(name).map(|state| &state.kind)
    }

    /// What the wanted ports and the devices that are there ask for.
    pub(crate) fn plan(
        &mut self,
        wanted: &BTreeMap<Arc<str>, PortKind>,
        mirror: &Mirror,
        now: Instant,
    ) -> Plan {
        let mut plan = Plan::default();
        self.by_name.retain(|name, state| {
            let kept = wanted.get(name) == Some(&state.kind);
            match &state.phase {
                Phase::Waiting { .. } => kept,
                Phase::Open(open) => {
                    if !kept || is_stale(name, open, mirror) {
                        plan.close.push(name.clone());
                    }
                    true
                }
            }
        });
        for (name, kind) in wanted.iter().take(PORTS_MAX) {
            let state = self.by_name.entry(name.clone()).or_insert_with(|| State {
                kind: kind.clone(),
                phase: Phase::Waiting { at: now, failures: 0, device: None, why: String::new() },
            });
            if is_due(name, state, mirror, now) {
                plan.open.push((name.clone(), kind.clone()));
            }
        }
        plan
    }

    /// A number for a new port, and the worker that serves it.
    pub(crate) fn reserve(&mut self) -> Option<(PortId, usize)> {
        let free = (0..PORTS_MAX as u16).map(PortId).find(|id| !self.ids.contains(id))?;
        self.ids.insert(free);
        let least = self.load.iter().enumerate().min_by_key(|(_, load)| **load);
        Some((free, least.map_or(0, |(worker, _)| worker)))
    }

    /// A port has been opened; its parts are the caller's to attach.
    pub(crate) fn opened(&mut self, name: &Arc<str>, open: Open) {
        self.load[open.worker] += 1;
        if let Some(state) = self.by_name.get_mut(name) {
            state.phase = Phase::Open(Box::new(open));
        }
    }

    /// A port could not be opened; true when that is news.
    pub(crate) fn failed(
        &mut self,
        name: &Arc<str>,
        id: Option<PortId>,
        device: Option<u32>,
        error: &OpenError,
        now: Instant,
    ) -> bool {
        if let Some(id) = id {
            self.ids.remove(&id);
        }
        let Some(state) = self.by_name.get_mut(name) else { return false };
        let (before, known) = match &state.phase {
            Phase::Waiting { failures, device: before, why, .. } if *before == device => {
                (*failures, *why == error.0)
            }
            _ => (0, false),
        };
        let pause = RETRY_FIRST.saturating_mul(1 << before.min(16)).min(RETRY_MAX);
        state.phase = Phase::Waiting {
            at: now + pause,
            failures: before + 1,
            device,
            why: error.to_string(),
        };
        !known
    }

    /// A port has been closed and detached; gives what it kept.
    pub(crate) fn closed(&mut self, name: &Arc<str>, why: &str, now: Instant) -> Option<Box<Open>> {
        let state = self.by_name.get_mut(name)?;
        let next = Phase::Waiting { at: now, failures: 0, device: None, why: why.to_owned() };
        match std::mem::replace(&mut state.phase, next) {
            Phase::Open(open) => {
                self.ids.remove(&open.id);
                self.load[open.worker] = self.load[open.worker].saturating_sub(1);
                Some(open)
            }
            waiting @ Phase::Waiting { .. } => {
                state.phase = waiting;
                None
            }
        }
    }

    /// Puts the next try of a port that is not open off, lest one that fails at once after it is
    /// opened is opened without end.
    pub(crate) fn pause(&mut self, name: &Arc<str>, now: Instant) {
        let state = self.by_name.get_mut(name).map(|state| &mut state.phase);
        if let Some(Phase::Waiting { at, failures, device, .. }) = state {
            (*at, *failures, *device) = (now + RETRY_FIRST, 1, None);
        }
    }

    /// When something is to be tried again, if anything is.
    pub(crate) fn next_try(&self) -> Option<Instant> {
        let times = self.by_name.values().filter_map(|state| match &state.phase {
            Phase::Waiting { at, failures, .. } if *failures > 0 => Some(*at),
            _ => None,
        });
        times.min()
    }
}

/// True when the device that the port was opened on is gone, another, or of another MTU.
fn is_stale(name: &str, open: &Open, mirror: &Mirror) -> bool {
    let Some(device) = open.device else { return false };
    mirror.link_by_name(name).is_none_or(|link| (link.index, link.mtu) != device)
}

fn is_due(name: &str, state: &mut State, mirror: &Mirror, now: Instant) -> bool {
    let Phase::Waiting { at, failures, device, why } = &mut state.phase else { return false };
    if !state.kind.is_device() {
        return now >= *at;
    }
    match mirror.link_by_name(name) {
        None => {
            (*failures, *device) = (0, None);
            *why = "no such device".to_owned();
            false
        }
        Some(link) if !link.up => {
            *failures = 0;
            *why = "the device is down".to_owned();
            false
        }
        Some(link) => now >= *at || device.is_some_and(|tried| tried != link.index),
    }
}

impl Open {
    /// The open port, as the facts of [`Opened`] have it.
    pub(crate) fn new(
        id: PortId,
        worker: usize,
        device: Option<(u32, u32)>,
        opened: Opened,
    ) -> Open {
        Open {
            id,
            device,
            worker,
            mac: opened.mac,
            station: opened.station,
            mtu: opened.mtu,
            queue: QueueAccount::default(),
            keep: opened.keep,
        }
    }
}
