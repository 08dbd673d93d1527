//! What is different between IPv4 and IPv6 in the part that carries flows.

use super::IP;

/// What is different between the families.
pub(super) struct Family {
    /// Bytes of the IP header.
    pub(super) header: i32,
    /// Where the addresses are, and how many words of 8 bytes.
    pub(super) addresses: i16,
    pub(super) address_words: i16,
    /// Where TTL and protocol are.
    pub(super) ttl: i16,
    pub(super) protocol: i16,
    /// Where the key lies on the stack.
    pub(super) key: i16,
    pub(super) flows: &'static str,
    pub(super) labels: Labels,
}

/// Labels of one family's part.
pub(super) struct Labels {
    /// Not offloaded: steering goes on.
    pub(super) not: &'static str,
    /// This packet is the worker's, and the flow's next ones until it has left the worker.
    pub(super) worker: &'static str,
    pub(super) settled: &'static str,
    pub(super) settles: &'static str,
    /// With limits, or into a tunnel; and where it goes on like any other.
    pub(super) special: &'static str,
    pub(super) ordinary: &'static str,
    /// Into a tunnel, and out of it.
    pub(super) wrap: &'static str,
    pub(super) has_room: &'static str,
    pub(super) ipip: &'static str,
    pub(super) plain: &'static str,
    pub(super) tcp: &'static str,
    pub(super) complete: &'static str,
    pub(super) partial_tcp: &'static str,
    pub(super) partial: &'static str,
    pub(super) translate_udp: &'static str,
    pub(super) transport_done: &'static str,
    pub(super) routed: &'static str,
    pub(super) linked: &'static str,
    pub(super) fits: &'static str,
}

pub(super) const V4: Family = Family {
    header: 20,
    addresses: IP + 12,
    address_words: 1,
    ttl: IP + 8,
    protocol: IP + 9,
    key: -24,
    flows: "flows_v4",
    labels: Labels {
        not: "steer_v4",
        worker: "offload_worker_v4",
        settled: "offload_settled_v4",
        settles: "offload_settles_v4",
        special: "offload_special_v4",
        ordinary: "offload_ordinary_v4",
        wrap: "offload_wrap_v4",
        has_room: "offload_has_room_v4",
        ipip: "offload_ipip_v4",
        plain: "offload_plain_v4",
        tcp: "offload_tcp_v4",
        complete: "offload_complete_v4",
        partial_tcp: "offload_partial_tcp_v4",
        partial: "offload_partial_v4",
        translate_udp: "offload_udp_v4",
        transport_done: "offload_done_v4",
        routed: "offload_routed_v4",
        linked: "offload_linked_v4",
        fits: "offload_fits_v4",
    },
};

pub(super) const V6: Family = Family {
    header: 40,
    addresses: IP + 8,
    address_words: 4,
    ttl: IP + 7,
    protocol: IP + 6,
    key: -48,
    flows: "flows_v6",
    labels: Labels {
        not: "steer_v6",
        worker: "offload_worker_v6",
        settled: "offload_settled_v6",
        settles: "offload_settles_v6",
        special: "offload_special_v6",
        ordinary: "offload_ordinary_v6",
        wrap: "offload_wrap_v6",
        has_room: "offload_has_room_v6",
        ipip: "offload_ipip_v6",
        plain: "offload_plain_v6",
        tcp: "offload_tcp_v6",
        complete: "offload_complete_v6",
        partial_tcp: "offload_partial_tcp_v6",
        partial: "offload_partial_v6",
        translate_udp: "offload_udp_v6",
        transport_done: "offload_done_v6",
        routed: "offload_routed_v6",
        linked: "offload_linked_v6",
        fits: "offload_fits_v6",
    },
};
