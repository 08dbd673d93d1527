//! One run of one daemon through a scenario: sessions, then feeds, then perhaps the end of a peer.

use anyhow::{Context, Result, anyhow, ensure};
use margay::lab::namespace::{LinkEnd, LinkSpec, connect};
use margay::lab::scope::Scope;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::config::Neighbor;
use crate::daemon::{Daemon, Plan, Running};
use crate::endpoint::{Endpoint, turn_until};
use crate::scenario::{End, Player, Scenario, TARGET, TARGET_V6};

/// Longest time for each part of a run.
const LIMIT: Duration = Duration::from_secs(120);
/// Nothing comes and the daemon does nothing for so long: it is done.
const QUIET: Duration = Duration::from_millis(400);
/// CPU seconds in that time that count as nothing.
const IDLE: f64 = 0.02;
/// Of the link between the daemon and its peers, as Ethernet has it.
const MTU: u32 = 1500;

/// What one run has cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// From the first byte, or a peer's end, to the last route at the last receiver.
    pub(crate) wall_s: f64,
    /// From there until the daemon does nothing any more.
    pub(crate) cpu_s: f64,
    /// Since its start.
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

impl Scenario {
    /// Runs one daemon through it. Namespaces, processes and files are gone when it returns.
    pub(crate) fn measure(&self, daemon: Daemon) -> Result<Figures> {
        let scope = Scope::new()?;
        let (target, peers) = (scope.namespace("target")?, scope.namespace("peers")?);
        let addresses = self.players.iter().map(|player| match player.who.address.is_ipv4() {
            true => format!("{}/16", player.who.address),
            false => format!("{}/64", player.who.address),
        });
        let addresses = addresses.map(|text| Ok(text.parse()?)).collect::<Result<Vec<_>>>()?;
        let mine = vec![format!("{TARGET}/16").parse()?, format!("{TARGET_V6}/64").parse()?];
        let end =
            |namespace, device, addresses| LinkEnd { namespace, device, mac: None, addresses };
        let spec = LinkSpec { mtu: MTU, queues: 1 };
        connect(spec, &end(&target, "t0", mine), &end(&peers, "p0", addresses))?;
        let neighbors = self.players.iter().map(|player| Neighbor {
            address: player.who.address,
            asn: player.who.asn,
            client: player.is_client(),
        });
        let plan = Plan { neighbors: neighbors.collect(), directory: scope.directory() };
        let running = daemon.start(&plan, &target)?;
        let figures = peers.enter(|| Run::new(self, &running)?.play());
        figures.map_err(|error| anyhow!("{error:#}; its log ends: {}", running.log_tail()))
    }
}

/// The peers' side.
struct Run<'a> {
    scenario: &'a Scenario,
    running: &'a Running,
    endpoints: Vec<Endpoint>,
}

impl Run<'_> {
    /// Connects all peers.
    fn new<'a>(scenario: &'a Scenario, running: &'a Running) -> Result<Run<'a>> {
        let mut core = nix::sched::CpuSet::new();
        core.set(0).context("a first core")?;
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &core)?;
        let join = |player: &Player| {
            let unique = scenario.repeats && player.expects > 0;
            Endpoint::new(player.who, unique)
        };
        let endpoints = scenario.players.iter().map(join).collect::<Result<Vec<_>>>()?;
        Ok(Run { scenario, running, endpoints })
    }

    fn play(&mut self) -> Result<Figures> {
        turn_until(&mut self.endpoints, LIMIT, |all| Ok(all.iter().all(|one| one.up)))?;
        // End-of-RIB markers and whatever else a new session brings.
        self.settle()?;
        let figures = self.load()?;
        if self.scenario.end == End::Loaded { Ok(figures) } else { self.lose() }
    }

    /// All tables to all receivers.
    fn load(&mut self) -> Result<Figures> {
        for (endpoint, player) in self.endpoints.iter_mut().zip(&self.scenario.players) {
            player.table.iter().for_each(|table| endpoint.feed(table.clone()));
        }
        self.clock(|one, player| one.count.has() >= player.expects)
    }

    /// One peer after the load is there.
    fn lose(&mut self) -> Result<Figures> {
        let players = &self.scenario.players;
        for (endpoint, player) in self.endpoints.iter_mut().zip(players) {
            let exact = player.expects == 0 || endpoint.count.has() == player.expects;
            ensure!(exact, "{} routes, not {}", endpoint.count.has(), player.expects);
            if self.scenario.end == End::Replaced {
                endpoint.forget();
            }
            if player.goes {
                endpoint.close()?;
            }
        }
        match self.scenario.end {
            End::Replaced => self.clock(|one, player| one.count.has() >= player.expects),
            _ => self.clock(|one, player| player.expects == 0 || one.count.has() == 0),
        }
    }

    /// The time from now until all are `done`, and the cost until all is quiet.
    fn clock(&mut self, done: impl Fn(&Endpoint, &Player) -> bool) -> Result<Figures> {
        let (before, _) = self.running.cost()?;
        let begun = Instant::now();
        let players = &self.scenario.players;
        turn_until(&mut self.endpoints, LIMIT, |all| {
            Ok(all.iter().zip(players).all(|(one, player)| done(one, player)))
        })?;
        let wall_s = begun.elapsed().as_secs_f64();
        self.settle()?;
        let (after, peak_mib) = self.running.cost()?;
        Ok(Figures { wall_s, cpu_s: after - before, peak_mib })
    }

    /// Goes on until nothing happens any more.
    fn settle(&mut self) -> Result<()> {
        let running = self.running;
        let state = |all: &[Endpoint]| -> Result<(usize, f64)> {
            let count = all.iter().map(|one| one.count.announced + one.count.withdrawn).sum();
            Ok((count, running.cost()?.0))
        };
        let (mut since, mut last) = (Instant::now(), state(&self.endpoints)?);
        turn_until(&mut self.endpoints, LIMIT, |all| {
            if since.elapsed() < QUIET {
                return Ok(false);
            }
            let now = state(all)?;
            let quiet = now.0 == last.0 && now.1 - last.1 <= IDLE;
            (since, last) = (Instant::now(), now);
            Ok(quiet)
        })
    }
}
