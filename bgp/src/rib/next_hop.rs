//! The next hops of all routes: who uses them, and whether and how far away they are.
//!
//! The RIB does not resolve them: it asks ([`NextHops::take_requests`]) and is told
//! ([`NextHops::set`]). Routes refer to the entry, so a change costs no write per route.

use crate::family::Family;
use ahash::AHashMap;
use std::net::IpAddr;

/// A next hop; [`HopId::NONE`] is that of our own routes, and always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct HopId(u32);

impl HopId {
    pub(super) const NONE: HopId = HopId(0);
}

/// What is known about one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Asked for.
    Unknown,
    Unreachable,
    /// IGP metric.
    Reachable(u32),
}

#[derive(Debug)]
struct Hop {
    address: IpAddr,
    users: u32,
    state: State,
    /// Routes that came before the answer.
    waiting: Vec<(Family, u32)>,
}

/// All next hops.
#[derive(Debug)]
pub(super) struct NextHops {
    hops: Vec<Hop>,
    free: Vec<u32>,
    by_address: AHashMap<IpAddr, u32>,
    requests: Vec<(IpAddr, bool)>,
    /// Without it each is taken for reachable.
    tracked: bool,
}

/// What an answer asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// These routes are to be decided anew.
    Routes(Vec<(Family, u32)>),
    /// Any route may be affected.
    Everything,
}

impl NextHops {
    pub(super) fn new(tracked: bool) -> NextHops {
        let ours = Hop {
            address: IpAddr::from([0; 4]),
            users: 0,
            state: State::Reachable(0),
            waiting: Vec::new(),
        };
        NextHops {
            hops: vec![ours],
            free: Vec::new(),
            by_address: AHashMap::new(),
            requests: Vec::new(),
            tracked,
        }
    }

    /// The entry of an address, with one more user.
    pub(super) fn retain(&mut self, address: IpAddr) -> HopId {
        if let Some(&known) = self.by_address.get(&address) {
            self.hops[known as usize].users += 1;
            return HopId(known);
        }
        let state = if self.tracked { State::Unknown } else { State::Reachable(0) };
        let hop = Hop { address, users: 1, state, waiting: Vec::new() };
        let id = match self.free.pop() {
            Some(id) => {
                self.hops[id as usize] = hop;
                id
            }
            None => {
                self.hops.push(hop);
                (self.hops.len() - 1) as u32
            }
        };
        self.by_address.insert(address, id);
        if self.tracked {
            self.requests.push((address, true));
        }
        HopId(id)
    }

    /// One user less.
    pub(super) fn release(&mut self, id: HopId) {
        if id == HopId::NONE {
            return;
        }
        let hop = &mut self.hops[id.0 as usize];
        hop.users -= 1;
        if hop.users == 0 {
            hop.waiting = Vec::new();
            self.by_address.remove(&hop.address);
            self.free.push(id.0);
            if self.tracked {
                self.requests.push((hop.address, false));
            }
        }
    }

    /// The IGP metric; `None` for one that cannot be reached, as far as is known.
    #[inline]
    pub(super) fn metric(&self, id: HopId) -> Option<u32> {
        match self.hops[id.0 as usize].state {
            State::Reachable(metric) => Some(metric),
            State::Unknown | State::Unreachable => None,
        }
    }

    pub(super) fn address(&self, id: HopId) -> Option<IpAddr> {
        (id != HopId::NONE).then(|| self.hops[id.0 as usize].address)
    }

    /// Has this route decided again when the first answer about its next hop comes.
    #[inline]
    pub(super) fn wait(&mut self, id: HopId, family: Family, node: u32) {
        let hop = &mut self.hops[id.0 as usize];
        if hop.state == State::Unknown {
            hop.waiting.push((family, node));
        }
    }

    /// An answer.
    pub(super) fn set(&mut self, address: IpAddr, metric: Option<u32>) -> Effect {
        let Some(&id) = self.by_address.get(&address) else { return Effect::Nothing };
        let hop = &mut self.hops[id as usize];
        let state = metric.map_or(State::Unreachable, State::Reachable);
        match std::mem::replace(&mut hop.state, state) {
            State::Unknown => Effect::Routes(std::mem::take(&mut hop.waiting)),
            before if before == state => Effect::Nothing,
            _ => Effect::Everything,
        }
    }

    /// Addresses to be followed from now on (true), or no longer.
    pub(super) fn take_requests(&mut self, out: &mut Vec<(IpAddr, bool)>) {
        out.append(&mut self.requests);
    }
}
