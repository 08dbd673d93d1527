//! Packets of 64 bytes from veth to veth: generator and sink in the kernel, the router between.
//!
//! ```text
//! generator g0 ---- in0 router out0 ---- s0 sink
//! ```

use crate::forwarder::{self, FRAME};
use crate::machine::HugePages;
use crate::report::Outcome;
use crate::testpmd::Testpmd;
use crate::{Arguments, GENERATOR_CORE, Measure, ROUTER_CORE};
use anyhow::{Context, Result, anyhow, ensure};
use margay::lab::daemon::{Daemon, DaemonSpec};
use margay::lab::namespace::{LinkEnd, LinkSpec, Namespace, connect};
use margay::lab::process::{self, pause};
use margay::lab::scope::Scope;
use margay::lab::store::Store;
use margay_fastpath::sys::bpf::generator::{Check, Generator, GeneratorError, Sink};
use margay_tunnels::wire::ethernet::Mac;
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FLOWS: u32 = 1000;
/// Frames of one call to the generator. Setting one up takes 25 ms, in which nothing is sent: with
/// 2^18 frames that was 40 % of the time, and not the same share beside each peer.
const BATCH: u32 = 1 << 21;
const WARM_UP: Duration = Duration::from_secs(1);
const HUGE_PAGES: usize = 400;
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// Share of the packets that must have arrived as a router has to send them.
const GOOD: f64 = 0.999;

pub(crate) const IN_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
const OUT_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x12]);
const SINK_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x13]);

/// Makes a generator of frames that go out of a device.
type Make = fn(&[Vec<u8>], u32) -> Result<Generator, GeneratorError>;

/// The three namespaces with their links. The router's end of each has its address.
pub(crate) struct Rig {
    pub(crate) generator: Namespace,
    pub(crate) router: Namespace,
    pub(crate) sink: Namespace,
    pub(crate) scope: Scope,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let mut peers: Vec<(&'static str, Measure<'_>)> = vec![
        ("margay, offload", Box::new(|time| margay(true, time))),
        ("margay, AF_XDP alone", Box::new(|time| margay(false, time))),
        ("DPDK testpmd mac, net_af_xdp", Box::new(testpmd)),
        ("Linux ip_forward", Box::new(linux)),
    ];
    let notes = vec![
        format!(
            "{FLOWS} UDP flows, 256 routes; generator on CPU {GENERATOR_CORE} (BPF_PROG_TEST_RUN, \
             live frames), router on CPU {ROUTER_CORE}; an XDP program at the far end counts, \
             checks TTL and header checksum, and drops: it runs in the router's softirq and costs \
             the router's core alike for all"
        ),
        "testpmd mac rewrites link addresses only: no route, no TTL, no checksum".to_owned(),
        "margay: the daemon with one worker, 256 static routes, the next hop from the kernel's \
         neighbours"
            .to_owned(),
        "margay, offload: threaded NAPI of the ingress veth on the router's core, beside the \
         worker; ratios are to this row"
            .to_owned(),
        "Linux: threaded NAPI of the ingress veth on the router's core, permanent neighbour"
            .to_owned(),
        "million packets a second, as the sink counted; more are sent than any peer takes"
            .to_owned(),
    ];
    let rows = crate::run_all(&mut peers, arguments);
    Outcome { title: "veth to veth, 64 bytes".to_owned(), unit: "Mpps", notes, rows }
}

impl Rig {
    pub(crate) fn new() -> Result<Rig> {
        Rig::with_egress("out0")
    }

    /// The device towards the sink has this name.
    pub(crate) fn with_egress(egress: &str) -> Result<Rig> {
        Rig::with_links(egress, LinkSpec { mtu: 1500, queues: 1 })
    }

    /// The same with an MTU, and so many queues of each device.
    pub(crate) fn with_links(egress: &str, spec: LinkSpec) -> Result<Rig> {
        let scope = Scope::new()?;
        let namespaces = ["generator", "router", "sink"].map(|role| scope.namespace(role));
        let [generator, router, sink] = namespaces;
        let rig = Rig { generator: generator?, router: router?, sink: sink?, scope };
        let (in_mac, out_mac) = (IN_MAC.to_string(), OUT_MAC.to_string());
        let sink_mac = SINK_MAC.to_string();
        let end = |namespace, device, mac, address: &str| -> Result<LinkEnd<'_>> {
            Ok(LinkEnd { namespace, device, mac, addresses: vec![address.parse()?] })
        };
        connect(
            spec,
            &end(&rig.generator, "g0", None, "10.10.0.2/24")?,
            &end(&rig.router, "in0", Some(&in_mac), "10.10.0.1/24")?,
        )?;
        connect(
            spec,
            &end(&rig.router, egress, Some(&out_mac), "10.20.0.1/24")?,
            &end(&rig.sink, "s0", Some(&sink_mac), "10.20.0.2/24")?,
        )?;
        // Without XDP or GRO a veth does not take redirected frames; the sink answers nobody.
        rig.tool("ethtool", &["-K", "in0", "gro", "on"])?;
        let napi = rig.sink.command("ethtool", &["-K", "s0", "gro", "on"]);
        process::run_ok(napi, "", COMMAND_LIMIT)?;
        rig.router
            .ip(&format!("neigh replace 10.20.0.2 lladdr {sink_mac} dev {egress} nud permanent"))?;
        Ok(rig)
    }

    /// The store of the node that routes.
    pub(crate) fn store(&self) -> Result<Store> {
        let store = Store::create(&self.scope.directory().join("store"))?;
        store.put_node("edge1", "10.10.0.1/24".parse()?, "fd10::1/64".parse()?)?;
        Ok(store)
    }

    pub(crate) fn tool(&self, program: &str, args: &[&str]) -> Result<String> {
        process::run_ok(self.router.command(program, args), "", COMMAND_LIMIT)
    }

    /// The kernel receives on the router's core: in a thread of its own, pinned there. Its priority
    /// stays the default: a thread of the kernel's competes with whole groups of processes
    /// (sched_autogroup_enabled), so with the bench's own one it gets all or nothing.
    pub(crate) fn pin_receive(&self) -> Result<()> {
        self.tool("sh", &["-c", "echo 1 > /sys/class/net/in0/threaded"])?;
        let threads = self.tool("pgrep", &["^napi/in0-"])?;
        for thread in threads.split_whitespace() {
            self.tool("taskset", &["-p", "-c", &ROUTER_CORE.to_string(), thread])?;
        }
        ensure!(!threads.trim().is_empty(), "the kernel has no threaded NAPI");
        Ok(())
    }

    /// What the far end counts; TTL and header checksum say which packets are good.
    pub(crate) fn sink(&self, ttl: u8) -> Result<Sink> {
        self.sink.enter(|| Ok(Sink::attach(if_nametoindex("s0")?, Check::Ttl(ttl))?))
    }

    /// Number of the device that frames are sent out of, in the generator's namespace.
    pub(crate) fn egress(&self) -> Result<u32> {
        Ok(if_nametoindex("g0")?)
    }

    /// Runs `work` with a generator of these frames, on the generator's core.
    pub(crate) fn generate(
        &self,
        frames: &[Vec<u8>],
        work: impl FnOnce(&Generator) -> Result<()> + Send,
    ) -> Result<()> {
        self.generate_made(Generator::new, frames, work)
    }

    fn generate_made(
        &self,
        make: Make,
        frames: &[Vec<u8>],
        work: impl FnOnce(&Generator) -> Result<()> + Send,
    ) -> Result<()> {
        self.generator.enter(|| {
            pin(GENERATOR_CORE);
            work(&make(frames, self.egress()?)?)
        })
    }

    fn measure(&self, ttl: u8, time: Duration) -> Result<f64> {
        let frames = forwarder::flows(FLOWS, IN_MAC);
        debug_assert!(frames.iter().all(|frame| frame.len() == FRAME));
        self.measure_frames(&frames, ttl, time)
    }

    /// Sends while `time` passes, after a warm-up; million packets a second that the sink counted.
    pub(crate) fn measure_frames(
        &self,
        frames: &[Vec<u8>],
        ttl: u8,
        time: Duration,
    ) -> Result<f64> {
        self.measure_made(Generator::new, frames, (ttl, time))
    }

    /// The same with a generator that `make` makes.
    pub(crate) fn measure_made(
        &self,
        make: Make,
        frames: &[Vec<u8>],
        (ttl, time): (u8, Duration),
    ) -> Result<f64> {
        let sink = self.sink(ttl)?;
        let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let ((packets, good), elapsed) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                self.generate_made(make, frames, |generator| {
                    begun.store(true, Ordering::Relaxed);
                    while !stop.load(Ordering::Relaxed) {
                        generator.send(BATCH)?;
                    }
                    Ok(())
                })
            });
            // A generator of many flows takes seconds to be made.
            while !begun.load(Ordering::Relaxed) && !sender.is_finished() {
                pause(Duration::from_millis(1))?;
            }
            let timed = count(&sink, time);
            stop.store(true, Ordering::Relaxed);
            sender.join().map_err(|_| anyhow!("the generator panicked"))??;
            timed
        })?;
        ensure!(packets > 0, "nothing arrived");
        ensure!(
            good as f64 >= packets as f64 * GOOD,
            "of {packets} packets only {good} had TTL {ttl} and a right checksum"
        );
        Ok(packets as f64 / elapsed.as_secs_f64() / 1e6)
    }
}

/// Packets that came in `time` after the warm-up, and how many of them were good.
fn count(sink: &Sink, time: Duration) -> Result<((u64, u64), Duration)> {
    pause(WARM_UP)?;
    let (before, start) = (sink.counts()?, Instant::now());
    pause(time)?;
    let (after, elapsed) = (sink.counts()?, start.elapsed());
    Ok(((after.packets - before.packets, after.good - before.good), elapsed))
}

pub(crate) fn pin(core: usize) {
    let mut set = nix::sched::CpuSet::new();
    // A machine of one core runs everything on it.
    if set.set(core).is_ok() {
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).ok();
    }
}

fn linux(time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    route_by_kernel(&rig)?;
    rig.measure(63, time)
}

/// Lets the kernel forward, on the router's core.
pub(crate) fn route_by_kernel(rig: &Rig) -> Result<()> {
    rig.router.sysctl(&[("net/ipv4/ip_forward", "1")])?;
    let mut lines = String::new();
    for net in forwarder::routes()? {
        lines += &format!("route add {net} via 10.20.0.2\n");
    }
    rig.router.ip(&lines)?;
    rig.pin_receive()
}

fn testpmd(time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    let huge = HugePages::reserve(HUGE_PAGES, &rig.scope.directory())?;
    let _testpmd = Testpmd::start(&rig, &huge, SINK_MAC)?;
    rig.measure(64, time)
}

fn margay(offload: bool, time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    let _daemon = route_by_margay(&rig, &rig.store()?, offload, Value::Null)?;
    rig.measure(63, time)
}

/// The daemon with these settings, its worker pinned to the router's core. With offload the
/// kernel's receive is there too, as it is for Linux: that is where offloaded flows are carried.
pub(crate) fn route_by_margay(
    rig: &Rig,
    store: &Store,
    offload: bool,
    settings: Value,
) -> Result<Daemon> {
    let via = "10.20.0.2".parse()?;
    let routes = forwarder::routes()?.into_iter().map(|net| (net.into(), via));
    let spec = DaemonSpec {
        uplinks: vec!["in0".to_owned(), "out0".to_owned()],
        static_routes: routes.collect(),
        offload,
        ..DaemonSpec::new(env!("CARGO_BIN_EXE_margay"), "edge1", store, &rig.scope)
    };
    let daemon = rig.daemon(spec, settings)?;
    if offload {
        rig.pin_receive()?;
    }
    Ok(daemon)
}

impl Rig {
    /// A daemon, its worker pinned to the router's core.
    pub(crate) fn daemon(&self, spec: DaemonSpec, settings: Value) -> Result<Daemon> {
        let mut daemon = Daemon::start_with(spec, &self.router, settings)?;
        daemon.wait_ready()?;
        pin_workers(&daemon)?;
        Ok(daemon)
    }
}

/// Pins a daemon's workers to the router's core.
pub(crate) fn pin_workers(daemon: &Daemon) -> Result<()> {
    let tasks = format!("/proc/{}/task", daemon.pid());
    for task in fs::read_dir(&tasks).context(tasks)?.flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.starts_with("worker-") {
            let (core, thread) = (ROUTER_CORE.to_string(), task.file_name());
            let args = ["-p", "-c", &core, &thread.to_string_lossy()];
            process::run_ok(process::command("taskset", &args), "", COMMAND_LIMIT)?;
        }
    }
    Ok(())
}
