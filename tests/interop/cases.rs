//! What every pair of daemons must do: the same cases, whoever they are.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay::lab::process::pause;

use crate::bfd;
use crate::network::{Daemon, Network};
use crate::speaker::{Announcement, FAMILIES, Feature, Options, Speaker};

/// The one under test is the first member of every network, and the other the second.
pub(crate) const US: usize = 0;
pub(crate) const THEM: usize = 1;

/// A way for two daemons to meet.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What the other daemon must be able to do.
    pub(crate) needs: &'static [Feature],
    pub(crate) run: fn(Daemon, Daemon) -> Result<()>,
}

pub(crate) const CASES: &[Case] = &[
    Case { name: "routes over eBGP", needs: &[], run: external },
    Case { name: "routes over iBGP", needs: &[], run: internal },
    Case { name: "MD5 over eBGP", needs: &[Feature::Password], run: password_external },
    Case { name: "MD5 over iBGP", needs: &[Feature::Password], run: password_internal },
    Case { name: "their refresh", needs: &[Feature::Refresh], run: their_refresh },
    Case { name: "new password", needs: &[Feature::Password], run: new_password },
    Case { name: "hold time", needs: &[], run: hold_time },
    Case { name: "they are killed", needs: &[Feature::Restart], run: they_restart },
    Case { name: "we are killed", needs: &[Feature::KeepRoutes], run: we_restart },
    Case {
        name: "their paths (ADD-PATH)",
        needs: &[Feature::AddPath, Feature::Transit],
        run: their_paths,
    },
    Case { name: "our paths (ADD-PATH)", needs: &[Feature::AddPath], run: our_paths },
    Case { name: "BFD over one hop", needs: &[Feature::Bfd], run: bfd::one_hop },
    Case {
        name: "BFD as over several hops",
        needs: &[Feature::Bfd, Feature::DistantBfd],
        run: bfd::several_hops,
    },
    Case { name: "2-octet AS", needs: &[Feature::TwoOctet], run: two_octet },
    Case { name: "2 reflectors, 3 clients, one cluster", needs: &[], run: one_cluster },
    Case { name: "2 reflectors, 3 clients, two clusters", needs: &[], run: two_clusters },
];

/// The routes of speaker `number`. Of the sizes that Calico's blocks have.
fn routes(number: u8) -> Vec<Announcement> {
    let plain = format!("65001:{number}");
    let large = format!("65001:{number}:9");
    vec![
        Announcement::new(&format!("10.70.{number}.0/26"), &[&plain, &large]),
        Announcement::new(&format!("10.71.{number}.64/26"), &[]),
        Announcement::new(&format!("fd70:0:0:{number}::/122"), &[&plain, &large]),
        Announcement::new(&format!("fd71:0:0:{number}::40/122"), &[]),
    ]
}

/// Two connected speakers with routes.
pub(crate) fn pair(ours: u32, theirs: u32, options: &Options) -> [Speaker; 2] {
    let mut us = Speaker { routes: routes(1), ..Speaker::new(1, ours) };
    let mut them = Speaker { routes: routes(2), ..Speaker::new(2, theirs) };
    us.add_neighbor(&them.clone(), options);
    them.add_neighbor(&us, options);
    [us, them]
}

/// Starts two daemons, and waits until they have each other's routes.
pub(crate) fn meet(daemons: [Daemon; 2], speakers: [Speaker; 2]) -> Result<Network> {
    let mut network = Network::start(daemons.into_iter().zip(speakers).collect())?;
    network.wait_established()?;
    network.wait_exchanged(US)?;
    network.wait_exchanged(THEM)?;
    Ok(network)
}

/// Each side withdraws, and announces something new.
fn change(network: &mut Network) -> Result<()> {
    for (side, number) in [(US, 3), (THEM, 4)] {
        let member = &mut network.members[side];
        for gone in [member.speaker.routes[0].prefix, member.speaker.routes[2].prefix] {
            member.peer.withdraw(gone)?;
            member.speaker.routes.retain(|route| route.prefix != gone);
        }
        for route in routes(number) {
            member.peer.announce(&route)?;
            member.speaker.routes.push(route);
        }
    }
    network.wait_exchanged(US)?;
    network.wait_exchanged(THEM)
}

fn exchange(daemons: [Daemon; 2], theirs: u32, options: &Options) -> Result<()> {
    let mut network = meet(daemons, pair(65001, theirs, options))?;
    change(&mut network)?;
    // Withdrawn by name is one way, by the end of the session another.
    network.members[THEM].kill()?;
    for family in FAMILIES {
        network.members[US].wait_routes(family, &Default::default())?;
    }
    Ok(())
}

fn external(us: Daemon, them: Daemon) -> Result<()> {
    exchange([us, them], 65002, &Options::default())
}

fn internal(us: Daemon, them: Daemon) -> Result<()> {
    exchange([us, them], 65001, &Options::default())
}

fn with_password(word: &str) -> Options {
    Options { password: Some(word.to_owned()), ..Options::default() }
}

fn password_external(us: Daemon, them: Daemon) -> Result<()> {
    exchange([us, them], 65002, &with_password("margay-1"))
}

fn password_internal(us: Daemon, them: Daemon) -> Result<()> {
    exchange([us, them], 65001, &with_password("margay-1"))
}

fn their_refresh(us: Daemon, them: Daemon) -> Result<()> {
    let mut network = meet([us, them], pair(65001, 65002, &Options::default()))?;
    for round in 0..3 {
        for family in FAMILIES {
            let address = network.members[US].speaker.address(family);
            network.members[THEM].peer.refresh(address)?;
            pause(Duration::from_millis(300))?;
            network.wait_exchanged(THEM).with_context(|| format!("after refresh {round}"))?;
            let still = network.members[THEM].peer.established(address)?;
            ensure!(still, "the refresh ended the session with {address}");
        }
    }
    network.wait_exchanged(US)
}

fn new_password(us: Daemon, them: Daemon) -> Result<()> {
    let options = Options { hold_s: 3, ..with_password("margay-1") };
    let mut network = meet([us, them], pair(65001, 65002, &options))?;
    for family in FAMILIES {
        let (ours, theirs) = (
            network.members[US].speaker.address(family),
            network.members[THEM].speaker.address(family),
        );
        network.members[US].peer.set_password(theirs, "margay-2")?;
        network.members[THEM].wait_session(ours, false, Duration::from_secs(10))?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            let up = network.members[US].peer.established(theirs)?;
            ensure!(!up, "a session with different passwords, {theirs}");
            pause(Duration::from_millis(50))?;
        }
        network.members[THEM].peer.set_password(ours, "margay-2")?;
    }
    network.wait_established()?;
    network.wait_exchanged(US)?;
    network.wait_exchanged(THEM)
}

fn hold_time(us: Daemon, them: Daemon) -> Result<()> {
    let options = Options { hold_s: 3, ..Options::default() };
    let mut network = meet([us, them], pair(65001, 65002, &options))?;
    network.members[THEM].halt(true)?;
    let start = Instant::now();
    for family in FAMILIES {
        let theirs = network.members[THEM].speaker.address(family);
        network.members[US].wait_session(theirs, false, Duration::from_secs(6))?;
        network.members[US].wait_routes(family, &Default::default())?;
    }
    ensure!(start.elapsed() > Duration::from_secs(1), "down after {:?}", start.elapsed());
    network.members[THEM].halt(false)?;
    network.wait_established()?;
    network.wait_exchanged(US)?;
    network.wait_exchanged(THEM)
}

/// `killed` dies and comes back; `other` keeps its routes from the kill to long after.
fn restart(daemons: [Daemon; 2], killed: usize, other: usize) -> Result<()> {
    let options = Options { restart_s: Some(30), hold_s: 30, ..Options::default() };
    let mut network = meet(daemons, pair(65001, 65002, &options))?;
    // The peers' End-of-RIB must have come, or there is nothing to keep.
    pause(Duration::from_secs(1))?;
    let wanted = FAMILIES.map(|family| (family, network.wanted(other, family)));
    // OpenBGPD is quick enough to connect to one that is dying, and forgets what it kept.
    network.members[other].halt(true)?;
    network.members[killed].kill()?;
    network.members[other].halt(false)?;
    let watch = |network: &mut Network, time: Duration, what: &str| -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            for (family, routes) in &wanted {
                let held = network.members[other].check_holds(*family, routes);
                held.with_context(|| format!("{what} for {:?}", start.elapsed()))?;
            }
            pause(Duration::from_millis(20))?;
        }
        Ok(())
    };
    watch(&mut network, Duration::from_secs(2), "dead")?;
    network.members[killed].peer.start()?;
    if daemons[killed] == Daemon::Frr {
        // FRR 8.4 says End-of-RIB 40 ms before its own routes (its issue 20165), which ends them.
        network.wait_established()?;
        network.wait_exchanged(other)?;
    }
    watch(&mut network, Duration::from_secs(3), "started again")?;
    network.wait_established()?;
    watch(&mut network, Duration::from_secs(3), "connected again")?;
    network.wait_exchanged(US)?;
    network.wait_exchanged(THEM)
}

fn they_restart(us: Daemon, them: Daemon) -> Result<()> {
    restart([us, them], THEM, US)
}

fn we_restart(us: Daemon, them: Daemon) -> Result<()> {
    restart([us, them], US, THEM)
}

/// Two sources of the same prefixes, behind `middle`, which tells `end` of both paths.
fn several_paths(middle: Daemon, end: Daemon) -> Result<()> {
    let several = Options { add_path: true, ..Options::default() };
    let mut hub = Speaker::new(1, 65001);
    let mut far = Speaker::new(2, 65002);
    far.add_neighbor(&hub, &several);
    hub.add_neighbor(&far, &several);
    let mut speakers = vec![(end, far)];
    for number in [3, 4] {
        let mut source = Speaker::new(number, 65000 + u32::from(number));
        source.routes = routes(9);
        source.add_neighbor(&hub, &Options::default());
        hub.add_neighbor(&source, &Options::default());
        speakers.push((Daemon::Bird2, source));
    }
    speakers.push((middle, hub.clone()));
    let mut network = Network::start(speakers)?;
    network.wait_established()?;
    for family in FAMILIES {
        let sources = [1, 2].map(|member: usize| network.members[member].speaker.clone());
        let paths = sources.iter().flat_map(|source| source.seen_by(&hub, family));
        let wanted = paths.map(|mut route| {
            route.as_path.insert(0, hub.asn);
            route.next_hop = hub.address(family);
            route
        });
        let wanted = wanted.collect();
        network.members[0].wait_routes(family, &wanted)?;
    }
    // One source goes: its path too, and the other one stays.
    network.members[1].kill()?;
    for family in FAMILIES {
        let left = network.members[2].speaker.seen_by(&hub, family).into_iter().map(|mut route| {
            route.as_path.insert(0, hub.asn);
            route.next_hop = hub.address(family);
            route
        });
        let left = left.collect();
        network.members[0].wait_routes(family, &left)?;
    }
    Ok(())
}

fn their_paths(us: Daemon, them: Daemon) -> Result<()> {
    several_paths(them, us)
}

fn our_paths(us: Daemon, them: Daemon) -> Result<()> {
    several_paths(us, them)
}

/// What a speaker without four-octet numbers sees instead of one (RFC 6793).
const AS_TRANS: u32 = 23456;

fn two_octet(us: Daemon, them: Daemon) -> Result<()> {
    let [ours, mut theirs] = pair(4_200_000_001, 65002, &Options::default());
    for neighbor in &mut theirs.neighbors {
        neighbor.asn = AS_TRANS;
        neighbor.options.four_octet = false;
    }
    let mut network = Network::start(vec![(us, ours), (them, theirs)])?;
    network.wait_established()?;
    network.wait_exchanged(US)?;
    // They find our number in AS4_PATH, so the sets are as ever.
    network.wait_exchanged(THEM)
}

/// Two reflectors of kind `us`, and three clients of kind `them`, each a client of both.
fn reflect(us: Daemon, them: Daemon, clusters: [u8; 2]) -> Result<()> {
    let mut reflectors = [1, 2].map(|number: u8| {
        let cluster = std::net::Ipv4Addr::new(1, 0, 0, clusters[usize::from(number) - 1]);
        Speaker { cluster: Some(cluster), ..Speaker::new(number, 65001) }
    });
    let mut clients = [3, 4, 5]
        .map(|number: u8| Speaker { routes: routes(number), ..Speaker::new(number, 65001) });
    let plain = Options::default();
    let client_options = Options { client: true, ..Options::default() };
    for reflector in &mut reflectors {
        for client in &mut clients {
            reflector.add_neighbor(client, &client_options);
            client.add_neighbor(reflector, &plain);
        }
    }
    let second = reflectors[1].clone();
    reflectors[0].add_neighbor(&second, &plain);
    let first = reflectors[0].clone();
    reflectors[1].add_neighbor(&first, &plain);
    let reflectors = reflectors.into_iter().map(|speaker| (us, speaker));
    let clients = clients.into_iter().map(|speaker| (them, speaker));
    let mut network = Network::start(reflectors.chain(clients).collect())?;
    network.wait_established()?;
    wait_reflected(&mut network)?;
    let gone = network.members[2].speaker.routes.remove(0).prefix;
    network.members[2].peer.withdraw(gone)?;
    wait_reflected(&mut network)?;
    // One reflector is enough.
    network.members[0].kill()?;
    wait_reflected(&mut network)
}

/// Waits until each client has the routes of the others, with their own next hops.
fn wait_reflected(network: &mut Network) -> Result<()> {
    for reader in 2..5 {
        for family in FAMILIES {
            let me = network.members[reader].speaker.clone();
            let others = (2..5).filter(|other| *other != reader);
            let wanted = others
                .flat_map(|other| network.members[other].speaker.seen_by(&me, family))
                .collect();
            network.members[reader].wait_routes(family, &wanted)?;
        }
    }
    Ok(())
}

fn one_cluster(us: Daemon, them: Daemon) -> Result<()> {
    reflect(us, them, [1, 1])
}

fn two_clusters(us: Daemon, them: Daemon) -> Result<()> {
    reflect(us, them, [1, 2])
}
