//! The scenarios, and one measurement of one daemon.

use anyhow::{Context, Result};
use margay::lab::namespace::{LinkEnd, LinkSpec, connect};
use margay::lab::scope::Scope;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::Which;
use crate::daemon::{Daemon, Neighbor, Plan};
use crate::endpoint::{Endpoint, Identity, turn_until};
use crate::feed::{Sender, Table, made_up, own_prefixes};

/// The daemon's address and AS; the port.
pub(crate) const TARGET: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub(crate) const TARGET_AS: u32 = 64512;
pub(crate) const PORT: u16 = 1790;
const LIMIT: Duration = Duration::from_secs(120);
const QUIET: Duration = Duration::from_millis(300);

/// What one run has cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) peak_mib: f64,
}

impl Figures {
    pub(crate) fn json(&self) -> Value {
        json!({"wallS": self.wall_s, "cpuS": self.cpu_s, "peakMiB": self.peak_mib})
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Figures { wall_s, cpu_s, peak_mib } = self;
        write!(out, "wall {wall_s:.2} s, CPU {cpu_s:.2} s, peak {peak_mib:.0} MiB")
    }
}

/// A peer of the daemon.
struct Player {
    who: Identity,
    client: bool,
    table: Option<Table>,
    /// Prefixes that it is to have in the end; 0 for one that only sends.
    expects: usize,
}

/// One of them.
pub(crate) struct Scenario {
    pub(crate) title: String,
    players: Vec<Player>,
    /// Prefixes can come more than once.
    repeats: bool,
}

fn identity(number: usize, asn: u32) -> Identity {
    let address = Ipv4Addr::new(10, 99, 1 + (number / 200) as u8, 1 + (number % 200) as u8);
    Identity { address, asn, remote_asn: TARGET_AS }
}

fn sender(who: Identity) -> Sender {
    Sender { address: who.address, asn: (who.asn != TARGET_AS).then_some(who.asn) }
}

fn receiver(number: usize, asn: u32, expects: usize) -> Player {
    let client = asn == TARGET_AS;
    Player { who: identity(number, asn), client, table: None, expects }
}

impl Scenario {
    pub(crate) fn new(which: Which, percent: usize) -> Result<Scenario> {
        let feeder = |number: usize, asn: u32| identity(number, asn);
        let of = |count: usize| count * percent / 100;
        let playing = |who: Identity, table: Table, expects: usize| Player {
            who,
            client: who.asn == TARGET_AS,
            table: Some(table),
            expects,
        };
        let scenario = match which {
            Which::Table => {
                let who = feeder(0, 65001);
                let table = made_up(1, of(577_706), sender(who));
                let count = table.prefixes;
                let players = vec![playing(who, table, 0), receiver(1, 65100, count)];
                let title = format!("one table of {count} prefixes to one receiver");
                Scenario { title, players, repeats: false }
            }
            Which::TwoFeeds => {
                let feeds = [feeder(0, 65001), feeder(1, 65002)];
                let tables = feeds.map(|who| made_up(2, of(1_000_000), sender(who)));
                let count = tables[0].prefixes;
                let mut players: Vec<Player> = feeds
                    .into_iter()
                    .zip(tables)
                    .map(|(who, table)| playing(who, table, 0))
                    .collect();
                players.push(receiver(2, 65100, count));
                let title = format!("two tables of the same {count} prefixes to one receiver");
                Scenario { title, players, repeats: true }
            }
            Which::Reflector => {
                let who = feeder(0, TARGET_AS);
                let table = made_up(3, of(100_000), sender(who));
                let count = table.prefixes;
                let clients = (1..=200).map(|number| receiver(number, TARGET_AS, count));
                let players = std::iter::once(playing(who, table, 0)).chain(clients).collect();
                let title = format!("{count} prefixes reflected to 200 clients");
                Scenario { title, players, repeats: false }
            }
            Which::Mesh => {
                let each = of(1000).max(10);
                let player = |number: usize| {
                    let who = feeder(number, 65001 + number as u32);
                    let table = own_prefixes(number as u32, each as u32, sender(who));
                    playing(who, table, 99 * each)
                };
                let players = (0..100).map(player).collect();
                let title = format!("100 peers of {each} prefixes each, all to all");
                Scenario { title, players, repeats: false }
            }
        };
        Ok(scenario)
    }

    /// Runs one daemon through it.
    pub(crate) fn measure(&self, daemon: Daemon) -> Result<Figures> {
        let scope = Scope::new()?;
        let (target, peers) = (scope.namespace("target")?, scope.namespace("peers")?);
        let addresses = self.players.iter().map(|player| format!("{}/16", player.who.address));
        let addresses = addresses.map(|text| Ok(text.parse()?)).collect::<Result<Vec<_>>>()?;
        let mine = vec![format!("{TARGET}/16").parse()?];
        let end =
            |namespace, device, addresses| LinkEnd { namespace, device, mac: None, addresses };
        let spec = LinkSpec { mtu: 65_535, queues: 1 };
        connect(spec, &end(&target, "t0", mine), &end(&peers, "p0", addresses))?;
        let neighbors = self.players.iter().map(|player| Neighbor {
            address: player.who.address,
            asn: player.who.asn,
            client: player.client,
        });
        let plan = Plan { neighbors: neighbors.collect(), directory: scope.directory() };
        let running = daemon.start(&plan, &target)?;
        let wall_s = peers.enter(|| self.play())?;
        let (cpu_s, peak_mib) = running.cost()?;
        Ok(Figures { wall_s, cpu_s, peak_mib })
    }

    fn play(&self) -> Result<f64> {
        let mut core = nix::sched::CpuSet::new();
        core.set(0).context("a first core")?;
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &core)?;
        let to = (TARGET, PORT).into();
        let join =
            |player: &Player| Endpoint::new(player.who, to, self.repeats && player.expects > 0);
        let mut endpoints = self.players.iter().map(join).collect::<Result<Vec<_>>>()?;
        turn_until(&mut endpoints, LIMIT, |all| all.iter().all(|one| one.up))?;
        // End-of-RIB markers and whatever else a new session brings.
        let settled = Instant::now();
        turn_until(&mut endpoints, LIMIT, |_| settled.elapsed() > QUIET)?;
        for (endpoint, player) in endpoints.iter_mut().zip(&self.players) {
            player.table.iter().for_each(|table| endpoint.feed(table.clone()));
        }
        let begun = Instant::now();
        let mut last = begun;
        turn_until(&mut endpoints, LIMIT, |all| {
            let complete =
                all.iter().zip(&self.players).all(|(one, player)| one.has() >= player.expects);
            last = Instant::now();
            complete
        })?;
        Ok((last - begun).as_secs_f64())
    }
}
