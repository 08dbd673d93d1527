//! Two pods, two veth devices, and a thread that carries packets from one to the other.

use margay_fastpath::packet::Packet;
use margay_fastpath::port::xdp::{XdpDevice, XdpPort, XdpSpec, open};
use margay_fastpath::port::{BURST, Port, PortId, RxState};
use margay_fastpath::steering::Steering;
use margay_fastpath::sys::memory::{Arena, FramePool};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Runs a test on a thread with a network namespace of its own, one test at a time (some count
/// the process's descriptors); says why where it can't.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    static ONE: Mutex<()> = Mutex::new(());
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root");
        return;
    }
    let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    remove_leftovers();
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        sh("ip link set lo up");
        test();
    });
    let outcome = thread.join();
    drop(alone);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Removes the namespaces of runs that were killed.
fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix("mgy-xdp-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// Runs a command line in the calling thread's namespace; its output. Panics if it fails.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {text}{errors}");
    text
}

/// A named network namespace with an `eth0`, whose other end is in the caller's.
pub(crate) struct Pod {
    name: String,
    /// Its number: its addresses are `10.1.0.N`, `fd00::N` and `02:00:00:00:00:N`.
    number: u8,
}

impl Pod {
    /// Makes the namespace, and the veth pair as [`Pod::plug`] does.
    pub(crate) fn new(number: u8, device: &str, options: &str) -> Pod {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mgy-xdp-{}-{count}", std::process::id());
        sh(&format!("ip netns add {name}"));
        let pod = Pod { name, number };
        pod.plug(device, options);
        pod
    }

    /// Makes the veth pair: `device` here, `eth0` there, with `options` for both; `eth0` has its
    /// addresses and knows pods 1 and 2.
    pub(crate) fn plug(&self, device: &str, options: &str) {
        let (name, own) = (&self.name, self.number);
        let inside = [
            "link set lo up".to_string(),
            "link set eth0 up".to_string(),
            format!("addr add 10.1.0.{own}/24 dev eth0"),
            format!("addr add fd00::{own}/64 dev eth0 nodad"),
            "neigh replace 10.1.0.1 lladdr 02:00:00:00:00:01 dev eth0".to_string(),
            "neigh replace 10.1.0.2 lladdr 02:00:00:00:00:02 dev eth0".to_string(),
            "neigh replace fd00::1 lladdr 02:00:00:00:00:01 dev eth0".to_string(),
            "neigh replace fd00::2 lladdr 02:00:00:00:00:02 dev eth0".to_string(),
        ];
        sh(&format!(
            "ip link add {device} {options} type veth peer name eth0 {options} \
             address 02:00:00:00:00:{own:02} netns {name} && ip link set {device} up && \
             ip netns exec {name} ethtool -K eth0 tx off >/dev/null && \
             echo '{}' | ip -n {name} -batch -",
            inside.join("\n")
        ));
    }

    /// Runs a command line inside.
    pub(crate) fn sh(&self, line: &str) -> String {
        sh(&format!("ip netns exec {} sh -c '{line}'", self.name))
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn spawn<T: Send + 'static>(
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
pub(crate) fn two_pods(options: &str) -> (Pod, Pod) {
    (Pod::new(1, "left", options), Pod::new(2, "right", options))
}

/// Packet memory with a book that must add up.
pub(crate) struct Memory {
    pub(crate) arena: Arc<Arena>,
    pub(crate) steering: Steering,
}

impl Memory {
    pub(crate) fn new(frames: usize) -> Memory {
        let arena = Arena::new(frames, 0).unwrap();
        let steering = Steering::new(&arena, 4789).unwrap();
        Memory { arena, steering }
    }

    pub(crate) fn open(&self, port: u16, device: &str) -> (XdpDevice, Vec<XdpPort>) {
        self.open_as(&XdpSpec::pod(PortId(port), device))
    }

    pub(crate) fn open_as(&self, spec: &XdpSpec) -> (XdpDevice, Vec<XdpPort>) {
        open(&self.steering, spec).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Every frame is in the arena's free list, and none with the kernel.
    pub(crate) fn assert_whole(&self) {
        assert_eq!(self.steering.umem().lent(), 0, "frames with the kernel");
        assert_eq!(self.arena.free_small(), self.arena.small_count(), "frames not free");
    }
}

/// What a [`Relay`] is asked to do.
enum Ask {
    /// Put a part into a place; close the one that was there.
    Place(usize, Option<Box<XdpPort>>),
    Stop,
}

/// Counts of a [`Relay`].
#[derive(Default)]
pub(crate) struct Moved {
    pub(crate) packets: AtomicU64,
    pub(crate) longest_chain: AtomicU64,
    pub(crate) gone: AtomicU64,
}

/// A thread that carries packets: what comes in at a place goes out at the one across (0 and 1,
/// 2 and 3, ...).
pub(crate) struct Relay {
    asks: Sender<(Ask, Sender<()>)>,
    pub(crate) moved: Arc<Moved>,
    thread: JoinHandle<()>,
}

impl Relay {
    pub(crate) fn start(arena: Arc<Arena>, parts: Vec<XdpPort>) -> Relay {
        let (asks, received) = channel::<(Ask, Sender<()>)>();
        let moved = Arc::new(Moved::default());
        let counts = moved.clone();
        let thread = std::thread::spawn(move || {
            let mut pool = FramePool::new(arena);
            let mut places: Vec<_> = parts.into_iter().map(|part| Some(Box::new(part))).collect();
            loop {
                match received.try_recv() {
                    Ok((Ask::Place(at, port), done)) => {
                        places.resize_with(places.len().max(at + 1), || None);
                        if let Some(old) = std::mem::replace(&mut places[at], port) {
                            old.close(&mut pool);
                        }
                        done.send(()).unwrap();
                    }
                    Ok((Ask::Stop, _)) => break,
                    Err(_) => {}
                }
                if !carry(&mut places, &mut pool, &counts) {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            places.into_iter().flatten().for_each(|port| port.close(&mut pool));
        });
        Relay { asks, moved, thread }
    }

    /// Returns when the part is in its place, and the one that was there is closed.
    pub(crate) fn place(&self, at: usize, port: Option<XdpPort>) {
        let (done, waiting) = channel();
        self.asks.send((Ask::Place(at, port.map(Box::new)), done)).unwrap();
        waiting.recv().unwrap();
    }

    pub(crate) fn packets(&self) -> u64 {
        self.moved.packets.load(Ordering::Relaxed)
    }

    /// Closes the ports.
    pub(crate) fn stop(self) {
        self.asks.send((Ask::Stop, channel().0)).unwrap();
        self.thread.join().unwrap();
    }
}

/// One round over all places; false when there was nothing to carry.
fn carry(places: &mut [Option<Box<XdpPort>>], pool: &mut FramePool, moved: &Moved) -> bool {
    let mut busy = false;
    let mut burst: Vec<Packet> = Vec::new();
    for at in 0..places.len() {
        let Some(port) = &mut places[at] else { continue };
        port.service(pool);
        let state = port.rx(pool, &mut burst, BURST);
        busy |= !burst.is_empty();
        moved.packets.fetch_add(burst.len() as u64, Ordering::Relaxed);
        let chain = burst.iter().map(Packet::segment_count).max().unwrap_or(0);
        moved.longest_chain.fetch_max(chain as u64, Ordering::Relaxed);
        if let Some(across) = places.get_mut(at ^ 1).and_then(Option::as_mut)
            && !burst.is_empty()
        {
            across.tx(pool, &mut burst);
        }
        burst.drain(..).for_each(|packet| packet.free(pool));
        if state == RxState::Gone
            && let Some(port) = places[at].take()
        {
            moved.gone.fetch_add(1, Ordering::Relaxed);
            port.close(pool);
        }
    }
    busy
}

/// Sends small datagrams to an address until told to stop, whatever becomes of them.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Flood {
    pub(crate) fn start(from: &Pod, to: &'static str) -> Flood {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = from.spawn(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..16 {
                    let _ = socket.send_to(&[7; 64], to);
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Flood { stop, thread }
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Waits, at most 5 s, until something holds.
pub(crate) fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(5), "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
