//! Writing pcapng: nanosecond timestamps, several interfaces, a comment for each packet that
//! deserves one (the reason of a drop).

use super::PcapError;
use crate::packet::Packet;
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

/// Longest comment kept, in bytes; an option's length has 16 bits.
const MAX_COMMENT: usize = 4096;

/// Writes a pcapng file. Everything is on its way to `W` when a call returns; [`Writer::flush`]
/// empties the buffers of `W` itself.
pub struct Writer<W> {
    out: W,
    /// Gathers one block: the crate writes field by field, and a block half written makes the
    /// file unreadable from there on.
    blocks: PcapNgWriter<Vec<u8>>,
    interfaces: u32,
    scratch: Vec<u8>,
}

impl<W> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("interfaces", &self.interfaces).finish_non_exhaustive()
    }
}

impl Writer<BufWriter<File>> {
    /// Creates or replaces the file.
    pub fn create(path: &Path) -> Result<Self, PcapError> {
        let file = File::create(path)
            .map_err(|source| PcapError::Io { path: path.display().to_string(), source })?;
        Writer::new(BufWriter::with_capacity(256 << 10, file))
    }
}

impl<W: Write> Writer<W> {
    /// Begins a file in `out`.
    pub fn new(out: W) -> Result<Writer<W>, PcapError> {
        let blocks = PcapNgWriter::new(Vec::new()).map_err(refused)?;
        let mut writer = Writer { out, blocks, interfaces: 0, scratch: Vec::new() };
        writer.push_out()?;
        Ok(writer)
    }

    /// Describes an Ethernet interface; gives its number for [`Writer::packet`].
    pub fn interface(&mut self, name: &str) -> Result<u32, PcapError> {
        let mut block = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
        block.options = vec![
            InterfaceDescriptionOption::IfName(Cow::Owned(shortened(name).to_string())),
            InterfaceDescriptionOption::IfTsResol(9),
        ];
        self.blocks.write_pcapng_block(block).map_err(refused)?;
        self.push_out()?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes a packet. `timestamp_ns` counts from 1970; the interface must have been described.
    pub fn packet(
        &mut self,
        timestamp_ns: u64,
        interface: u32,
        packet: &Packet,
        comment: Option<&str>,
    ) -> Result<(), PcapError> {
        let mut gathered = std::mem::take(&mut self.scratch);
        gathered.clear();
        packet.segments().for_each(|part| gathered.extend_from_slice(part));
        let done = self.bytes(timestamp_ns, interface, &gathered, comment);
        self.scratch = gathered;
        done
    }

    /// As [`Writer::packet`], for bytes that are not in frames.
    pub fn bytes(
        &mut self,
        timestamp_ns: u64,
        interface: u32,
        bytes: &[u8],
        comment: Option<&str>,
    ) -> Result<(), PcapError> {
        let comment = comment.map(|text| EnhancedPacketOption::Comment(shortened(text).into()));
        let block = EnhancedPacketBlock {
            interface_id: interface,
            timestamp: Duration::from_nanos(timestamp_ns),
            original_len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            data: Cow::Borrowed(bytes),
            options: comment.into_iter().collect(),
        };
        self.blocks.write_pcapng_block(block).map_err(refused)?;
        self.push_out()
    }

    /// Says how many packets of an interface were left out so far, as the file's own record.
    pub fn statistics(
        &mut self,
        timestamp_ns: u64,
        interface: u32,
        left_out: u64,
    ) -> Result<(), PcapError> {
        // The upper half stands first in either byte order; the crate writes one 64-bit number.
        let swap = if cfg!(target_endian = "little") { 32 } else { 0 };
        let block = InterfaceStatisticsBlock {
            interface_id: interface,
            timestamp: timestamp_ns.rotate_left(swap),
            options: vec![InterfaceStatisticsOption::IsbIfDrop(left_out)],
        };
        self.blocks.write_pcapng_block(block).map_err(refused)?;
        self.push_out()
    }

    /// Empties the buffers behind the writer.
    pub fn flush(&mut self) -> Result<(), PcapError> {
        self.out.flush().map_err(failed)
    }

    /// Ends the file; gives back what it was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn push_out(&mut self) -> Result<(), PcapError> {
        let block = self.blocks.get_mut();
        let done = self.out.write_all(block).map_err(failed);
        block.clear();
        done
    }
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_COMMENT)]
}

fn failed(source: std::io::Error) -> PcapError {
    PcapError::Io { path: "writing the capture".to_string(), source }
}

fn refused(error: pcap_file::PcapError) -> PcapError {
    match error {
        pcap_file::PcapError::IoError(source) => failed(source),
        other => PcapError::Invalid { offset: 0, what: other.to_string() },
    }
}
