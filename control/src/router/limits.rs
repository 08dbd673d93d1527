//! Traffic control in the control loop: from what the store says of endpoints to the limits that
//! the packet path keeps, which live on through changes.

use super::Router;
use crate::resource::qos::{Limits as Asked, Qos};
use ipnet::IpNet;
use margay_acl::Direction;
use margay_fastpath::limit::{
    ConnectionLimit, Connections, EndpointLimits, Limits, PortRate, Rate, Rates, Wanted, WayLimits,
};
use margay_fastpath::nat::{Class, Ranges};
use margay_fastpath::port::PortId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a frame beside its IP packet.
const LINK: u64 = 14;

/// An endpoint with limits.
#[derive(Debug, Clone)]
pub(crate) struct Limited {
    /// Its interface.
    pub(crate) interface: String,
    /// Its pod.
    pub(crate) pod: String,
    /// What the store asks for.
    pub(crate) qos: Qos,
    /// Its port.
    pub(crate) port: PortId,
    /// Limits in force.
    pub(crate) limits: Arc<EndpointLimits>,
    /// By direction, those that it has.
    pub(crate) connections: [Arc<Connections>; 2],
}

impl Limited {
    /// How many connections it may have, by direction.
    pub(super) fn connection_limits(&self) -> [Option<ConnectionLimit>; 2] {
        Direction::ALL.map(|direction| {
            let most = self.qos.way(direction).connections?;
            let connections = self.connections[direction as usize].clone();
            Some(ConnectionLimit { most, connections })
        })
    }
}

/// Limits as they were published last.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// By namespace and name.
    pub(crate) endpoints: BTreeMap<(String, String), Limited>,
    /// What cannot be taken as it stands.
    pub(crate) faults: Vec<String>,
    generation: u64,
    /// By uplink, of those that are to have less than their devices take.
    rates: BTreeMap<String, Arc<PortRate>>,
}

impl Router {
    /// What the next publication limits.
    pub(super) fn resolve_limits(&mut self) {
        let (takers, now_ns) = (self.dataplane.takers(), self.dataplane.now_ns());
        if self.limits.rates.is_empty() {
            let rates = self.config.uplink_bandwidth.iter();
            let rates = rates.map(|(name, rate)| {
                // They never change, so that one generation does for all.
                (name.clone(), Arc::new(PortRate::new(rate.0, 1, takers.workers)))
            });
            self.limits.rates = rates.collect();
        }
        let mut old = std::mem::take(&mut self.limits.endpoints);
        let mut faults = Vec::new();
        for (key, endpoint) in self.model.local_endpoints(&self.config.node_name) {
            let warnings = endpoint.qos_warnings.iter();
            faults.extend(warnings.map(|text| format!("endpoint {}/{}: {text}", key.0, key.1)));
            let Some(port) = self.port_entries.get(&*endpoint.interface) else { continue };
            if endpoint.qos == (Qos { shaped: endpoint.qos.shaped, ..Qos::default() }) {
                continue;
            }
            let wanted = wanted(&endpoint.qos, port.entry.mtu);
            let before = old.remove(key);
            let connections = before.as_ref().map(|limited| limited.connections.clone());
            let limits = match before.map(|limited| limited.limits) {
                Some(limits) if *limits.wanted() == wanted => limits,
                before => {
                    self.limits.generation += 1;
                    let generation = self.limits.generation;
                    let takers = takers.clone();
                    Arc::new(match before {
                        Some(limits) => limits.changed(wanted, generation, takers, now_ns),
                        None => EndpointLimits::new(wanted, generation, takers),
                    })
                }
            };
            let limited = Limited {
                interface: endpoint.interface.clone(),
                pod: endpoint.pod.clone(),
                qos: endpoint.qos,
                port: port.id,
                limits,
                connections: connections.unwrap_or_default(),
            };
            self.limits.endpoints.insert(key.clone(), limited);
        }
        if faults != self.limits.faults {
            faults.iter().for_each(|fault| tracing::warn!("{fault}"));
            self.limits.faults = faults;
        }
        self.publisher.set_limits(self.limit_tables());
    }

    /// The rates of uplinks that are open.
    fn port_rates(&self) -> Vec<(PortId, Arc<PortRate>)> {
        let rates = self.limits.rates.iter();
        let open = rates
            .filter_map(|(name, rate)| Some((self.port_entries.get(&**name)?.id, rate.clone())));
        open.collect()
    }

    /// The snapshot; `None` while nothing is limited.
    fn limit_tables(&self) -> Option<Limits> {
        let limited = self.limits.endpoints.values().filter(|one| !one.limits.wanted().is_empty());
        let of: Vec<_> = limited.map(|one| (one.port, one.limits.clone())).collect();
        let endpoints = self.limits.endpoints.values();
        let weights: Vec<_> =
            endpoints.filter_map(|one| Some((one.port, one.qos.weight?))).collect();
        let rates = self.port_rates();
        if of.is_empty() && weights.is_empty() && rates.is_empty() {
            return None;
        }
        let marks = of.iter().any(|(_, limits)| limits.dscp().is_some());
        let inside = if marks { self.inside() } else { Ranges::default() };
        Some(Limits::new(&of, inside).with_weights(&weights).with_rates(&rates))
    }

    /// Packets there are not marked: pools, and this host (calico.md 7.8).
    fn inside(&self) -> Ranges {
        let pools = self.model.pools.values().filter(|pool| !pool.load_balancer_only);
        let pools = pools.map(|pool| (pool.cidr, Class::POOL));
        let own = self.mirror.addresses().map(|(_, net)| (IpNet::from(net.addr()), Class::LOCAL));
        Ranges::new(&pools.chain(own).collect::<Vec<_>>())
    }
}

/// What the packet path keeps to, for an endpoint with this MTU in bytes.
fn wanted(qos: &Qos, mtu: u16) -> Wanted {
    let frame_bits = (u64::from(mtu) + LINK) * 8;
    let way = |direction: Direction| WayLimits {
        rates: rates(qos.way(direction), frame_bits),
        shaped: qos.shaped,
    };
    Wanted { ways: [way(Direction::ALL[0]), way(Direction::ALL[1])], dscp: qos.dscp }
}

/// A burst is never less than one whole frame, or nothing would pass.
fn rates(asked: &Asked, frame_bits: u64) -> Rates {
    let bits = |per_second: u64, burst: u64| Rate { per_second, burst: burst.max(frame_bits) };
    let peak = asked.bandwidth.and_then(|bandwidth| bandwidth.peak);
    Rates {
        bits: asked.bandwidth.map(|bandwidth| bits(bandwidth.rate, bandwidth.burst)),
        peak: peak.map(|peak| bits(peak.rate, peak.min_burst.unwrap_or(0).saturating_mul(8))),
        packets: asked
            .packets
            .map(|packets| Rate { per_second: packets.rate, burst: packets.burst }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::qos::{Bandwidth, PacketRate, Peak};

    #[test]
    fn bursts_hold_one_frame_at_least() {
        let peak = Some(Peak { rate: 2_000_000, min_burst: None });
        let ingress = Asked {
            bandwidth: Some(Bandwidth { rate: 1_000_000, burst: 1000, peak }),
            packets: Some(PacketRate { rate: 10, burst: 5 }),
            connections: None,
        };
        let egress = Asked {
            bandwidth: Some(Bandwidth { rate: 1_000_000, burst: 1 << 20, peak: None }),
            ..Asked::default()
        };
        let qos = Qos { ingress, egress, dscp: None, shaped: true, weight: None };
        let wanted = wanted(&qos, 1500);
        let ingress = wanted.ways[Direction::Ingress as usize];
        let egress = wanted.ways[Direction::Egress as usize];
        assert_eq!(ingress.rates.bits, Some(Rate { per_second: 1_000_000, burst: 1514 * 8 }));
        assert_eq!(ingress.rates.peak, Some(Rate { per_second: 2_000_000, burst: 1514 * 8 }));
        assert_eq!(ingress.rates.packets, Some(Rate { per_second: 10, burst: 5 }));
        assert_eq!(egress.rates.bits, Some(Rate { per_second: 1_000_000, burst: 1 << 20 }));
        assert!(ingress.shaped && egress.rates.packets.is_none() && !wanted.is_empty());
    }
}
