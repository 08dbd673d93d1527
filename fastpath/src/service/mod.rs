//! Services: addresses that stand for any one of several endpoints.
//!
//! A frontend is an address, protocol and port; [`Services::choose`] gives a new flow its endpoint
//! by [`maglev`], so that a change of the endpoints moves few flows, and every node chooses alike.
//! With session affinity the choice follows the client's address alone, so it holds as long as the
//! endpoint does, on all workers and nodes; no timeout is needed for it. What flows do with the
//! choice is the business of [`crate::nat`].

mod maglev;

pub use maglev::Maglev;

use crate::flow::{Address, Tuple};
use ahash::{AHashMap, AHashSet, RandomState};

/// Most endpoints of one service.
pub const MAX_ENDPOINTS: usize = 1000;

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

/// Where a frontend's flows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Endpoints that may be chosen, sorted; at most [`MAX_ENDPOINTS`].
    pub endpoints: Vec<Endpoint>,
    /// The client keeps its endpoint.
    pub affinity: bool,
    /// Clients that are no pods look like the node to the endpoint, which may be on another one.
    pub masquerade: bool,
    choice: Maglev,
}

impl Service {
    /// A service with these endpoints.
    pub fn new(mut endpoints: Vec<Endpoint>, affinity: bool, masquerade: bool) -> Service {
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints.truncate(MAX_ENDPOINTS);
        let names = endpoints.iter().map(|endpoint| hasher().hash_one(endpoint));
        let choice = Maglev::new(&names.collect::<Vec<_>>());
        Service { endpoints, affinity, masquerade, choice }
    }
}

/// What a new flow to a frontend gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This endpoint.
    Endpoint {
        /// It.
        endpoint: Endpoint,
        /// The client is to look like the node, if it is no pod.
        masquerade: bool,
    },
    /// The service has no endpoint.
    NoEndpoint,
}

/// All services of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    frontends: AHashMap<Endpoint, u32>,
    services: Vec<Service>,
    backends: AHashSet<Endpoint>,
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
        let mut all = Services { backends: backends.into_iter().collect(), ..Services::default() };
        for (frontends, service) in services {
            let number = all.services.len() as u32;
            for frontend in frontends {
                all.frontends.entry(frontend).or_insert(number);
            }
            all.backends.extend(service.endpoints.iter().copied());
            all.services.push(service);
        }
        all
    }

    /// True without a frontend.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    /// True when a packet is to a frontend.
    #[inline]
    pub fn is_frontend(&self, tuple: &Tuple) -> bool {
        let Tuple { dst, dst_port, protocol, .. } = *tuple;
        self.frontends.contains_key(&Endpoint { address: dst, port: dst_port, protocol })
    }

    /// True when a packet is from an endpoint of a service.
    #[inline]
    pub fn is_from_backend(&self, tuple: &Tuple) -> bool {
        let Tuple { src, src_port, protocol, .. } = *tuple;
        self.backends.contains(&Endpoint { address: src, port: src_port, protocol })
    }

    /// The endpoint of a new flow; `None` when it is to no frontend.
    pub fn choose(&self, tuple: &Tuple) -> Option<Choice> {
        let Tuple { dst, dst_port, protocol, .. } = *tuple;
        let frontend = Endpoint { address: dst, port: dst_port, protocol };
        let service = self.services.get(*self.frontends.get(&frontend)? as usize)?;
        let hash = match service.affinity {
            true => hasher().hash_one((tuple.src, protocol)),
            false => hasher().hash_one(tuple),
        };
        let chosen = service.choice.choose(hash).and_then(|at| service.endpoints.get(at));
        Some(match chosen {
            Some(endpoint) => {
                Choice::Endpoint { endpoint: *endpoint, masquerade: service.masquerade }
            }
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

    fn chosen(services: &Services, tuple: &Tuple) -> Endpoint {
        match services.choose(tuple) {
            Some(Choice::Endpoint { endpoint, .. }) => endpoint,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flows_spread_and_an_affine_client_stays() {
        let ends: Vec<Endpoint> = (1..=5).map(|host| endpoint(host, 8080)).collect();
        let services = Services::new(
            [
                (vec![frontend(1)], Service::new(ends.clone(), false, true)),
                (vec![frontend(2)], Service::new(ends.clone(), true, true)),
            ],
            [endpoint(9, 8080)],
        );
        let mut counts = AHashMap::new();
        for port in 0..5000 {
            *counts.entry(chosen(&services, &flow(1, port, frontend(1)))).or_insert(0) += 1;
        }
        assert!(counts.len() == 5 && counts.values().all(|count| (800..1200).contains(count)));
        for client in 0..50 {
            let first = chosen(&services, &flow(client, 0, frontend(2)));
            let stays = |port| chosen(&services, &flow(client, port, frontend(2))) == first;
            assert!((1..20).all(stays));
        }
        assert_eq!(services.choose(&flow(1, 1, endpoint(1, 8080))), None);
        assert!(services.is_from_backend(&flow(1, 1, endpoint(9, 8080)).reversed()));
        assert!(!services.is_from_backend(&flow(1, 1, endpoint(9, 8081)).reversed()));
    }

    #[test]
    fn a_service_without_endpoints_says_so() {
        let none = Service::new(Vec::new(), false, true);
        let services = Services::new([(vec![frontend(1)], none)], []);
        assert_eq!(services.choose(&flow(1, 1, frontend(1))), Some(Choice::NoEndpoint));
    }
}
