//! Reading capture files: pcap (both byte orders, micro- and nanoseconds) and pcapng.
//!
//! Only Ethernet is taken. Packet blocks are read from their raw bytes rather than as the crate's
//! parsed blocks: those demand an end-of-options mark, which writers may leave out, and take every
//! timestamp for nanoseconds.

use pcap_file::pcap::PcapParser;
use pcap_file::pcapng::PcapNgParser;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::{
    ENHANCED_PACKET_BLOCK, INTERFACE_DESCRIPTION_BLOCK, PACKET_BLOCK, SECTION_HEADER_BLOCK,
    SIMPLE_PACKET_BLOCK,
};
use pcap_file::{DataLink, Endianness, TsResolution};
use std::path::Path;

const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// What is wrong with a capture file, and where.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// It could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file, or what stands for it.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file begins like no capture.
    #[error("neither a pcap nor a pcapng file: it begins with {found:02x?}")]
    Foreign {
        /// Its first bytes, up to four.
        found: Vec<u8>,
    },
    /// The file ends inside a block or packet.
    #[error(
        "the file is cut off: what begins at byte {offset} is not complete \
         ({packets} packets before it)"
    )]
    Truncated {
        /// Where the incomplete block or packet begins.
        offset: usize,
        /// Whole packets before it.
        packets: usize,
    },
    /// A block makes no sense.
    #[error("at byte {offset}: {what}")]
    Invalid {
        /// Where the block begins.
        offset: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Packets of another kind of link.
    #[error(
        "at byte {offset}: link type {link_type} is not Ethernet (1); capture on an Ethernet device"
    )]
    LinkType {
        /// Where it is said.
        offset: usize,
        /// The number found (tcpdump.org/linktypes.html).
        link_type: u32,
    },
}

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// A line of the cache; what is behind the packet in it has no meaning.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line(pub(super) [u8; LINE]);

/// All packets of a capture file, in memory.
#[derive(Debug, Clone, Default)]
pub struct Capture {
    bytes: Vec<u8>,
    packets: Vec<Recorded>,
}

#[derive(Debug, Clone, Copy)]
struct Recorded {
    timestamp_ns: u64,
    start: usize,
    len: usize,
}

impl Capture {
    /// Reads a file whole.
    pub fn read(path: &Path) -> Result<Capture, PcapError> {
        let bytes = std::fs::read(path)
            .map_err(|source| PcapError::Io { path: path.display().to_string(), source })?;
        Capture::parse(&bytes)
    }

    /// Reads the bytes of a file.
    pub fn parse(file: &[u8]) -> Result<Capture, PcapError> {
        let mut capture = Capture::default();
        if file.starts_with(&PCAPNG_MAGIC) {
            capture.parse_pcapng(file)?;
        } else {
            capture.parse_pcap(file)?;
        }
        Ok(capture)
    }

    /// Adds a packet at the end.
    pub fn push(&mut self, timestamp_ns: u64, bytes: &[u8]) {
        self.packets.push(Recorded { timestamp_ns, start: self.bytes.len(), len: bytes.len() });
        self.bytes.extend_from_slice(bytes);
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Timestamp (nanoseconds since 1970) and bytes of packet `index`. Panics past the end.
    #[inline]
    pub fn packet(&self, index: usize) -> (u64, &[u8]) {
        let Recorded { timestamp_ns, start, len } = self.packets[index];
        (timestamp_ns, &self.bytes[start..start + len])
    }

    /// All packets as a line each, with their lengths, if none is longer: a copy of fixed size
    /// takes a fraction of the time of one of any size.
    pub(super) fn lines(&self) -> Option<(Vec<Line>, Vec<u8>)> {
        let short = |(_, bytes): (u64, &[u8])| {
            let mut line = Line([0; LINE]);
            line.0.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some((line, bytes.len() as u8))
        };
        self.iter().map(short).collect()
    }

    /// Timestamp and bytes of each packet in turn.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        (0..self.len()).map(|index| self.packet(index))
    }

    fn parse_pcap(&mut self, file: &[u8]) -> Result<(), PcapError> {
        let (mut rest, parser) = match PcapParser::new(file) {
            Ok(parser) => parser,
            Err(pcap_file::PcapError::IncompleteBuffer) if has_pcap_magic(file) => {
                return Err(PcapError::Truncated { offset: 0, packets: 0 });
            }
            Err(_) => {
                let found = file[..file.len().min(4)].to_vec();
                return Err(PcapError::Foreign { found });
            }
        };
        let header = parser.header();
        // The upper half holds the length of a frame check sequence, which pcap's writers set to
        // 0 in practice.
        check_link(u32::from(header.datalink) & 0xffff, 20)?;
        let unit_ns = match header.ts_resolution {
            TsResolution::MicroSecond => 1000,
            TsResolution::NanoSecond => 1,
        };
        while !rest.is_empty() {
            let offset = file.len() - rest.len();
            let next = parser.next_raw_packet(rest);
            let (after, raw) = next.map_err(|error| self.error(offset, &error))?;
            let fraction = u64::from(raw.ts_frac) * unit_ns;
            self.push(u64::from(raw.ts_sec) * 1_000_000_000 + fraction, &raw.data);
            rest = after;
        }
        Ok(())
    }

    fn parse_pcapng(&mut self, file: &[u8]) -> Result<(), PcapError> {
        let begun = PcapNgParser::new(file);
        let (mut rest, mut parser) = begun.map_err(|error| self.error(0, &error))?;
        while !rest.is_empty() {
            let offset = file.len() - rest.len();
            let next = parser.next_raw_block(rest);
            let (after, block) = next.map_err(|error| self.error(offset, &error))?;
            let wrong = |what: &str| PcapError::Invalid { offset, what: what.to_string() };
            let big = parser.section().endianness == Endianness::Big;
            match block.type_ {
                SECTION_HEADER_BLOCK if parser.section().major_version != 1 => {
                    return Err(wrong("a pcapng section of another major version than 1"));
                }
                INTERFACE_DESCRIPTION_BLOCK => {
                    let link = parser.interfaces().last().map(|one| u32::from(one.linktype));
                    check_link(link.unwrap_or_default(), offset)?;
                }
                ENHANCED_PACKET_BLOCK | PACKET_BLOCK | SIMPLE_PACKET_BLOCK => {
                    let interfaces = parser.interfaces();
                    let (timestamp_ns, start, len) =
                        block_packet(block.type_, &block.body, big, interfaces).map_err(wrong)?;
                    self.push(timestamp_ns, &block.body[start..start + len]);
                }
                _ => {}
            }
            rest = after;
        }
        Ok(())
    }

    fn error(&self, offset: usize, error: &pcap_file::PcapError) -> PcapError {
        match error {
            pcap_file::PcapError::IncompleteBuffer => {
                PcapError::Truncated { offset, packets: self.len() }
            }
            other => PcapError::Invalid { offset, what: other.to_string() },
        }
    }
}

fn has_pcap_magic(file: &[u8]) -> bool {
    matches!(
        file,
        [0xa1, 0xb2, 0xc3, 0xd4, ..]
            | [0xa1, 0xb2, 0x3c, 0x4d, ..]
            | [0xd4, 0xc3, 0xb2, 0xa1, ..]
            | [0x4d, 0x3c, 0xb2, 0xa1, ..]
    )
}

fn check_link(link_type: u32, offset: usize) -> Result<(), PcapError> {
    if link_type == u32::from(DataLink::ETHERNET) {
        return Ok(());
    }
    Err(PcapError::LinkType { offset, link_type })
}

/// Timestamp in nanoseconds, and offset and length of the packet in a packet block's body.
fn block_packet(
    kind: u32,
    body: &[u8],
    big: bool,
    interfaces: &[InterfaceDescriptionBlock<'_>],
) -> Result<(u64, usize, usize), &'static str> {
    let word = |index: usize| -> Result<u32, &'static str> {
        let bytes = body.get(index * 4..index * 4 + 4).and_then(|bytes| bytes.try_into().ok());
        let bytes: [u8; 4] = bytes.ok_or("the packet block is too short")?;
        Ok(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let first = word(0)?;
    let interface = match kind {
        ENHANCED_PACKET_BLOCK => first as usize,
        PACKET_BLOCK if big => (first >> 16) as usize,
        PACKET_BLOCK => (first & 0xffff) as usize,
        _ => 0,
    };
    let interface = interfaces.get(interface).ok_or("a packet of an interface not described")?;
    if kind == SIMPLE_PACKET_BLOCK {
        let snap = if interface.snaplen == 0 { usize::MAX } else { interface.snaplen as usize };
        return Ok((0, 4, (body.len() - 4).min(first as usize).min(snap)));
    }
    let ticks = u64::from(word(1)?) << 32 | u64::from(word(2)?);
    let len = word(3)? as usize;
    if body.len().saturating_sub(20) < len {
        return Err("the packet is longer than its block");
    }
    Ok((nanoseconds(ticks, interface), 20, len))
}

/// Ticks of an interface in nanoseconds: its `if_tsresol`, microseconds when it has none.
fn nanoseconds(ticks: u64, interface: &InterfaceDescriptionBlock<'_>) -> u64 {
    let resolution = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(value) => Some(*value),
        _ => None,
    });
    let exponent = u32::from(resolution.unwrap_or(6) & 0x7f);
    let per_second = if resolution.unwrap_or(6) & 0x80 == 0 {
        10u128.checked_pow(exponent)
    } else {
        1u128.checked_shl(exponent)
    };
    let nanoseconds = per_second
        .filter(|&per_second| per_second > 0)
        .map_or(0, |per_second| u128::from(ticks) * 1_000_000_000 / per_second);
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}
