//! `margay replay`: packets of a capture through the real pipeline, offline.
//!
//! Every packet has one fate, and the summary accounts for all of them. A capture's link addresses
//! are those of other machines, so a unicast destination counts as the port's own.

use anyhow::{Context, Result, bail};
use margay_control::offline::{self, UPLINK};
use margay_fastpath::port::PortId;
use margay_fastpath::port::pcap::{Capture, Writer};
use margay_fastpath::replay::{Fate, Replay as Pipeline};
use margay_fastpath::tables::Tables;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;

/// Send packets of a capture through the pipeline of a node, offline.
#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    /// The capture, pcap or pcapng
    #[arg(value_name = "IN.pcap")]
    input: PathBuf,
    /// Directory of Calico resources
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Name of the node
    #[arg(long, value_name = "NAME")]
    node: String,
    /// The port that the packets come in by: `uplink`, or the interface of an endpoint
    #[arg(long, value_name = "PORT", default_value = UPLINK)]
    in_port: String,
    /// Write what comes out here, as pcapng: one interface a port, dropped packets on `dropped`
    #[arg(short, long, value_name = "OUT.pcap")]
    write: Option<PathBuf>,
}

/// What became of all packets. `packets` is the sum of `forwarded`, `dropped`, `punted`,
/// `answered` and `waiting`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    packets: u64,
    forwarded: BTreeMap<String, u64>,
    dropped: BTreeMap<&'static str, u64>,
    punted: u64,
    answered: u64,
    waiting: u64,
    icmp_errors: u64,
    sent: u64,
}

impl Replay {
    pub(crate) fn execute(self) -> Result<ExitCode> {
        let capture = Capture::read(&self.input)?;
        let offline = offline::build(&self.store, &self.node)?;
        let names = port_names(&offline.tables);
        let Some(at) = names.iter().position(|name| *name == self.in_port) else {
            bail!("no port named '{}'\nhint: the node has {}", self.in_port, names.join(", "));
        };
        let mut pipeline = Pipeline::new(offline.tables, offline.writer, offline.fib)?;
        let mut output = self.write.map(|path| Output::create(path, &names)).transpose()?;
        let mut summary = Summary::default();
        let (mut sent, mut bytes) = (Vec::new(), Vec::new());
        for (time_ns, packet) in capture.iter() {
            bytes.clear();
            bytes.extend_from_slice(packet);
            address_to_port(&mut bytes, pipeline.tables(), at);
            sent.clear();
            let fate = pipeline.packet(PortId(at as u16), time_ns, &bytes, &mut sent);
            summary.count(fate, &names);
            summary.sent += sent.len() as u64;
            if let Some(output) = &mut output {
                for one in &sent {
                    output.packet(time_ns, usize::from(one.port.0), &one.bytes, None)?;
                }
                if let Fate::Dropped(reason) = fate {
                    output.packet(time_ns, output.dropped, packet, Some(reason.name()))?;
                }
            }
        }
        summary.icmp_errors = pipeline.counters().icmp_errors.get();
        if let Some(mut output) = output {
            output.writer.flush()?;
        }
        println!("{}", serde_json::to_string_pretty(&summary)?);
        Ok(ExitCode::SUCCESS)
    }
}

impl Summary {
    fn count(&mut self, fate: Fate, names: &[String]) {
        self.packets += 1;
        match fate {
            Fate::Forwarded(port) => {
                let name = names.get(usize::from(port.0)).map_or("host", String::as_str);
                *self.forwarded.entry(name.to_owned()).or_default() += 1;
            }
            Fate::Dropped(reason) => *self.dropped.entry(reason.name()).or_default() += 1,
            Fate::Punted => self.punted += 1,
            Fate::Answered => self.answered += 1,
            Fate::Waiting => self.waiting += 1,
        }
    }
}

fn port_names(tables: &Tables) -> Vec<String> {
    tables.ports.iter().flatten().map(|port| port.name.clone()).collect()
}

/// Writes the port's link address over a unicast destination.
fn address_to_port(bytes: &mut [u8], tables: &Tables, port: usize) {
    let entry = tables.port(PortId(port as u16));
    if let (Some(dst), Some(entry)) = (bytes.first_chunk_mut::<6>(), entry)
        && dst[0] & 1 == 0
    {
        *dst = entry.mac.0;
    }
}

/// The file of what came out: one interface a port, the host's, and one for drops.
struct Output {
    writer: Writer<BufWriter<File>>,
    dropped: usize,
}

impl Output {
    fn create(path: PathBuf, names: &[String]) -> Result<Output> {
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut writer = Writer::new(BufWriter::new(file))?;
        for name in names.iter().map(String::as_str).chain(["host", "dropped"]) {
            writer.interface(name)?;
        }
        Ok(Output { writer, dropped: names.len() + 1 })
    }

    fn packet(&mut self, ns: u64, at: usize, bytes: &[u8], comment: Option<&str>) -> Result<()> {
        Ok(self.writer.bytes(ns, at as u32, bytes, comment)?)
    }
}
