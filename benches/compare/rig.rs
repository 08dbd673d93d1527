//! The rig that routers are measured on: three namespaces and two veths; generator and sink are in
//! the kernel.
//!
//! ```text
//! generator g0 ---- in0 router out0 ---- s0 sink
//! ```

use crate::peers::forwarder::{self, FRAME};
use crate::{GENERATOR_CORE, ROUTER_CORE};
use anyhow::{Context, Result, anyhow, ensure};
use margay::lab::daemon::{Daemon, DaemonSpec};
use margay::lab::namespace::{LinkEnd, LinkSpec, Namespace, connect};
use margay::lab::process::{self, pause};
use margay::lab::scope::Scope;
use margay::lab::store::Store;
use margay_fastpath::sys::bpf::generator::{Check, Generator, GeneratorError, Sink};
use margay_tunnels::wire::ethernet::Mac;
use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) const FLOWS: u32 = 1000;
/// Frames of one call to the generator. Setting one up takes 25 ms, in which nothing is sent: with
/// 2^18 frames that was 40 % of the time, and not the same share beside each peer.
const BATCH: u32 = 1 << 21;
const WARM_UP: Duration = Duration::from_secs(1);
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// Share of the packets that must have arrived as a router has to send them.
const GOOD: f64 = 0.999;

pub(crate) const IN_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
pub(crate) const OUT_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x12]);
pub(crate) const SINK_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x13]);

/// Makes a generator of frames that go out of a device.
type Make = fn(&[Vec<u8>], u32) -> Result<Generator, GeneratorError>;

/// The three namespaces with their links. The router's end of each has its address.
pub(crate) struct Rig {
    pub(crate) generator: Namespace,
    pub(crate) router: Namespace,
    pub(crate) sink: Namespace,
    pub(crate) scope: Scope,
    ingress: String,
}

impl Rig {
    pub(crate) fn new() -> Result<Rig> {
        Rig::with_egress("out0")
    }

    /// The device towards the sink has this name.
    pub(crate) fn with_egress(egress: &str) -> Result<Rig> {
        Rig::with_links(egress, LinkSpec { mtu: 1500, queues: 1 })
    }

    /// The devices towards generator and sink have these names.
    pub(crate) fn with_devices(names: [&str; 2], queues: u32) -> Result<Rig> {
        Rig::with(names, LinkSpec { mtu: 1500, queues })
    }

    /// As [`Rig::with_egress`], with an MTU, and so many queues of each device.
    pub(crate) fn with_links(egress: &str, spec: LinkSpec) -> Result<Rig> {
        Rig::with(["in0", egress], spec)
    }

    fn with([ingress, egress]: [&str; 2], spec: LinkSpec) -> Result<Rig> {
        let scope = Scope::new()?;
        let namespaces = ["generator", "router", "sink"].map(|role| scope.namespace(role));
        let [generator, router, sink] = namespaces;
        let (generator, router, sink) = (generator?, router?, sink?);
        let rig = Rig { generator, router, sink, scope, ingress: ingress.to_owned() };
        let (in_mac, out_mac) = (IN_MAC.to_string(), OUT_MAC.to_string());
        let sink_mac = SINK_MAC.to_string();
        let end = |namespace, device, mac, address: &str| -> Result<LinkEnd<'_>> {
            Ok(LinkEnd { namespace, device, mac, addresses: vec![address.parse()?] })
        };
        connect(
            spec,
            &end(&rig.generator, "g0", None, "10.10.0.2/24")?,
            &end(&rig.router, ingress, Some(&in_mac), "10.10.0.1/24")?,
        )?;
        connect(
            spec,
            &end(&rig.router, egress, Some(&out_mac), "10.20.0.1/24")?,
            &end(&rig.sink, "s0", Some(&sink_mac), "10.20.0.2/24")?,
        )?;
        // Without XDP or GRO a veth does not take redirected frames; the sink answers nobody.
        rig.tool("ethtool", &["-K", ingress, "gro", "on"])?;
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
        let ingress = &self.ingress;
        let line = format!("echo 1 > /sys/class/net/{ingress}/threaded");
        self.tool("sh", &["-c", &line])?;
        let threads = self.tool("pgrep", &[&format!("^napi/{ingress}-")])?;
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

    pub(crate) fn measure(&self, ttl: u8, time: Duration) -> Result<f64> {
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

impl Rig {
    /// A daemon, its worker pinned to the router's core.
    pub(crate) fn daemon(&self, spec: DaemonSpec, settings: Value) -> Result<Daemon> {
        let workers = spec.workers;
        let mut all = json!({});
        if workers == 1 {
            // By the configuration, so that the daemon's other threads are elsewhere.
            all["workers"] = json!({ "count": 1, "cores": [ROUTER_CORE] });
        }
        for (name, value) in settings.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        let mut daemon = Daemon::start_with(spec, &self.router, all)?;
        daemon.wait_ready()?;
        if workers > 1 {
            pin_workers(&daemon)?;
        }
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
