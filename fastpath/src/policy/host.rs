//! Host endpoints in the packet path: what they say of traffic that this node forwards.
//!
//! In Calico's order ("Policy for hosts"): untracked rules see every packet that comes in by the
//! device; rules before DNAT see the first packet of a flow as it came; then the forward rules of
//! the device that it came by are asked, policy of workloads, and the forward rules of the device
//! that it leaves by. What untracked rules or those before DNAT accept, the forward rules of the
//! same device are not asked about. What is inside of a tunnel is no traffic of the device below.

use super::{Policy, Ruling, Seat};
use crate::drop_reason::DropReason;
use crate::flow::Tuple;
use crate::port::PortId;
use margay_acl::{Direction, Stage, Verdict};

/// A host endpoint, and which of its stages have something to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostGuard {
    /// Its number among the endpoints.
    pub endpoint: u32,
    /// Before connection tracking.
    pub untracked: bool,
    /// Before destination NAT.
    pub pre_dnat: bool,
    /// Forwarded traffic, by direction.
    pub forward: [bool; 2],
}

impl HostGuard {
    /// Whether some stage has something to say of what comes in.
    pub fn says_in(&self) -> bool {
        self.untracked || self.pre_dnat || self.forward[Direction::Ingress as usize]
    }

    /// Whether some stage has something to say at all.
    pub fn says_something(&self) -> bool {
        self.says_in() || self.forward[Direction::Egress as usize]
    }
}

/// Those of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Guards {
    by_port: Vec<Option<HostGuard>>,
    /// Of what comes out of tunnels, and goes into them.
    tunnels: Option<HostGuard>,
    any: bool,
    /// Some flow's way out is asked about.
    out: bool,
    /// What comes out of tunnels is asked about.
    of_tunnels: bool,
}

/// A way in or out: a port, or a tunnel by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The port.
    pub port: PortId,
    /// Inside of a tunnel.
    pub tunnelled: bool,
}

impl Guards {
    pub(super) fn new(ports: &[(PortId, HostGuard)], tunnels: Option<HostGuard>) -> Guards {
        let says = |guard: &HostGuard| guard.says_something();
        let mut by_port = Vec::new();
        for (port, guard) in ports.iter().filter(|(_, guard)| says(guard)) {
            let at = usize::from(port.0);
            by_port.resize(by_port.len().max(at + 1), None);
            by_port[at] = Some(*guard);
        }
        let tunnels = tunnels.filter(says);
        let all = || by_port.iter().chain([&tunnels]).flatten();
        let out = all().any(|guard| guard.forward[Direction::Egress as usize]);
        let of_tunnels = tunnels.as_ref().is_some_and(HostGuard::says_in);
        let any = all().next().is_some();
        Guards { by_port, tunnels, any, out, of_tunnels }
    }

    fn at(&self, way: Way) -> Option<&HostGuard> {
        match way.tunnelled {
            true => self.tunnels.as_ref(),
            false => self.by_port.get(usize::from(way.port.0))?.as_ref(),
        }
    }
}

impl Policy {
    /// Whether host endpoints may have a word on a packet that came by a port.
    #[inline]
    pub(super) fn concerns_hosts(&self, in_port: PortId) -> bool {
        let guards = &self.guards;
        if guards.out || guards.of_tunnels && self.seat(in_port) == Seat::Network {
            return true;
        }
        let guard = guards.by_port.get(usize::from(in_port.0)).and_then(Option::as_ref);
        guard.is_some_and(HostGuard::says_in)
    }

    /// True when host endpoints have a word on where new flows leave.
    #[inline]
    pub fn asks_on_the_way_out(&self) -> bool {
        self.guards.out
    }

    /// True when untracked rules are asked about what comes in by a port.
    pub fn asks_every_packet(&self, port: PortId) -> bool {
        let of_port = self.guards.by_port.get(usize::from(port.0)).and_then(Option::as_ref);
        of_port.into_iter().chain(&self.guards.tunnels).any(|guard| guard.untracked)
    }

    /// True when there is any.
    #[inline]
    pub fn has_guards(&self) -> bool {
        self.guards.any
    }

    /// What a stage says of a packet. `None` when it has nothing to say.
    pub fn ask_host(
        &self,
        way: Way,
        (stage, direction): (Stage, Direction),
        (tuple, icmp_code): (&Tuple, u8),
    ) -> Option<Ruling> {
        let guard = self.guards.at(way)?;
        let says = match stage {
            Stage::Untracked => guard.untracked,
            Stage::PreDnat => guard.pre_dnat,
            Stage::Forward => guard.forward[direction as usize],
            Stage::Normal => false,
        };
        let handle = self.endpoint(guard.endpoint).filter(|_| says)?.handle?;
        let packet = super::judge::as_policy_sees(tuple, icmp_code);
        let classes = self.classifier.classes(&packet);
        let outcome = self.classifier.decide((handle, stage, direction), &packet, classes);
        let endpoint = guard.endpoint;
        Some(Ruling { endpoint, stage, direction, staged: false, outcome })
    }
}

impl Ruling {
    /// Whether it lets a packet of the host's go on.
    pub fn passes_host(&self) -> Result<(), DropReason> {
        match self.outcome.verdict {
            Verdict::Deny => Err(DropReason::PolicyHost),
            Verdict::Allow | Verdict::Continue => Ok(()),
        }
    }
}
