//! Two pods, two veth devices, and a thread that carries packets from one to the other.

use margay_fastpath::packet::Packet;
use margay_fastpath::port::xdp::{XdpDevice, XdpPort, XdpSpec, open};
use margay_fastpath::port::{BURST, Port, PortId, RxState};
use margay_fastpath::steering::Steering;
use margay_fastpath::sys::memory::{Arena, FramePool};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Runs a test on a thread with a network namespace of its own; says why where it can't.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        sh("ip link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command line in the calling thread's namespace; its output. Panics if it fails.
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {text}{errors}");
    text
}

/// A named network namespace with an `eth0`, whose other end is in the caller's.
pub struct Pod {
    name: String,
}

impl Pod {
    /// Makes the namespace and a veth pair: `device` here, `eth0` there, with `options` for both.
    pub fn new(device: &str, options: &str) -> Pod {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mgy-xdp-{}-{number}", std::process::id());
        sh(&format!("ip netns add {name}"));
        let pod = Pod { name };
        pod.plug(device, options);
        pod
    }

    /// Makes the veth pair anew, after it was deleted.
    pub fn plug(&self, device: &str, options: &str) {
        let name = &self.name;
        sh(&format!(
            "ip link add {device} {options} type veth peer name eth0 {options} netns {name} && \
             ip link set {device} up && ip -n {name} link set lo up && \
             ip -n {name} link set eth0 up"
        ));
    }

    /// Gives `eth0` its addresses, `10.1.0.N` and `fd00::N`, and the way to the peer's.
    pub fn address(&self, own: u8, peer: u8, peer_mac: &str) {
        let name = &self.name;
        sh(&format!(
            "ethtool -K eth0 tx off >/dev/null 2>&1; ip -n {name} addr add 10.1.0.{own}/24 dev eth0 && \
             ip -n {name} addr add fd00::{own}/64 dev eth0 nodad && \
             ip -n {name} neigh replace 10.1.0.{peer} lladdr {peer_mac} dev eth0 && \
             ip -n {name} neigh replace fd00::{peer} lladdr {peer_mac} dev eth0"
        ));
        self.sh("ethtool -K eth0 tx off");
    }

    /// The link address of `eth0`.
    pub fn mac(&self) -> String {
        self.sh("cat /sys/class/net/eth0/address").trim().to_string()
    }

    /// Runs a command line inside.
    pub fn sh(&self, line: &str) -> String {
        sh(&format!("ip netns exec {} sh -c '{line}'", self.name))
    }

    /// Runs `work` on a thread inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Two pods that reach each other through `left` and `right` of the caller's namespace.
pub fn two_pods(options: &str) -> (Pod, Pod) {
    let pods = (Pod::new("left", options), Pod::new("right", options));
    pods.0.address(1, 2, &pods.1.mac());
    pods.1.address(2, 1, &pods.0.mac());
    pods
}

/// Packet memory with a book that must add up.
pub struct Memory {
    pub arena: Arc<Arena>,
    pub steering: Steering,
}

impl Memory {
    pub fn new(frames: usize) -> Memory {
        let arena = Arena::new(frames, 0).unwrap();
        let steering = Steering::new(&arena).unwrap();
        Memory { arena, steering }
    }

    pub fn open(&self, port: u16, device: &str) -> (XdpDevice, Vec<XdpPort>) {
        self.open_as(&XdpSpec::pod(PortId(port), device))
    }

    pub fn open_as(&self, spec: &XdpSpec) -> (XdpDevice, Vec<XdpPort>) {
        open(&self.steering, spec).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Every frame is in the arena's free list, and none with the kernel.
    pub fn assert_whole(&self) {
        assert_eq!(self.steering.umem().lent(), 0, "frames with the kernel");
        assert_eq!(self.arena.free_small(), self.arena.small_count(), "frames not free");
    }
}

/// A thread that carries packets: what comes in by a port goes out by the one across.
pub struct Relay {
    stop: Arc<AtomicBool>,
    pub gone: Arc<AtomicU64>,
    pub moved: Arc<AtomicU64>,
    pub longest_chain: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Relay {
    /// Ports with numbers 2n and 2n+1 are across from each other.
    pub fn start(arena: Arc<Arena>, parts: Vec<XdpPort>) -> Relay {
        let (stop, gone) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (moved, longest_chain) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counts = (stop.clone(), gone.clone(), moved.clone(), longest_chain.clone());
        let thread = std::thread::spawn(move || {
            let (stop, gone, moved, longest) = counts;
            let mut pool = FramePool::new(arena);
            let mut slots: Vec<Option<Box<XdpPort>>> =
                parts.into_iter().map(|part| Some(Box::new(part))).collect();
            let mut burst: Vec<Packet> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let mut idle = true;
                for at in 0..slots.len() {
                    let Some(port) = &mut slots[at] else { continue };
                    port.service(&mut pool);
                    let state = port.rx(&mut pool, &mut burst, BURST);
                    idle &= burst.is_empty();
                    moved.fetch_add(burst.len() as u64, Ordering::Relaxed);
                    let chain = burst.iter().map(Packet::segment_count).max().unwrap_or(0);
                    longest.fetch_max(chain as u64, Ordering::Relaxed);
                    if let Some(across) = slots.get_mut(at ^ 1).and_then(Option::as_mut)
                        && !burst.is_empty()
                    {
                        across.tx(&mut pool, &mut burst);
                    }
                    burst.drain(..).for_each(|packet| packet.free(&mut pool));
                    if state == RxState::Gone
                        && let Some(port) = slots[at].take()
                    {
                        gone.fetch_add(1, Ordering::Relaxed);
                        port.close(&mut pool);
                    }
                }
                if idle {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            slots.into_iter().flatten().for_each(|port| port.close(&mut pool));
        });
        Relay { stop, gone, moved, longest_chain, thread }
    }

    /// Closes the ports.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Waits, at most 5 s, until something holds.
pub fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(5), "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
