//! `margay pktgen`: a line-rate generator, and its sink.
//!
//! Both work in the kernel; the generator can use an AF_XDP socket instead. On two devices of one
//! machine, with any router between them, the sink tells loss, reordering and latency from the
//! generator's stamps, and `--measure` runs the methods of RFC 2544 and RFC 9004.

mod measure;
mod measured;
mod options;
mod report;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use margay_fastpath::pktgen::{Frames, Pace, Receiver, Sender, SocketSender, Source};
use margay_fastpath::sys::bpf::AttachMode;
use measure::{Measuring, Sending};
use measured::Measured;
use nix::net::if_::if_nametoindex;
use options::Traffic;
use report::{Received, Sent};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::output::{self, Format};

/// How often the sink says how far it is.
const PROGRESS: Duration = Duration::from_secs(1);
/// How often the sink looks whether it is to end.
const NAP: Duration = Duration::from_millis(20);

/// Generate packets at line rate, or count, check and time them.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Pktgen {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    send: Send,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count what comes in by a device, and drop it: loss, reordering, damage, latency
    Sink(Sink),
}

/// What makes packets of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Via {
    /// The kernel: live frames of BPF_PROG_TEST_RUN, redirected by XDP
    Redirect,
    /// An AF_XDP socket, without a copy where the driver can
    Socket,
}

#[derive(Debug, Args)]
struct Send {
    /// The device to send from
    #[arg(long, value_name = "DEV", required = true)]
    port: Option<String>,
    /// How to send; the driver must take frames that XDP redirects, or not
    #[arg(long, value_enum, default_value = "redirect")]
    via: Via,
    #[command(flatten)]
    traffic: Traffic,
    #[command(flatten)]
    measuring: Measuring,
    /// Packets a second; as many as one core makes when left out. The most, with throughput
    #[arg(long, value_name = "PPS", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: Option<u64>,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Seconds to send, or to measure each figure
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    time: f64,
    /// The core that sends
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    #[arg(short, long, default_value = "table")]
    output: Format,
}

#[derive(Debug, Args)]
struct Sink {
    /// The device that packets come in by
    #[arg(long, value_name = "DEV")]
    port: String,
    /// Flows that are watched for loss and reordering
    #[arg(long, value_name = "N", default_value_t = 65_536,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    flows: u32,
    /// Seconds to count; until Ctrl-C when left out
    #[arg(long, value_name = "S", value_parser = seconds)]
    time: Option<f64>,
    /// Count before the kernel's stack instead of in the driver
    #[arg(long)]
    generic: bool,
    #[arg(short, long, default_value = "table")]
    output: Format,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("seconds are above 0 and at most 86400".to_owned()),
    }
}

impl Pktgen {
    /// Sends or counts until the time is over, or until told to stop.
    pub(crate) fn execute(self) -> Result<ExitCode> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, stop.clone()).context("signals")?;
        }
        match self.command {
            Some(Command::Sink(sink)) => sink.execute(&stop)?,
            None => self.send.execute(&stop)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn index_of(port: &str) -> Result<u32> {
    if_nametoindex(port).with_context(|| {
        format!("{port}: no such device in this network namespace\n`ip link` shows those there are")
    })
}

impl Via {
    /// What sends, and what it is called.
    fn source(
        self,
        port: &str,
        ifindex: u32,
        frames: &Frames,
    ) -> Result<(Box<dyn Source>, &'static str)> {
        if self == Via::Socket {
            let source = SocketSender::new(frames.clone(), (ifindex, 0), true)
                .with_context(|| format!("pktgen on {port}"))?;
            let name = if source.is_zero_copy() { "AF_XDP, zero-copy" } else { "AF_XDP, copy" };
            return Ok((Box::new(source), name));
        }
        ensure!(
            Sender::can_send(ifindex) != Some(false),
            "{port} takes no frames that XDP redirects, so nothing can be sent that way\n\
             a veth does when its peer has an XDP program, or GRO (ethtool -K PEER gro on); \
             --via socket does without"
        );
        let source = Sender::new(frames, ifindex).with_context(|| format!("pktgen on {port}"))?;
        Ok((Box::new(source), "XDP redirect"))
    }
}

impl Send {
    fn execute(self, stop: &AtomicBool) -> Result<()> {
        let port = self.port.context("pktgen: --port DEV is missing")?;
        let ifindex = index_of(&port)?;
        let frames: Frames = self.traffic.frames(&port)?;
        if let Some(id) = self.core {
            let pinned = core_affinity::set_for_current(core_affinity::CoreId { id });
            ensure!(pinned, "--core {id}: there is no such core");
        }
        let (mut source, via) = self.via.source(&port, ifindex, &frames)?;
        let time = Duration::from_secs_f64(self.time);
        if self.measuring.is_wanted() {
            let mut measured = Measured::new(&port, via, &frames, self.measuring.loss());
            let frames = frames.count() as u32;
            let sending = Sending { source, rate: self.rate, time, frames, stop };
            self.measuring.run(sending, &mut measured)?;
            return output::print(self.output, &measured, Measured::table);
        }
        let pace = Pace { per_second: self.rate, limit: self.count, ..Pace::default() };
        let begun = Instant::now();
        let sent = source
            .send(pace, time, &|| stop.load(Ordering::Relaxed))
            .with_context(|| format!("sending from {port}"))?;
        let answer = Sent::new(&port, &frames, sent.packets, begun.elapsed());
        output::print(self.output, &answer, Sent::table)
    }
}

impl Sink {
    fn execute(self, stop: &AtomicBool) -> Result<()> {
        let ifindex = index_of(&self.port)?;
        let mode = if self.generic { AttachMode::Generic } else { AttachMode::Native };
        let receiver = Receiver::attach(ifindex, self.flows, mode)
            .with_context(|| format!("sink on {}", self.port))?;
        let begun = Instant::now();
        let end = self.time.map(Duration::from_secs_f64);
        let (mut told, mut before) = (begun, receiver.counts()?);
        while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| begun.elapsed() < end) {
            std::thread::sleep(NAP);
            let passed = told.elapsed();
            if passed >= PROGRESS {
                let now = receiver.counts()?;
                let rate = (now.packets - before.packets) as f64 / passed.as_secs_f64();
                eprintln!("{:.0} packets a second, {} lost", rate, now.lost());
                (told, before) = (Instant::now(), now);
            }
        }
        let (counts, latency) = (receiver.counts()?, receiver.latency()?);
        let answer = Received::new(&self.port, counts, &latency, begun.elapsed());
        output::print(self.output, &answer, Received::table)
    }
}
