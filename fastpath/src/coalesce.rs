//! Joining TCP segments into super-packets before a port that takes them whole.
//!
//! The inverse of [`crate::segment`]: segments of one flow that follow each other in a burst become
//! one packet, a chain of their frames with the headers of the later ones stripped off, and cutting
//! it again gives the same segments. So what must be equal is what cutting would make equal, as in
//! Linux's GRO: addresses, ports, TTL, DSCP and ECN, DF, acknowledgement, window, options; IPv4
//! identifications count up, or stand still under DF (RFC 6864). Only segments whose checksum is
//! right, or marked unfinished, are joined: the joined packet's checksum is the next host's to
//! trust. Nothing is reordered inside a flow.

use crate::packet::{Gso, MAX_SEGMENTS, Offload, Packet};
use crate::segment::{pseudo_header, sum_from};
use margay_tunnels::wire::{checksum, ethernet, ipv4, ipv6, protocol, tcp};

/// Packets looked at together; a longer burst is taken in pieces.
const WINDOW: usize = 64;
/// Flows that are followed at the same time.
const FLOWS: usize = 8;
/// Longest IP packet that is made.
const MAX_IP_LEN: usize = 65_535;

/// Flags that only the last part of a super-packet may have.
const ENDS: u8 = tcp::PSH | tcp::FIN;
const CHECKSUM: usize = tcp::CHECKSUM_OFFSET;

/// Joins what can be joined. Packets keep their order, a joined one stands where its first segment
/// stood. `l3` and `l4` must be set.
pub fn coalesce(burst: &mut Vec<Packet>) {
    if burst.len() > WINDOW {
        let mut rest = burst.split_off(WINDOW);
        coalesce(burst);
        coalesce(&mut rest);
        burst.append(&mut rest);
        return;
    }
    let plan = Plan::of(burst);
    if plan.joined {
        plan.carry_out(burst);
    }
}

/// What is joined to what, by places in the burst.
struct Plan {
    joined: bool,
    /// The segment that follows this one in its super-packet; 0 for none.
    next: [u8; WINDOW],
    /// For the first segment of each super-packet: the flags of the last one.
    last_flags: [u8; WINDOW],
    /// For the first segment of each super-packet: its payload bytes.
    size: [u16; WINDOW],
}

/// A TCP segment that may be joined, as its headers describe it.
#[derive(Clone, Copy)]
struct Segment {
    headers: usize,
    payload: usize,
    sequence: u32,
    flags: u8,
}

/// A super-packet in the making. The first segment sets the payload size of all but the last.
struct Run {
    first: usize,
    last: usize,
    count: u16,
    frames: usize,
    ip_len: usize,
    next_sequence: u32,
    segment: Segment,
    /// The first segment's checksum has been looked at, and is right.
    verified: bool,
    /// IPv4 identifications stand still.
    fixed_id: bool,
}

impl Plan {
    fn of(burst: &[Packet]) -> Plan {
        let (next, last_flags, size) = ([0; WINDOW], [0; WINDOW], [0; WINDOW]);
        let mut plan = Plan { joined: false, next, last_flags, size };
        let mut runs: [Option<Run>; FLOWS] = [const { None }; FLOWS];
        let mut oldest = 0;
        for (index, packet) in burst.iter().enumerate() {
            let Some(tcp) = tcp_of(packet) else {
                if is_barrier(packet) {
                    runs = [const { None }; FLOWS];
                }
                continue;
            };
            let segment = Segment::of(packet, tcp);
            let same = |run: &Run| same_flow(&burst[run.first], packet);
            let place = runs.iter().position(|run| run.as_ref().is_some_and(same));
            if let (Some(place), Some(segment)) = (place, &segment)
                && let Some(run) = &mut runs[place]
                && run.admits(&burst[run.first], packet, segment)
            {
                plan.join(run, index, packet, segment);
                if segment.payload < run.segment.payload || segment.flags & ENDS != 0 {
                    runs[place] = None;
                }
                continue;
            }
            let begun = segment.filter(|one| one.flags & ENDS == 0);
            let place = place.or_else(|| begun.is_some().then(|| free_place(&runs, &mut oldest)));
            if let Some(place) = place {
                runs[place] = begun.map(|segment| Run::begin(index, packet, segment));
            }
        }
        plan
    }

    fn join(&mut self, run: &mut Run, index: usize, packet: &Packet, segment: &Segment) {
        self.joined = true;
        self.next[run.last] = index as u8;
        self.last_flags[run.first] = segment.flags;
        self.size[run.first] = run.segment.payload as u16;
        run.last = index;
        run.count += 1;
        run.frames += packet.segment_count();
        run.ip_len += segment.payload;
        run.next_sequence = run.next_sequence.wrapping_add(segment.payload as u32);
    }

    /// Builds from the back, so that each packet takes its successor's chain as a whole.
    fn carry_out(&self, burst: &mut Vec<Packet>) {
        let mut slots: [Option<Packet>; WINDOW] = [const { None }; WINDOW];
        while let Some(mut packet) = burst.pop() {
            let index = burst.len();
            let next = usize::from(self.next[index]);
            if next != 0
                && let Some(next) = slots[next].take()
            {
                // The headers of both are of one length: `admits` compared them.
                let headers = headers_len(&packet);
                packet.absorb(next, headers);
            }
            slots[index] = Some(packet);
        }
        for (index, packet) in slots.into_iter().enumerate() {
            let Some(mut packet) = packet else { continue };
            if self.size[index] != 0 {
                finish(&mut packet, self.size[index], self.last_flags[index]);
            }
            burst.push(packet);
        }
    }
}

fn free_place(runs: &[Option<Run>; FLOWS], oldest: &mut usize) -> usize {
    runs.iter().position(Option::is_none).unwrap_or_else(|| {
        *oldest = (*oldest + 1) % FLOWS;
        *oldest
    })
}

impl Segment {
    /// `None` when it must go alone.
    fn of(packet: &Packet, tcp: tcp::View<'_>) -> Option<Segment> {
        let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
        let Offload { needs_csum, gso, csum_start, csum_offset, .. } = packet.offload();
        let headers = l4 + tcp.header_len();
        let marked = usize::from(csum_start) == l4 && usize::from(csum_offset) == CHECKSUM;
        let ip = &packet.head()[l3..];
        let plain = if ip[0] >> 4 == 4 {
            let view = ipv4::View::new(ip)?;
            view.header_len() == ipv4::MIN_HEADER_LEN
                && view.total_len() == packet.len() - l3
                && view.checksum_ok()
        } else {
            ipv6::View::new(ip)?.payload_len() + ipv6::HEADER_LEN == packet.len() - l3
        };
        let flags = tcp.flags();
        let data = flags & (tcp::ACK | tcp::SYN | tcp::RST | tcp::URG) == tcp::ACK;
        let whole = headers >= l4 + tcp::MIN_HEADER_LEN && headers <= packet.head().len();
        (plain && data && whole && gso == Gso::None && (marked || !needs_csum))
            .then(|| packet.len() - headers)
            .filter(|&payload| payload > 0 && payload <= MAX_IP_LEN)
            .map(|payload| Segment { headers, payload, sequence: tcp.sequence(), flags })
    }
}

impl Run {
    fn begin(index: usize, packet: &Packet, segment: Segment) -> Run {
        Run {
            first: index,
            last: index,
            count: 1,
            frames: packet.segment_count(),
            ip_len: packet.len() - usize::from(packet.l3),
            next_sequence: segment.sequence.wrapping_add(segment.payload as u32),
            segment,
            verified: false,
            fixed_id: false,
        }
    }

    /// True when `packet` may follow as the next part behind `first`.
    fn admits(&mut self, first: &Packet, packet: &Packet, segment: &Segment) -> bool {
        let fits = self.ip_len + segment.payload <= MAX_IP_LEN
            && self.frames + packet.segment_count() <= MAX_SEGMENTS
            && segment.payload <= self.segment.payload
            // All frames of a chain but its first are small ones.
            && !packet.is_large();
        let flags = (segment.flags ^ self.segment.flags) & !(ENDS | tcp::CWR);
        fits && segment.sequence == self.next_sequence
            && flags == 0
            && segment.flags & tcp::CWR == 0
            && segment.headers == self.segment.headers
            && same_headers(first, packet, segment.headers)
            && self.id_follows(first, packet)
            && self.checksums_are_right(first, packet)
    }

    fn id_follows(&mut self, first: &Packet, packet: &Packet) -> bool {
        let view = |packet: &Packet| {
            let ip = packet.head().get(usize::from(packet.l3)..)?;
            ipv4::View::new(ip).filter(|view| view.version() == 4).map(|view| view.id())
        };
        let (Some(base), Some(id)) = (view(first), view(packet)) else { return true };
        let dont_fragment = packet.head()[usize::from(packet.l3) + 6] & 0x40 != 0;
        if self.count == 1 {
            self.fixed_id = dont_fragment && id == base;
        }
        id == base.wrapping_add(if self.fixed_id { 0 } else { self.count })
    }

    fn checksums_are_right(&mut self, first: &Packet, packet: &Packet) -> bool {
        self.verified = self.verified || checksum_is_right(first);
        self.verified && checksum_is_right(packet)
    }
}

fn checksum_is_right(packet: &Packet) -> bool {
    let l4 = usize::from(packet.l4);
    packet.offload().needs_csum
        || pseudo_header(packet.head(), usize::from(packet.l3), l4)
            .is_some_and(|(_, pseudo)| checksum::fold(pseudo + sum_from(packet, l4)) == 0xffff)
}

/// The TCP header of a packet without fragment or extension headers.
fn tcp_of(packet: &Packet) -> Option<tcp::View<'_>> {
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let head = packet.head();
    let ip = head.get(l3..)?;
    let found = match ip.first()? >> 4 {
        4 => {
            let view = ipv4::View::new(ip)?;
            view.protocol() == protocol::TCP && !view.is_fragment() && view.header_len() + l3 == l4
        }
        6 => {
            let view = ipv6::View::new(ip)?;
            view.next_header() == protocol::TCP && l3 + ipv6::HEADER_LEN == l4
        }
        _ => false,
    };
    tcp::View::new(head.get(l4..)?).filter(|_| found && l3 >= ethernet::HEADER_LEN)
}

/// A fragment or a packet with extension headers may belong to any of the flows, and must not be
/// overtaken.
fn is_barrier(packet: &Packet) -> bool {
    let Some(ip) = packet.head().get(usize::from(packet.l3)..) else { return true };
    match (ipv4::View::new(ip), ipv6::View::new(ip)) {
        (Some(view), _) if view.version() == 4 => view.is_fragment(),
        (_, Some(view)) if view.version() == 6 => {
            view.transport().is_none_or(|transport| transport.offset != ipv6::HEADER_LEN)
        }
        _ => false,
    }
}

/// Both are TCP packets found by [`tcp_of`].
fn same_flow(a: &Packet, b: &Packet) -> bool {
    if (a.l3, a.l4) != (b.l3, b.l4) {
        return false;
    }
    let (l3, l4) = (usize::from(a.l3), usize::from(a.l4));
    let (a, b) = (a.head(), b.head());
    let addresses = if a[l3] >> 4 == 4 { l3 + 12..l3 + 20 } else { l3 + 8..l3 + 40 };
    a[l3] >> 4 == b[l3] >> 4
        && a[addresses.clone()] == b[addresses]
        && a[l4..l4 + 4] == b[l4..l4 + 4]
}

/// All that cutting would repeat in each part is equal. Flags and addresses are compared already.
fn same_headers(a: &Packet, b: &Packet, headers: usize) -> bool {
    let (l3, l4) = (usize::from(a.l3), usize::from(a.l4));
    let (a, b) = (a.head(), b.head());
    let same = |from: usize, to: usize| a[from..to] == b[from..to];
    let ip = if a[l3] >> 4 == 4 {
        // Version and DSCP; DF, TTL and protocol.
        same(l3, l3 + 2) && same(l3 + 6, l3 + 10)
    } else {
        // Version, class and flow label; next header and hop limit.
        same(l3, l3 + 4) && same(l3 + 6, l3 + 8)
    };
    // Acknowledgement and header length; window; urgent pointer and options.
    let tcp = same(l4 + 8, l4 + 13) && same(l4 + 14, l4 + 16) && same(l4 + 18, headers);
    ip && tcp && same(0, l3)
}

fn headers_len(packet: &Packet) -> usize {
    let l4 = usize::from(packet.l4);
    l4 + packet.head().get(l4 + 12).map_or(0, |byte| usize::from(byte >> 4) * 4)
}

/// Makes the first segment's headers those of the super-packet.
fn finish(packet: &mut Packet, size: u16, last_flags: u8) {
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let ip_len = packet.len() - l3;
    let head = packet.head_mut();
    let is_v4 = head[l3] >> 4 == 4;
    if is_v4 {
        let word = |at: usize| u16::from_be_bytes([head[l3 + at], head[l3 + at + 1]]);
        let (id, flags) = (word(4), word(6));
        ipv4::set_fragment(&mut head[l3..], ip_len as u16, id, flags);
    } else {
        let length = (ip_len - ipv6::HEADER_LEN) as u16;
        head[l3 + 4..l3 + 6].copy_from_slice(&length.to_be_bytes());
    }
    head[l4 + 13] |= last_flags & ENDS;
    if let Some((_, pseudo)) = pseudo_header(head, l3, l4) {
        let field = checksum::fold(pseudo).to_be_bytes();
        head[l4 + CHECKSUM..l4 + CHECKSUM + 2].copy_from_slice(&field);
    }
    packet.set_offload(Offload {
        needs_csum: true,
        gso: if is_v4 { Gso::Tcp4 } else { Gso::Tcp6 },
        gso_size: size,
        csum_start: packet.l4,
        csum_offset: CHECKSUM as u16,
    });
}

#[cfg(test)]
mod tests;
