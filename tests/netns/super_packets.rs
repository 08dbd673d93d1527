//! Bulk TCP of a pod on a TAP over an uplink of 1500 bytes: super-packets leave it whole where its
//! device takes them, and in right segments where it does not; always in order.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use margay::lab::measure;
use margay::lab::namespace::Namespace;
use margay::lab::network::{Network, UPLINK};
use margay::lab::process::{self, Process, wait_for};
use margay::lab::requirements::Tool;
use margay::lab::store::write_yaml;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

const PORT: u16 = 7000;
const LIMIT: Duration = Duration::from_secs(30);
const TOOLS: &[Tool] = &[
    Tool { program: "ethtool", package: "ethtool" },
    Tool { program: "python3", package: "python3" },
];
/// Bytes of a stream, and how many of them are written at a time, in turn: small segments follow
/// super-packets and go before others.
const STREAM: usize = 24 << 20;
const WRITES: [usize; 5] = [65_536, 100, 60_000, 1, 20_000];

/// The byte at a place of the stream.
fn byte(at: usize) -> u8 {
    ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
}

/// Sends the stream to a server outside, which compares each byte.
fn send_stream(pod: &Namespace, outside: &Namespace, server: IpAddr) {
    let listener = outside.enter(|| Ok(TcpListener::bind((server, PORT))?)).unwrap();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let (mut at, mut bytes) = (0, vec![0; 1 << 18]);
        loop {
            let len = stream.read(&mut bytes).unwrap();
            if len == 0 {
                break;
            }
            let is_right = bytes[..len].iter().zip(at..).all(|(got, at)| *got == byte(at));
            assert!(is_right, "wrong bytes between {at} and {}", at + len);
            at += len;
        }
        at
    });
    let connect = || Ok(TcpStream::connect_timeout(&(server, PORT).into(), LIMIT)?);
    let mut stream = pod.enter(connect).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    let all: Vec<u8> = (0..STREAM).map(byte).collect();
    let mut rest = &all[..];
    for len in WRITES.into_iter().cycle() {
        let (now, later) = rest.split_at(len.min(rest.len()));
        stream.write_all(now).unwrap();
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receiver.join().unwrap(), STREAM);
}

/// What comes out of the uplink, at its far end.
struct Watch {
    process: Process,
    seen: PathBuf,
}

impl Watch {
    fn start(network: &Network) -> Watch {
        let directory = network.scope().directory();
        let [script, seen, log] = ["super_packets.py", "super_packets.json", "super_packets.log"]
            .map(|name| directory.join(name));
        std::fs::write(&script, include_str!("super_packets.py")).unwrap();
        std::fs::write(&log, "").unwrap();
        let [script, out] = [&script, &seen].map(|path| path.to_str().unwrap());
        let args = [script, "edge1", &PORT.to_string(), out];
        let process = Process::start_logged(network.tor.command("python3", &args), &log).unwrap();
        wait_for("the watch to begin", LIMIT, || {
            Ok(std::fs::read_to_string(&log)?.contains("ready").then_some(()))
        })
        .unwrap();
        Watch { process, seen }
    }

    fn finish(mut self) -> Value {
        assert!(self.process.end(Signal::SIGTERM, LIMIT).unwrap().success());
        serde_json::from_str(&std::fs::read_to_string(&self.seen).unwrap()).unwrap()
    }
}

/// Segments that a namespace's TCP has sent again.
fn retransmitted(namespace: &Namespace) -> u64 {
    let text = namespace.read("/proc/net/snmp").unwrap();
    let mut tcp = text.lines().filter(|line| line.starts_with("Tcp:"));
    let [names, values] = [tcp.next().unwrap(), tcp.next().unwrap()];
    let at = names.split(' ').position(|name| name == "RetransSegs").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// One stream from the TAP to this address outside; what was seen of it on its way.
fn watched(network: &Network, server: IpAddr) -> Value {
    let pod = network.nodes[0].pod("tap-a").unwrap();
    let before = retransmitted(pod.namespace());
    let watch = Watch::start(network);
    send_stream(pod.namespace(), &network.outside, server);
    let seen = watch.finish();
    let again = retransmitted(pod.namespace()) - before;
    println!("{server}: {seen}, {again} sent again");
    assert_eq!(seen["wrong"], json!([]));
    assert!(seen["behind"].as_u64().unwrap() <= again, "{seen}, {again} sent again");
    seen
}

fn demand_whole(seen: &Value) {
    let number = |name: &str| seen[name].as_u64().unwrap();
    assert!(number("supers") > 100 && number("longest") > 20_000, "{seen}");
    // A super-packet of that length is twenty segments.
    assert!(number("packets") < (STREAM / 1448 / 2) as u64, "{seen}");
    // Small packets before the first super-packet go as all others do.
    assert!(number("packets") - number("unfinished") < 20, "{seen}");
}

fn demand_cut(seen: &Value) {
    assert_eq!((&seen["supers"], &seen["longest"]), (&json!(0), &json!(1500)), "{seen}");
    assert!(seen["packets"].as_u64().unwrap() >= (STREAM / 1448) as u64, "{seen}");
}

/// One call of the sender gives a super-packet of so many datagrams, each of so many bytes.
const DATAGRAMS: usize = 40;
const DATAGRAM: usize = 1200;
const SENDER: &str = "
import socket, sys
host, port, count, size = sys.argv[1], *map(int, sys.argv[2:])
family = socket.AF_INET6 if ':' in host else socket.AF_INET
out = socket.socket(family, socket.SOCK_DGRAM)
out.setsockopt(17, 103, size)  # UDP_SEGMENT
out.sendto(b''.join(bytes([number]) * size for number in range(count)), (host, port))
";

/// A super-packet of UDP arrives as the datagrams that it is made of.
fn send_datagrams(network: &Network, server: IpAddr) {
    let receiver = network.outside.enter(|| Ok(UdpSocket::bind((server, PORT))?)).unwrap();
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    let pod = network.nodes[0].pod("tap-a").unwrap().namespace();
    let numbers = [PORT.into(), DATAGRAMS, DATAGRAM].map(|number: usize| number.to_string());
    let mut command = pod.command("python3", &["-c", SENDER, &server.to_string()]);
    command.args(numbers);
    process::run_ok(command, "", LIMIT).unwrap();
    let mut bytes = [0; 2 * DATAGRAM];
    for number in 0..DATAGRAMS {
        let len = receiver.recv(&mut bytes).unwrap();
        assert!(bytes[..len] == [number as u8; DATAGRAM], "datagram {number}: {len} bytes");
    }
}

/// Super-packets and more and more small packets in turn, each datagram with its number.
const NUMBERED: &str = "
import socket, struct, sys, time
host, port, rounds = sys.argv[1], *map(int, sys.argv[2:])
out, number = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0
def datagrams(count, size):
    global number
    number += count
    return [struct.pack('!I', at) + bytes(size - 4) for at in range(number - count, number)]
for turn in range(rounds):
    out.setsockopt(17, 103, 1200)  # UDP_SEGMENT
    out.sendto(b''.join(datagrams(40, 1200)), (host, port))
    out.setsockopt(17, 103, 0)
    for at, small in enumerate(datagrams(20 + 5 * turn, 100)):
        out.sendto(small, (host, port))
        if at % 4 == 0:
            time.sleep(0.0002)
print(number)
";
const ROUNDS: usize = 40;
/// The far end of the uplink.
const TOR: Ipv4Addr = Ipv4Addr::new(172, 31, 1, 254);

/// Sends those out of a device that is slow to take super-packets; how many went by each way.
fn send_numbered(network: &mut Network) -> [u64; 2] {
    let node = network.nodes[0].namespace().clone();
    let slow = ["qdisc", "replace", "dev", UPLINK, "root", "tbf", "rate", "100mbit"];
    let slow = [&slow[..], &["burst", "20kb", "latency", "200ms"]].concat();
    process::run_ok(node.command("tc", &slow), "", LIMIT).unwrap();
    let receiver = network.tor.enter(|| Ok(UdpSocket::bind((TOR, PORT))?)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut numbers, mut bytes) = (Vec::new(), [0; 2 * DATAGRAM]);
        // The first may take its time, and the last is followed by none.
        while let Ok(len) = receiver.recv(&mut bytes) {
            assert!(len >= 100, "{len} bytes");
            numbers.push(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        }
        numbers
    });
    let sent_before = ways(network);
    let pod = network.nodes[0].pod("tap-a").unwrap().namespace();
    let numbers = [PORT.to_string(), ROUNDS.to_string()];
    let mut command = pod.command("python3", &["-c", NUMBERED, &TOR.to_string()]);
    command.args(numbers);
    let count: usize = process::run_ok(command, "", LIMIT).unwrap().trim().parse().unwrap();
    let numbers = reader.join().unwrap();
    println!("{} of {count} datagrams arrived", numbers.len());
    let behind = numbers.windows(2).filter(|pair| pair[1] <= pair[0]);
    assert_eq!(behind.collect::<Vec<_>>(), [[0; 2]; 0], "out of order");
    assert!(numbers.len() > count / 2, "{} of {count}", numbers.len());
    let sent = ways(network);
    [sent[0] - sent_before[0], sent[1] - sent_before[1]]
}

/// Packets that the uplink has sent by the socket for super-packets, and segments in all.
fn ways(network: &mut Network) -> [u64; 2] {
    let shown = network.nodes[0].daemon().unwrap().show("ports").unwrap();
    let ports = shown.as_array().unwrap();
    let uplink = ports.iter().find(|port| port["name"] == UPLINK).unwrap();
    [&uplink["kernel"]["tx_whole"], &uplink["txPackets"]].map(|count| count.as_u64().unwrap())
}

#[test]
fn small_packets_stay_behind_super_packets_that_wait_in_the_devices_queue() {
    let Some(_turn) = crate::turn(TOOLS) else { return };
    let mut network = crate::network(1500);
    // What leaves a veth waits at the far end for the core that sent it: a worker that changes
    // cores has its packets in two queues.
    let cores = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let core = (0..CpuSet::count()).find(|core| cores.is_set(*core).unwrap());
    let settings = json!({ "workers": { "count": 1, "cores": [core] } });
    network.nodes[0].daemon().unwrap().reconfigure(settings).unwrap();
    let [whole, segments] = send_numbered(&mut network);
    let (supers, small) = (ROUNDS as u64, (0..ROUNDS).map(|turn| 20 + 5 * turn).sum::<usize>());
    println!("{whole} packets by the socket, {segments} segments in all");
    let others = segments - supers * DATAGRAMS as u64;
    assert!(others >= small as u64, "{others} of {small}");
    // Some of them went with super-packets, and some did not.
    assert!((supers + 100..supers + others - 100).contains(&whole), "{whole} of {others}");
    let daemon = network.nodes[0].daemon().unwrap();
    assert!(!daemon.drops().unwrap().contains_key("tx-full"));
    crate::frames::demand_all(daemon);
}

/// All policies of the pod but one concern other ports.
fn put_policy(network: &mut Network) {
    let directory = network.store().unwrap().directory().to_path_buf();
    for (name, port) in [("other", PORT + 1), ("own", PORT)] {
        let allow = |protocol: &str| {
            json!({"action": "Allow", "protocol": protocol,
            "destination": {"ports": [port]}})
        };
        let policy = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": name},
            "spec": {"selector": "has(pod)", "types": ["Egress"],
                "egress": [allow("TCP"), allow("UDP")]},
        });
        write_yaml(&directory.join(format!("{name}.yaml")), &policy).unwrap();
    }
    let daemon = network.nodes[0].daemon().unwrap();
    wait_for("policy to be in force", LIMIT, || {
        let shown = daemon.show("policy")?;
        let rules = |pod: &Value| pod["egress"].as_array().map_or(0, Vec::len);
        let pods = shown.as_array().map_or(&[][..], Vec::as_slice);
        Ok((!pods.is_empty() && pods.iter().all(|pod| rules(pod) >= 4)).then_some(()))
    })
    .unwrap();
}

#[test]
fn super_packets_of_a_tap_leave_the_uplink_whole_or_cut_as_its_device_has_it() {
    let Some(_turn) = crate::turn(TOOLS) else { return };
    let mut network = crate::network(1500);
    // What is watched joins no packets; the kernel's way of it also lets the last segment of one
    // that a packet socket gave it pass those before.
    let args = ["-K", "edge1", "gro", "off"];
    process::run_ok(network.tor.command("ethtool", &args), "", LIMIT).unwrap();
    let [v4, v6] = network.outside_addresses().unwrap();
    for server in [v4, v6] {
        let seen = watched(&network, server);
        demand_whole(&seen);
        send_datagrams(&network, server);
        let pod = network.nodes[0].pod("tap-a").unwrap();
        let own = pod.addresses().into_iter().find(|own| own.is_ipv4() == server.is_ipv4());
        assert_eq!(seen["sources"], json!([own.unwrap().to_string()]));
    }
    network.put_pools(true).unwrap();
    crate::nat::wait_for_nat(&mut network, true);
    put_policy(&mut network);
    let seen = watched(&network, v4);
    demand_whole(&seen);
    assert_eq!(seen["sources"], json!(["172.30.0.1"]));
    // The device says so while the daemon runs; the far end still gets no frame that is too long.
    let node = network.nodes[0].namespace().clone();
    for features in [&["tso", "off", "gso", "off"][..], &["tx", "off"]] {
        let args = [&["-K", UPLINK], features].concat();
        process::run_ok(node.command("ethtool", &args), "", LIMIT).unwrap();
        let seen = watched(&network, v4);
        demand_cut(&seen);
        send_datagrams(&network, v4);
        let finished = features[0] == "tx";
        assert!(!finished || seen["unfinished"] == 0, "{seen}");
    }
    assert_eq!(measure::checksum_errors(&network.outside).unwrap(), 0);
    let daemon = network.nodes[0].daemon().unwrap();
    let drops = daemon.drops().unwrap();
    assert!(["segmentation-invalid", "tx-full"].iter().all(|name| !drops.contains_key(*name)));
    crate::frames::demand_all(daemon);
}
