//! The obvious model of the soak: from what is wanted and what peers announce to what the hub uses
//! and what peers hear, each prefix by itself and from scratch.

use super::*;
use margay_bgp::policy::Operation;
use margay_bgp::wire::as_path::AsPath;
use margay_bgp::wire::attribute::{Attributes, NextHop};

pub(super) const PEERS: usize = 6;
pub(super) const NETS: u32 = 24;

pub(super) type Heard = BTreeMap<IpNet, Vec<Attributes>>;
type Routes = Arc<BTreeMap<IpNet, OwnRoute>>;

/// The AS of the hub, which is number 0, and of the others: three external, three internal.
pub(super) fn asn(number: usize) -> u32 {
    [64_512, 65_001, 65_001, 65_002, 64_512, 64_512, 64_512][number]
}

pub(super) fn address(network: u8, number: usize) -> IpAddr {
    IpAddr::from([127, network, 0, number as u8 + 1])
}

pub(super) fn prefix(net: u32) -> IpNet {
    IpNet::new(Ipv4Addr::from(0x1400_0000 + (net << 8)).into(), 24).unwrap()
}

/// What a policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    #[default]
    Accepts,
    Rejects,
    /// Rejects nets up to 3, adds a community to those from 8 on, sets the local preference of
    /// those from 16 on.
    Changes,
}

/// Accepting is the most common.
pub(super) const KINDS: [Kind; 6] =
    [Kind::Accepts, Kind::Accepts, Kind::Accepts, Kind::Changes, Kind::Changes, Kind::Rejects];

const ADDED: Community = Community(77 << 16 | 7);
const PREFERENCE: u32 = 150;

impl Kind {
    pub(super) fn policy(self) -> Arc<Policy> {
        let inside = |cidr: &str| {
            let (cidr, operator) = (net(cidr), PrefixOperator::In);
            vec![Match::Prefix(PrefixMatch { cidr, operator, lengths: None })]
        };
        let add = Operation::AddCommunity(margay_bgp::policy::Community::Standard(ADDED.0));
        let rules = vec![
            Rule::reject(inside("20.0.0.0/22")),
            Rule::change(inside("20.0.8.0/21"), vec![add.clone()]),
            Rule::change(inside("20.0.16.0/21"), vec![add, Operation::SetLocalPref(PREFERENCE)]),
        ];
        Arc::new(match self {
            Kind::Accepts => Policy::accept_all(),
            Kind::Rejects => Policy::reject_all(),
            Kind::Changes => Policy::new(rules, true),
        })
    }

    fn apply(self, to: IpNet, mut one: Attributes) -> Option<Attributes> {
        let number = (0..NETS).find(|net| prefix(*net) == to)?;
        match self {
            Kind::Accepts => return Some(one),
            Kind::Rejects => return None,
            Kind::Changes if number < 4 => return None,
            Kind::Changes => (),
        }
        if number >= 8 && !one.communities.contains(&ADDED) {
            one.communities.push(ADDED);
        }
        if number >= 16 {
            one.local_pref = Some(PREFERENCE);
        }
        Some(one)
    }
}

/// What the hub wants of a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peering {
    pub(super) present: bool,
    pub(super) import: Kind,
    pub(super) export: Kind,
    pub(super) next_hop: NextHopMode,
    pub(super) client: bool,
    /// It is told of all paths.
    pub(super) add_path: bool,
    pub(super) hold_s: u16,
    pub(super) passive: bool,
}

/// All that is wanted.
#[derive(Debug)]
pub(super) struct Wants {
    pub(super) peers: [Peering; PEERS],
    pub(super) cluster: Ipv4Addr,
    pub(super) max_ecmp: usize,
    pub(super) own: Routes,
    /// What peers announce.
    pub(super) routes: [Routes; PEERS],
}

impl Default for Wants {
    fn default() -> Wants {
        let peering = Peering {
            present: true,
            import: Kind::Accepts,
            export: Kind::Accepts,
            next_hop: NextHopMode::Auto,
            client: false,
            add_path: true,
            hold_s: 90,
            passive: false,
        };
        Wants {
            peers: [peering; PEERS],
            cluster: Ipv4Addr::UNSPECIFIED,
            max_ecmp: 1,
            own: Arc::default(),
            routes: Default::default(),
        }
    }
}

/// A path and its peer, or none for the hub's own.
type Candidate = (Option<usize>, Attributes);

pub(super) struct Model<'a> {
    pub(super) wants: &'a Wants,
    pub(super) network: u8,
}

impl Model<'_> {
    fn is_internal(at: usize) -> bool {
        asn(at + 1) == asn(0)
    }

    /// All paths that the hub can use, its own first, then in the order of peers.
    fn candidates(&self, to: IpNet) -> Vec<Candidate> {
        let own = self.wants.own.get(&to).map(|route| {
            let communities = route.communities.clone();
            let local_pref = Some(route.local_pref);
            (None, Attributes { local_pref, communities, ..Attributes::default() })
        });
        let peers = (0..PEERS).filter(|at| self.wants.peers[*at].present);
        let theirs = peers.filter_map(|at| {
            let route = self.wants.routes[at].get(&to)?;
            let IpAddr::V4(hop) = address(self.network, at + 1) else { return None };
            let internal = Model::is_internal(at);
            let path: &[u32] = if internal { &[] } else { &[asn(at + 1)] };
            let one = Attributes {
                as_path: AsPath::from_sequence(path),
                next_hop: Some(NextHop::V4(hop)),
                local_pref: internal.then_some(route.local_pref),
                communities: route.communities.clone(),
                ..Attributes::default()
            };
            Some((Some(at), self.wants.peers[at].import.apply(to, one)?))
        });
        own.into_iter().chain(theirs).collect()
    }

    /// Those that are used side by side, the best first: by local preference, length of the AS
    /// path, and external before internal.
    fn used(&self, to: IpNet) -> Vec<Candidate> {
        let mut left = self.candidates(to);
        if left.first().is_some_and(|(from, _)| from.is_none()) {
            left.truncate(1);
        }
        let rank = |(from, one): &Candidate| {
            let preference = u32::MAX - one.local_pref.unwrap_or(100);
            (preference, one.as_path.length(), from.is_some_and(Model::is_internal))
        };
        let best = left.iter().map(rank).min();
        left.retain(|one| Some(rank(one)) == best);
        left
    }

    /// The hub's routes, by next hop.
    pub(super) fn fib(&self) -> BTreeMap<IpNet, Vec<IpAddr>> {
        let routes = (0..NETS).map(prefix).filter_map(|to| {
            let used = self.used(to);
            let peers = used.iter().filter(|(from, _)| from.is_some());
            let hops = peers.map(|(_, one)| one.next_hop.unwrap().address());
            let hops: Vec<IpAddr> = hops.take(self.wants.max_ecmp).collect();
            (!hops.is_empty()).then_some((to, hops))
        });
        routes.collect()
    }

    /// What a peer has heard in the end.
    pub(super) fn heard_by(&self, at: usize) -> Heard {
        let peering = &self.wants.peers[at];
        let nets = (0..NETS).map(prefix).filter(|_| peering.present);
        let heard = nets.filter_map(|to| {
            let paths = match peering.add_path {
                true => self.candidates(to),
                false => self.used(to).into_iter().take(1).collect(),
            };
            let told = paths.into_iter().filter_map(|one| self.told(to, at, one));
            let mut told: Vec<Attributes> = told.collect();
            sort(&mut told);
            (!told.is_empty()).then_some((to, told))
        });
        heard.collect()
    }

    fn told(&self, to: IpNet, at: usize, (from, one): Candidate) -> Option<Attributes> {
        let peering = &self.wants.peers[at];
        let (internal, from_internal) =
            (Model::is_internal(at), from.is_some_and(Model::is_internal));
        let reflects = peering.client || from.is_some_and(|from| self.wants.peers[from].client);
        if from == Some(at) || internal && from_internal && !reflects {
            return None;
        }
        let mut one = peering.export.apply(to, one)?;
        let keeps = match peering.next_hop {
            NextHopMode::Auto => internal,
            NextHopMode::Own => false,
            NextHopMode::Keep => true,
        };
        if !keeps || one.next_hop.is_none() {
            let IpAddr::V4(own) = address(self.network, 0) else { return None };
            one.next_hop = Some(NextHop::V4(own));
        }
        if internal {
            one.local_pref.get_or_insert(100);
            if from_internal {
                one.originator_id = Some(Ipv4Addr::new(10, 255, 0, from? as u8 + 2));
                one.cluster_list = vec![self.wants.cluster];
            }
        } else {
            one.as_path.prepend(asn(0), 1);
            one.local_pref = None;
        }
        Some(one)
    }
}

/// An order of no meaning.
pub(super) fn sort(paths: &mut [Attributes]) {
    paths.sort_by_cached_key(|one| format!("{one:?}"));
}
