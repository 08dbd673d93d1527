//! From wanted routes to the packet path: numbers, tables, FIB, in an order without holes.
//!
//! One publication is: the snapshot with all that is new (and still all that is old), new ports to
//! their workers, FIB entries that are new or different, FIB entries that go, the snapshot without
//! what nothing leads to any more. Numbers are given on only when every worker has the last
//! snapshot, so a FIB entry never leads to a target that it was not written for. Routes of BGP
//! peers are beside these, and published by the prefix: see [`learned`].

mod flows;
pub(crate) mod ids;
mod learned;
#[cfg(test)]
mod tests;
pub(crate) mod tunnels;

use crate::kernel::mirror::Mirror;
use crate::resolve::learned::{Learned, SetId};
use crate::resolve::tunnels::{Tunnel, TunnelPlan};
use crate::resolve::{Hop, Route, Target};
use ahash::AHashMap;
use ids::Ids;
use ipnet::IpNet;
use margay_fastpath::dataplane::Dataplane;
use margay_fastpath::ecmp::{self, Member};
use margay_fastpath::fib::{FibError, FibWriter};
use margay_fastpath::limit::Limits;
use margay_fastpath::nat::Rules;
use margay_fastpath::policy::Policy;
use margay_fastpath::port::{Port, PortId};
use margay_fastpath::tables::{
    Adjacency, AdjacencyId, EcmpGroup, Hops, PortEntry, Tables, Target as Entry, TargetId,
};
use margay_fastpath::tunnel::TunnelId;
use margay_tunnels::wire::ethernet::Mac;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

/// A port as the tables show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishedPort {
    /// Its number.
    pub(crate) id: PortId,
    /// Its entry.
    pub(crate) entry: PortEntry,
    /// Link address of the only station behind it, if that is known.
    pub(crate) station: Option<Mac>,
    /// Device of the kernel whose neighbours are on its link; `None` for TAPs.
    pub(crate) device: Option<u32>,
}

/// A part of a new port for one worker.
pub(crate) struct Attach {
    /// The port's number.
    pub(crate) id: PortId,
    /// The worker.
    pub(crate) worker: usize,
    /// The part.
    pub(crate) port: Box<dyn Port>,
}

/// Everything that one publication says.
pub(crate) struct Publication<'a> {
    /// All ports, by name.
    pub(crate) ports: &'a BTreeMap<Arc<str>, PublishedPort>,
    /// Name of the port to the host's stack.
    pub(crate) host: &'a str,
    /// All routes.
    pub(crate) routes: Arc<BTreeMap<IpNet, Route>>,
    /// Routes of BGP peers. What of them has changed was told to [`Publisher::update`].
    pub(crate) learned: &'a mut Learned,
    /// Tunnels to other nodes.
    pub(crate) tunnels: &'a TunnelPlan,
    /// For link addresses.
    pub(crate) mirror: &'a Mirror,
    /// Ports that come with it.
    pub(crate) attach: Vec<Attach>,
}

/// What one publication did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// FIB entries written.
    pub(crate) written: usize,
    /// FIB entries removed.
    pub(crate) removed: usize,
    /// Entries that the FIB had no room for.
    pub(crate) refused: Vec<(IpNet, String)>,
    /// A worker did not take the snapshot in time; nothing was reused.
    pub(crate) stuck: bool,
}

/// What a target's number stands for. Those of sets stay when the set leads elsewhere, so that no
/// FIB entry changes then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Plain(Entry),
    Set(SetId),
}

/// Names a next hop: its port, its address there, and the number of the tunnel to it.
type NextHopKey = (PortId, IpAddr, Option<u32>);

/// Names a group: its members with their weights.
type Members = Vec<(AdjacencyId, u8)>;

/// The one writer of the packet path's tables.
pub(crate) struct Publisher {
    dataplane: Arc<Dataplane>,
    fib: FibWriter,
    targets: Ids<Key>,
    sets: AHashMap<SetId, Entry>,
    adjacencies: Ids<NextHopKey>,
    tunnels: Ids<Arc<Tunnel>>,
    tunnel_bases: BTreeMap<u32, tunnels::Base>,
    groups: Ids<Members>,
    published: Arc<BTreeMap<IpNet, Route>>,
    written: BTreeMap<IpNet, TargetId>,
    /// Routes of BGP peers that the FIB had no room for.
    unwritten: BTreeSet<IpNet>,
    tables: Tables,
    nat: Option<Arc<Rules>>,
    tracking: Option<Arc<Rules>>,
    /// Of the rules that were made last.
    generation: u64,
    policy: Option<Arc<Policy>>,
    /// Of the policy that was made last.
    policy_generation: u32,
    limits: Option<Arc<Limits>>,
    seed: u64,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("routes", &self.written.len()).finish_non_exhaustive()
    }
}

/// A hash that is the same in every process, for choices that outlive one.
pub(crate) fn stable_hash(value: impl Hash) -> u64 {
    ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(value)
}

impl Publisher {
    /// For an empty packet path. `node` is this node's name: each node spreads flows otherwise.
    pub(crate) fn new(dataplane: Arc<Dataplane>, fib: FibWriter, node: &str) -> Publisher {
        let mut targets = Ids::new();
        targets.number(&Key::Plain(Entry::NoRoute));
        Publisher {
            dataplane,
            fib,
            targets,
            sets: AHashMap::new(),
            adjacencies: Ids::new(),
            tunnels: Ids::new(),
            tunnel_bases: BTreeMap::new(),
            groups: Ids::new(),
            published: Arc::default(),
            written: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            tables: Tables::default(),
            nat: None,
            tracking: None,
            generation: 0,
            policy: None,
            policy_generation: 0,
            limits: None,
            seed: stable_hash(node),
        }
    }

    /// The routes that were published last.
    pub(crate) fn routes(&self) -> &Arc<BTreeMap<IpNet, Route>> {
        &self.published
    }

    /// The snapshot that was published last.
    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Makes the packet path do what the publication says. Blocks until all workers do so.
    pub(crate) fn publish(&mut self, mut publication: Publication) -> Done {
        let wanted = self.number_all(&publication);
        let mut done = Done::default();
        done.stuck |= !self.show(&publication);
        for attach in publication.attach.drain(..) {
            self.dataplane.attach(attach.id, attach.worker, attach.port);
        }
        self.write(&wanted, publication.learned, &mut done);
        let mut swept = self.targets.sweep();
        swept |= self.groups.sweep();
        swept |= self.adjacencies.sweep();
        swept |= self.tunnels.sweep();
        if swept {
            done.stuck |= !self.show(&publication);
        } else if done.removed > 0 {
            done.stuck |= !self.dataplane.synchronize();
        }
        if !done.stuck {
            self.fib.reclaim();
            self.targets.reuse();
            self.groups.reuse();
            self.adjacencies.reuse();
            self.tunnels.reuse();
        }
        publication.learned.sweep();
        self.published = publication.routes.clone();
        let again: Vec<IpNet> = self.unwritten.iter().take(learned::RETRIES).copied().collect();
        if !again.is_empty() {
            done.add(self.update(publication, &again));
        }
        done
    }

    /// Numbers for all that the routes need, and the routes by number.
    fn number_all(&mut self, publication: &Publication) -> BTreeMap<IpNet, TargetId> {
        self.targets.begin();
        self.groups.begin();
        self.adjacencies.begin();
        self.number_tunnels(publication.tunnels);
        self.targets.number(&Key::Plain(Entry::NoRoute));
        self.number_sets(publication);
        if let Some(host) = publication.ports.get(publication.host) {
            self.adjacencies.number(&host_key(host));
        }
        let route = |(prefix, route): (&IpNet, &Route)| {
            let set = publication.learned.get(prefix).filter(|(_, set, _)| set.beats(route));
            let key = match set {
                Some((id, ..)) => Key::Set(id),
                None => Key::Plain(self.entry(publication.ports, &route.target)),
            };
            (*prefix, TargetId(self.targets.number(&key)))
        };
        publication.routes.iter().map(route).collect()
    }

    fn entry(&mut self, ports: &BTreeMap<Arc<str>, PublishedPort>, target: &Target) -> Entry {
        match target {
            Target::Local => Entry::Local,
            Target::Blackhole => Entry::Blackhole,
            Target::Unreachable => Entry::Unreachable,
            Target::Prohibit => Entry::Prohibit,
            Target::OnLink(port) => match ports.get(port) {
                Some(port) => Entry::Glean(port.id),
                None => Entry::Unreachable,
            },
            Target::Via(hops) => self.next_hops(ports, hops),
        }
    }

    fn next_hops(&mut self, ports: &BTreeMap<Arc<str>, PublishedPort>, hops: &[Hop]) -> Entry {
        let mut members: BTreeMap<AdjacencyId, u8> = BTreeMap::new();
        for hop in hops {
            let Some(port) = ports.get(&hop.port) else { continue };
            let Ok(tunnel) = self.tunnel_of(hop) else { continue };
            let key = (port.id, hop.address, tunnel);
            let adjacency = AdjacencyId(self.adjacencies.number(&key));
            let weight = members.entry(adjacency).or_default();
            *weight = weight.saturating_add(1);
        }
        let members: Members = members.into_iter().collect();
        match members.as_slice() {
            [] => Entry::Unreachable,
            [(only, _)] => Entry::Forward(*only),
            _ => Entry::Ecmp(self.groups.number(&members)),
        }
    }

    /// Publishes the snapshot of all numbers in use.
    fn show(&mut self, publication: &Publication) -> bool {
        let (tunnels, tunnel_end) = self.tunnel_tables(publication);
        let by_id = |id: PortId| publication.ports.values().find(move |port| port.id == id);
        let ports: BTreeMap<PortId, &PublishedPort> =
            publication.ports.values().map(|port| (port.id, port)).collect();
        let adjacency = |key: Option<&NextHopKey>| match key {
            Some((id, address, tunnel)) => Adjacency {
                port: *id,
                neighbor: *address,
                mac: ports
                    .get(id)
                    .and_then(|port| link_address(port, *address, publication.mirror)),
                tunnel: tunnel.map(TunnelId),
            },
            None => Adjacency {
                port: PortId::NONE,
                neighbor: IpAddr::from([0; 4]),
                mac: None,
                tunnel: None,
            },
        };
        let adjacencies: Vec<Adjacency> = self.adjacencies.values().map(adjacency).collect();
        let group = |members: Option<&Members>| match members {
            Some(members) => self.group(members, &adjacencies, &by_id),
            None => EcmpGroup { buckets: Box::new([]) },
        };
        let mut entries = Vec::new();
        for port in publication.ports.values() {
            let at = usize::from(port.id.0);
            entries.resize(entries.len().max(at + 1), None);
            entries[at] = Some(port.entry.clone());
        }
        let host = publication.ports.get(publication.host).map(host_key);
        let host = host.and_then(|key| self.adjacencies.values().position(|at| at == Some(&key)));
        let tables = Tables {
            tunnels,
            tunnel_end,
            ports: entries,
            targets: self.targets.values().map(|key| self.entry_of(key)).collect(),
            ecmp_groups: self.groups.values().map(group).collect(),
            adjacencies,
            host: host.map(|at| AdjacencyId(at as u32)),
            nat: self.flow_rules(),
            policy: self.policy.clone(),
            limits: self.limits.clone(),
            hops: Hops::default(),
        };
        if tables == self.tables {
            return true;
        }
        self.tables = tables.clone();
        self.dataplane.publish(tables)
    }

    fn group<'p>(
        &self,
        members: &Members,
        adjacencies: &[Adjacency],
        by_id: &impl Fn(PortId) -> Option<&'p PublishedPort>,
    ) -> EcmpGroup {
        let members = members.iter().map(|(adjacency, weight)| {
            let next_hop = adjacencies.get(adjacency.0 as usize);
            // By name and address, so that flows keep their path when numbers change.
            let key = next_hop.map(|next_hop| {
                let name = by_id(next_hop.port).map(|port| port.entry.name.as_str());
                stable_hash((name, next_hop.neighbor, next_hop.tunnel))
            });
            Member { adjacency: *adjacency, key: key.unwrap_or_default(), weight: *weight }
        });
        ecmp::build_weighted(&members.collect::<Vec<_>>(), self.seed)
    }

    /// Makes the FIB equal to `wanted`: additions and changes first.
    fn write(&mut self, wanted: &BTreeMap<IpNet, TargetId>, learned: &Learned, done: &mut Done) {
        for (prefix, target) in wanted {
            if self.written.get(prefix) == Some(target) {
                continue;
            }
            match self.fib.insert(*prefix, *target) {
                Ok(_) => {
                    self.written.insert(*prefix, *target);
                    done.written += 1;
                }
                Err(error) => self.refuse(*prefix, &error, done),
            }
        }
        let gone: Vec<IpNet> =
            self.written.keys().filter(|prefix| !wanted.contains_key(*prefix)).copied().collect();
        for prefix in gone {
            self.written.remove(&prefix);
            let set = learned.get(&prefix).map(|(id, ..)| self.targets.number(&Key::Set(id)));
            match set.map(|target| self.fib.insert(prefix, TargetId(target))) {
                Some(Ok(_)) => done.written += 1,
                Some(Err(error)) => self.refuse(prefix, &error, done),
                None => {
                    self.fib.remove(prefix);
                    done.removed += 1;
                }
            }
        }
    }

    /// A route that the FIB has no room for must not stay with a target that is out of use.
    fn refuse(&mut self, prefix: IpNet, error: &FibError, done: &mut Done) {
        self.written.remove(&prefix);
        done.removed += usize::from(self.fib.remove(prefix).is_some());
        done.refused.push((prefix, error.to_string()));
    }
}

/// The host's stack as a next hop. The address names no host: nothing is resolved for it.
fn host_key(host: &PublishedPort) -> NextHopKey {
    (host.id, IpAddr::from([0; 4]), None)
}

fn link_address(port: &PublishedPort, address: IpAddr, mirror: &Mirror) -> Option<Mac> {
    if port.station.is_some() {
        return port.station;
    }
    mirror.neighbor(port.device?, address)?.mac()
}
