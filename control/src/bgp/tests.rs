//! Two such threads that peer with one another over loopback, by real sockets. Each test has
//! addresses of its own in 127.0.0.0/8, and a port above 1024.

use super::*;
use ipnet::IpNet;
use margay_bgp::policy::{Action, Match, Policy, PrefixMatch, PrefixOperator, Rule};
use margay_bgp::session::{self, State, StopReason};
use margay_bgp::wire::community::Community;
use margay_bgp::{Family, FamilySet, bfd};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt::Ipv4Ttl};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

mod model;
mod soak;

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for a session that could come up to do so.
const SUSPENSE: Duration = Duration::from_secs(3);
const PORT: u16 = 21_790;

/// A network of its own for a test: 127.X.0.0/16.
fn network() -> u8 {
    static NEXT: AtomicU8 = AtomicU8::new(10);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A speaker, its configuration, and what it has told.
struct Node {
    config: BgpConfig,
    handle: Handle,
    outputs: Outputs,
    fib: BTreeMap<IpNet, Vec<IpAddr>>,
}

impl Node {
    fn config(address: IpAddr, asn: u32, number: u8) -> BgpConfig {
        BgpConfig {
            instance: Instance {
                router_id: Ipv4Addr::new(10, 255, 0, number),
                asn,
                cluster_id: None,
                max_ecmp: 8,
                listen: vec![address],
                port: PORT,
            },
            peers: BTreeMap::new(),
            own_routes: Default::default(),
        }
    }

    fn start(config: BgpConfig, options: Options) -> Node {
        let (handle, outputs) = start(options).unwrap();
        Node { config, handle, outputs, fib: BTreeMap::new() }
    }

    fn apply(&self) {
        self.handle.apply(self.config.clone());
    }

    fn peer(&mut self) -> &mut PeerConfig {
        self.config.peers.get_mut("peer").unwrap()
    }

    fn own(&mut self, prefixes: impl IntoIterator<Item = IpNet>) {
        let route = |prefix| (prefix, OwnRoute { local_pref: 100, ..OwnRoute::default() });
        self.config.own_routes = Arc::new(prefixes.into_iter().map(route).collect());
    }

    fn status(&self) -> Option<PeerStatus> {
        self.handle.status().peers.get("peer").cloned()
    }

    fn is_up(&self) -> bool {
        self.status().is_some_and(|peer| peer.state == State::Established)
    }

    fn has_bfd_up(&self) -> bool {
        let bfd = self.status().and_then(|peer| peer.bfd);
        bfd.is_some_and(|bfd| (bfd.state, bfd.remote) == (bfd::State::Up, Some(bfd::State::Up)))
    }

    fn error(&self) -> String {
        self.status().and_then(|peer| peer.last_error).unwrap_or_default()
    }

    /// Takes what has been told, and finds every next hop reachable.
    fn pump(&mut self) {
        while let Ok(output) = self.outputs.receiver.try_recv() {
            self.outputs.shared.wake();
            match output {
                Output::NextHops(asked) => {
                    let found = asked.into_iter().filter(|(_, wanted)| *wanted);
                    self.handle.set_next_hops(found.map(|(hop, _)| (hop, Some(0))).collect());
                }
                Output::Changes(changes) => {
                    for change in changes {
                        let hops = change.paths.iter().map(|path| path.next_hop).collect();
                        if change.paths.is_empty() {
                            self.fib.remove(&change.prefix);
                        } else {
                            self.fib.insert(change.prefix, hops);
                        }
                    }
                }
            }
        }
    }

    fn has(&mut self, prefix: &str) -> bool {
        self.pump();
        self.fib.contains_key(&net(prefix))
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn accept() -> Arc<Policy> {
    Arc::new(Policy::accept_all())
}

fn peer_config(own: &BgpConfig, other: &BgpConfig) -> PeerConfig {
    let (local, remote) = (own.instance.listen[0], other.instance.listen[0]);
    let router_id = own.instance.router_id;
    let mut session = session::Config::new(own.instance.asn, router_id, other.instance.asn, remote);
    (session.connect_delay_s, session.connect_retry_s) = (0, 1);
    session.error_wait_s = (1, 1);
    (session.socket.port, session.socket.local) = (other.instance.port, Some(local));
    PeerConfig {
        session,
        client_of: None,
        next_hop: NextHopMode::Auto,
        allowed_own_as: 0,
        import: accept(),
        export: accept(),
        max_prefixes: None,
        bfd: None,
    }
}

fn pair_of(mut a: BgpConfig, mut b: BgpConfig) -> (Node, Node) {
    a.peers.insert("peer".to_owned(), peer_config(&a, &b));
    b.peers.insert("peer".to_owned(), peer_config(&b, &a));
    let (mut a, mut b) = (Node::start(a, Options::default()), Node::start(b, Options::default()));
    a.own([net("10.1.0.0/24"), net("10.1.1.0/24")]);
    b.own([net("10.2.0.0/24")]);
    (a, b)
}

/// Two speakers that are configured and not told so yet.
fn pair() -> (Node, Node) {
    let network = network();
    let address = |host: u8| IpAddr::from([127, network, 0, host]);
    pair_of(Node::config(address(1), 64_512, 1), Node::config(address(2), 64_513, 2))
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn never(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + SUSPENSE;
    while Instant::now() < until {
        assert!(!holds(), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn come_up(a: &mut Node, b: &mut Node) {
    a.apply();
    b.apply();
    eventually("both are up", || a.is_up() && b.is_up());
}

#[track_caller]
fn cross(a: &mut Node, b: &mut Node) {
    come_up(a, b);
    eventually("routes cross", || {
        b.has("10.1.0.0/24") && b.has("10.1.1.0/24") && a.has("10.2.0.0/24")
    });
}

#[test]
fn routes_cross_and_go() {
    let (mut a, mut b) = pair();
    cross(&mut a, &mut b);
    let hops = vec![a.config.instance.listen[0]];
    assert_eq!(b.fib.get(&net("10.1.0.0/24")), Some(&hops));
    a.own([net("10.1.0.0/24")]);
    a.apply();
    eventually("the withdrawn one goes", || !b.has("10.1.1.0/24"));
    assert!(b.has("10.1.0.0/24"));
    let status = b.status().unwrap();
    let of_peer = (status.ups, status.remote_asn, status.router_id(), status.local);
    let expected =
        (1, 64_512, Some(Ipv4Addr::new(10, 255, 0, 1)), Some(b.config.instance.listen[0]));
    assert_eq!(of_peer, expected);
    a.handle.stop(StopReason::Shutdown("good night".to_owned()));
    eventually("its routes go with it", || !b.has("10.1.0.0/24"));
    eventually("it knows why", || b.error().contains("good night"));
}

/// Runs a test in a network namespace of its own, with these addresses on its loopback interface.
fn alone(addresses: &[&str], test: impl FnOnce() + Send + 'static) {
    let addresses: Vec<String> = addresses.iter().map(|one| (*one).to_owned()).collect();
    let thread = std::thread::spawn(move || {
        if let Err(why) = unshare(CloneFlags::CLONE_NEWNET) {
            return println!("SKIPPED: no network namespace: {why}");
        }
        if !ip("link set lo up") {
            return println!("SKIPPED: no ip command");
        }
        for address in addresses {
            assert!(ip(&format!("addr add {address} dev lo nodad")));
        }
        test();
    });
    thread.join().unwrap();
}

fn ip(words: &str) -> bool {
    let status = std::process::Command::new("ip").args(words.split(' ')).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn routes_cross_over_ipv6() {
    alone(&["fd00::1/128", "fd00::2/128"], || {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let a = Node::config(address("fd00::1"), 64_512, 1);
        let b = Node::config(address("fd00::2"), 64_512, 2);
        let (mut a, mut b) = pair_of(a, b);
        a.own([net("2001:db8:1::/64")]);
        if has_md5() {
            for node in [&mut a, &mut b] {
                node.peer().session.socket.md5_key = Some(b"six".to_vec());
                node.peer().session.socket.ttl_security_hops = Some(1);
            }
        }
        a.peer().bfd = Some(Bfd { interval_ms: 50, multiplier: 3, multihop: true });
        b.peer().bfd = a.peer().bfd;
        come_up(&mut a, &mut b);
        eventually("the route is there", || b.has("2001:db8:1::/64"));
        assert_eq!(b.fib[&net("2001:db8:1::/64")], [address("fd00::1")]);
        eventually("BFD is up", || a.has_bfd_up());
    });
}

/// A path that dies is noticed by BFD within its detection time, here 150 ms.
#[test]
fn a_path_that_dies_ends_the_session_at_once() {
    alone(&[], || {
        let (mut a, mut b) = pair();
        let wanted = Bfd { interval_ms: 50, multiplier: 3, multihop: false };
        (a.peer().bfd, b.peer().bfd) = (Some(wanted), Some(wanted));
        cross(&mut a, &mut b);
        eventually("BFD is up", || a.has_bfd_up());
        assert!(ip("link set lo down"));
        let began = Instant::now();
        eventually("its routes go", || !b.has("10.1.0.0/24"));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        eventually("it knows why", || b.error().contains("BFD Down"));
        assert!(ip("link set lo up"));
        eventually("they are back", || b.has("10.1.0.0/24"));
    });
}

/// RFC 4271 section 6.8.
#[test]
fn of_two_connections_at_once_one_stays() {
    for _ in 0..5 {
        let (mut a, mut b) = pair();
        come_up(&mut a, &mut b);
        std::thread::sleep(Duration::from_millis(200));
        assert!(a.is_up() && b.is_up());
        assert_eq!((a.status().unwrap().ups, b.status().unwrap().ups), (1, 1));
    }
}

/// False, and says so, where the kernel has no TCP MD5.
fn has_md5() -> bool {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let outcome = crate::sys::set_md5_key(&socket, IpAddr::from([127, 0, 0, 1]), b"key");
    if let Err(why) = &outcome {
        println!("SKIPPED: no TCP MD5 here: {why}");
    }
    outcome.is_ok()
}

/// RFC 2385: and a change of the key counts at once.
#[test]
fn keys_that_differ_keep_peers_apart() {
    if !has_md5() {
        return;
    }
    let (mut a, mut b) = pair();
    a.peer().session.socket.md5_key = Some(b"right".to_vec());
    b.peer().session.socket.md5_key = Some(b"wrong".to_vec());
    a.apply();
    b.apply();
    never("keys do not matter", || a.is_up() || b.is_up());
    b.peer().session.socket.md5_key = Some(b"right".to_vec());
    cross(&mut a, &mut b);
    a.peer().session.socket.md5_key = Some(b"another".to_vec());
    a.apply();
    eventually("the session has gone", || !a.is_up() && !b.is_up());
    never("the old key does", || a.is_up() || b.is_up());
    b.peer().session.socket.md5_key = Some(b"another".to_vec());
    come_up(&mut a, &mut b);
    // Without a key on one side; and then without one at all.
    a.peer().session.socket.md5_key = None;
    a.apply();
    eventually("the session has gone", || !a.is_up() && !b.is_up());
    never("a signature is not demanded", || a.is_up());
    b.peer().session.socket.md5_key = None;
    come_up(&mut a, &mut b);
}

#[test]
fn a_listener_demands_the_key_and_forgets_it_with_the_peer() {
    if !has_md5() {
        return;
    }
    let (mut a, b) = pair();
    a.peer().session.socket.md5_key = Some(b"secret".to_vec());
    a.apply();
    let target = SocketAddr::new(a.config.instance.listen[0], PORT);
    let from = SocketAddr::new(b.config.instance.listen[0], 0);
    let connect = || {
        let kind = socket2::Type::STREAM;
        let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect_timeout(&target.into(), Duration::from_millis(1500))
    };
    let stranger = || TcpStream::connect_timeout(&target, Duration::from_millis(1500)).is_ok();
    eventually("it listens", stranger);
    assert!(connect().is_err(), "an unsigned connection of the peer was taken");
    a.config.peers.clear();
    a.apply();
    eventually("the key is gone", || connect().is_ok());
    eventually("strangers are counted", || a.handle.status().unknown_peers > 0);
}

#[test]
fn a_key_that_cannot_be_set_blocks_the_peer() {
    let (mut a, mut b) = pair();
    a.peer().session.socket.md5_key = Some(vec![b'x'; crate::sys::MAX_MD5_KEY_LEN + 1]);
    a.apply();
    b.apply();
    eventually("it says why", || a.status().is_some_and(|peer| peer.blocked.is_some()));
    never("it goes without", || a.is_up() || b.is_up());
    a.peer().session.socket.md5_key = None;
    come_up(&mut a, &mut b);
}

/// RFC 5082.
#[test]
fn packets_from_too_far_away_are_not_heard() {
    let (mut a, mut b) = pair();
    a.peer().session.socket.ttl_security_hops = Some(1);
    a.peer().session.passive = true;
    a.apply();
    b.apply();
    never("a usual TTL is enough", || a.is_up() || b.is_up());
    b.peer().session.socket.ttl_security_hops = Some(1);
    come_up(&mut a, &mut b);
}

#[test]
fn a_peer_that_is_removed_hears_why_and_its_routes_go() {
    let (mut a, mut b) = pair();
    cross(&mut a, &mut b);
    a.config.peers.clear();
    a.apply();
    eventually("routes are gone", || !a.has("10.2.0.0/24") && !b.has("10.1.0.0/24"));
    eventually("it knows why", || b.error().contains("Peer De-configured"));
    eventually("nobody is shown", || a.status().is_none());
}

#[test]
fn policies_change_under_a_session() {
    let (mut a, mut b) = pair();
    cross(&mut a, &mut b);
    let range =
        PrefixMatch { cidr: net("10.1.1.0/24"), operator: PrefixOperator::Equal, lengths: None };
    let rule =
        Rule { matches: vec![Match::Prefix(range)], operations: vec![], action: Action::Reject };
    let strict = Arc::new(Policy::new(vec![rule], true));
    a.peer().export = Arc::clone(&strict);
    a.apply();
    eventually("it is withdrawn", || !b.has("10.1.1.0/24"));
    assert!(b.has("10.1.0.0/24"));
    a.peer().export = accept();
    a.apply();
    eventually("it is back", || b.has("10.1.1.0/24"));
    b.peer().import = strict;
    b.apply();
    eventually("it is refused", || !b.has("10.1.1.0/24"));
    b.peer().import = accept();
    b.apply();
    eventually("it is taken", || b.has("10.1.1.0/24"));
    assert_eq!((a.status().unwrap().ups, b.status().unwrap().ups), (1, 1));
}

#[test]
fn what_an_open_says_changes_by_a_new_session() {
    let (mut a, mut b) = pair();
    cross(&mut a, &mut b);
    a.peer().session.hold_time_s = 90;
    a.apply();
    eventually("the new hold time is in force", || {
        b.status().is_some_and(|peer| peer.times_s == Some((90, 30)) && peer.ups == 2)
    });
    a.handle.reset("peer");
    eventually("it comes back", || b.status().is_some_and(|peer| peer.ups == 3));
    assert!(b.error().contains("Administrative Reset"), "{}", b.error());
}

/// RFC 4724: the helper keeps the routes, and who restarts waits for End-of-RIB before it tells.
#[test]
fn a_restart_loses_no_route() {
    let (mut a, mut b) = pair();
    cross(&mut a, &mut b);
    let config = a.config.clone();
    a.handle.stop(StopReason::Restart);
    eventually("it is down", || !b.is_up());
    assert!(b.has("10.1.0.0/24"));
    let mut a = Node::start(config, Options { restarting: true });
    a.own([net("10.1.0.0/24")]);
    a.apply();
    eventually("it holds", || a.handle.status().holding);
    eventually("it is up", || a.is_up() && b.is_up());
    let began = Instant::now();
    eventually("it holds no more", || !a.handle.status().holding);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    eventually("it has learnt all", || a.has("10.2.0.0/24"));
    eventually("what it does not have any more goes", || !b.has("10.1.1.0/24"));
    assert!(b.has("10.1.0.0/24"));
}

/// A peer that nobody answers for must not hold up the others for long.
#[test]
fn a_restart_does_not_wait_for_who_is_not_reached() {
    let (a, mut b) = pair();
    let config = a.config.clone();
    let mut a = {
        drop(a);
        Node::start(config, Options { restarting: true })
    };
    let mut dead = a.peer().clone();
    dead.session.socket.remote = IpAddr::from([127, 254, 254, 254]);
    a.config.peers.insert("dead".to_owned(), dead);
    come_up(&mut a, &mut b);
    let began = Instant::now();
    eventually("routes cross", || a.has("10.2.0.0/24") && b.has("10.1.0.0/24"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn many_routes_cross_through_full_sockets() {
    let (mut a, mut b) = pair();
    let prefix =
        |number: u32| IpNet::new(Ipv4Addr::from(0x0b00_0000 + (number << 8)).into(), 24).unwrap();
    a.own((0..30_000).map(prefix));
    come_up(&mut a, &mut b);
    eventually("all are there", || {
        b.pump();
        b.fib.len() == 30_000
    });
    let query = RouteQuery {
        prefix: Some(prefix(7)),
        longer: false,
        peer: Some("peer".to_owned()),
        direction: Direction::In,
        most: 10,
    };
    let found = futures::executor::block_on(b.handle.query_routes(query.clone())).unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].best && found[0].prefix == prefix(7));
    let nobody = RouteQuery { peer: Some("nobody".to_owned()), ..query };
    assert_eq!(futures::executor::block_on(b.handle.query_routes(nobody)).unwrap(), []);
    b.config.peers.clear();
    b.apply();
    eventually("all are gone", || {
        b.pump();
        b.fib.is_empty()
    });
}

/// RFC 5882 section 4.1 and RFC 9384.
#[test]
fn a_dead_path_ends_the_session() {
    let (mut a, mut b) = pair();
    let wanted = Bfd { interval_ms: 50, multiplier: 3, multihop: false };
    a.peer().bfd = Some(wanted);
    b.peer().bfd = Some(Bfd { interval_ms: 100, ..wanted });
    cross(&mut a, &mut b);
    let is_watched = Node::has_bfd_up;
    eventually("BFD is up", || is_watched(&a) && is_watched(&b));
    // A packet as the peer would send it once it hears nothing any more.
    let down = bfd::Packet {
        diagnostic: bfd::Diagnostic::DETECTION_TIME_EXPIRED,
        state: bfd::State::Down,
        poll: false,
        final_: false,
        independent: false,
        demand: false,
        detect_mult: 3,
        my_discriminator: 1,
        your_discriminator: 1,
        desired_min_tx_us: 50_000,
        required_min_rx_us: 50_000,
        required_min_echo_rx_us: 0,
    };
    let forged = |ttl: u8| {
        let from = UdpSocket::bind((b.config.instance.listen[0], 0)).unwrap();
        setsockopt(&from, Ipv4Ttl, &ttl.into()).unwrap();
        from.send_to(&down.encode(), (a.config.instance.listen[0], bfd::SINGLE_HOP_PORT)).unwrap();
    };
    forged(254);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(a.status().unwrap().ups, 1, "a packet from afar counts");
    forged(255);
    let know = || a.error().contains("BFD Down") && b.error().contains("BFD Down");
    eventually("both know", know);
    eventually("the session comes back", || a.is_up() && b.is_up());
    eventually("and BFD", || is_watched(&a) && is_watched(&b));
    let ups = a.status().unwrap().ups;
    // Stopped by a person: no failure of the path.
    b.peer().bfd = None;
    b.apply();
    eventually("BFD is down", || !is_watched(&a));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((a.is_up(), a.status().unwrap().ups), (true, ups));
}

#[test]
fn families_that_a_session_carries_come_from_its_configuration() {
    let (mut a, mut b) = pair();
    let both = Family::ALL.into_iter().fold(FamilySet::EMPTY, FamilySet::with);
    for node in [&mut a, &mut b] {
        node.peer().session.families = both;
    }
    cross(&mut a, &mut b);
    let (agreed, _) = a.status().unwrap().agreed.unwrap();
    assert_eq!(agreed.families, both);
}
