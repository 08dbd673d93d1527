//! What `margay lab` does: the same steps on a network of MTU 1500 and on one of MTU 9000.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::bgp;
use super::learnt;
use super::measure::{self, IperfSpec, Load, PingSpec};
use super::namespace::Namespace;
use super::network::{Encap, NARROW, Network, NetworkSpec};
use super::node::Router;
use super::pod::Pod;
use super::process;
use super::report::{Report, Step};
use super::tor::{Peer, Tor};
use super::translated;

/// MTUs of the networks that are built, in bytes.
const MTUS: [u32; 2] = [1500, 9000];
/// How long each load lasts.
const LOAD_SECONDS: u32 = 1;
/// Bits a second of the UDP runs that must lose next to nothing.
const UDP_RATE: u64 = 40_000_000;
/// Largest loss of those runs, in per cent: a busy machine may miss a few.
const UDP_LOSS: u64 = 5;
/// A TCP stream below this, in bits a second, is held up by something.
const TCP_FLOOR: f64 = 50e6;

/// News of a run, for whoever watches.
#[derive(Debug, Clone, Copy)]
pub enum News<'a> {
    /// A step begins.
    Begun(&'a str),
    /// A step has ended.
    Done(&'a Step),
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Who forwards.
    pub router: Router,
    /// Who speaks BGP on the top of rack.
    pub peer: Peer,
    /// How packets between nodes are carried.
    pub encap: Encap,
    /// Leave the last network running.
    pub keep: bool,
}

/// Runs all steps. An error means that it was interrupted; a step that fails is in the report.
pub fn run(plan: &Plan, watch: &mut dyn FnMut(News)) -> Result<Report> {
    let Plan { router, peer, encap, keep } = plan;
    let start = Instant::now();
    let mut run = Run { report: Report::default(), watch };
    for (at, mtu) in MTUS.into_iter().enumerate() {
        let keep = *keep && at + 1 == MTUS.len();
        // By BGP on the first, by static routes on the other.
        let bgp = at == 0 && *router != Router::Kernel;
        let peer = if bgp { peer.clone() } else { Peer::Margay };
        let (router, encap, detached) = (router.clone(), *encap, keep);
        let spec = NetworkSpec { router, mtu, queues: 1, workers: 1, bgp, encap, peer, detached };
        let mut network = None;
        run.step(&format!("network at MTU {mtu}"), |_| {
            let started = Instant::now();
            let network = network.insert(Network::start(spec)?);
            let tor = match &network.tor_daemon {
                Some(Tor::Bird(bird)) => format!(", BIRD {} on the top of rack", bird.version()),
                _ => String::new(),
            };
            let seconds = started.elapsed().as_secs_f64();
            Ok(format!("2 routers{tor}, 5 pods, ready in {seconds:.1} s"))
        })?;
        let Some(mut network) = network else { continue };
        run.network(&mut network)?;
        if keep {
            network.keep();
            continue;
        }
        run.step(&format!("end of the network at MTU {mtu}"), |_| end(network))?;
    }
    run.report.ok = run.report.steps.iter().all(|step| step.ok);
    run.report.seconds_total = start.elapsed().as_secs_f64();
    Ok(run.report)
}

/// Daemons end by themselves when asked, and nothing stays.
fn end(mut network: Network) -> Result<String> {
    for node in &mut network.nodes {
        node.stop_daemon()?;
    }
    network.tor_daemon.take().map_or(Ok(()), |mut daemon| daemon.stop())?;
    let (directory, prefix) = (network.scope().directory(), network.scope().prefix());
    drop(network);
    ensure!(!directory.exists(), "{} is still there", directory.display());
    let names = std::fs::read_dir("/run/netns").context("cannot list /run/netns")?;
    let left = names.flatten().find(|name| name.file_name().to_string_lossy().starts_with(&prefix));
    ensure!(left.is_none(), "a namespace is still there: {left:?}");
    Ok("daemons ended, namespaces removed".to_owned())
}

struct Run<'a> {
    report: Report,
    watch: &'a mut dyn FnMut(News),
}

impl Run<'_> {
    fn step(&mut self, name: &str, work: impl FnOnce(&mut Report) -> Result<String>) -> Result<()> {
        process::check_interrupt()?;
        (self.watch)(News::Begun(name));
        let result = work(&mut self.report);
        process::check_interrupt()?;
        let (ok, detail) = match result {
            Ok(detail) => (true, detail),
            Err(error) => (false, format!("{error:#}")),
        };
        let step = Step { name: name.to_owned(), ok, detail };
        (self.watch)(News::Done(&step));
        self.report.steps.push(step);
        Ok(())
    }

    fn network(&mut self, network: &mut Network) -> Result<()> {
        let mtu = network.spec().mtu;
        if network.spec().bgp {
            self.step("BGP sessions are established", |report| bgp::established(network, report))?;
            self.step("routes are learnt by BGP", |_| bgp::learnt(network))?;
        }
        let before = checksum_errors(network);
        self.pings(network)?;
        self.step("traceroute names both routers", |_| traceroute(network))?;
        self.step("packet larger than the next link, fragments allowed", |_| fragments(network))?;
        self.step("packet larger than the next link, fragments forbidden", |_| too_big(network))?;
        if network.spec().bgp {
            self.step("natOutgoing: pods look like their node outside", |_| {
                translated::outgoing(network)
            })?;
            self.step("a service leads to its endpoints", |_| translated::service(network))?;
        }
        self.loads(network, mtu)?;
        if learnt::has_bird(network) {
            self.bird(network)?;
        }
        self.step("receivers' kernels found no wrong checksum", |_| {
            let errors = checksum_errors(network)? - before?;
            ensure!(errors == 0, "{errors} packets");
            Ok("0 packets".to_owned())
        })?;
        if network.spec().encap != Encap::None {
            self.step("tunnels carried it, both ways", |_| tunnels(network))?;
        }
        if network.spec().router != Router::Kernel {
            self.step("drops by reason", |report| drops(network, report))?;
        }
        Ok(())
    }

    fn bird(&mut self, network: &mut Network) -> Result<()> {
        self.step("a route learnt from BIRD carries TCP", |_| learnt::carries(network))?;
        self.step("it ends within 1 s of its withdrawal", |_| learnt::withdrawn(network))?;
        self.step("it ends within 1 s of BIRD's death, by BFD", |report| {
            learnt::dead(network, report)
        })
    }

    fn pings(&mut self, network: &Network) -> Result<()> {
        let outside = (&network.outside, network.outside_addresses()?);
        let pod = |node: usize, name: &str| -> Result<(&Namespace, [IpAddr; 2])> {
            let pod = network.nodes[node].pod(name)?;
            Ok((pod.namespace(), pod.addresses()))
        };
        let (veth_a, narrow_a, tap_a) = (pod(0, "veth-a")?, pod(0, "narrow-a")?, pod(0, "tap-a")?);
        let (veth_b, tap_b) = (pod(1, "veth-b")?, pod(1, "tap-b")?);
        let groups = [
            ("ping pod to pod on one node", [(veth_a, narrow_a), (veth_a, tap_a), (tap_a, veth_a)]),
            ("ping pod to pod across nodes", [(veth_a, veth_b), (tap_a, tap_b), (veth_b, tap_a)]),
            ("ping outside to pod", [(outside, veth_a), (outside, veth_b), (outside, tap_b)]),
            ("ping pod to outside", [(veth_a, outside), (tap_a, outside), (veth_b, outside)]),
        ];
        for (name, pairs) in groups {
            self.step(name, |report| {
                for ((from, _), (_, targets)) in pairs {
                    targets.into_iter().try_for_each(|target| ping(from, target, report))?;
                }
                Ok("no loss over IPv4 and IPv6".to_owned())
            })?;
        }
        Ok(())
    }

    fn loads(&mut self, network: &Network, mtu: u32) -> Result<()> {
        let [node_a, node_b] = &network.nodes;
        let (veth_a, veth_b) = (node_a.pod("veth-a")?, node_b.pod("veth-b")?);
        let (tap_a, tap_b) = (node_a.pod("tap-a")?, node_b.pod("tap-b")?);
        let room = mtu - network.spec().encap.overhead();
        let udp = Load::Udp { length: room - 100, rate: UDP_RATE };
        let ways: [(&str, &Namespace, &Pod); 2] = [
            ("pod to pod across nodes", veth_a.namespace(), veth_b),
            ("outside to pod", &network.outside, veth_a),
        ];
        for (way, client, pod) in ways {
            for (target, family) in pod.addresses().into_iter().zip(["IPv4", "IPv6"]) {
                for (load, kind) in [(Load::Tcp, "TCP"), (udp, "UDP")] {
                    let server = pod.namespace();
                    let spec = IperfSpec { client, server, target, load, seconds: LOAD_SECONDS };
                    let first = client == veth_a.namespace() && target.is_ipv4() && mtu == 1500;
                    self.step(&format!("{kind} {way}, {family}, MTU {mtu}"), |report| {
                        let (gbps, detail) = run_load(spec)?;
                        if first && load == Load::Tcp {
                            report.tcp_gbps = gbps;
                        }
                        Ok(detail)
                    })?;
                }
            }
        }
        let taps = [("TAP to TAP across nodes", tap_a, tap_b), ("TAP to veth", tap_a, veth_b)];
        for (way, from, to) in taps {
            let spec = tcp(from, to);
            self.step(&format!("TCP {way}, MTU {mtu}"), |_| run_load(spec).map(|(_, text)| text))?;
        }
        self.flood(veth_a, veth_b)
    }

    /// As many small datagrams as the sender can make; loss is no failure here.
    fn flood(&mut self, from: &Pod, to: &Pod) -> Result<()> {
        let load = Load::Udp { length: 64, rate: 0 };
        self.step("UDP flood of 64-byte payloads across nodes", |report| {
            let result = measure::iperf(IperfSpec { load, ..tcp(from, to) })?;
            let arrived = result.packets.saturating_sub(result.lost);
            ensure!(arrived > 0, "nothing arrived");
            let mpps = arrived as f64 / result.seconds.max(0.001) / 1e6;
            report.udp_mpps = report.udp_mpps.max(mpps);
            Ok(format!("{mpps:.3} Mpps arrived, {} of {} lost", result.lost, result.packets))
        })
    }
}

fn tcp<'a>(from: &'a Pod, to: &'a Pod) -> IperfSpec<'a> {
    IperfSpec {
        client: from.namespace(),
        server: to.namespace(),
        target: to.v4(),
        load: Load::Tcp,
        seconds: LOAD_SECONDS,
    }
}

fn ping(from: &Namespace, target: IpAddr, report: &mut Report) -> Result<()> {
    let result = measure::ping(from, PingSpec::to(target))?;
    report.pings.sent += result.sent;
    report.pings.lost += result.sent - result.received;
    let way = format!("from {} to {target}", from.name());
    ensure!(result.received == result.sent, "{way}: {}", result.text.trim());
    Ok(())
}

/// Runs one load and judges it; gives its Gbit/s and a text.
pub fn run_load(spec: IperfSpec) -> Result<(f64, String)> {
    let result = measure::iperf(spec)?;
    let gbps = result.bits_per_s / 1e9;
    match spec.load {
        Load::Tcp | Load::Streams(_) => {
            ensure!(result.bits_per_s > TCP_FLOOR, "only {gbps:.3} Gbit/s");
            Ok((gbps, format!("{gbps:.2} Gbit/s, {} segments sent again", result.retransmits)))
        }
        Load::Udp { .. } => {
            let text = format!("{gbps:.3} Gbit/s, {} of {} lost", result.lost, result.packets);
            ensure!(result.packets > 0 && result.lost * 100 <= result.packets * UDP_LOSS, text);
            Ok((gbps, text))
        }
    }
}

/// The way from a pod to one behind the other router, in both families.
pub fn traceroute(network: &mut Network) -> Result<String> {
    let [node_a, node_b] = &network.nodes;
    let from = node_a.pod("veth-a")?.namespace();
    let mut seen = Vec::new();
    for target in node_b.pod("veth-b")?.addresses() {
        let hops = measure::traceroute(from, target)?;
        let [first, second, last] = hops[..] else { bail!("hops to {target}: {hops:?}") };
        for (hop, node) in [(first, node_a), (second, node_b)] {
            ensure!(node.owns(hop)?, "{hop} is no address of {}: {hops:?}", node.name());
        }
        ensure!(last == target, "it ends at {last}, not at {target}");
        seen.push(format!("{first}, {second}"));
    }
    Ok(seen.join("; "))
}

/// A packet as large as the sender's link, towards a narrower one, may be cut: it arrives whole.
pub fn fragments(network: &mut Network) -> Result<String> {
    let narrow = network.nodes[0].pod("narrow-a")?;
    let target = narrow.v4();
    let before = measure::reassembled(narrow.namespace())?;
    let spec = PingSpec { size: network.spec().mtu, ..PingSpec::to(target) };
    let result = measure::ping(&network.outside, spec)?;
    ensure!(result.received == result.sent, "{}", result.text.trim());
    let whole = measure::reassembled(narrow.namespace())? - before;
    ensure!(whole >= u64::from(result.sent), "{whole} of {} came in fragments", result.sent);
    Ok(format!("{whole} packets arrived in fragments and whole"))
}

/// The same packet, not to be cut: the sender learns the narrow link's MTU. Where the way leads
/// through a tunnel first, it learns that one's before.
pub fn too_big(network: &mut Network) -> Result<String> {
    let wanted = network.spec().mtu - NARROW;
    let narrow = network.nodes[0].pod("narrow-a")?;
    for target in narrow.addresses() {
        let inside = network.spec().mtu - network.spec().encap.overhead();
        let ask = |size| {
            let spec = PingSpec { size, dont_fragment: true, ..PingSpec::to(target) };
            measure::ping(&network.outside, spec)
        };
        let mut result = ask(network.spec().mtu)?;
        if result.mtu.is_some_and(|mtu| mtu != wanted && mtu >= inside) {
            result = ask(inside)?;
        }
        let text = result.text.trim();
        ensure!(result.mtu == Some(wanted), "MTU {:?}, not {wanted}: {text}", result.mtu);
        ensure!(result.received == 0, "{} packets went through: {text}", result.received);
    }
    Ok(format!("MTU {wanted} was named over IPv4 and IPv6"))
}

/// Sum of wrong checksums at all hosts that receive.
pub fn checksum_errors(network: &Network) -> Result<u64> {
    let pods = network.nodes.iter().flat_map(|node| node.pods());
    let hosts = pods.map(Pod::namespace).chain([&network.outside, &network.tor]);
    hosts.map(measure::checksum_errors).sum()
}

/// Each node has a tunnel of each family to the other, and all of them have carried packets.
pub fn tunnels(network: &mut Network) -> Result<String> {
    let wanted = if network.spec().encap.carries_v6() { 2 } else { 1 };
    let mut seen = Vec::new();
    for node in &mut network.nodes {
        let shown = node.daemon()?.show("tunnels")?;
        let tunnels = shown.as_array().context("show tunnels: no list")?;
        ensure!(tunnels.len() == wanted, "{} tunnels on {}", tunnels.len(), node.name());
        for tunnel in tunnels {
            let count = |name: &str| tunnel[name].as_u64().unwrap_or(0);
            let (rx, tx) = (count("rxPackets"), count("txPackets"));
            ensure!(rx > 0 && tx > 0 && count("rxDrops") == 0, "on {}: {tunnel}", node.name());
            seen.push(format!("{} to {}: {rx} in, {tx} out", tunnel["kind"], tunnel["remote"]));
        }
    }
    Ok(seen.join("; ").replace('"', ""))
}

fn drops(network: &mut Network, report: &mut Report) -> Result<String> {
    let mut total = 0;
    for node in &mut network.nodes {
        for (reason, count) in node.daemon()?.drops()? {
            total += count;
            *report.drops.entry(reason).or_default() += count;
        }
    }
    Ok(format!("{total} packets"))
}
