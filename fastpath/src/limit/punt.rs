//! What a worker does for packets beside forwarding them, held to a rate by cause: to the host's
//! stack, asking for link addresses, making ICMP errors.
//!
//! Each port has an allowance of its own for each cause, so that a flood from one takes nothing
//! from another, nor from another cause on the same port. All ports of a worker together have
//! [`ALL_PORTS`] times as much, which bounds the work. By the generic cell rate algorithm. What
//! XDP gives to the kernel without a worker is not counted here.

use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::port::PortId;
use margay_tunnels::wire::{ipv4, ipv6, protocol};

/// How much more all ports of a worker may have than one of them.
pub const ALL_PORTS: u64 = 8;
/// BGP's port (RFC 4271 8.2.1).
const BGP: u16 = 179;
/// Ports of BFD: one hop, echo, several hops, micro sessions (RFC 5881 4, 5883 5, 7130 2.2).
const BFD: [u16; 4] = [3784, 3785, 4784, 6784];

/// Why a packet needs more than to be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// It is for the host's own stack.
    Host,
    /// It is for the host's own stack, and of BGP or BFD.
    Routing,
    /// ARP or neighbour discovery that margay answers itself.
    Neighbor,
    /// Somebody must be asked for a link address.
    Resolve,
    /// An error: the TTL or hop limit ended.
    TtlExceeded,
    /// An error: too big for the next hop, which path MTU discovery lives by.
    TooBig,
    /// An error: any other.
    Unreachable,
    /// A connection that is reset.
    Reset,
}

/// What one port may have of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Packets a second, a divisor of a billion.
    pub per_second: u64,
    /// Packets at once.
    pub burst: u64,
}

impl Cause {
    /// All causes, in the order of their numbers.
    pub const ALL: [Cause; 8] = [
        Cause::Host,
        Cause::Routing,
        Cause::Neighbor,
        Cause::Resolve,
        Cause::TtlExceeded,
        Cause::TooBig,
        Cause::Unreachable,
        Cause::Reset,
    ];

    /// How much one port may have of it. Errors as RFC 1812 4.3.2.8 and RFC 4443 2.4 f ask.
    pub const fn allowance(self) -> Allowance {
        let (per_second, burst) = match self {
            Cause::Host => (100_000, 10_000),
            Cause::Routing => (10_000, 1_000),
            Cause::Resolve => (1_000, 500),
            _ => (1_000, 100),
        };
        Allowance { per_second, burst }
    }

    /// The reason of what is beyond the allowance: of the packet itself, and with errors and resets
    /// of the answer that is not made, beside the reason of the packet.
    pub const fn drop_reason(self) -> DropReason {
        match self {
            Cause::Host => DropReason::PuntHost,
            Cause::Routing => DropReason::PuntRouting,
            Cause::Neighbor => DropReason::PuntNeighbor,
            Cause::Resolve => DropReason::PuntUnresolved,
            Cause::TtlExceeded => DropReason::IcmpTtlSuppressed,
            Cause::TooBig => DropReason::IcmpTooBigSuppressed,
            Cause::Unreachable => DropReason::IcmpSuppressed,
            Cause::Reset => DropReason::ResetSuppressed,
        }
    }

    /// Why a packet goes to the host.
    pub fn of_local(packet: &Packet) -> Cause {
        if is_routing(packet) { Cause::Routing } else { Cause::Host }
    }
}

/// True for a parsed packet of BGP or BFD.
pub fn is_routing(packet: &Packet) -> bool {
    let head = packet.head();
    let ip = head.get(usize::from(packet.l3)..).unwrap_or_default();
    let kind = match ip.first().map(|byte| byte >> 4) {
        Some(4) => {
            ipv4::View::new(ip).filter(|ip| ip.fragment_offset() == 0).map(|ip| ip.protocol())
        }
        Some(6) => ipv6::View::new(ip)
            .and_then(|ip| ip.transport())
            .filter(|transport| !transport.is_later_fragment())
            .map(|transport| transport.protocol),
        _ => None,
    };
    let ports = head.get(usize::from(packet.l4)..).and_then(|rest| rest.first_chunk::<4>());
    let Some([a, b, c, d]) = ports else { return false };
    let (src, dst) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
    match kind {
        Some(protocol::TCP) => src == BGP || dst == BGP,
        Some(protocol::UDP) => BFD.contains(&dst),
        _ => false,
    }
}

/// When what was allowed will have arrived at its rate, in nanoseconds, by cause.
type Arrivals = [u64; Cause::ALL.len()];

/// What a worker has allowed.
#[derive(Debug, Default)]
pub struct Punts {
    ports: Vec<Arrivals>,
    all: Arrivals,
}

impl Punts {
    /// True when one more packet from a port may have its way. [`PortId::NONE`] has nothing of its
    /// own, and shares what all have.
    pub fn allow(&mut self, port: PortId, cause: Cause, now_ns: u64) -> bool {
        let Allowance { per_second, burst } = cause.allowance();
        let interval_ns = 1_000_000_000 / per_second;
        // Where an arrival begins from; `None` while its burst is used up.
        let from = |arrival_ns: u64| {
            let from = arrival_ns.max(now_ns);
            (from - now_ns <= interval_ns * (burst - 1)).then_some(from)
        };
        let Some(all) = from(self.all[cause as usize]) else { return false };
        if port != PortId::NONE {
            let at = usize::from(port.0);
            if at >= self.ports.len() {
                self.ports.resize(at + 1, Arrivals::default());
            }
            let own = &mut self.ports[at][cause as usize];
            let Some(arrival) = from(*own) else { return false };
            *own = arrival + interval_ns;
        }
        self.all[cause as usize] = all + interval_ns / ALL_PORTS;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn each_port_has_an_allowance_of_its_own_for_each_cause() {
        let mut punts = Punts::default();
        for cause in Cause::ALL {
            let Allowance { per_second, burst } = cause.allowance();
            assert_eq!(SECOND_NS % per_second, 0, "{cause:?}");
            for port in [PortId(0), PortId(7)] {
                let allowed = (0..2 * burst).filter(|_| punts.allow(port, cause, 5)).count();
                assert_eq!(allowed as u64, burst, "{cause:?}");
            }
            let later_ns = 5 + 10 * SECOND_NS / per_second;
            let allowed = (0..20).filter(|_| punts.allow(PortId(0), cause, later_ns)).count();
            assert_eq!(allowed, 10, "{cause:?}");
        }
        let mut reasons = Cause::ALL.map(Cause::drop_reason).to_vec();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), Cause::ALL.len());
    }

    #[test]
    fn a_worker_is_held_to_the_allowance_of_some_ports() {
        let mut punts = Punts::default();
        let Allowance { burst, .. } = Cause::TtlExceeded.allowance();
        let ports = (0..3 * ALL_PORTS as u16).map(PortId).chain([PortId::NONE]);
        let allow = |port| (0..burst).filter(|_| punts.allow(port, Cause::TtlExceeded, 9)).count();
        let allowed: usize = ports.map(allow).sum();
        // The last one may go a whole interval ahead.
        assert!((allowed as u64).abs_diff(ALL_PORTS * burst) < ALL_PORTS, "{allowed}");
    }
}
