//! One measurement each: ping, iperf3, traceroute, the kernel's own counters. They say what was
//! seen; whether that is good is for the caller to judge.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::namespace::Namespace;
use super::process::{self, Process, wait_for};

/// Headers of an ICMP echo over IPv4 and IPv6, in bytes.
const ECHO_V4: u32 = 28;
const ECHO_V6: u32 = 48;
/// The port that iperf3 servers listen on.
const IPERF_PORT: u16 = 5201;

/// One run of `ping`.
#[derive(Debug, Clone, Copy)]
pub struct PingSpec {
    /// Whom to ask.
    pub target: IpAddr,
    /// How many echo requests, 20 ms apart.
    pub count: u32,
    /// Size of the IP packet in bytes, headers included.
    pub size: u32,
    /// Whether routers may not fragment it.
    pub dont_fragment: bool,
}

impl PingSpec {
    /// Three ordinary packets of 84 or 104 bytes.
    pub fn to(target: IpAddr) -> PingSpec {
        let size = 56 + header(target);
        PingSpec { target, count: 3, size, dont_fragment: false }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PingResult {
    /// Requests sent.
    pub sent: u32,
    /// Replies that came.
    pub received: u32,
    /// MTU that a router (or, from then on, the own kernel) named as too small for the packet.
    pub mtu: Option<u32>,
    /// All of its output.
    pub text: String,
}

fn header(target: IpAddr) -> u32 {
    if target.is_ipv4() { ECHO_V4 } else { ECHO_V6 }
}

/// Sends echo requests and counts the replies; it waits 1 s for the last.
pub fn ping(from: &Namespace, spec: PingSpec) -> Result<PingResult> {
    let (count, size) = (spec.count.to_string(), (spec.size - header(spec.target)).to_string());
    let target = spec.target.to_string();
    let fragment = if spec.dont_fragment { "do" } else { "dont" };
    let args = ["-n", "-c", &count, "-i", "0.02", "-W", "1", "-s", &size, "-M", fragment, &target];
    let limit = Duration::from_secs(5) + Duration::from_millis(40) * spec.count;
    let output = from.run("ping", &args, limit)?;
    parse_ping(&format!("{}{}", output.stdout, output.stderr))
}

fn parse_ping(text: &str) -> Result<PingResult> {
    let Some(line) = text.lines().find(|line| line.contains("packets transmitted")) else {
        bail!("ping: {}", text.trim());
    };
    let number = |word: &str| -> Option<u32> {
        line.split(", ").find(|part| part.contains(word))?.split(' ').next()?.parse().ok()
    };
    let sent = number("transmitted").with_context(|| format!("ping: {line}"))?;
    let received = number("received").with_context(|| format!("ping: {line}"))?;
    let mtu = text.split_once("mtu").and_then(|(_, tail)| {
        let digits = tail.trim_start_matches([':', '=', ' ']);
        digits.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
    });
    Ok(PingResult { sent, received, mtu, text: text.to_owned() })
}

/// What iperf3 carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// One TCP stream, as fast as it goes.
    Tcp,
    /// So many TCP streams at once.
    Streams(u32),
    /// UDP datagrams of `length` payload bytes at `rate` bit/s; 0 is as fast as it goes.
    Udp {
        /// Payload bytes.
        length: u32,
        /// Bits of payload a second.
        rate: u64,
    },
}

/// One run of iperf3.
#[derive(Debug, Clone, Copy)]
pub struct IperfSpec<'a> {
    /// Where the sender runs.
    pub client: &'a Namespace,
    /// Where the receiver runs.
    pub server: &'a Namespace,
    /// The receiver's address.
    pub target: IpAddr,
    /// TCP or UDP.
    pub load: Load,
    /// How long to send; iperf3 takes whole seconds only.
    pub seconds: u32,
}

/// What the receiver got.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct IperfResult {
    /// Bits of payload a second, as the receiver counted.
    pub bits_per_s: f64,
    /// Datagrams sent; 0 for TCP.
    pub packets: u64,
    /// Datagrams that did not arrive; 0 for TCP.
    pub lost: u64,
    /// Seconds that the run took.
    pub seconds: f64,
    /// TCP segments sent again; 0 for UDP.
    pub retransmits: u64,
}

/// Runs an iperf3 server and client to their end.
pub fn iperf(spec: IperfSpec) -> Result<IperfResult> {
    let (target, port) = (spec.target.to_string(), IPERF_PORT.to_string());
    let server = ["-s", "-1", "-B", &target, "-p", &port];
    let mut command = spec.server.command("iperf3", &server);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut server = Process::start(command)?;
    wait_for("the iperf3 server to listen", Duration::from_secs(5), || {
        if let Some(status) = server.exit_status()? {
            bail!("the iperf3 server ended with {status}");
        }
        Ok(listens(spec.server, IPERF_PORT)?.then_some(()))
    })?;
    let time = spec.seconds.max(1).to_string();
    // The control connection gives up early when nothing comes back at all.
    let client = ["-J", "-c", &target, "-p", &port, "-t", &time, "--connect-timeout", "2000"];
    let mut command = spec.client.command("iperf3", &client);
    match spec.load {
        Load::Tcp => (),
        Load::Streams(count) => {
            command.args(["-P", &count.to_string()]);
        }
        Load::Udp { length, rate } => {
            command.args(["-u", "-l", &length.to_string(), "-b", &rate.to_string()]);
        }
    }
    let output = process::run(command, "", Duration::from_secs(u64::from(spec.seconds) + 10))?;
    parse_iperf(&output.stdout)
}

fn listens(namespace: &Namespace, port: u16) -> Result<bool> {
    let listening = format!(":{port:04X} ");
    let tables = [namespace.read("/proc/net/tcp")?, namespace.read("/proc/net/tcp6")?];
    // State 0A is LISTEN.
    let is_listener = |line: &str| line.contains(&listening) && line.contains(" 0A ");
    Ok(tables.iter().any(|table| table.lines().any(is_listener)))
}

fn parse_iperf(text: &str) -> Result<IperfResult> {
    let report: Value = serde_json::from_str(text).with_context(|| format!("iperf3: {text}"))?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = &report["end"];
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    if let Some(received) = end.get("sum_received") {
        let sum = end.get("sum").unwrap_or(received);
        return Ok(IperfResult {
            bits_per_s: number(&received["bits_per_second"]),
            packets: count(&sum["packets"]),
            lost: count(&sum["lost_packets"]),
            seconds: number(&received["seconds"]),
            retransmits: count(&end["sum_sent"]["retransmits"]),
        });
    }
    bail!("iperf3: no result of the receiver: {end}")
}

/// The routers on the way, in order; those that did not answer are missing. Ends at the target.
pub fn traceroute(from: &Namespace, target: IpAddr) -> Result<Vec<IpAddr>> {
    let target = target.to_string();
    let args = ["-n", "-q", "2", "-w", "1", "-m", "6", &target];
    let output = from.run("traceroute", &args, Duration::from_secs(20))?;
    if !output.status.success() {
        bail!("traceroute: {}", output.stderr.trim());
    }
    Ok(parse_traceroute(&output.stdout))
}

fn parse_traceroute(text: &str) -> Vec<IpAddr> {
    let hop = |line: &str| line.split_whitespace().skip(1).find_map(|word| word.parse().ok());
    text.lines().skip(1).filter_map(hop).collect()
}

/// Packets that the namespace's kernel found to have a wrong checksum: IP, ICMP, TCP and UDP, both
/// families.
pub fn checksum_errors(namespace: &Namespace) -> Result<u64> {
    let v4 = namespace.read("/proc/net/snmp")?;
    let v6 = namespace.read("/proc/net/snmp6")?;
    Ok(count_checksum_errors(&v4, &v6))
}

fn count_checksum_errors(v4: &str, v6: &str) -> u64 {
    let in_v6 = |name: &str| name.ends_with("InCsumErrors") || name == "Ip6InHdrErrors";
    sum_of(v4, |name| matches!(name, "InCsumErrors" | "InHdrErrors")) + sum_of_v6(v6, in_v6)
}

/// Sum of the wanted counters in `/proc/net/snmp`: pairs of lines, the names, then the values.
fn sum_of(text: &str, wanted: impl Fn(&str) -> bool) -> u64 {
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines
        .chunks_exact(2)
        .flat_map(|pair| pair[0].split_whitespace().zip(pair[1].split_whitespace()));
    pairs.filter(|(name, _)| wanted(name)).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

/// Sum of the wanted counters in `/proc/net/snmp6`: one a line.
fn sum_of_v6(text: &str, wanted: impl Fn(&str) -> bool) -> u64 {
    let pairs = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let values = pairs.filter(|(name, _)| wanted(name)).map(|(_, value)| value.trim().parse());
    values.filter_map(Result::<u64, _>::ok).sum()
}

/// Packets that the namespace's kernel put together from fragments, IPv4 and IPv6.
pub fn reassembled(namespace: &Namespace) -> Result<u64> {
    let v4 = sum_of(&namespace.read("/proc/net/snmp")?, |name| name == "ReasmOKs");
    Ok(v4 + sum_of_v6(&namespace.read("/proc/net/snmp6")?, |name| name == "Ip6ReasmOKs"))
}

#[cfg(test)]
mod tests;
