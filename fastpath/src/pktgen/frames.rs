//! The frames that a sender goes through in turn.

use super::stamp;
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{checksum, ipv4, ipv6, protocol, tcp, udp};
use std::net::IpAddr;

/// Most frames of one sender.
pub(super) const MAX_FRAMES: usize = 1 << 20;
/// Longest frame, in bytes without the check sequence: what live frames have room for.
pub(super) const MAX_LEN: usize = 3000;
/// Bytes that are written anew in each stamped frame: all headers and the stamp.
pub(super) const HEAD: usize = 96;
/// What Ethernet puts behind a frame, counted by those who speak of 64-byte frames.
pub(super) const CHECK_SEQUENCE: usize = 4;
/// Simple IMIX: lengths with the check sequence, in the order sent, 7:4:1 (RFC 6985's example).
pub const IMIX: [usize; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64];

/// What frames are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP, each packet a SYN.
    TcpSyn,
}

/// How the frames of many flows look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Destination and source of the Ethernet header.
    pub macs: [Mac; 2],
    /// First source address; each flow has the same.
    pub src: IpAddr,
    /// First destination address.
    pub dst: IpAddr,
    /// Addresses from the first one on that flows take in turn, 1 or more.
    pub destinations: u32,
    /// What is in the packets.
    pub protocol: Protocol,
    /// Source port of the first flow, and the destination port of all.
    pub ports: [u16; 2],
    /// Flows; with the lengths, 1 to 2^20 frames.
    pub flows: usize,
    /// Frame lengths in bytes with the check sequence, taken in turn.
    pub lengths: Vec<usize>,
}

/// Why there are no such frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FramesError {
    /// None, or too many.
    #[error("{0} frames: 1 to 1048576 can be sent in turn")]
    Number(usize),
    /// A length that cannot be.
    #[error("a frame of {length} bytes: {least} to {most} can be")]
    Length {
        /// With the check sequence.
        length: usize,
        /// Shortest that headers and stamp fit in.
        least: usize,
        /// Longest.
        most: usize,
    },
    /// Source and destination are of two families.
    #[error("{0} and {1} are of two address families")]
    Families(IpAddr, IpAddr),
}

/// Frames, each with the bytes that it is sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    pub(super) list: Vec<Vec<u8>>,
    /// Where stamps go, the same in all; `None` for frames that are sent as they are.
    pub(super) stamp_at: Option<usize>,
}

impl Frames {
    /// Frames as they were captured, without stamps; of 3,000 bytes at most.
    pub fn captured(list: Vec<Vec<u8>>) -> Result<Frames, FramesError> {
        if !(1..=MAX_FRAMES).contains(&list.len()) {
            return Err(FramesError::Number(list.len()));
        }
        for frame in &list {
            let length = frame.len() + CHECK_SEQUENCE;
            let (least, most) = (ethernet::HEADER_LEN + CHECK_SEQUENCE, MAX_LEN + CHECK_SEQUENCE);
            if !(least..=most).contains(&length) {
                return Err(FramesError::Length { length, least, most });
            }
        }
        Ok(Frames { list, stamp_at: None })
    }

    /// Stamped frames of flows; with several lengths, a flow for each of them.
    pub fn stamped(template: &Template) -> Result<Frames, FramesError> {
        let (src, dst) = (template.src, template.dst);
        let l3 = match (src, dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => ipv4::MIN_HEADER_LEN,
            (IpAddr::V6(_), IpAddr::V6(_)) => ipv6::HEADER_LEN,
            _ => return Err(FramesError::Families(src, dst)),
        };
        let number = template.flows.saturating_mul(template.lengths.len());
        if !(1..=MAX_FRAMES).contains(&number) {
            return Err(FramesError::Number(number));
        }
        let stamp_at = ethernet::HEADER_LEN + l3 + template.protocol.header_len();
        let (least, most) = (stamp_at + stamp::LEN + CHECK_SEQUENCE, MAX_LEN + CHECK_SEQUENCE);
        for &length in &template.lengths {
            if !(least..=most).contains(&length) {
                return Err(FramesError::Length { length, least, most });
            }
        }
        let one = |at: usize| template.frame(at, template.lengths[at % template.lengths.len()]);
        Ok(Frames { list: (0..number).map(one).collect(), stamp_at: Some(stamp_at) })
    }

    /// Frames.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Bytes of all frames together, without check sequences.
    pub fn bytes(&self) -> u64 {
        self.list.iter().map(|frame| frame.len() as u64).sum()
    }
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Protocol::Udp => protocol::UDP,
            Protocol::TcpSyn => protocol::TCP,
        }
    }

    fn header_len(self) -> usize {
        match self {
            Protocol::Udp => udp::HEADER_LEN,
            Protocol::TcpSyn => tcp::MIN_HEADER_LEN,
        }
    }
}

/// The address so many after this one, in its family.
fn plus(address: IpAddr, by: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(v4.to_bits().wrapping_add(by).into()),
        IpAddr::V6(v6) => IpAddr::V6(v6.to_bits().wrapping_add(by.into()).into()),
    }
}

impl Template {
    fn frame(&self, at: usize, length: usize) -> Vec<u8> {
        let flow = (at / self.lengths.len()) as u32;
        let length = length - CHECK_SEQUENCE;
        let dst = plus(self.dst, flow % self.destinations.max(1));
        let [dst_mac, src_mac] = self.macs;
        let mut segment = self.segment(at);
        let number = self.protocol.number();
        let mut frame = match (self.src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut frame = ethernet::header(dst_mac, src_mac, ethernet::IPV4).to_vec();
                segment.resize(length - frame.len() - ipv4::MIN_HEADER_LEN, 0);
                frame.extend(ipv4::header(src, dst, number, 64, segment.len() as u16));
                frame
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut frame = ethernet::header(dst_mac, src_mac, ethernet::IPV6).to_vec();
                segment.resize(length - frame.len() - ipv6::HEADER_LEN, 0);
                frame.extend(ipv6::header(src, dst, number, 64, segment.len() as u16));
                frame
            }
            _ => return Vec::new(),
        };
        self.fill_checksum(&mut segment, dst);
        frame.extend(segment);
        frame
    }

    /// A transport header without length and checksum. Flows differ in their source ports, 1,024
    /// and above.
    fn segment(&self, at: usize) -> Vec<u8> {
        let [first, dst_port] = self.ports;
        let src_port = (u32::from(first).wrapping_sub(1024) + at as u32) % 64_512 + 1024;
        let mut header = vec![0; self.protocol.header_len()];
        header[..2].copy_from_slice(&(src_port as u16).to_be_bytes());
        header[2..4].copy_from_slice(&dst_port.to_be_bytes());
        if self.protocol == Protocol::TcpSyn {
            header[4..8].copy_from_slice(&(at as u32).to_be_bytes());
            header[12] = (tcp::MIN_HEADER_LEN as u8 / 4) << 4;
            header[13] = tcp::SYN;
            header[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        }
        header
    }

    fn fill_checksum(&self, segment: &mut [u8], dst: IpAddr) {
        let at = match self.protocol {
            Protocol::Udp => {
                let length = segment.len() as u16;
                segment[4..6].copy_from_slice(&length.to_be_bytes());
                udp::CHECKSUM_OFFSET
            }
            Protocol::TcpSyn => tcp::CHECKSUM_OFFSET,
        };
        let (number, length) = (self.protocol.number(), segment.len());
        let pseudo = match (self.src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => checksum::pseudo_v4(src, dst, number, length),
            (IpAddr::V6(src), IpAddr::V6(dst)) => checksum::pseudo_v6(src, dst, number, length),
            _ => return,
        };
        let sum = checksum::finish(pseudo + checksum::sum(segment));
        let sum = if self.protocol == Protocol::Udp { udp::nonzero(sum) } else { sum };
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}
