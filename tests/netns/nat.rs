//! NAT-outgoing as pods and servers outside see it: a server that tells who asks, a client that
//! finds out how the translation behaves (in the manner of RFC 5780), pings and large datagrams.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use margay::lab::measure::{PingSpec, ping};
use margay::lab::namespace::Namespace;
use margay::lab::network::{Network, NetworkSpec};
use margay::lab::process;

/// The server's addresses; the second one is added for the probe.
pub(crate) const SERVERS: [&str; 2] = ["198.51.100.10", "198.51.100.11"];
const SERVER_V6: &str = "2001:db8:100::10";
pub(crate) const PORTS: [u16; 2] = [3478, 3479];
const WAIT: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(15);

/// Tells every asker by which address it is seen. A datagram that begins with `port` or `host` is
/// answered from another port, or from another address; long ones come back whole.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(outside: &Namespace) -> Server {
        let stop = Arc::new(AtomicBool::new(false));
        let (udp, tcp) = outside
            .enter(|| {
                let v4 = SERVERS.iter().flat_map(|host| PORTS.map(|port| format!("{host}:{port}")));
                let all = v4.chain([format!("[{SERVER_V6}]:{}", PORTS[0])]);
                let udp: Vec<UdpSocket> = all.map(|at| UdpSocket::bind(at).unwrap()).collect();
                let tcp = TcpListener::bind((SERVERS[0], PORTS[0])).unwrap();
                Ok((Arc::new(udp), tcp))
            })
            .unwrap();
        tcp.set_nonblocking(true).unwrap();
        let mut threads = Vec::new();
        for at in 0..udp.len() {
            udp[at].set_read_timeout(Some(WAIT)).unwrap();
            let (udp, stop) = (udp.clone(), stop.clone());
            threads.push(std::thread::spawn(move || answer_udp(&udp, at, &stop)));
        }
        let flag = stop.clone();
        threads.push(std::thread::spawn(move || answer_tcp(&tcp, &flag)));
        Server { stop, threads }
    }
}

fn answer_udp(sockets: &[UdpSocket], at: usize, stop: &AtomicBool) {
    let mut bytes = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((len, from)) = sockets[at].recv_from(&mut bytes) else { continue };
        let by = match &bytes[..len.min(4)] {
            b"port" => at ^ 1,
            b"host" => at ^ 2,
            _ => at,
        };
        let seen = from.to_string();
        let answer = if len > 1000 { &bytes[..len] } else { seen.as_bytes() };
        sockets[by].send_to(answer, from).unwrap();
    }
}

fn answer_tcp(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, from)) => drop(stream.write_all(from.to_string().as_bytes())),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

pub(crate) fn socket(namespace: &Namespace, at: &str) -> UdpSocket {
    let socket = namespace.enter(|| Ok(UdpSocket::bind(at)?)).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

pub(crate) fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

/// What comes back for a question; asked again for a while, since an address may be unresolved.
fn ask(socket: &UdpSocket, server: SocketAddr, question: &[u8]) -> Option<(Vec<u8>, SocketAddr)> {
    let mut bytes = vec![0; 65_536];
    for _ in 0..3 {
        socket.send_to(question, server).unwrap();
        if let Ok((len, from)) = socket.recv_from(&mut bytes) {
            return Some((bytes[..len].to_vec(), from));
        }
    }
    None
}

/// As whom the server sees a socket.
pub(crate) fn seen(socket: &UdpSocket, server: SocketAddr) -> SocketAddr {
    let (answer, from) = ask(socket, server, b"who").expect("an answer");
    assert_eq!(from, server);
    String::from_utf8(answer).unwrap().parse().unwrap()
}

/// Waits until the daemons translate, or no longer do.
pub(crate) fn wait_for_nat(network: &mut Network, on: bool) {
    for node in &mut network.nodes {
        let daemon = node.daemon().unwrap();
        let end = Instant::now() + PATIENCE;
        while daemon.show("nat").unwrap()["enabled"] != on {
            assert!(Instant::now() < end, "{}", daemon.log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The usual network, with a second address outside.
pub(crate) fn start(workers: u32) -> Network {
    let network = Network::start(NetworkSpec { workers, ..crate::margay(1500) }).unwrap();
    network.outside.ip(&format!("addr add {}/24 dev eth0", SERVERS[1])).unwrap();
    network
}

fn tcp_seen(pod: &Namespace) -> SocketAddr {
    let server = at(SERVERS[0], PORTS[0]);
    let connect = || Ok(TcpStream::connect_timeout(&server, Duration::from_secs(5))?);
    let mut stream = pod.enter(connect).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.parse().unwrap()
}

#[test]
fn outside_sees_the_node_with_nat_outgoing_and_the_pod_without() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let mut network = start(1);
    let _server = Server::start(&network.outside);
    let pods: Vec<_> = network
        .nodes
        .iter()
        .zip([("172.30.0.1", "fd30::1"), ("172.30.0.2", "fd30::2")])
        .flat_map(|(node, own)| node.pods().iter().map(move |pod| (pod.clone(), own)))
        .collect();
    for on in [false, true, false] {
        network.put_pools(on).unwrap();
        wait_for_nat(&mut network, on);
        for (pod, (node_v4, node_v6)) in &pods {
            let expected = |own: IpAddr, node: &str| if on { node.parse().unwrap() } else { own };
            let name = format!("{} with natOutgoing {on}", pod.name());
            let v4 = expected(pod.v4(), node_v4);
            assert_eq!(tcp_seen(pod.namespace()).ip(), v4, "{name}");
            let own = socket(pod.namespace(), "0.0.0.0:0");
            let outside = seen(&own, at(SERVERS[0], PORTS[0]));
            assert_eq!(outside.ip(), v4, "{name}");
            assert!(!on || outside.port() >= 61_000, "{outside}");
            let own = socket(pod.namespace(), "[::]:0");
            let outside = seen(&own, at(SERVER_V6, PORTS[0]));
            assert_eq!(outside.ip(), expected(pod.v6(), node_v6), "{name}");
            for target in [SERVERS[0], SERVER_V6] {
                let result = ping(pod.namespace(), PingSpec::to(target.parse().unwrap())).unwrap();
                assert_eq!((result.sent, result.received), (3, 3), "{name}: {}", result.text);
            }
        }
        // From outside to the pods, and between them, nothing is translated.
        for (pod, _) in &pods {
            let result = ping(&network.outside, PingSpec::to(pod.v4())).unwrap();
            assert_eq!(result.received, 3, "{}", result.text);
        }
    }
    // The nodes' own pings do not suffer.
    network.put_pools(true).unwrap();
    wait_for_nat(&mut network, true);
    let node = network.nodes[0].namespace();
    let result = ping(node, PingSpec::to(SERVERS[0].parse().unwrap())).unwrap();
    assert_eq!(result.received, 3, "{}", result.text);
}

#[test]
fn large_datagrams_pass_in_fragments() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let mut network = start(1);
    network.put_pools(true).unwrap();
    wait_for_nat(&mut network, true);
    let _server = Server::start(&network.outside);
    for name in ["veth-a", "tap-a"] {
        let pod = network.nodes[0].pod(name).unwrap();
        let own = socket(pod.namespace(), "0.0.0.0:0");
        for len in [3000, 60_000] {
            let question: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let answer = ask(&own, at(SERVERS[0], PORTS[0]), &question);
            let (bytes, _) = answer.unwrap_or_else(|| panic!("{name}: no answer of {len} bytes"));
            assert!(bytes == question, "{name}: {len} bytes came back otherwise");
        }
    }
}

#[test]
fn the_translation_behaves_as_rfc_4787_asks_seen_from_a_pod() {
    let Some(_turn) = crate::turn(&[]) else { return };
    // Two workers, so that most flows are handed over.
    let mut network = start(2);
    network.put_pools(true).unwrap();
    wait_for_nat(&mut network, true);
    let _server = Server::start(&network.outside);
    let [one, other] =
        ["veth-a", "narrow-a"].map(|name| network.nodes[0].pod(name).unwrap().namespace().clone());
    let servers: Vec<SocketAddr> =
        SERVERS.iter().flat_map(|host| PORTS.map(|port| at(host, port))).collect();
    for port in 5000..5006 {
        // Mapping (REQ-1, REQ-2), and parity (REQ-4).
        let own = socket(&one, &format!("0.0.0.0:{port}"));
        let mapped = seen(&own, servers[0]);
        for server in &servers {
            assert_eq!(seen(&own, *server), mapped, "port {port}");
        }
        assert_eq!(mapped.port() % 2, port % 2);
        // Filtering (REQ-8), as the default has it: those that were asked may answer.
        let fresh = socket(&one, &format!("0.0.0.0:{}", port + 1000));
        assert!(ask(&fresh, servers[0], b"who").is_some());
        for change in [&b"port"[..], b"host"] {
            fresh.send_to(change, servers[0]).unwrap();
            let came = fresh.recv_from(&mut [0; 64]);
            assert!(came.is_err(), "a stranger's answer came in: {came:?}");
        }
        // Hairpin (REQ-9): two pods meet at their outside addresses.
        let peer = socket(&other, &format!("0.0.0.0:{port}"));
        let peer_mapped = seen(&peer, servers[0]);
        assert_ne!(peer_mapped, mapped);
        let mut bytes = [0; 64];
        // Two workers may see the second datagram before the first: asked again then.
        let met = (0..5).find_map(|_| {
            own.send_to(b"open", peer_mapped).unwrap();
            peer.send_to(b"hello", mapped).unwrap();
            own.recv_from(&mut bytes).ok()
        });
        let (len, from) = met.expect("a hairpin");
        assert_eq!((&bytes[..len], from), (&b"hello"[..], peer_mapped));
        own.send_to(b"back", peer_mapped).unwrap();
        // The first datagram may have come too: each side opens for the other.
        let answers: Vec<_> = (0..2).map_while(|_| peer.recv_from(&mut bytes).ok()).collect();
        assert!(answers.iter().any(|(_, from)| *from == mapped), "{answers:?}");
    }
    shown(&mut network);
}

/// What `show flows` and `show nat` say, and what `--delete` does.
fn shown(network: &mut Network) {
    let daemon = network.nodes[0].daemon().unwrap();
    let flows = daemon.show("flows").unwrap();
    let flows = flows.as_array().unwrap();
    assert!(flows.len() > 30, "{} flows", flows.len());
    assert!(flows.iter().any(|flow| flow["worker"] == 0));
    assert!(flows.iter().any(|flow| flow["worker"] == 1));
    let nat = daemon.show("nat").unwrap();
    assert!(nat["flows"].as_u64().unwrap() >= flows.len() as u64);
    let outside = &nat["outside"][0];
    assert_eq!(
        (outside["address"].as_str(), outside["isHost"].as_bool()),
        (Some("172.30.0.1"), Some(true))
    );
    assert!(outside["used"]["udp"].as_u64().unwrap() >= 12, "{nat}");
    let socket = daemon.socket();
    let run = |args: &[&str]| {
        let socket = socket.to_str().unwrap();
        let args = [&["show", "flows", "--socket", socket, "-o", "json"], args].concat();
        let command = process::command(crate::binary().to_str().unwrap(), &args);
        process::run(command, "", PATIENCE).unwrap()
    };
    let refused = run(&["--delete"]);
    assert!(
        !refused.status.success() && refused.stderr.contains("no filter"),
        "{}",
        refused.stderr
    );
    let ended = run(&["--delete", "--port", "5003"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(run(&["--port", "5003"]).stdout.trim(), "[]");
    assert!(!run(&["--delete", "--port", "5003"]).status.success());
}
