//! Services as clients see them: an outside host with one route to a node, and pods.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use margay::lab::namespace::Namespace;
use margay::lab::network::{Network, NetworkSpec};

const FRONTEND: &str = "10.96.0.1:80";
const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(15);

/// Tells every client this pod's name, and as whom it sees the client; a client that sends a byte
/// gets the name again.
struct Pod {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pod {
    fn serve(namespace: &Namespace, address: IpAddr, name: &str) -> Pod {
        let listen = || Ok(TcpListener::bind((address, PORT))?);
        let listener = namespace.enter(listen).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, name) = (stop.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut clients: Vec<TcpStream> = Vec::new();
            while !flag.load(Ordering::Relaxed) {
                if let Ok((mut stream, from)) = listener.accept() {
                    stream.write_all(format!("{name} {}\n", from.ip()).as_bytes()).unwrap();
                    stream.set_nonblocking(true).unwrap();
                    clients.push(stream);
                }
                for client in &mut clients {
                    if matches!(client.read(&mut [0; 8]), Ok(1..)) {
                        client.write_all(format!("{name} again\n").as_bytes()).unwrap();
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Pod { stop, thread: Some(thread) }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn connect(from: &Namespace) -> Option<TcpStream> {
    let at: SocketAddr = FRONTEND.parse().unwrap();
    let connect = || Ok(TcpStream::connect_timeout(&at, Duration::from_secs(2))?);
    let stream = from.enter(connect).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    Some(stream)
}

fn line(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with('\n') {
        stream.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
    }
    text.trim().to_owned()
}

/// Which pod answers, and as whom it sees the client.
fn asked(from: &Namespace) -> Option<(String, String)> {
    let text = line(&mut connect(from)?);
    let (name, client) = text.split_once(' ').unwrap();
    Some((name.to_owned(), client.to_owned()))
}

/// Writes the service and the pods that are ready.
fn put(network: &Network, ready: &[IpAddr]) {
    let directory = network.scope().directory().join("store");
    let write = |name: &str, text: String| {
        let draft = directory.join(format!("{name}.draft"));
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(&draft, directory.join(format!("{name}.yaml"))).unwrap();
    };
    write(
        "service",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: lab}\nspec:\n  \
         type: ClusterIP\n  clusterIP: 10.96.0.1\n  ports: [{port: 80, targetPort: 8080}]\n"
            .to_owned(),
    );
    let member =
        |address: &IpAddr| format!("  - {{addresses: [{address}], conditions: {{ready: true}}}}\n");
    let members: String = ready.iter().map(member).collect();
    write(
        "slice",
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-1, namespace: lab, \
             labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: IPv4\nports: [{{port: {PORT}, protocol: TCP}}]\nendpoints:\n{members}"
        ),
    );
}

fn names(from: &Namespace) -> BTreeSet<String> {
    (0..12).filter_map(|_| asked(from)).map(|(name, _)| name).collect()
}

#[test]
fn outside_hosts_and_pods_reach_the_endpoints_of_a_service() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let network = Network::start(NetworkSpec { workers: 2, ..crate::margay(1500) }).unwrap();
    // The outside has one route, to a node; pods on the other node are reached through it.
    for (prefix, via) in [("10.96.0.1/32", "172.31.1.1"), ("172.30.0.1/32", "172.31.1.1")] {
        network.tor.route(prefix.parse().unwrap(), via.parse().unwrap()).unwrap();
    }
    let [near, far] = [network.nodes[0].pod("veth-a"), network.nodes[1].pod("veth-b")]
        .map(|pod| pod.unwrap().clone());
    let _near = Pod::serve(near.namespace(), near.v4(), "near");
    let _far = Pod::serve(far.namespace(), far.v4(), "far");
    put(&network, &[near.v4(), far.v4()]);
    let end = Instant::now() + PATIENCE;
    while asked(&network.outside).is_none() {
        assert!(Instant::now() < end, "the service is not reached");
    }
    let both: BTreeSet<String> = ["near", "far"].map(str::to_owned).into();
    assert_eq!(names(&network.outside), both);
    let (_, client) = asked(&network.outside).unwrap();
    assert_eq!(client, "172.30.0.1", "clients from outside look like the node");
    for pod in ["tap-a", "narrow-a", "veth-a"] {
        let pod = network.nodes[0].pod(pod).unwrap();
        assert_eq!(names(pod.namespace()), both, "{}", pod.name());
        let clients: BTreeSet<String> =
            (0..12).filter_map(|_| asked(pod.namespace())).map(|(_, client)| client).collect();
        assert!(clients.contains(&pod.v4().to_string()), "{}: {clients:?}", pod.name());
    }
    // An endpoint that is taken away keeps its connections, and gets no new ones.
    let mut kept = loop {
        let mut stream = connect(&network.outside).unwrap();
        if line(&mut stream).starts_with("near") {
            break stream;
        }
    };
    put(&network, &[far.v4()]);
    let end = Instant::now() + PATIENCE;
    while names(&network.outside).contains("near") {
        assert!(Instant::now() < end, "new flows still go to the endpoint");
    }
    kept.write_all(b"x").unwrap();
    assert_eq!(line(&mut kept), "near again");
}
