//! Every way in which a packet ends without being forwarded or delivered.

/// Why a packet was dropped. Each has a counter per worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// Fewer bytes than the headers need, or than the IP header says.
    Truncated,
    /// An EtherType that is neither IPv4, IPv6 nor ARP.
    EtherType,
    /// The destination link address is not the port's.
    NotOurMac,
    /// IP version, header length or total length is wrong (RFC 1812 5.2.2).
    BadHeader,
    /// The IPv4 header checksum is wrong.
    BadChecksum,
    /// A source address that no packet may have: multicast, broadcast, loopback, unspecified.
    BadSource,
    /// A destination address that is never forwarded: loopback, unspecified, link-local, group.
    BadDestination,
    /// IPv6 extension headers that cannot be walked.
    BadExtension,
    /// The source is not one that the endpoint may use.
    Spoofed,
    /// TTL or hop limit ended here.
    TtlExceeded,
    /// No route to the destination.
    NoRoute,
    /// A blackhole route.
    Blackhole,
    /// An unreachable route.
    Unreachable,
    /// A prohibit route.
    Prohibit,
    /// Larger than the next hop's MTU, and may not be fragmented.
    TooBig,
    /// The next hop's link address did not resolve in time.
    NeighborFailed,
    /// Too many packets wait for link addresses already.
    NeighborQueueFull,
    /// The egress port is down, gone or not known.
    PortDown,
    /// The egress port takes no more, and too many wait for it: the longest queue loses.
    TxFull,
    /// Another worker's hand-over ring is full.
    HandOverFull,
    /// No free frame.
    NoFrame,
    /// The host's TAP is missing or full.
    PuntFull,
    /// A packet for the host that has no way there, as in a replay.
    NoHost,
    /// A super-packet that could not be segmented.
    BadSegmentation,
    /// An ICMP error that the rate limit held back: of unreachable destinations. Counted beside the
    /// reason of the packet itself, as the other three of this kind are.
    IcmpSuppressed,
    /// The device corrupted or lost it: only the simulated link does so.
    SimLoss,
    /// The endpoint has no policy or is not known on this interface.
    UnknownEndpoint,
    /// An ARP or neighbour discovery message that is malformed or not for us.
    NeighborMessage,
    /// The table of flows is full of those that do not give way.
    FlowTableFull,
    /// The source has as many flows as it may have.
    FlowLimit,
    /// It belongs to no flow and cannot begin one, and may not pass untranslated.
    FlowInvalid,
    /// All outside ports are in use, towards this destination too.
    NatPortsExhausted,
    /// To an outside address that is nobody's, and no mapping lets it in.
    NatUnsolicited,
    /// A protocol without ports cannot share the host's own address.
    NatProtocol,
    /// Too many fragments wait for their first one already.
    FragmentQueueFull,
    /// The first fragment did not come in time.
    FragmentTimeout,
    /// A tunnel's packet from a host that is no known node.
    TunnelSource,
    /// VXLAN of another network.
    TunnelVni,
    /// A tunnel's headers or lengths are wrong, or an inner packet that it does not carry.
    TunnelHeader,
    /// A fragment of a tunnel's outer packet.
    TunnelFragment,
    /// A tunnel inside of a tunnel, to this node itself.
    TunnelNested,
    /// The underlay marked congestion, and the inner packet cannot carry the mark (RFC 6040 4.2).
    TunnelEcn,
    /// A workload sent a tunnel's packet, which it may not.
    TunnelFromWorkload,
    /// An ICMP error about a tunnel's outer packet: taken in, and its sender told.
    TunnelError,
    /// The service has no endpoint that may be used.
    ServiceNoEndpoint,
    /// The egress rules of the endpoint that sends deny the flow.
    PolicyEgress,
    /// The ingress rules of the endpoint that would receive it deny the flow.
    PolicyIngress,
    /// The rules of a host endpoint deny what this node would forward.
    PolicyHost,
    /// Pods may not send to the host itself.
    EndpointToHost,
    /// Beyond the bandwidth of an endpoint.
    LimitBandwidth,
    /// Beyond the packet rate of an endpoint.
    LimitPacketRate,
    /// An endpoint has as many connections as it may have.
    LimitConnections,
    /// It would have waited too long for an endpoint's bandwidth, or too many wait.
    LimitQueue,
    /// For the host, beyond what a port may send to it by way of a worker.
    PuntHost,
    /// BGP or BFD for the host, beyond what a port may send to it by way of a worker.
    PuntRouting,
    /// ARP or neighbour discovery, beyond what margay answers on a port.
    PuntNeighbor,
    /// To an address without a link address, beyond how many of those a port may have asked for.
    PuntUnresolved,
    /// An ICMP error that the rate limit held back: of a TTL or hop limit that ended.
    IcmpTtlSuppressed,
    /// An ICMP error that the rate limit held back: of a packet that is too big.
    IcmpTooBigSuppressed,
    /// A reset of a refused connection that the rate limit held back.
    ResetSuppressed,
    /// It has waited too long for an egress port that takes no more, as others of its flow.
    TxLate,
}

impl DropReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [DropReason; 61] = [
        DropReason::Truncated,
        DropReason::EtherType,
        DropReason::NotOurMac,
        DropReason::BadHeader,
        DropReason::BadChecksum,
        DropReason::BadSource,
        DropReason::BadDestination,
        DropReason::BadExtension,
        DropReason::Spoofed,
        DropReason::TtlExceeded,
        DropReason::NoRoute,
        DropReason::Blackhole,
        DropReason::Unreachable,
        DropReason::Prohibit,
        DropReason::TooBig,
        DropReason::NeighborFailed,
        DropReason::NeighborQueueFull,
        DropReason::PortDown,
        DropReason::TxFull,
        DropReason::HandOverFull,
        DropReason::NoFrame,
        DropReason::PuntFull,
        DropReason::NoHost,
        DropReason::BadSegmentation,
        DropReason::IcmpSuppressed,
        DropReason::SimLoss,
        DropReason::UnknownEndpoint,
        DropReason::NeighborMessage,
        DropReason::FlowTableFull,
        DropReason::FlowLimit,
        DropReason::FlowInvalid,
        DropReason::NatPortsExhausted,
        DropReason::NatUnsolicited,
        DropReason::NatProtocol,
        DropReason::FragmentQueueFull,
        DropReason::FragmentTimeout,
        DropReason::TunnelSource,
        DropReason::TunnelVni,
        DropReason::TunnelHeader,
        DropReason::TunnelFragment,
        DropReason::TunnelNested,
        DropReason::TunnelEcn,
        DropReason::TunnelFromWorkload,
        DropReason::TunnelError,
        DropReason::ServiceNoEndpoint,
        DropReason::PolicyEgress,
        DropReason::PolicyIngress,
        DropReason::PolicyHost,
        DropReason::EndpointToHost,
        DropReason::LimitBandwidth,
        DropReason::LimitPacketRate,
        DropReason::LimitConnections,
        DropReason::LimitQueue,
        DropReason::PuntHost,
        DropReason::PuntRouting,
        DropReason::PuntNeighbor,
        DropReason::PuntUnresolved,
        DropReason::IcmpTtlSuppressed,
        DropReason::IcmpTooBigSuppressed,
        DropReason::ResetSuppressed,
        DropReason::TxLate,
    ];

    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The name that people and scripts see.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::Truncated => "truncated",
            DropReason::EtherType => "ethertype-unknown",
            DropReason::NotOurMac => "not-our-mac",
            DropReason::BadHeader => "ip-header-invalid",
            DropReason::BadChecksum => "ip-checksum-invalid",
            DropReason::BadSource => "source-address-invalid",
            DropReason::BadDestination => "destination-address-invalid",
            DropReason::BadExtension => "ipv6-extension-invalid",
            DropReason::Spoofed => "source-spoofed",
            DropReason::TtlExceeded => "ttl-exceeded",
            DropReason::NoRoute => "no-route",
            DropReason::Blackhole => "route-blackhole",
            DropReason::Unreachable => "route-unreachable",
            DropReason::Prohibit => "route-prohibit",
            DropReason::TooBig => "too-big",
            DropReason::NeighborFailed => "neighbor-unresolved",
            DropReason::NeighborQueueFull => "neighbor-queue-full",
            DropReason::PortDown => "port-down",
            DropReason::TxFull => "tx-full",
            DropReason::HandOverFull => "hand-over-full",
            DropReason::NoFrame => "no-frame",
            DropReason::PuntFull => "punt-full",
            DropReason::NoHost => "no-host",
            DropReason::BadSegmentation => "segmentation-invalid",
            DropReason::IcmpSuppressed => "icmp-suppressed",
            DropReason::SimLoss => "sim-loss",
            DropReason::UnknownEndpoint => "endpoint-unknown",
            DropReason::NeighborMessage => "neighbor-message-ignored",
            DropReason::FlowTableFull => "flow-table-full",
            DropReason::FlowLimit => "flow-source-limit",
            DropReason::FlowInvalid => "flow-invalid",
            DropReason::NatPortsExhausted => "nat-ports-exhausted",
            DropReason::NatUnsolicited => "nat-unsolicited",
            DropReason::NatProtocol => "nat-protocol-unsupported",
            DropReason::FragmentQueueFull => "fragment-queue-full",
            DropReason::FragmentTimeout => "fragment-timeout",
            DropReason::TunnelSource => "tunnel-source-unknown",
            DropReason::TunnelVni => "tunnel-vni-unknown",
            DropReason::TunnelHeader => "tunnel-header-invalid",
            DropReason::TunnelFragment => "tunnel-fragment",
            DropReason::TunnelNested => "tunnel-nested",
            DropReason::TunnelEcn => "tunnel-congested",
            DropReason::TunnelFromWorkload => "tunnel-from-workload",
            DropReason::TunnelError => "tunnel-error",
            DropReason::ServiceNoEndpoint => "service-no-endpoint",
            DropReason::PolicyEgress => "policy-egress",
            DropReason::PolicyIngress => "policy-ingress",
            DropReason::PolicyHost => "policy-host",
            DropReason::EndpointToHost => "policy-endpoint-to-host",
            DropReason::LimitBandwidth => "limit-bandwidth",
            DropReason::LimitPacketRate => "limit-packet-rate",
            DropReason::LimitConnections => "limit-connections",
            DropReason::LimitQueue => "limit-queue-full",
            DropReason::PuntHost => "punt-host",
            DropReason::PuntRouting => "punt-routing",
            DropReason::PuntNeighbor => "punt-neighbor",
            DropReason::PuntUnresolved => "punt-unresolved",
            DropReason::IcmpTtlSuppressed => "icmp-ttl-suppressed",
            DropReason::IcmpTooBigSuppressed => "icmp-too-big-suppressed",
            DropReason::ResetSuppressed => "reset-suppressed",
            DropReason::TxLate => "tx-late",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_the_order_of_the_numbers_and_names_differ() {
        for (at, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
    }
}
