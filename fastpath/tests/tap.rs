//! TAP ports against the real kernel: two namespaces, joined by a loop over two ports.
//!
//! Needs root, /dev/net/tun, `ip`, `ping`, `iperf3`, `nstat` and `python3`; says SKIPPED without.

#![allow(clippy::unwrap_used)]

use margay_fastpath::coalesce::coalesce;
use margay_fastpath::packet::{Gso, Packet};
use margay_fastpath::port::tap::{self, Engine, TapError, TapPort, TapSpec};
use margay_fastpath::port::{BURST, Port, PortId, RxState};
use margay_fastpath::segment::{self, Checksums};
use margay_fastpath::sys::memory::{Arena, FramePool};
use margay_fastpath::sys::wait::WaitSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SMALL: usize = 4096;
const LARGE: usize = 128;
/// Where the child of the kill test finds its namespace.
const CHILD: &str = "MARGAY_TAP_TEST_CHILD";

/// The machine's cores are few: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn run(command: &str) -> Output {
    Command::new("sh").args(["-c", command]).output().unwrap()
}

fn sh(command: &str) -> String {
    let output = run(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// A network namespace that goes with its value.
struct Namespace(String);

impl Namespace {
    fn new() -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace(format!("mgy-tap-{}-{number}", std::process::id()));
        sh(&format!("ip netns add {0} && ip -n {0} link set lo up", namespace.0));
        namespace
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    fn sh(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.0))
    }

    fn spawn(&self, command: &[&str]) -> Spawned {
        let mut child = Command::new("ip");
        child.args(["netns", "exec", &self.0]).args(command);
        Spawned(child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// A counter of the namespace's stack.
    fn counter(&self, name: &str) -> u64 {
        let text = self.sh(&format!("nstat -az {name}"));
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Waits until a socket of `kind` (`-t`, `-u`) listens on `port`.
    fn wait_for_socket(&self, kind: &str, port: u16) {
        let until = Instant::now() + Duration::from_secs(5);
        while !self.sh(&format!("ss -Hln {kind} sport = :{port}")).contains(&port.to_string()) {
            assert!(Instant::now() < until, "a socket on port {port}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&format!("ip netns del {}", self.0));
    }
}

/// A process that ends with its value.
struct Spawned(Child);

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Removes what a killed run left; false when this machine can't run the tests.
fn ready() -> bool {
    if !run("test $(id -u) = 0 && test -c /dev/net/tun").status.success() {
        println!("SKIPPED: needs root and /dev/net/tun");
        return false;
    }
    for name in sh("ip netns list").split_whitespace() {
        let owner = name.strip_prefix("mgy-tap-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            run(&format!("ip netns del {name}"));
        }
    }
    true
}

fn has(tool: &str) -> bool {
    let found = run(&format!("command -v {tool}")).status.success();
    if !found {
        println!("SKIPPED: no {tool}");
    }
    found
}

fn spec(namespace: &Namespace, engine: Engine) -> TapSpec {
    TapSpec {
        name: "eth0".to_string(),
        netns: Some(namespace.path()),
        mac: None,
        mtu: 1500,
        persistent: false,
        up: true,
        engine,
    }
}

/// What is done to packets between the two TAPs.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Between {
    /// Nothing.
    Whole,
    /// Cut to MTU-sized packets with finished checksums.
    Cut,
    /// Cut, then joined again.
    CutAndJoined,
}

#[derive(Debug, Default)]
struct Seen {
    packets: u64,
    bursts: u64,
    tcp_super_packets: u64,
    udp_super_packets: u64,
    made_by_joining: u64,
    longest_sent: usize,
}

/// Two namespaces whose TAPs are joined by a thread.
struct Pair {
    a: Namespace,
    b: Namespace,
    arena: Arc<Arena>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

impl Pair {
    fn new(engine: Engine, between: Between) -> Pair {
        let (a, b) = (Namespace::new(), Namespace::new());
        let arena = Arena::new(SMALL, LARGE).unwrap();
        let open = |namespace: &Namespace, host: u8| {
            let port = tap::open(&arena, &spec(namespace, engine)).unwrap();
            let name = &namespace.0;
            sh(&format!(
                "ip -n {name} addr add 10.9.0.{host}/24 dev eth0 && \
                 ip -n {name} addr add fd09::{host}/64 dev eth0 nodad"
            ));
            port.with_id(PortId(host.into()))
        };
        let ports = [open(&a, 1), open(&b, 2)];
        let stop = Arc::new(AtomicBool::new(false));
        let (pool, asked) = (FramePool::new(arena.clone()), stop.clone());
        let thread = std::thread::spawn(move || bridge(ports, pool, between, &asked));
        Pair { a, b, arena, stop, thread: Some(thread) }
    }

    /// Ends the thread; every frame must be back.
    fn end(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.take().unwrap().join().unwrap();
        assert_eq!((self.arena.free_small(), self.arena.free_large()), (SMALL, LARGE));
        seen
    }

    fn ping(&self) {
        self.a.sh("ping -q -c 3 -i 0.05 -W 2 10.9.0.2");
        self.a.sh("ping -q -c 3 -i 0.05 -W 2 fd09::2");
        self.a.sh("ping -q -c 2 -i 0.05 -W 2 -s 20000 10.9.0.2");
    }

    fn no_checksum_error(&self) {
        for namespace in [&self.a, &self.b] {
            for counter in ["TcpInCsumErrors", "UdpInCsumErrors", "IcmpInCsumErrors"] {
                assert_eq!(namespace.counter(counter), 0, "{counter}");
            }
        }
    }
}

fn bridge(ports: [TapPort; 2], mut pool: FramePool, between: Between, stop: &AtomicBool) -> Seen {
    let wait = WaitSet::new().unwrap();
    let mut ports = ports.map(Box::new);
    for (token, port) in ports.iter_mut().enumerate() {
        wait.add(port.poll_fd().unwrap(), token as u16).unwrap();
    }
    let (mut seen, mut burst, mut idle) = (Seen::default(), Vec::new(), 0);
    // What a port has not taken yet: the kernel's thread may have as many as there is room for.
    let mut waiting: [Vec<Packet>; 2] = Default::default();
    while !stop.load(Ordering::Relaxed) {
        idle += 1;
        for from in 0..2 {
            let to = 1 - from;
            ports[from].service(&mut pool);
            if waiting[to].is_empty() {
                assert_eq!(ports[from].rx(&mut pool, &mut burst, BURST), RxState::Up);
                if !burst.is_empty() {
                    treat(&mut burst, &mut pool, between, &mut seen);
                    waiting[to].append(&mut burst);
                }
            }
            if !waiting[to].is_empty() || ports[to].is_sending() {
                idle = 0;
                ports[to].service(&mut pool);
                ports[to].tx(&mut pool, &mut waiting[to]);
            }
        }
        if idle > 20 {
            wait.wait(100, &mut Vec::new());
        }
    }
    waiting.iter_mut().for_each(|packets| pool.free_burst(packets));
    for port in ports {
        port.close(&mut pool);
    }
    seen
}

fn treat(burst: &mut Vec<Packet>, pool: &mut FramePool, between: Between, seen: &mut Seen) {
    seen.packets += burst.len() as u64;
    seen.bursts += 1;
    for packet in burst.iter() {
        match packet.offload().gso {
            Gso::None => {}
            Gso::Udp => seen.udp_super_packets += 1,
            _ => seen.tcp_super_packets += 1,
        }
    }
    if between != Between::Whole {
        let mut out = Vec::new();
        for mut packet in burst.drain(..) {
            locate(&mut packet);
            segment::segment(packet, pool, &mut out, Checksums::Finish).unwrap();
        }
        // As many as a port takes at once, as the pipeline would give them.
        if between == Between::CutAndJoined {
            coalesce(&mut out);
            let joined = out.iter().filter(|packet| packet.offload().gso != Gso::None);
            seen.made_by_joining += joined.count() as u64;
        }
        *burst = out;
    }
    let longest = burst.iter().map(Packet::len).max();
    seen.longest_sent = seen.longest_sent.max(longest.unwrap_or(0));
}

/// Offsets of plain headers; the pipeline's parser does this in the product.
fn locate(packet: &mut Packet) {
    packet.l3 = 14;
    packet.l4 = match packet.head()[14] >> 4 {
        4 => 14 + u16::from(packet.head()[14] & 15) * 4,
        _ => 54,
    };
}

/// One TCP stream, of a second unless `MARGAY_IPERF_SECONDS` says more for a measurement; Gbit/s
/// at the receiver.
fn iperf(client: &Namespace, server: &Namespace, address: &str) -> f64 {
    let seconds = std::env::var("MARGAY_IPERF_SECONDS").unwrap_or_else(|_| "1".to_string());
    let _server = server.spawn(&["iperf3", "-s", "-1"]);
    server.wait_for_socket("-t", 5201);
    let text = client.sh(&format!("iperf3 -J -c {address} -t {seconds}"));
    let received = text.split("\"sum_received\"").nth(1).unwrap();
    let rate = received.split("\"bits_per_second\":").nth(1).unwrap();
    rate.split([',', '}']).next().unwrap().trim().parse::<f64>().unwrap() / 1e9
}

/// The kernel's own forwarding between two veths, default offloads.
fn linux_forwarding() -> f64 {
    let (a, router, b) = (Namespace::new(), Namespace::new(), Namespace::new());
    for (pod, net) in [(&a, 1), (&b, 2)] {
        sh(&format!(
            "ip -n {0} link add eth0 type veth peer name v{net} netns {1} && \
             ip -n {0} addr add 10.8.{net}.2/24 dev eth0 && ip -n {0} link set eth0 up && \
             ip -n {1} addr add 10.8.{net}.1/24 dev v{net} && ip -n {1} link set v{net} up && \
             ip -n {0} route add default via 10.8.{net}.1",
            pod.0, router.0
        ));
    }
    router.sh("sysctl -qw net.ipv4.ip_forward=1");
    iperf(&a, &b, "10.8.2.2")
}

#[test]
fn tcp_passes_whole_at_speed_with_both_engines() {
    let _alone = alone();
    if !ready() || !has("iperf3") {
        return;
    }
    let linux = linux_forwarding();
    for engine in [Engine::Uring, Engine::Poll] {
        let pair = Pair::new(engine, Between::Whole);
        pair.ping();
        let tap = iperf(&pair.a, &pair.b, "10.9.0.2");
        let v6 = iperf(&pair.a, &pair.b, "fd09::2");
        pair.no_checksum_error();
        let seen = pair.end();
        println!(
            "{engine:?}: {tap:.1} Gbit/s, IPv6 {v6:.1}; Linux veth forwarding {linux:.1}; \
             ratio {:.2}; {seen:?}",
            tap / linux
        );
        assert!(seen.tcp_super_packets > 1000, "{seen:?}");
        assert!(seen.longest_sent > 30_000, "{seen:?}");
    }
}

#[test]
fn cut_super_packets_have_right_checksums_and_fit_the_mtu() {
    let _alone = alone();
    if !ready() || !has("iperf3") {
        return;
    }
    let pair = Pair::new(Engine::Auto, Between::Cut);
    pair.ping();
    let v4 = iperf(&pair.a, &pair.b, "10.9.0.2");
    let v6 = iperf(&pair.a, &pair.b, "fd09::2");
    pair.no_checksum_error();
    let seen = pair.end();
    println!("cut to MTU 1500: {v4:.1} Gbit/s, IPv6 {v6:.1}; {seen:?}");
    assert!(seen.tcp_super_packets > 100, "{seen:?}");
    assert_eq!(seen.longest_sent, 1514);
}

#[test]
fn joined_segments_are_taken_by_the_receiver() {
    let _alone = alone();
    if !ready() || !has("iperf3") {
        return;
    }
    let pair = Pair::new(Engine::Auto, Between::CutAndJoined);
    pair.ping();
    let v4 = iperf(&pair.a, &pair.b, "10.9.0.2");
    let v6 = iperf(&pair.a, &pair.b, "fd09::2");
    pair.no_checksum_error();
    let seen = pair.end();
    println!("cut and joined: {v4:.1} Gbit/s, IPv6 {v6:.1}; {seen:?}");
    assert!(seen.made_by_joining > 100, "{seen:?}");
    assert!(seen.longest_sent > 10_000, "{seen:?}");
}

const UDP_SENDER: &str = "import socket,sys
s=socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17,103,1000)
for n in range(20): s.sendto(bytes([n+1])*9500,(sys.argv[1],7777))
";
const UDP_RECEIVER: &str = "import socket
s=socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET,socket.SO_RCVBUF,4000000)
s.bind(('::',7777)); s.settimeout(5); total=0
while total<190000*2:
    data=s.recv(65536)
    assert len(data) in (1000,500) and len(set(data))==1, len(data)
    total+=len(data)
print('complete')
";

#[test]
fn udp_super_packets_arrive_as_their_datagrams() {
    let _alone = alone();
    if !ready() || !has("python3") {
        return;
    }
    for between in [Between::Whole, Between::Cut] {
        let pair = Pair::new(Engine::Auto, between);
        pair.ping();
        let receiver = Command::new("ip")
            .args(["netns", "exec", &pair.b.0, "python3", "-c", UDP_RECEIVER])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        pair.b.wait_for_socket("-u", 7777);
        for address in ["10.9.0.2", "fd09::2"] {
            pair.a.sh(&format!("python3 -c \"{UDP_SENDER}\" {address}"));
        }
        let output = receiver.wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("complete"), "{between:?}");
        pair.no_checksum_error();
        let seen = pair.end();
        if seen.udp_super_packets == 0 {
            println!("SKIPPED in part: this kernel's TUN knows no USO");
        } else {
            assert_eq!(seen.udp_super_packets, 40, "{seen:?}");
        }
    }
}

/// Asks until the port is gone, for `patience` at most.
fn gone_within(patience: Duration, port: &mut TapPort, pool: &mut FramePool) -> bool {
    let (until, mut out) = (Instant::now() + patience, Vec::new());
    loop {
        port.service(pool);
        let state = port.rx(pool, &mut out, BURST);
        out.drain(..).for_each(|packet| packet.free(pool));
        if state == RxState::Gone || Instant::now() >= until {
            return state == RxState::Gone;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn some_packet(pool: &mut FramePool) -> Packet {
    let mut packet = Packet::new(pool.alloc().unwrap(), 256, 60, PortId(0));
    packet.head_mut().fill(0);
    packet.head_mut()[..6].fill(0xff);
    packet.head_mut()[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 8, 6]);
    packet
}

#[test]
fn frames_come_back_when_the_device_vanishes() {
    let _alone = alone();
    if !ready() {
        return;
    }
    for engine in [Engine::Uring, Engine::Poll] {
        let arena = Arena::new(SMALL, LARGE).unwrap();
        let mut pool = FramePool::new(arena.clone());
        let namespace = Namespace::new();
        let mut port = tap::open(&arena, &spec(&namespace, engine)).unwrap();
        assert!(!gone_within(Duration::ZERO, &mut port, &mut pool));
        sh(&format!("ip -n {} link del eth0", namespace.0));
        assert!(gone_within(Duration::from_secs(5), &mut port, &mut pool), "{engine:?}");
        let mut burst = vec![some_packet(&mut pool)];
        port.tx(&mut pool, &mut burst);
        Box::new(port).close(&mut pool);
        burst.into_iter().for_each(|packet| packet.free(&mut pool));
        drop(pool);
        assert_eq!((arena.free_small(), arena.free_large()), (SMALL, LARGE), "{engine:?}");
    }
}

#[test]
fn a_device_that_is_down_refuses_and_works_again_when_up() {
    let _alone = alone();
    if !ready() {
        return;
    }
    for engine in [Engine::Uring, Engine::Poll] {
        let arena = Arena::new(SMALL, LARGE).unwrap();
        let mut pool = FramePool::new(arena.clone());
        let namespace = Namespace::new();
        let mut port = tap::open(&arena, &spec(&namespace, engine)).unwrap();
        let received = || {
            let text = sh(&format!("ip -n {} -s -j link show dev eth0", namespace.0));
            let rx = text.split("\"rx\":").nth(1).unwrap();
            let packets = rx.split("\"packets\":").nth(1).unwrap();
            packets.split(',').next().unwrap().trim().parse::<u64>().unwrap()
        };
        let mut send = |port: &mut TapPort, count: usize| {
            let mut burst: Vec<Packet> = (0..count).map(|_| some_packet(&mut pool)).collect();
            port.service(&mut pool);
            port.tx(&mut pool, &mut burst);
            assert!(burst.is_empty());
        };
        send(&mut port, BURST);
        assert_eq!(received(), BURST as u64, "{engine:?}");
        sh(&format!("ip -n {} link set eth0 down", namespace.0));
        send(&mut port, 5);
        assert!(port.report().kernel.contains(&("tx_down", 5)), "{:?}", port.report());
        sh(&format!("ip -n {} link set eth0 up", namespace.0));
        send(&mut port, 5);
        assert_eq!(received(), BURST as u64 + 5, "{engine:?}");
        Box::new(port).close(&mut pool);
        drop(pool);
        assert_eq!((arena.free_small(), arena.free_large()), (SMALL, LARGE), "{engine:?}");
    }
}

#[test]
fn a_port_takes_large_frames_under_load_and_gives_them_back_when_idle() {
    let _alone = alone();
    if !ready() {
        return;
    }
    let arena = Arena::new(SMALL, LARGE).unwrap();
    let mut pool = FramePool::new(arena.clone());
    let namespace = Namespace::new();
    let mut port = tap::open(&arena, &spec(&namespace, Engine::Auto)).unwrap();
    if !port.report().mode.starts_with("io_uring") {
        return println!("SKIPPED: {}", port.report().mode);
    }
    sh(&format!("ip -n {} addr add 10.9.0.1/24 brd + dev eth0", namespace.0));
    let mut out = Vec::new();
    let mut turns = |port: &mut TapPort, count: usize| {
        for _ in 0..count {
            port.service(&mut pool);
            assert_eq!(port.rx(&mut pool, &mut out, BURST), RxState::Up);
        }
        let requests = out.iter().filter(|packet| packet.len() == 98 && packet.head()[23] == 1);
        let requests = requests.count();
        out.drain(..).for_each(|packet| packet.free(&mut pool));
        (requests, port.report().frames_held)
    };
    let ping = |count: u32| {
        let name = &namespace.0;
        run(&format!("ip netns exec {name} ping -b -q -c {count} -i 0.002 -W 0.05 10.9.0.255"))
    };
    assert_eq!(turns(&mut port, 1).1, 2);
    for _ in 0..3 {
        ping(60);
        let (requests, held) = turns(&mut port, 40);
        assert_eq!(requests, 60);
        assert!(held > 8, "{held}");
        let (_, held) = turns(&mut port, 1500);
        assert_eq!(held, 2);
    }
    ping(3);
    assert_eq!(turns(&mut port, 5).0, 3);
    Box::new(port).close(&mut pool);
    drop(pool);
    assert_eq!((arena.free_small(), arena.free_large()), (SMALL, LARGE));
}

#[test]
fn a_port_reads_on_when_large_frames_are_gone() {
    let _alone = alone();
    if !ready() {
        return;
    }
    for engine in [Engine::Uring, Engine::Poll] {
        let arena = Arena::new(SMALL, LARGE).unwrap();
        let mut pool = FramePool::new(arena.clone());
        let namespace = Namespace::new();
        let wanted = TapSpec { mtu: 9000, ..spec(&namespace, engine) };
        let mut port = tap::open(&arena, &wanted).unwrap();
        sh(&format!("ip -n {} addr add 10.9.0.1/24 brd + dev eth0", namespace.0));
        let mut out = Vec::new();
        port.service(&mut pool);
        port.rx(&mut pool, &mut out, BURST);
        let hoard: Vec<_> = std::iter::from_fn(|| pool.alloc_large()).collect();
        let ping = "ping -b -q -c 10 -i 0.002 -W 0.05 -s 8000 10.9.0.255";
        run(&format!("ip netns exec {} {ping}", namespace.0));
        for _ in 0..40 {
            port.service(&mut pool);
            port.rx(&mut pool, &mut out, BURST);
        }
        let requests = out.iter().filter(|packet| packet.len() == 8042);
        assert_eq!(requests.filter(|packet| packet.segment_count() == 3).count(), 10, "{engine:?}");
        out.into_iter().for_each(|packet| packet.free(&mut pool));
        hoard.into_iter().for_each(|frame| pool.free(frame));
        Box::new(port).close(&mut pool);
        drop(pool);
        assert_eq!((arena.free_small(), arena.free_large()), (SMALL, LARGE), "{engine:?}");
    }
}

#[test]
fn the_device_is_as_it_was_asked_for() {
    let _alone = alone();
    if !ready() {
        return;
    }
    let arena = Arena::new(SMALL, LARGE).unwrap();
    let namespace = Namespace::new();
    let mac = "02:11:22:33:44:55".parse().unwrap();
    let wanted = TapSpec { mac: Some(mac), mtu: 9000, ..spec(&namespace, Engine::Auto) };
    let port = tap::open(&arena, &wanted).unwrap();
    let text = namespace.sh("ip -d link show dev eth0");
    assert!(text.contains("mtu 9000") && text.contains("02:11:22:33:44:55"), "{text}");
    assert!(text.contains(",UP,") && text.contains("persist off"), "{text}");
    assert!(text.starts_with(&format!("{}:", port.if_index())), "{text}");
    assert!(port.tx_offloads().tso4 && port.tx_offloads().csum);
    drop(port);
    assert!(!run(&format!("ip -n {} link show dev eth0", namespace.0)).status.success());
}

#[test]
fn errors_name_the_place_and_the_mend() {
    let _alone = alone();
    if !ready() {
        return;
    }
    let arena = Arena::new(SMALL, LARGE).unwrap();
    let namespace = Namespace::new();
    let good = spec(&namespace, Engine::Auto);
    let refused = |wanted: TapSpec| tap::open(&arena, &wanted).unwrap_err().to_string();
    let _held = tap::open(&arena, &good).unwrap();
    assert!(refused(good.clone()).contains("eth0: another process holds it"));
    let lo = refused(TapSpec { name: "lo".to_string(), ..good.clone() });
    assert!(lo.contains("lo: exists and is not a TAP"), "{lo}");
    let away = Some(PathBuf::from("/run/netns/mgy-none"));
    let away = refused(TapSpec { netns: away, ..good.clone() });
    assert!(away.contains("/run/netns/mgy-none: No such file"), "{away}");
    let plain = Some(PathBuf::from("/etc/hostname"));
    let plain = refused(TapSpec { netns: plain, ..good.clone() });
    assert!(plain.contains("/etc/hostname") && plain.contains("nvalid argument"), "{plain}");
    for name in ["", "sixteen-bytes-xx", "a/b", "a b", ".."] {
        assert!(refused(TapSpec { name: name.to_string(), ..good.clone() }).contains("1 to 15"));
    }
    assert!(refused(TapSpec { mtu: 67, ..good.clone() }).contains("MTU 67"));
    let bare = Arena::new(8, 0).unwrap();
    assert!(matches!(tap::open(&bare, &good), Err(TapError::NoLargeFrames)));
}

#[test]
fn a_persistent_tap_is_taken_over_after_kill_9() {
    let arena = Arena::new(SMALL, LARGE).unwrap();
    let persistent = |netns: PathBuf| TapSpec {
        name: "mgy0".to_string(),
        netns: Some(netns),
        mac: Some("02:11:22:33:44:66".parse().unwrap()),
        mtu: 1500,
        persistent: true,
        up: true,
        engine: Engine::Auto,
    };
    if let Ok(path) = std::env::var(CHILD) {
        let mut pool = FramePool::new(arena.clone());
        let mut port = tap::open(&arena, &persistent(path.into())).unwrap();
        gone_within(Duration::from_secs(20), &mut port, &mut pool);
        return;
    }
    let _alone = alone();
    if !ready() {
        return;
    }
    let namespace = Namespace::new();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_persistent_tap_is_taken_over_after_kill_9"]);
    child.env(CHILD, namespace.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Spawned(child.spawn().unwrap());
    let link = || run(&format!("ip -n {} link show dev mgy0", namespace.0));
    let until = Instant::now() + Duration::from_secs(5);
    while !String::from_utf8_lossy(&link().stdout).contains("LOWER_UP") {
        assert!(Instant::now() < until, "the child has its device up");
        std::thread::sleep(Duration::from_millis(10));
    }
    sh(&format!("ip -n {} addr add 10.7.0.1/24 dev mgy0", namespace.0));
    drop(child);
    assert!(link().status.success(), "the device stays");
    let port = tap::open(&arena, &persistent(namespace.path())).unwrap();
    let text = namespace.sh("ip addr show dev mgy0");
    assert!(text.contains("10.7.0.1/24") && text.contains("LOWER_UP"), "{text}");
    drop(port);
    let once = TapSpec { persistent: false, ..persistent(namespace.path()) };
    drop(tap::open(&arena, &once).unwrap());
    assert!(!link().status.success(), "and goes when it is no longer to stay");
}
