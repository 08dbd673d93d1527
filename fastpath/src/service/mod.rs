//! Services: addresses that stand for any one of several endpoints.
//!
//! A frontend is an address, protocol and port; [`Services::choose`] gives a new flow its endpoint
//! by [`maglev`], so that a change of the endpoints moves few flows, and every node chooses alike.
//! With session affinity the first choice follows the client's address alone, and [`Clients`]
//! remembers it. Frontends and endpoints that are gone stay known for the flows that they have: as
//! with kube-proxy, deleting a Service ends no connection whose endpoint lives on. What flows do
//! with the choice is the business of [`crate::nat`].

mod clients;
mod maglev;

pub use clients::{Clients, MAX_CLIENTS};
pub use maglev::Maglev;

use crate::flow::{Address, Tuple};
use ahash::{AHashMap, AHashSet, RandomState};
use margay_tunnels::wire::protocol;
use std::collections::hash_map::Entry;

/// Most endpoints of one service.
pub const MAX_ENDPOINTS: usize = 1000;
/// Most endpoints that are gone and known all the same; and as many frontends.
pub const MAX_DRAINED: usize = 65_536;

/// An address and port of some protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port.
    pub port: u16,
    /// Protocol number of IP.
    pub protocol: u8,
}

/// A client keeps its endpoint (Kubernetes' `sessionAffinity: ClientIP`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    /// A number of the service that stays the same.
    pub service: u64,
    /// For so long after its last new flow, in seconds.
    pub timeout_s: u32,
}

/// Where a frontend's flows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Endpoints that may be chosen, sorted; at most [`MAX_ENDPOINTS`].
    pub endpoints: Vec<Endpoint>,
    /// Whether clients keep their endpoint.
    pub affinity: Option<Affinity>,
    /// Clients that are no pods of this node look like the node to the endpoint, which may be on
    /// another one.
    pub masquerade: bool,
    /// What counts instead for clients that are pods, if it is another.
    pub for_pods: Option<Box<Service>>,
    choice: Maglev,
}

impl Service {
    /// A service with these endpoints.
    pub fn new(mut endpoints: Vec<Endpoint>, masquerade: bool) -> Service {
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints.truncate(MAX_ENDPOINTS);
        let names = endpoints.iter().map(|endpoint| hasher().hash_one(endpoint));
        let choice = Maglev::new(&names.collect::<Vec<_>>());
        Service { endpoints, affinity: None, masquerade, for_pods: None, choice }
    }

    fn choose(&self, tuple: &Tuple, asker: Asker<'_>) -> Option<Endpoint> {
        let anew = |hash| self.choice.choose(hash).and_then(|at| self.endpoints.get(at)).copied();
        let Some(affinity) = self.affinity else { return anew(hasher().hash_one(tuple)) };
        let client = hasher().hash_one((affinity.service, tuple.src));
        let name = |endpoint: &Endpoint| clients::name(hasher().hash_one(endpoint));
        let named = |wanted| self.endpoints.iter().find(|at| name(at) == wanted).copied();
        let known = asker.clients.get(client, affinity.timeout_s, asker.now_s).and_then(named);
        let chosen = known.or_else(|| {
            let chosen = anew(hasher().hash_one(tuple.src))?;
            // Of two with one name it is the first, then as later.
            named(name(&chosen))
        })?;
        asker.clients.put(client, name(&chosen), asker.now_s);
        Some(chosen)
    }
}

/// Who begins a flow, as far as the choice depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// It is a pod.
    pub is_pod: bool,
    /// Which endpoints clients have had.
    pub clients: &'a Clients,
    /// The time in seconds.
    pub now_s: u32,
}

/// What a new flow to a frontend gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This endpoint.
    Endpoint {
        /// It.
        endpoint: Endpoint,
        /// The client is to look like the node, if it is no pod of this node.
        masquerade: bool,
    },
    /// The service has no endpoint.
    NoEndpoint,
}

/// All services of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    frontends: AHashMap<Endpoint, u32>,
    /// Frontends of old flows only.
    gone: AHashSet<Endpoint>,
    services: Vec<Service>,
    /// True for those that still are endpoints.
    backends: AHashMap<Endpoint, bool>,
    datagrams: u64,
}

/// The same on all nodes and in every process.
fn hasher() -> RandomState {
    RandomState::with_seeds(11, 12, 13, 14)
}

impl Services {
    /// From each service with its frontends; of two that have one frontend the first counts.
    /// `backends` are all endpoints, those too that get no new flows but still have old ones.
    pub fn new(
        services: impl IntoIterator<Item = (Vec<Endpoint>, Service)>,
        backends: impl IntoIterator<Item = Endpoint>,
    ) -> Services {
        let mut all = Services::default();
        let mut add = |endpoint| {
            all.backends.insert(endpoint, true);
        };
        backends.into_iter().for_each(&mut add);
        for (frontends, service) in services {
            let number = all.services.len() as u32;
            for frontend in frontends {
                all.frontends.entry(frontend).or_insert(number);
            }
            service.endpoints.iter().copied().for_each(&mut add);
            all.services.push(service);
        }
        let datagrams = all.backends.keys().filter(|endpoint| endpoint.protocol == protocol::UDP);
        all.datagrams = datagrams.map(|at| hasher().hash_one(at)).fold(0, |a, b| a ^ b);
        all
    }

    /// Frontends and endpoints of `before` that are gone go on being known, for the flows that they
    /// have; at most [`MAX_DRAINED`] of each, those first that have just gone.
    #[must_use]
    pub fn after(mut self, before: &Services) -> Services {
        let gone = before.frontends.keys().chain(&before.gone);
        let gone = gone.filter(|frontend| !self.frontends.contains_key(frontend));
        self.gone.extend(gone.take(MAX_DRAINED - self.gone.len()));
        let mut room = MAX_DRAINED;
        for just in [true, false] {
            let gone = before.backends.iter().filter(|(_, current)| **current == just);
            for (endpoint, _) in gone {
                if room == 0 {
                    return self;
                }
                if let Entry::Vacant(place) = self.backends.entry(*endpoint) {
                    place.insert(false);
                    room -= 1;
                }
            }
        }
        self
    }

    /// Frontends that are gone but known.
    pub fn gone_frontends(&self) -> impl Iterator<Item = &Endpoint> {
        self.gone.iter()
    }

    /// Frontends.
    pub fn frontends(&self) -> impl Iterator<Item = &Endpoint> {
        self.frontends.keys()
    }

    /// Endpoints, those too that are gone but known.
    pub fn backends(&self) -> impl Iterator<Item = &Endpoint> {
        self.backends.keys()
    }

    /// True when a packet is to a frontend.
    #[inline]
    pub fn is_frontend(&self, tuple: &Tuple) -> bool {
        let Tuple { dst, dst_port, protocol, .. } = *tuple;
        self.frontends.contains_key(&Endpoint { address: dst, port: dst_port, protocol })
    }

    /// True when a packet is to what was a frontend.
    #[inline]
    pub fn is_gone_frontend(&self, tuple: &Tuple) -> bool {
        let Tuple { dst, dst_port, protocol, .. } = *tuple;
        !self.gone.is_empty()
            && self.gone.contains(&Endpoint { address: dst, port: dst_port, protocol })
    }

    /// True when a packet is from an endpoint of a service, or from one that was one.
    #[inline]
    pub fn is_from_backend(&self, tuple: &Tuple) -> bool {
        let Tuple { src, src_port, protocol, .. } = *tuple;
        self.backends.contains_key(&Endpoint { address: src, port: src_port, protocol })
    }

    /// True while it is an endpoint of a service.
    pub fn is_endpoint(&self, endpoint: &Endpoint) -> bool {
        self.backends.get(endpoint) == Some(&true)
    }

    /// Another number once other endpoints take datagrams.
    pub fn datagram_endpoints(&self) -> u64 {
        self.datagrams
    }

    /// The endpoint of a new flow; `None` when it is to no frontend.
    pub fn choose(&self, tuple: &Tuple, asker: Asker<'_>) -> Option<Choice> {
        let Tuple { dst, dst_port, protocol, .. } = *tuple;
        let frontend = Endpoint { address: dst, port: dst_port, protocol };
        let service = self.services.get(*self.frontends.get(&frontend)? as usize)?;
        let service = service.for_pods.as_deref().filter(|_| asker.is_pod).unwrap_or(service);
        Some(match service.choose(tuple, asker) {
            Some(endpoint) => Choice::Endpoint { endpoint, masquerade: service.masquerade },
            None => Choice::NoEndpoint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn endpoint(host: u8, port: u16) -> Endpoint {
        Endpoint { address: Ipv4Addr::new(10, 1, 0, host).into(), port, protocol: 6 }
    }

    fn frontend(host: u8) -> Endpoint {
        Endpoint { address: Ipv4Addr::new(10, 96, 0, host).into(), port: 80, protocol: 6 }
    }

    fn flow(client: u32, port: u16, to: Endpoint) -> Tuple {
        Tuple {
            src: Ipv4Addr::from_bits(0xc633_6400 + client).into(),
            dst: to.address,
            src_port: port,
            dst_port: to.port,
            protocol: to.protocol,
        }
    }

    fn choose(services: &Services, tuple: &Tuple) -> Option<Choice> {
        let clients = Clients::default();
        services.choose(tuple, Asker { is_pod: false, clients: &clients, now_s: 0 })
    }

    fn chosen(services: &Services, tuple: &Tuple) -> Endpoint {
        match choose(services, tuple) {
            Some(Choice::Endpoint { endpoint, .. }) => endpoint,
            other => panic!("{other:?}"),
        }
    }

    fn ends(hosts: impl IntoIterator<Item = u8>) -> Vec<Endpoint> {
        hosts.into_iter().map(|host| endpoint(host, 8080)).collect()
    }

    fn one(service: Service) -> Services {
        Services::new([(vec![frontend(1)], service)], [])
    }

    #[test]
    fn flows_spread_over_the_endpoints() {
        let service = Service::new(ends(1..=5), true);
        let services = Services::new([(vec![frontend(1)], service)], [endpoint(9, 8080)]);
        let mut counts = AHashMap::new();
        for port in 0..5000 {
            *counts.entry(chosen(&services, &flow(1, port, frontend(1)))).or_insert(0) += 1;
        }
        assert!(counts.len() == 5 && counts.values().all(|count| (800..1200).contains(count)));
        assert_eq!(choose(&services, &flow(1, 1, endpoint(1, 8080))), None);
        assert!(services.is_from_backend(&flow(1, 1, endpoint(9, 8080)).reversed()));
        assert!(!services.is_from_backend(&flow(1, 1, endpoint(9, 8081)).reversed()));
    }

    #[test]
    fn an_affine_client_stays_until_its_timeout_and_while_the_endpoint_is_there() {
        let affinity = Some(Affinity { service: 7, timeout_s: 100 });
        let with = |hosts: &[u8]| {
            one(Service { affinity, ..Service::new(ends(hosts.iter().copied()), true) })
        };
        let (clients, mut now_s) = (Clients::default(), 1000);
        let ask = |services: &Services, client, port, now_s| {
            let asker = Asker { is_pod: false, clients: &clients, now_s };
            match services.choose(&flow(client, port, frontend(1)), asker) {
                Some(Choice::Endpoint { endpoint, .. }) => endpoint,
                other => panic!("{other:?}"),
            }
        };
        let few = with(&[1, 2]);
        let first: Vec<Endpoint> = (0..200).map(|client| ask(&few, client, 1, now_s)).collect();
        assert!(first.contains(&endpoint(1, 8080)) && first.contains(&endpoint(2, 8080)));
        // More endpoints move nobody, as long as new flows come in time.
        let many = with(&[1, 2, 3, 4, 5, 6]);
        for port in 2..5 {
            now_s += 100;
            let stays = |client: u32| ask(&many, client, port, now_s) == first[client as usize];
            assert!((0..200).all(stays));
        }
        // One that goes loses its clients, and only those move.
        let without = with(&[2, 3, 4, 5, 6]);
        for client in 0..200 {
            let (was, is) = (first[client as usize], ask(&without, client, 9, now_s));
            assert!(is == was || was == endpoint(1, 8080), "{was:?} {is:?}");
            assert_ne!(is, endpoint(1, 8080));
        }
        // Too late: chosen anew.
        now_s += 101;
        let moved =
            (0..200).filter(|client| ask(&many, *client, 9, now_s) != first[*client as usize]);
        assert!(moved.count() > 50);
    }

    #[test]
    fn pods_may_have_other_endpoints_than_others() {
        let pods = Service::new(ends([1, 2]), false);
        let service = Service { for_pods: Some(Box::new(pods)), ..Service::new(Vec::new(), false) };
        let services = one(service);
        let clients = Clients::default();
        let ask = |is_pod| {
            let asker = Asker { is_pod, clients: &clients, now_s: 0 };
            services.choose(&flow(1, 1, frontend(1)), asker).unwrap()
        };
        assert_eq!(ask(false), Choice::NoEndpoint);
        assert!(matches!(ask(true), Choice::Endpoint { .. }));
    }

    #[test]
    fn a_service_without_endpoints_says_so() {
        let services = one(Service::new(Vec::new(), true));
        assert_eq!(choose(&services, &flow(1, 1, frontend(1))), Some(Choice::NoEndpoint));
    }

    #[test]
    fn endpoints_that_are_gone_are_known_up_to_a_bound() {
        let number = |at: u32| Endpoint {
            address: Ipv4Addr::from_bits(0x0a00_0000 + at).into(),
            port: 80,
            protocol: 6,
        };
        let all = |range: std::ops::Range<u32>| Services::new([], range.map(number));
        let services = all(5..20).after(&all(0..10)).after(&all(0..2));
        assert!((0..20).all(|at| services.backends.contains_key(&number(at))));
        assert!((0..20).all(|at| services.is_endpoint(&number(at)) == (at >= 5)));
        let again = all(0..3).after(&services);
        assert!(again.is_endpoint(&number(1)) && !again.is_endpoint(&number(19)));
        let bound = MAX_DRAINED as u32;
        let old = all(0..0).after(&all(0..bound));
        // Those that have just gone come first.
        let before = Services::new([], (bound..bound + 10).map(number)).after(&old);
        let full = all(0..0).after(&before);
        assert_eq!(full.backends.len(), MAX_DRAINED);
        assert!((bound..bound + 10).all(|at| full.backends.contains_key(&number(at))));
        // Frontends alike.
        let at = |range: std::ops::Range<u32>| {
            Services::new([(range.map(number).collect(), Service::new(Vec::new(), true))], [])
        };
        let known = |services: &Services, at| services.is_gone_frontend(&flow(1, 1, number(at)));
        let services = at(5..20).after(&at(0..10)).after(&at(0..2));
        assert!((0..20).all(|at| known(&services, at) == (at < 5)), "{:?}", services.gone);
        let before = at(bound..bound + 10).after(&at(0..bound));
        let full = at(0..0).after(&before);
        assert_eq!(full.gone.len(), MAX_DRAINED);
        assert!((bound..bound + 10).all(|at| known(&full, at)));
    }
}
