//! Policy as pods meet it: connections that succeed and others that do not, while the store changes
//! under running daemons.
//!
//! The scenarios are in `tests/cases/policy-live`: resources, and lines `PROTOCOL FROM TO[:PORT]
//! yes|no`. Places are the pods of the network and `outside`; `tcp6` and the like are IPv6. Every
//! pod is labelled with its name. SCTP is spoken by the test itself, where no kernel has it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use margay::lab::namespace::Namespace;
use margay::lab::network::Network;
use margay::lab::process;
use serde_json::Value;

use crate::sctp;

/// Ports that every place listens on, by TCP, by UDP and by SCTP.
const PORTS: [u16; 3] = [80, 81, 5432];
/// How long a connection may take; packets that are dropped never come.
const WAIT: Duration = Duration::from_millis(350);
/// How long a change of the store may take to be in force.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Connections that there are at least.
const CHECKS: usize = 40;
/// Protocols that some of them have.
const PROTOCOLS: [&str; 4] = ["icmp", "sctp", "tcp", "udp"];

/// Echoes by TCP and UDP, and associations by SCTP, on all ports, of both families.
struct Servers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    fn start(namespace: &Namespace) -> Servers {
        let (listeners, sockets, sctp) = namespace
            .enter(|| {
                let listeners = PORTS.map(|port| TcpListener::bind(("::", port)).unwrap());
                let sockets = PORTS.map(|port| UdpSocket::bind(("::", port)).unwrap());
                Ok((listeners, sockets, sctp::Server::open(&PORTS)?))
            })
            .unwrap();
        listeners.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
        sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut clients, mut bytes) = (Vec::new(), [0; 256]);
            while !flag.load(Ordering::Relaxed) {
                for (stream, _) in listeners.iter().filter_map(|one| one.accept().ok()) {
                    stream.set_nonblocking(true).unwrap();
                    clients.push(stream);
                }
                clients.retain_mut(|client: &mut TcpStream| match client.read(&mut bytes) {
                    Ok(0) => false,
                    Ok(len) => client.write_all(&bytes[..len]).is_ok(),
                    Err(_) => true,
                });
                for socket in &sockets {
                    if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                        socket.send_to(&bytes[..len], from).ok();
                    }
                }
                sctp.turn();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Servers { stop, thread: Some(thread) }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A pod, or the host outside.
#[derive(Clone)]
pub(crate) struct Place {
    name: String,
    pub(crate) namespace: Namespace,
    pub(crate) addresses: [IpAddr; 2],
}

pub(crate) fn places(network: &Network) -> Vec<Place> {
    let pods = network.nodes.iter().flat_map(|node| node.pods());
    let pods = pods.map(|pod| Place {
        name: pod.name().to_owned(),
        namespace: pod.namespace().clone(),
        addresses: pod.addresses(),
    });
    let outside = Place {
        name: "outside".to_owned(),
        namespace: network.outside.clone(),
        addresses: network.outside_addresses().unwrap(),
    };
    pods.chain([outside]).collect()
}

pub(crate) fn place<'a>(places: &'a [Place], name: &str) -> &'a Place {
    places.iter().find(|place| place.name == name).unwrap_or_else(|| panic!("who is {name}?"))
}

/// One line of a scenario.
#[derive(Clone)]
struct Check {
    text: String,
    protocol: String,
    from: Place,
    to: SocketAddr,
    expected: bool,
}

impl Check {
    fn parse(text: &str, places: &[Place]) -> Check {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [protocol, from, to, expected] = words[..] else { panic!("{text}") };
        let (to, port) = to.split_once(':').unwrap_or((to, "0"));
        let family = usize::from(protocol.ends_with('6'));
        Check {
            text: text.to_owned(),
            protocol: protocol.trim_end_matches('6').to_owned(),
            from: place(places, from).clone(),
            to: SocketAddr::new(place(places, to).addresses[family], port.parse().unwrap()),
            expected: match expected {
                "yes" => true,
                "no" => false,
                other => panic!("{text}: {other}"),
            },
        }
    }

    fn succeeds(&self) -> bool {
        let to = self.to;
        match self.protocol.as_str() {
            "tcp" => connect(&self.from.namespace, to).is_some(),
            "udp" => {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = self.from.namespace.enter(|| Ok(UdpSocket::bind(any)?)).unwrap();
                socket.set_read_timeout(Some(WAIT)).unwrap();
                socket.send_to(b"echo", to).is_ok() && socket.recv(&mut [0; 16]).is_ok()
            }
            "sctp" => self.from.namespace.enter(|| Ok(sctp::associate(to, WAIT)?)).unwrap(),
            "icmp" => {
                let target = to.ip().to_string();
                let args = ["-c", "1", "-W", "1", "-n", &target];
                let output = self.from.namespace.run("ping", &args, PATIENCE).unwrap();
                output.status.success()
            }
            other => panic!("{}: {other} is no protocol", self.text),
        }
    }
}

fn connect(from: &Namespace, to: SocketAddr) -> Option<TcpStream> {
    let stream = from.enter(|| Ok(TcpStream::connect_timeout(&to, WAIT)?)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(stream)
}

/// One byte there and back.
fn echoes(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

/// Replaces all policy of the store.
pub(crate) fn put(network: &Network, text: &str) {
    let directory = network.scope().directory().join("store");
    let draft = directory.join("policy.draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, directory.join("policy.yaml")).unwrap();
}

/// The checks that do not come out as written, after they had their time.
fn wrong(checks: &[Check]) -> Vec<String> {
    let begin = Instant::now();
    loop {
        // Those that fail take their time.
        let found: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                checks.iter().map(|check| scope.spawn(|| check.succeeds())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let wrong = checks.iter().zip(found).filter(|(check, found)| check.expected != *found);
        let wrong: Vec<String> = wrong.map(|(check, _)| check.text.clone()).collect();
        if wrong.is_empty() || begin.elapsed() > PATIENCE {
            return wrong;
        }
    }
}

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/policy-live");
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// The kernel speaks SCTP itself, and would abort what raw sockets begin.
fn has_sctp() -> bool {
    let known = std::fs::read_to_string("/proc/net/protocols").unwrap_or_default();
    known.lines().any(|line| line.starts_with("SCTP "))
}

#[test]
fn connections_are_as_policy_says() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let network = crate::network(1500);
    let places = places(&network);
    let _servers: Vec<Servers> =
        places.iter().map(|place| Servers::start(&place.namespace)).collect();
    if has_sctp() {
        println!("SKIPPED: connections by SCTP: this kernel would abort them (unload sctp)");
    }
    let (mut all, mut failures) = (BTreeMap::new(), Vec::new());
    for case in cases() {
        put(&network, &std::fs::read_to_string(case.join("resources.yaml")).unwrap());
        let text = std::fs::read_to_string(case.join("checks.txt")).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let checks = lines.map(|line| Check::parse(line, &places));
        let checks: Vec<Check> =
            checks.filter(|check| check.protocol != "sctp" || !has_sctp()).collect();
        checks.iter().for_each(|check| *all.entry(check.protocol.clone()).or_default() += 1);
        let name = case.file_name().unwrap().display().to_string();
        failures.extend(wrong(&checks).into_iter().map(|line| format!("{name}: {line}")));
    }
    assert!(failures.is_empty(), "{} of {all:?}:\n{}", failures.len(), failures.join("\n"));
    assert!(all.values().sum::<usize>() >= CHECKS, "{all:?}");
    assert!(has_sctp() || all.keys().eq(PROTOCOLS), "{all:?}");
    println!("connections: {all:?}");
}

const CLOSED: &str = "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, \
    metadata: {name: closed, namespace: lab}, \
    spec: {selector: \"pod == 'veth-a'\", types: [Ingress]}}
---
{apiVersion: projectcalico.org/v3, kind: StagedNetworkPolicy, \
    metadata: {name: tried, namespace: lab}, \
    spec: {selector: \"pod == 'veth-a'\", types: [Ingress], \
    ingress: [{action: Allow, protocol: TCP}]}}";
const OPEN: &str = "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, \
    metadata: {name: open, namespace: lab}, \
    spec: {selector: \"pod == 'veth-a'\", types: [Ingress], \
    ingress: [{action: Allow, protocol: TCP}]}}";

#[test]
fn established_connections_outlive_policy_and_what_falls_is_explained() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let mut network = crate::network(1500);
    let places = places(&network);
    let (server, client) = (place(&places, "veth-a"), place(&places, "veth-b"));
    let _servers = Servers::start(&server.namespace);
    put(&network, OPEN);
    let to = SocketAddr::new(server.addresses[0], 80);
    let daemon = network.nodes[0].daemon().unwrap();
    let endpoint = endpoint_of(&daemon.show("endpoints").unwrap(), "veth-a");
    let rules = process::wait_for("the policy to be in force", PATIENCE, || {
        let shown = network.nodes[0].daemon()?.show(&format!("policy {endpoint}"));
        Ok(shown.ok().filter(|shown| shown[0]["open"] == false))
    });
    assert_eq!(rules.unwrap()[0]["ingress"][0]["policy"], "lab/open");
    let mut stream = process::wait_for("a connection", PATIENCE, || {
        let stream = connect(&client.namespace, to);
        Ok(stream.and_then(|mut stream| echoes(&mut stream).then_some(stream)))
    });
    let stream = stream.as_mut().unwrap();
    put(&network, CLOSED);
    process::wait_for("a new connection to be refused, and counted", PATIENCE, || {
        let refused = connect(&client.namespace, to).is_none();
        let drops = network.nodes[0].daemon()?.drops()?;
        Ok((refused && drops.get("policy-ingress") > Some(&0)).then_some(()))
    })
    .unwrap();
    assert!(echoes(stream), "the connection lives on");
    // A staged policy is asked beside, and counted as if it were in force.
    process::wait_for("hits of the end of the tier and of the staged policy", PATIENCE, || {
        connect(&client.namespace, to);
        let shown = network.nodes[0].daemon()?.show(&format!("policy {endpoint}"))?;
        let rules = shown[0]["ingress"].as_array().cloned().unwrap_or_default();
        let counted = |rule: &&Value| rule["hits"].as_u64() > Some(0);
        let end = |rule: &&Value| rule["tier"] == "default" && rule["policy"].is_null();
        let tried = |rule: &&Value| rule["policy"] == "lab/tried" && rule["staged"] == true;
        let both = rules.iter().filter(end).any(|rule| counted(&rule))
            && rules.iter().filter(tried).any(|rule| counted(&rule));
        Ok(both.then_some(()))
    })
    .unwrap();
    let logged = process::wait_for("the flow log", PATIENCE, || {
        connect(&client.namespace, to);
        let mut lines = network.nodes[0].daemon()?.flow_log().into_iter();
        Ok(lines.find(|line| {
            line["destination"]["endpoint"] == endpoint.as_str() && !line["staged"].is_null()
        }))
    })
    .unwrap();
    assert_eq!(
        (&logged["action"], &logged["reason"], &logged["rules"][0]["tier"]),
        (&"drop".into(), &"policy-ingress".into(), &"default".into()),
        "{logged}"
    );
    assert_eq!(logged["staged"]["rules"][0]["policy"], "lab/tried", "{logged}");
    let daemon = network.nodes[0].daemon().unwrap();
    traced(&daemon.socket(), &endpoint);
    spoofed(&mut network, server, client);
}

fn endpoint_of(shown: &serde_json::Value, pod: &str) -> String {
    let all = shown.as_array().unwrap();
    let found = all.iter().find(|endpoint| endpoint["pod"] == pod).unwrap();
    format!("{}/{}", found["namespace"].as_str().unwrap(), found["name"].as_str().unwrap())
}

/// The running daemon tells why.
fn traced(socket: &Path, endpoint: &str) {
    let socket = socket.to_str().unwrap();
    let args =
        ["trace", "--socket", socket, "-o", "json", "--from", "198.51.100.10", "--port", "80"];
    let args = [&args[..], &["--to", endpoint]].concat();
    let command = process::command(crate::binary().to_str().unwrap(), &args);
    let output = process::run(command, "", PATIENCE).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    let answer: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&answer["verdict"], &answer["reason"]), (&"drop".into(), &"policy-ingress".into()));
    let stages = answer["stages"].as_array().unwrap();
    assert_eq!(stages.last().unwrap()["rule"]["tier"], "default", "{answer}");
}

/// A pod that speaks for another is not heard.
fn spoofed(network: &mut Network, from: &Place, to: &Place) {
    from.namespace.ip("addr add 10.65.16.250/32 dev lo").unwrap();
    let bind = || Ok(UdpSocket::bind("10.65.16.250:0")?);
    let socket = from.namespace.enter(bind).unwrap();
    let drops = process::wait_for("the spoofed source to be dropped", PATIENCE, || {
        socket.send_to(b"x", (to.addresses[0], 80))?;
        let drops = network.nodes[0].daemon()?.drops()?;
        Ok(drops.get("source-spoofed").copied())
    });
    assert!(drops.unwrap() > 0);
}
