//! `margay capture`: packets of the running daemon as a pcapng file.
//!
//! The daemon makes the file's blocks; here they are written whole, so that the file is good
//! whenever this ends: by Ctrl-C, by `--count`, or with the daemon.

use anyhow::{Context, Result, bail};
use margay_control::api::client;
use margay_control::config::SOCKET;
use std::fs::File;
use std::io::{BufRead, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest block of the daemon that is believed, in bytes: the longest packet and its comment.
const MAX_BLOCK: u32 = 1 << 20;
/// Type of a block with a packet (draft-ietf-opsawg-pcapng 4.3).
const ENHANCED_PACKET: u32 = 6;
/// Type of a block with totals (4.6).
const INTERFACE_STATISTICS: u32 = 5;

/// Capture packets of the running daemon, dropped ones with the reason as comment.
#[derive(Debug, clap::Args)]
pub(crate) struct Capture {
    /// Only this port
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// Only packets that are dropped
    #[arg(long)]
    drops: bool,
    /// End after so many packets
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// The file to write, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// The daemon's Unix socket
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
}

impl Capture {
    /// Captures until told to stop.
    pub(crate) fn execute(self) -> Result<ExitCode> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, stop.clone()).context("signals")?;
        }
        let mut path = format!("/v1/capture?drops={}", self.drops);
        if let Some(port) = &self.port {
            path += &format!("&port={}", percent_encoded(port));
        }
        let blocks = client::open(&self.socket, &path)?;
        let limit = self.count.unwrap_or(u64::MAX);
        let copied = if self.write == Path::new("-") {
            copy(blocks, std::io::stdout().lock(), limit, &stop)?
        } else {
            let name = self.write.display();
            let file = File::create(&self.write).with_context(|| format!("{name}"))?;
            copy(blocks, BufWriter::new(file), limit, &stop)?
        };
        eprintln!("{copied} packets captured");
        Ok(ExitCode::SUCCESS)
    }
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Copies whole blocks until `limit` packets, the stream's end, or `stop`; the packets copied.
fn copy(mut from: impl BufRead, mut to: impl Write, limit: u64, stop: &AtomicBool) -> Result<u64> {
    let mut packets = 0;
    let mut block = Vec::new();
    while packets < limit && !stop.load(Ordering::Relaxed) {
        if !next_block(&mut from, &mut block)? {
            break;
        }
        if block.is_empty() {
            continue;
        }
        if block_word(&block, 0) == ENHANCED_PACKET {
            packets += 1;
        }
        let written = to.write_all(&block).and_then(|()| {
            // They stand at the end of each burst: a reader of standard output sees it now.
            if block_word(&block, 0) == INTERFACE_STATISTICS { to.flush() } else { Ok(()) }
        });
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            outcome => outcome.context("writing the capture")?,
        }
    }
    match to.flush() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        outcome => outcome.context("writing the capture")?,
    }
    Ok(packets)
}

/// Reads one block; none when a signal came first. False at the end of the stream.
fn next_block(from: &mut impl BufRead, block: &mut Vec<u8>) -> Result<bool> {
    block.clear();
    match from.fill_buf() {
        Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
        Err(error) => return Err(error).context("the daemon's stream"),
        Ok([]) => return Ok(false),
        Ok(_) => {}
    }
    from.take(8).read_to_end(block).context("the daemon's stream")?;
    let length = if block.len() == 8 { block_word(block, 4) } else { 0 };
    if !(12..=MAX_BLOCK).contains(&length) {
        bail!("the daemon's stream: a block of {length} bytes");
    }
    let rest = u64::from(length) - 8;
    let got = from.take(rest).read_to_end(block).context("the daemon's stream")?;
    if got as u64 != rest {
        // The daemon ended in the middle of a block; what came before is good.
        return Ok(false);
    }
    Ok(true)
}

/// A word of a block; the daemon writes in the machine's own order, which it runs on too.
fn block_word(block: &[u8], at: usize) -> u32 {
    let bytes = block.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    u32::from_ne_bytes(bytes.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use margay_fastpath::port::pcap::{self, Writer};

    fn stream(packets: u64) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        let interface = writer.interface("eth0").unwrap();
        for at in 0..packets {
            writer.bytes(at, interface, &[0; 60], Some("dropped: no-route")).unwrap();
            writer.statistics(at, interface, 0).unwrap();
        }
        writer.into_inner()
    }

    fn copied(from: &[u8], limit: u64) -> (u64, Vec<u8>) {
        let mut to = Vec::new();
        let packets = copy(from, &mut to, limit, &AtomicBool::new(false)).unwrap();
        (packets, to)
    }

    #[test]
    fn blocks_are_copied_whole_up_to_the_limit() {
        let from = stream(5);
        assert_eq!(copied(&from, u64::MAX), (5, from.clone()));
        let (packets, file) = copied(&from, 2);
        assert_eq!((packets, pcap::Capture::parse(&file).unwrap().len()), (2, 2));
        assert_eq!(copied(&from, 0).0, 0);
    }

    #[test]
    fn a_stream_that_breaks_off_leaves_a_good_file() {
        let from = stream(2);
        for cut in [from.len() - 1, from.len() - 100] {
            let (packets, file) = copied(&from[..cut], u64::MAX);
            assert_eq!(pcap::Capture::parse(&file).unwrap().len() as u64, packets);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let mut to = Vec::new();
        let stop = AtomicBool::new(false);
        assert!(copy(&[0xff; 64][..], &mut to, 9, &stop).is_err());
        assert!(copy(&[0; 5][..], &mut to, 9, &stop).is_err());
        assert_eq!(percent_encoded("a b/1"), "a%20b%2F1");
    }
}
