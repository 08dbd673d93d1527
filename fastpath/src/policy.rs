//! Policy as the packet path reads it: who is behind which port, and the compiled rules.
//!
//! One immutable snapshot, published with the others. Only packets from or to an endpoint that is
//! not open to everything are tracked for it; of a flow the first packet is judged: by the egress
//! rules of the endpoint that it comes from, and the ingress rules of the one that it goes to
//! (Calico's "Configure policy": traffic between two pods of a node passes both). What the host
//! itself sends to its pods is always let in.

use crate::drop_reason::DropReason;
use crate::flow::{Address, Tuple};
use crate::limit::ConnectionLimit;
use crate::port::PortId;
use ahash::{AHashMap, AHashSet};
use ipnet::IpNet;
use margay_acl::classifier::{Classifier, Handle, Outcome};
use margay_acl::origin::Origin;
use margay_acl::{Direction, Stage};
use std::net::IpAddr;
use std::sync::Arc;

mod host;
mod judge;

use host::Guards;
pub use host::{HostGuard, Way};

/// What is behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seat {
    /// A network, or nothing.
    #[default]
    Network,
    /// The host's own stack.
    Host,
    /// The endpoint of this number.
    Endpoint(u32),
}

/// A workload of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name, for people.
    pub name: Arc<str>,
    /// How the classifier calls it; without, policy does not know it, and nothing passes.
    pub handle: Option<Handle>,
    /// How the classifier of staged policies calls it.
    pub staged: Option<Handle>,
    /// Everything passes in both directions, and would with staged policies in force.
    pub open: bool,
    /// How many connections it may have, by direction.
    pub connections: [Option<ConnectionLimit>; 2],
}

impl Endpoint {
    /// Its flows need not be tracked.
    fn is_free(&self) -> bool {
        self.open && self.connections.iter().all(Option::is_none)
    }
}

/// What becomes of packets of pods to the host itself, after their egress rules (Felix's
/// `defaultEndpointToHostAction`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ToHost {
    /// They are dropped.
    #[default]
    Drop,
    /// They pass.
    Accept,
}

/// The snapshot.
#[derive(Debug)]
pub struct Policy {
    generation: u32,
    classifier: Arc<Classifier>,
    /// The rules as they would be with staged policies in force; `None` without any.
    staged: Option<Arc<Classifier>>,
    endpoints: Vec<Endpoint>,
    guards: Guards,
    /// By port.
    seats: Vec<Seat>,
    /// Workloads' addresses, with the endpoint that has each.
    places: AHashMap<Address, u32>,
    /// Wider ranges behind workloads, the longest first.
    ranges: Vec<(IpNet, u32)>,
    /// Addresses of endpoints whose flows are tracked.
    guarded: AHashSet<Address>,
    limits_connections: bool,
    /// The host's own addresses.
    local: AHashSet<Address>,
    to_host: ToHost,
    rejudges: bool,
}

/// Snapshots are equal when nothing has been published between them.
impl PartialEq for Policy {
    fn eq(&self, other: &Policy) -> bool {
        self.generation == other.generation
    }
}

impl Eq for Policy {}

/// Everything that a snapshot is made of.
#[derive(Debug)]
pub struct Layout<'a> {
    /// Differs from that of the snapshot before.
    pub generation: u32,
    /// The rules.
    pub classifier: Arc<Classifier>,
    /// The rules as they would be with staged policies in force; `None` without any.
    pub staged: Option<Arc<Classifier>>,
    /// This node's workloads; others call them by their place here.
    pub endpoints: Vec<Endpoint>,
    /// Ports that host endpoints guard.
    pub guards: &'a [(PortId, HostGuard)],
    /// The host endpoint of what comes out of tunnels, and goes into them.
    pub tunnels: Option<HostGuard>,
    /// Ports with what is behind them.
    pub seats: &'a [(PortId, Seat)],
    /// Addresses and ranges of endpoints.
    pub behind: &'a [(IpNet, u32)],
    /// The host's own addresses.
    pub local: &'a [IpAddr],
    /// What pods may send to the host.
    pub to_host: ToHost,
    /// Flows are judged anew when policy changes.
    pub rejudges: bool,
}

/// The first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Who sends it.
    pub from: Seat,
    /// Its source before source NAT, its destination behind destination NAT.
    pub tuple: Tuple,
    /// Code of an ICMP message.
    pub icmp_code: u8,
}

/// How often a rule has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The endpoint's name.
    pub endpoint: Arc<str>,
    /// The endpoint's direction.
    pub direction: Direction,
    /// The rule.
    pub origin: Origin,
    /// First packets of flows.
    pub count: u64,
}

/// One endpoint's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ruling {
    /// The endpoint's number.
    pub endpoint: u32,
    /// Its direction.
    pub direction: Direction,
    /// The stage of its rules.
    pub stage: Stage,
    /// It is what would be said with staged policies in force.
    pub staged: bool,
    /// The classifier's outcome, of the same snapshot.
    pub outcome: Outcome,
}

/// What is decided of a first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Judgement {
    /// What is.
    pub real: Decision,
    /// What would be with staged policies in force; `None` without any.
    pub staged: Option<Decision>,
}

/// What endpoints say of a first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decision {
    /// By direction, of those who were asked.
    pub rulings: [Option<Ruling>; 2],
    /// Why it is dropped.
    pub dropped: Option<DropReason>,
}

impl Policy {
    /// Makes a snapshot.
    pub fn new(layout: Layout<'_>) -> Policy {
        let Layout { endpoints, behind, .. } = layout;
        let mut seats = Vec::new();
        for (port, seat) in layout.seats {
            let at = usize::from(port.0);
            seats.resize(seats.len().max(at + 1), Seat::Network);
            seats[at] = *seat;
        }
        let single = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        let (alone, wide): (Vec<_>, Vec<_>) = behind.iter().partition(|(net, _)| single(net));
        let places: AHashMap<Address, u32> =
            alone.into_iter().map(|(net, at)| (net.addr().into(), at)).collect();
        let mut ranges = wide;
        ranges.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        let is_free = |at: u32| endpoints.get(at as usize).is_some_and(Endpoint::is_free);
        let guarded = places.iter().filter(|(_, at)| !is_free(**at)).map(|(address, _)| *address);
        Policy {
            generation: layout.generation,
            classifier: layout.classifier,
            staged: layout.staged,
            guarded: guarded.collect(),
            guards: Guards::new(layout.guards, layout.tunnels),
            limits_connections: endpoints.iter().any(|one| one.connections != [None, None]),
            endpoints,
            seats,
            places,
            ranges,
            local: layout.local.iter().map(|address| Address::from(*address)).collect(),
            to_host: layout.to_host,
            rejudges: layout.rejudges,
        }
    }

    /// True when another snapshot would decide the same, whatever its generation is.
    pub fn says_the_same(&self, other: &Policy) -> bool {
        Arc::ptr_eq(&self.classifier, &other.classifier)
            && self.staged.as_ref().map(Arc::as_ptr) == other.staged.as_ref().map(Arc::as_ptr)
            && (&self.endpoints, &self.seats) == (&other.endpoints, &other.seats)
            && self.guards == other.guards
            && (&self.places, &self.ranges) == (&other.places, &other.ranges)
            && (&self.local, self.to_host) == (&other.local, other.to_host)
            && self.rejudges == other.rejudges
    }

    /// Which snapshot this is.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// True when flows are judged anew by each snapshot.
    #[inline]
    pub fn rejudges(&self) -> bool {
        self.rejudges
    }

    /// The rules by which an endpoint has ruled.
    fn classifier_of(&self, ruling: &Ruling) -> &Classifier {
        let staged = self.staged.as_ref().filter(|_| ruling.staged);
        staged.unwrap_or(&self.classifier)
    }

    /// The place in policy that decided; the ruling is one of this snapshot.
    pub fn origin(&self, ruling: &Ruling) -> &Origin {
        self.classifier_of(ruling).origin(&ruling.outcome)
    }

    /// An endpoint by its number.
    pub fn endpoint(&self, at: u32) -> Option<&Endpoint> {
        self.endpoints.get(at as usize)
    }

    #[inline]
    fn is_open(&self, at: u32) -> bool {
        self.endpoint(at).is_some_and(|endpoint| endpoint.open)
    }

    /// What is behind a port.
    #[inline]
    pub fn seat(&self, port: PortId) -> Seat {
        self.seats.get(usize::from(port.0)).copied().unwrap_or_default()
    }

    #[inline]
    fn is_free(&self, at: u32) -> bool {
        self.endpoint(at).is_some_and(Endpoint::is_free)
    }

    /// Whether a packet may have to do with an endpoint whose flows are tracked.
    #[inline]
    pub fn concerns(&self, in_port: PortId, dst: Address) -> bool {
        match self.seat(in_port) {
            Seat::Endpoint(at) if !self.is_free(at) => true,
            _ => {
                self.guarded.contains(&dst)
                    || !self.ranges.is_empty() && self.is_behind(dst)
                    || self.concerns_hosts(in_port)
            }
        }
    }

    #[cold]
    fn is_behind(&self, dst: Address) -> bool {
        self.endpoint_of(dst).is_some_and(|at| !self.is_free(at))
    }

    /// Who sends from an address, where the port is not known.
    pub fn seat_of(&self, address: Address) -> Seat {
        match self.endpoint_of(address) {
            Some(at) => Seat::Endpoint(at),
            None if self.local.contains(&address) => Seat::Host,
            None => Seat::Network,
        }
    }

    /// True for an address of the host's own.
    pub fn is_local(&self, address: Address) -> bool {
        self.local.contains(&address)
    }

    /// True when there is an endpoint of this name.
    pub fn has(&self, name: &str) -> bool {
        self.endpoints.iter().any(|endpoint| *endpoint.name == *name)
    }

    /// The endpoint that an address leads to.
    pub fn endpoint_of(&self, address: Address) -> Option<u32> {
        self.places.get(&address).copied().or_else(|| {
            let address = IpAddr::from(address);
            let found = self.ranges.iter().find(|(net, _)| net.contains(&address));
            found.map(|(_, at)| *at)
        })
    }

    /// True when some endpoint's connections are limited.
    #[inline]
    pub fn limits_connections(&self) -> bool {
        self.limits_connections
    }

    /// The limits that a connection counts for: of the endpoint that it comes from, and of the one
    /// that it goes to.
    pub fn connection_limits(&self, question: &Question) -> [Option<ConnectionLimit>; 2] {
        let of = |at: u32, direction: Direction| {
            self.endpoint(at)?.connections[direction as usize].clone()
        };
        let from = match question.from {
            Seat::Endpoint(at) => of(at, Direction::Egress),
            _ => None,
        };
        let to = self.endpoint_of(question.tuple.dst);
        [from, to.and_then(|at| of(at, Direction::Ingress))]
    }
}

#[cfg(test)]
pub(crate) mod tests;
