//! Bytes through the views of headers, as the fuzz target `parse` and the hostile captures give
//! them. What is read is not looked at: it only must not panic, and must be within the bytes.

use margay_tunnels::wire::{ethernet, ipv4, ipv6, tcp, udp};

/// Reads every field that the views offer; none may panic once the view was given.
pub fn views(bytes: &[u8]) {
    if let Some(link) = ethernet::View::new(bytes) {
        let _ = (link.dst(), link.src(), link.ethertype(), link.payload());
    }
    if let Some(view) = ipv4::View::new(bytes) {
        let _ = (view.checksum_ok(), view.total_len(), view.is_fragment(), view.src(), view.dst());
        assert!(view.header_len() <= 60 && view.fragment_offset() < 1 << 16);
    }
    if let Some(view) = ipv6::View::new(bytes) {
        let listed: Vec<_> = view.extensions().collect();
        assert!(listed.len() <= ipv6::MAX_EXTENSIONS);
        if let Some(found) = view.transport() {
            let end = listed.last().map_or(ipv6::HEADER_LEN, |last| last.offset + last.len);
            assert_eq!(end, found.offset);
            assert_eq!(listed.last().map_or(view.next_header(), |last| last.next), found.protocol);
        }
    }
    if let Some(view) = tcp::View::new(bytes) {
        let _ = (view.src_port(), view.sequence(), view.flags(), view.window(), view.checksum());
        assert!(view.header_len() <= 60);
    }
    if let Some(view) = udp::View::new(bytes) {
        let _ = (view.src_port(), view.dst_port(), view.len(), view.is_empty(), view.checksum());
    }
}
