//! Host endpoints as a whole daemon enforces them, with connections of the kernel's: what others
//! may say to the node itself, what it may say to them, and what its pods may.

use crate::daemon::{Daemon, STORE, machine_can};
use crate::{in_namespace, sh};
use margay_control::config::{LogRate, StoreConfig};
use margay_control::kernel::nft;
use margay_control::trace::Answer;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a connection may take; packets that are dropped never come.
const WAIT: Duration = Duration::from_millis(350);
/// How long a change of the store may take to be in force.
const PATIENCE: Duration = Duration::from_secs(40);
const NODE: &str = "192.0.2.1";
const POD: &str = "10.65.0.1";
const FAR: &str = "192.0.2.2";
/// A failsafe port.
const FAILSAFE: u16 = 6443;

/// Ports for translation: of the host's own address they go by way of a worker.
const BY_WORKER: [u16; 2] = [61_001, 61_002];

const POLICY: &str = "
---
{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: me}, \
  spec: {bgp: {ipv4Address: 192.0.2.1/24}}}
---
{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: pods}, \
  spec: {cidr: 10.66.0.0/16, natOutgoing: true}}
---
{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: up, labels: {role: edge}}, \
  spec: {node: me, interfaceName: up0}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: edge}, \
  spec: {selector: role == 'edge', types: [Ingress, Egress], \
    ingress: [{action: Log, protocol: TCP, destination: {ports: [92]}}, \
      {action: Allow, protocol: TCP, source: {nets: [192.0.2.0/24]}, \
      destination: {ports: ['80:89', 61001]}}, \
      {action: Allow, protocol: TCP, source: {nets: ['2001:db8::/64']}, \
      destination: {ports: ['80:89']}}], \
    egress: [{action: Deny, protocol: TCP, destination: {ports: [91]}}, {action: Allow}]}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: early}, \
  spec: {selector: role == 'edge', order: 1, types: [Ingress], preDNAT: true, \
    applyOnForward: true, \
    ingress: [{action: Deny, protocol: TCP, destination: {ports: [81]}}]}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: stateless}, \
  spec: {selector: role == 'edge', order: 2, types: [Ingress, Egress], doNotTrack: true, \
    applyOnForward: true, \
    ingress: [{action: Allow, protocol: TCP, destination: {ports: [90]}}, \
      {action: Deny, protocol: TCP, destination: {ports: [82]}}], \
    egress: [{action: Allow, protocol: TCP, source: {ports: [90]}}]}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: through}, \
  spec: {selector: role == 'edge', order: 3, types: [Ingress, Egress], applyOnForward: true, \
    ingress: [{action: Allow, protocol: TCP, \
      destination: {nets: [10.65.0.0/26], ports: ['80:89']}}], \
    egress: [{action: Deny, protocol: TCP, destination: {ports: [84]}}, \
      {action: Allow, source: {nets: [10.65.0.0/26]}}]}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: pod, namespace: default}, \
  spec: {types: [Ingress, Egress], ingress: [{action: Allow}], \
    egress: [{action: Allow, protocol: TCP, destination: {ports: [80, 84]}}]}}
";

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a namespace of its own, which does what it is told.
struct Place {
    jobs: Sender<Job>,
    thread: i32,
}

impl Place {
    fn new() -> Place {
        let (jobs, told) = channel::<Job>();
        let (tell, thread) = channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            told.iter().for_each(|job| job());
        });
        Place { jobs, thread: thread.recv().unwrap() }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, outcome) = channel();
        self.jobs.send(Box::new(move || drop(tell.send(job())))).unwrap();
        outcome.recv().expect("the job ended well")
    }
}

/// Ports that somebody listens on; who connects is let go at once.
struct Listeners {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn listen() -> Listeners {
    let ports = [80, 81, 82, 84, 90, 91, 92, FAILSAFE, BY_WORKER[0], BY_WORKER[1]];
    let listeners = ports.map(|port| TcpListener::bind(("::", port)).unwrap());
    listeners.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let thread = std::thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            listeners.iter().for_each(|listener| while listener.accept().is_ok() {});
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    Listeners { stop, thread: Some(thread) }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn connects(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, WAIT).is_ok()
}

/// What, from where (`None` is the node), to where, and whether it should come about.
type Check<'a> = (&'a str, Option<&'a Place>, (&'a str, u16), bool);

/// What is not as it should be, after it had its time.
fn wrong(checks: &[Check]) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let wrong = checks.iter().filter(|(_, from, (address, port), expected)| {
            let to = SocketAddr::new(address.parse::<IpAddr>().unwrap(), *port);
            let found = from.map_or_else(|| connects(to), |from| from.run(move || connects(to)));
            found != *expected
        });
        let wrong: Vec<String> =
            wrong.map(|(what, _, to, yes)| format!("{what} {to:?}: not {yes}")).collect();
        if wrong.is_empty() || begin.elapsed() > PATIENCE {
            return wrong;
        }
    }
}

/// The node's device `near`, its far end in a place of its own with these addresses.
fn plug(near: &str, far: &str, configure: &'static str) -> Place {
    let place = Place::new();
    let thread = place.thread;
    sh(&format!(
        "ip link add {near} type veth peer name {far}; ip link set {near} up; \
         ip link set {far} netns {thread}"
    ));
    place.run(move || sh(&format!("ip link set lo up; {configure}")));
    place
}

#[test]
fn host_endpoints_are_enforced() {
    if !machine_can() {
        return;
    }
    in_namespace(async || {
        let far = plug(
            "up0",
            "far0",
            "ip addr add 192.0.2.2/24 dev far0; ip link set far0 up; \
             ip addr add 2001:db8::2/64 dev far0 nodad",
        );
        sh("ip addr add 192.0.2.1/24 dev up0; ip addr add 2001:db8::1/64 dev up0 nodad");
        let pod = plug(
            "cali1",
            "pod1",
            "ip addr add 10.65.0.1/32 dev pod1; ip link set pod1 up; \
             ip route add 169.254.1.1 dev pod1; ip route add default via 169.254.1.1 dev pod1",
        );
        let (_own, _far, _pod) = (listen(), far.run(listen), pod.run(listen));
        let folder = Daemon::folder();
        let store = folder.join("store");
        std::fs::create_dir(&store).unwrap();
        std::fs::write(store.join("all.yaml"), format!("{STORE}{POLICY}")).unwrap();
        let kept = StoreConfig { path: store.clone(), ..StoreConfig::default() };
        let daemon = Daemon::start_with(&folder, kept, |config| {
            config.policy.log_prefix = "me %n".to_owned();
            config.policy.log_action_rate_limit = Some(LogRate { count: 7, unit_s: 60 });
            config.policy.log_action_rate_limit_burst = 3;
        });
        daemon.until("ready", |status| status.ready);
        enforced(&daemon, &far, &pod);
        let status = daemon.until("an answer", |_| true);
        assert_eq!(status.errors, Vec::<String>::new());
        if std::process::Command::new("nft").arg("--version").output().is_ok() {
            let listed = sh("nft list table inet margay");
            let rule = "tcp dport 92 limit rate 7/minute burst 3 packets log prefix \"me edge: \"";
            assert!(listed.contains(rule), "{listed}");
        }
        strangers_are_not_heard();
        let text = POLICY
            .replace("['80:89']", "[92]")
            .replace("['80:89', 61001]", "[92, 61001]")
            .replace("ports: [84]", "ports: [85]");
        let text = format!("{STORE}{text}");
        rewrite(&store, &text);
        let changed = [
            ("no longer allowed", Some(&far), (NODE, 80), false),
            ("allowed now", Some(&far), (NODE, 92), true),
            ("allowed on the way now", Some(&far), (POD, 92), true),
            ("allowed past the host endpoint now", Some(&pod), (FAR, 84), true),
        ];
        assert_eq!(wrong(&changed), Vec::<String>::new());
        nft::remove().unwrap();
        assert_eq!(wrong(&changed), Vec::<String>::new(), "rules that somebody took come back");
        rewrite(&store, STORE);
        assert_eq!(wrong(&[("no endpoint", Some(&far), (NODE, 80), true)]), Vec::<String>::new());
        rewrite(&store, &text);
        assert_eq!(wrong(&changed), Vec::<String>::new());
        daemon.stop();
        assert_eq!(wrong(&[("stopped", Some(&far), (NODE, 80), true)]), Vec::<String>::new());
        std::fs::remove_dir_all(folder).unwrap();
    });
}

/// What `margay trace` says of a connection; a host endpoint's name is that of its host.
fn is_let_through(daemon: &Daemon, from: &str, (to, port): (&str, u16)) -> bool {
    let question = format!("{{\"from\":\"{from}\",\"to\":\"{to}\",\"port\":{port}}}");
    let encoded: String = question.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer: Answer = daemon.ask(&format!("/v1/trace?question={encoded}"));
    answer.verdict != "drop"
}

/// Packets that the host's stack has got of workers.
fn handed_over() -> u64 {
    let devices = sh("cat /proc/net/dev");
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("margay0:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn enforced(daemon: &Daemon, far: &Place, pod: &Place) {
    let v6 = "2001:db8::1";
    let checks = [
        ("allowed", Some(far), (NODE, 80), true),
        ("allowed by IPv6", Some(far), (v6, 80), true),
        ("not allowed", Some(far), (NODE, 92), false),
        ("not allowed by IPv6", Some(far), (v6, 92), false),
        ("denied before NAT", Some(far), (NODE, 81), false),
        ("denied before tracking", Some(far), (NODE, 82), false),
        ("allowed before tracking, both ways", Some(far), (NODE, 90), true),
        ("allowed, by a worker", Some(far), (NODE, BY_WORKER[0]), true),
        ("not allowed, by a worker", Some(far), (NODE, BY_WORKER[1]), false),
        ("a failsafe port", Some(far), (NODE, FAILSAFE), true),
        ("the host out, allowed", None, (FAR, 80), true),
        ("the host out, denied", None, (FAR, 91), false),
        ("the host to itself", None, (NODE, 92), true),
        ("a pod to its host, allowed", Some(pod), (NODE, 80), true),
        ("a pod to its host, denied", Some(pod), (NODE, 92), false),
        ("a pod past the host endpoint", Some(pod), (FAR, 80), true),
        ("a pod past the host endpoint, denied", Some(pod), (FAR, 92), false),
        ("a pod past the host endpoint, denied by that", Some(pod), (FAR, 84), false),
        ("to a pod, allowed on the way", Some(far), (POD, 80), true),
        ("to a pod, not allowed on the way", Some(far), (POD, 92), false),
        ("to a pod, denied before NAT", Some(far), (POD, 81), false),
        ("to a pod, denied before tracking", Some(far), (POD, 82), false),
        ("to a pod, allowed before tracking", Some(far), (POD, 90), true),
    ];
    far.run(|| sh("ip route add 10.65.0.0/26 via 192.0.2.1"));
    let before = handed_over();
    assert_eq!(wrong(&checks), Vec::<String>::new());
    assert!(handed_over() >= before + 2, "not by way of a worker");
    for (what, from, to, expected) in checks {
        let v6 = to.0.contains(':');
        let from = match from {
            None => "up",
            Some(from) if from.thread == pod.thread => POD,
            Some(_) => {
                if v6 {
                    "2001:db8::2"
                } else {
                    FAR
                }
            }
        };
        assert_eq!(is_let_through(daemon, from, to), expected, "trace: {what} {to:?}");
    }
}

/// A device with the name of a pod's, and no endpoint for it.
fn strangers_are_not_heard() {
    let configure = "ip addr add 198.51.100.2/24 dev far1; ip link set far1 up";
    let stranger = plug("calistranger", "far1", configure);
    sh("ip addr add 198.51.100.1/24 dev calistranger");
    let to = ("198.51.100.1", 80);
    assert_eq!(wrong(&[("a stranger", Some(&stranger), to, false)]), Vec::<String>::new());
    sh("ip link set calistranger down; ip link set calistranger name straight0; \
        ip link set straight0 up");
    assert_eq!(wrong(&[("by another name", Some(&stranger), to, true)]), Vec::<String>::new());
}

fn rewrite(store: &Path, text: &str) {
    let draft = store.join("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, store.join("all.yaml")).unwrap();
}
