//! Every way in which a packet ends without being forwarded or delivered.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a packet was dropped. Each has a counter per worker.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The name that people and scripts see.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// Fewer bytes than the headers need, or than the IP header says.
    Truncated = "truncated",
    /// An EtherType that is neither IPv4, IPv6 nor ARP.
    EtherType = "ethertype-unknown",
    /// The destination link address is not the port's.
    NotOurMac = "not-our-mac",
    /// IP version, header length or total length is wrong (RFC 1812 5.2.2).
    BadHeader = "ip-header-invalid",
    /// The IPv4 header checksum is wrong.
    BadChecksum = "ip-checksum-invalid",
    /// A source address that no packet may have: multicast, broadcast, loopback, unspecified.
    BadSource = "source-address-invalid",
    /// A destination address that is never forwarded: loopback, unspecified, link-local, group.
    BadDestination = "destination-address-invalid",
    /// IPv6 extension headers that cannot be walked.
    BadExtension = "ipv6-extension-invalid",
    /// The source is not one that the endpoint may use.
    Spoofed = "source-spoofed",
    /// TTL or hop limit ended here.
    TtlExceeded = "ttl-exceeded",
    /// No route to the destination.
    NoRoute = "no-route",
    /// A blackhole route.
    Blackhole = "route-blackhole",
    /// An unreachable route.
    Unreachable = "route-unreachable",
    /// A prohibit route.
    Prohibit = "route-prohibit",
    /// Larger than the next hop's MTU, and may not be fragmented.
    TooBig = "too-big",
    /// The next hop's link address did not resolve in time.
    NeighborFailed = "neighbor-unresolved",
    /// Too many packets wait for link addresses already.
    NeighborQueueFull = "neighbor-queue-full",
    /// The egress port is down, gone or not known.
    PortDown = "port-down",
    /// The egress port's ring is full.
    TxFull = "tx-full",
    /// Another worker's hand-over ring is full.
    HandOverFull = "hand-over-full",
    /// No free frame.
    NoFrame = "no-frame",
    /// The host's TAP is missing or full.
    PuntFull = "punt-full",
    /// A packet for the host that has no way there, as in a replay.
    NoHost = "no-host",
    /// A super-packet that could not be segmented.
    BadSegmentation = "segmentation-invalid",
    /// An ICMP error that the rate limit held back, or that may not be sent.
    IcmpSuppressed = "icmp-suppressed",
    /// The device corrupted or lost it: only the simulated link does so.
    SimLoss = "sim-loss",
    /// The endpoint has no policy or is not known on this interface.
    UnknownEndpoint = "endpoint-unknown",
    /// An ARP or neighbour discovery message that is malformed or not for us.
    NeighborMessage = "neighbor-message-ignored",
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();
}
