//! The route of a traced packet on one node, and what it meets there: next hop, tunnel,
//! translation.

use super::Case;
use super::answer::{Answer, EncapAnswer, Rewrite, StageAnswer};
use super::hosts::{Guards, Way, addresses};
use crate::model::Model;
use crate::offline::{Plan, UPLINK};
use crate::resolve::services::{ServiceInputs, services};
use crate::resolve::table::Table;
use crate::resolve::tunnels::{Tunnel, TunnelPlan};
use crate::resolve::{Hop, Target};
use margay_fastpath::service::{Clients, Services};
use std::net::IpAddr;

/// A node's routes.
#[derive(Debug)]
pub(super) struct Network {
    node: String,
    table: Table,
    pub(super) plan: TunnelPlan,
    /// Services as the node has them.
    pub(super) services: Option<Services>,
    /// Who has had which endpoint.
    pub(super) clients: Clients,
    /// Its host endpoints.
    pub(super) guards: Guards,
    /// The node's own address, IPv4 and IPv6.
    own: [Option<IpAddr>; 2],
}

impl Network {
    pub(super) fn of(model: &Model, node: &str) -> Network {
        let Plan { wanted, tunnels, .. } = Plan::of(model, node);
        let node_addresses = addresses(model, node);
        let of = |v6| node_addresses.iter().copied().find(|own| own.is_ipv6() == v6);
        let own = [of(false), of(true)];
        let inputs = ServiceInputs { node, node_addresses: &node_addresses, before: None };
        Network {
            node: node.to_owned(),
            table: wanted.table,
            plan: tunnels,
            services: services(inputs, model).map(|(services, _)| services),
            clients: Clients::default(),
            guards: Guards::of(model, node),
            own,
        }
    }

    /// Looks the destination up; true when the host itself gets the packet.
    pub(super) fn route(&self, case: &Case, answer: &mut Answer) -> Result<bool, &'static str> {
        let found = self.table.lookup(case.packet.destination);
        let found = found.map(|entry| &entry.route.target);
        // A default route, and the ways to what only BGP tells, are not in a store.
        let unknown = match found {
            None => true,
            Some(Target::Unreachable) => case.to.endpoint.is_some(),
            Some(_) => false,
        };
        if unknown {
            answer.egress_port = Some(UPLINK.to_owned());
            let what = "no route in the store: the host's default route is assumed";
            push(&self.node, "assumed", what.to_owned(), case, answer);
            return Ok(false);
        }
        follow(&self.node, found, case, answer)
    }

    /// Whether a source is the host's own, and the way that leads back to others.
    pub(super) fn way_back(&self, source: IpAddr) -> (bool, Option<Way>) {
        let found = self.table.lookup(source).map(|entry| &entry.route.target);
        (found == Some(&Target::Local), Way::of(found))
    }

    /// NAT-outgoing, as IPPools ask for it: from a pool that has it, to no pool.
    pub(super) fn translate_source(&self, model: &Model, case: &Case, answer: &mut Answer) {
        let (source, destination) = (case.packet.source, case.packet.destination);
        let pools = || model.pools.values();
        let inside = pools().any(|pool| pool.nat_outgoing && pool.cidr.contains(&source));
        let outside = !pools().any(|pool| pool.cidr.contains(&destination));
        let here = case.from.endpoint.as_ref().is_some_and(|from| from.node == self.node);
        let Some(own) = self.own[usize::from(source.is_ipv6())] else { return };
        if inside && outside && here {
            let detail = format!("{source} looks like {own}");
            answer.stages.push(StageAnswer::plain("snat", "rewrite", detail));
            let rewrite = answer.rewrite.get_or_insert_with(Rewrite::default);
            rewrite.src_ip = Some(own.to_string());
        }
    }
}

/// Goes where a route leads; true when the host itself gets the packet.
pub(super) fn follow(
    node: &str,
    found: Option<&Target>,
    case: &Case,
    answer: &mut Answer,
) -> Result<bool, &'static str> {
    let drop = |detail: &str, reason| ("drop", detail.to_owned(), Some(reason));
    let (outcome, detail, dropped) = match found {
        Some(Target::Local) => ("deliver", "to the host itself".to_owned(), None),
        Some(Target::Blackhole) => drop("a block without that address", "route-blackhole"),
        Some(Target::Prohibit) => drop("prohibited", "route-prohibit"),
        Some(Target::Unreachable) => drop("nothing leads there", "route-unreachable"),
        None => drop("no route", "no-route"),
        Some(Target::OnLink(port)) => {
            answer.egress_port = Some(port.to_string());
            answer.next_hop = Some(case.packet.destination.to_string());
            ("forward", format!("on the link of {port}"), None)
        }
        Some(Target::Via(hops)) => ("forward", via(hops, answer), None),
    };
    push(node, outcome, detail, case, answer);
    dropped.map_or(Ok(outcome == "deliver"), Err)
}

fn push(node: &str, outcome: &str, detail: String, case: &Case, answer: &mut Answer) {
    let detail = format!("{}: {detail}", case.packet.destination);
    let stage = StageAnswer::plain("route", outcome, detail);
    answer.stages.push(StageAnswer { node: node.to_owned(), ..stage });
}

fn via(hops: &[Hop], answer: &mut Answer) -> String {
    let Some(first) = hops.first() else { return "no next hop".to_owned() };
    answer.egress_port = Some(first.port.to_string());
    answer.next_hop = Some(first.address.to_string());
    answer.encap = first.tunnel.as_deref().map(encap);
    let through = first
        .tunnel
        .as_ref()
        .map_or_else(String::new, |tunnel| format!(" in a tunnel to {}", tunnel.remote));
    let others = match hops.len() {
        1 => String::new(),
        count => format!(", one of {count} ways"),
    };
    format!("via {} on {}{through}{others}", first.address, first.port)
}

fn encap(tunnel: &Tunnel) -> EncapAnswer {
    EncapAnswer {
        kind: if tunnel.vxlan.is_some() { "vxlan" } else { "ipip" }.to_owned(),
        remote: tunnel.remote.to_string(),
        vni: tunnel.vxlan.as_ref().map(|vxlan| vxlan.vni.get()),
    }
}
