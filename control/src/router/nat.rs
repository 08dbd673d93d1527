//! Translation, as the control loop keeps it: its rules, and which packets to the host's own
//! addresses are steered to the workers.

use super::Router;
use crate::resolve::nat::{NatInputs, rules, tracking};
use crate::service_health;
use margay_fastpath::nat::Rules;
use margay_fastpath::steering::{NO_PORTS, Steered};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

impl Router {
    /// Resolves the rules anew, and steers the host's packets by them.
    pub(super) fn resolve_nat(&mut self) {
        let local: Vec<IpAddr> = self.mirror.addresses().map(|(_, net)| net.addr()).collect();
        let wanted = self.config.nat.port_range.0;
        let asks = self.model.pools.values().any(|pool| pool.nat_outgoing);
        let serves = self.config.nat.services && !self.model.services.is_empty();
        if self.config.nat.services {
            self.service_health.set(service_health::wanted(&self.model, &self.config.node_name));
        }
        let found = match asks || serves {
            true => self.own_ports.found(wanted, Instant::now()).clone(),
            false => Default::default(),
        };
        let (ports, taken) = found;
        let rules = rules(NatInputs {
            node: &self.config.node_name,
            model: &self.model,
            settings: &self.config.nat,
            local: &local,
            ports,
            taken: &taken,
            workers: self.dataplane.worker_count(),
            before: self.publisher.nat().and_then(|rules| rules.services.as_ref()),
        });
        if asks && ports.is_none() {
            self.note([format!(
                "no port of {}-{} is free for NAT: the kernel gives all to its own sockets; \
                 reserve them in net.ipv4.ip_local_reserved_ports",
                wanted.first, wanted.last
            )]);
        }
        let steered = steered(&local, self.tunnels.ends(), rules.as_ref());
        self.publisher.set_nat(rules);
        let workers = self.dataplane.worker_count().min(usize::from(u16::MAX)) as u16;
        self.publisher.set_tracking(tracking(&self.config.nat, workers));
        if let Err(error) = self.devices.steer(&steered) {
            self.note([error.to_string()]);
        }
    }
}

/// What of packets to the host's addresses is not its own.
fn steered(local: &[IpAddr], tunnel_ends: Vec<IpAddr>, rules: Option<&Rules>) -> Steered {
    let ports = |address: &IpAddr| {
        let rules = rules.filter(|rules| rules.is_outside((*address).into()));
        rules.map_or(NO_PORTS, |rules| rules.ports)
    };
    let local: BTreeMap<_, _> = local.iter().map(|at| (*at, ports(at))).collect();
    let frontends = rules.and_then(|rules| rules.services.as_ref()).into_iter();
    let frontends = frontends.flat_map(|services| services.frontends());
    let served = frontends.map(|at| (IpAddr::from(at.address), at.port, at.protocol));
    let services = served.filter(|(at, ..)| local.contains_key(at)).collect();
    Steered { local, tunnel_ends, services }
}
