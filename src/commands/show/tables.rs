//! The columns of each answer.

use crate::commands::output::columns;
use comfy_table::Table;
use margay_control::api::drops::DropsAnswer;
use margay_control::api::endpoints::EndpointAnswer;
use margay_control::api::neighbors::NeighborAnswer;
use margay_control::api::ports::PortAnswer;
use margay_control::api::routes::{NextHopAnswer, RouteAnswer};
use margay_control::api::status::StatusAnswer;
use margay_control::api::tunnels::TunnelAnswer;
use margay_control::api::workers::WorkerAnswer;

pub(super) fn status(answer: &StatusAnswer) -> Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    let yes_no = |value: bool| if value { "yes" } else { "no" };
    let store: Vec<String> =
        answer.store.resources.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let frames = &answer.frames;
    let rows = [
        ("node", answer.node.clone()),
        ("version", answer.version.clone()),
        ("live", yes_no(answer.live).to_owned()),
        ("ready", yes_no(answer.ready).to_owned()),
        ("uptime", format!("{} s", answer.uptime_seconds)),
        ("store", format!("{} files or keys: {}", answer.store.files, store.join(", "))),
        ("ports", format!("{} open, {} waiting", answer.ports_open, answer.ports_waiting)),
        ("endpoints", answer.endpoints.to_string()),
        ("routes", format!("{} IPv4, {} IPv6", answer.routes_v4, answer.routes_v6)),
        ("kernel routes", answer.kernel_routes.to_string()),
        (
            "frames",
            format!(
                "{} of {} free, {} lost, {} pages",
                frames.free,
                frames.total,
                frames.lost,
                if frames.huge_pages { "huge" } else { "normal" }
            ),
        ),
    ];
    table.add_rows(rows.map(|(name, value)| [name.to_owned(), value]));
    if let Some(bgp) = &answer.bgp {
        let waits = if bgp.holding { ", selection waits for peers" } else { "" };
        let text = format!(
            "{} of {} peers up, {} IPv4 and {} IPv6 routes, {} in the kernel{waits}",
            bgp.peers_up, bgp.peers, bgp.routes_v4, bgp.routes_v6, bgp.kernel_routes
        );
        table.add_row(["BGP".to_owned(), text]);
    }
    let faults = answer.faults.iter().map(|fault| ["fault".to_owned(), fault.clone()]);
    let errors = answer.errors.iter().map(|error| ["error".to_owned(), error.clone()]);
    let stale = answer.store.lost.iter().map(|lost| {
        let seconds = answer.store_stale_seconds.unwrap_or_default();
        let text = format!("stale for {seconds} s, the last state is in force: {}", lost.why);
        ["store".to_owned(), text]
    });
    let store = answer.store.faults.iter().map(|fault| ["store".to_owned(), fault.to_string()]);
    table.add_rows(faults.chain(errors).chain(stale).chain(store));
    table
}

pub(super) fn ports(answer: &[PortAnswer], wide: bool) -> Table {
    let mut table = match wide {
        false => columns(["name", "role", "state", "workers", "rx", "tx", "mode"]),
        true => columns([
            "name",
            "role",
            "state",
            "workers",
            "rx",
            "tx",
            "mode",
            "mac",
            "mtu",
            "held",
            "queued",
            "kernel",
            "offloaded",
            "waiting",
        ]),
    };
    for port in answer {
        let state = match (port.state.as_str(), port.up) {
            ("open", true) => "up",
            ("open", false) => "down",
            (state, _) => state,
        };
        let workers: Vec<String> = port.workers.iter().map(ToString::to_string).collect();
        let mut row = vec![
            port.name.clone(),
            port.role.clone(),
            state.to_owned(),
            workers.join(","),
            port.rx_packets.to_string(),
            port.tx_packets.to_string(),
            port.mode.clone(),
        ];
        if wide {
            let totals = port.kernel.iter().filter(|(_, count)| **count > 0);
            let totals: Vec<String> =
                totals.map(|(name, count)| format!("{name}={count}")).collect();
            row.push(port.mac.clone().unwrap_or_default());
            row.push(port.mtu.map(|mtu| mtu.to_string()).unwrap_or_default());
            row.push(port.frames_held.to_string());
            row.push(port.queued.to_string());
            row.push(totals.join(" "));
            row.push(format!("{}/{}", port.offloaded_rx_packets, port.offloaded_tx_packets));
            let lost = port.dropped_waiting.iter();
            let lost: String = lost.map(|(reason, count)| format!(" {reason}={count}")).collect();
            row.push(format!("{}{lost}", port.waiting));
        }
        table.add_row(row);
    }
    table
}

pub(super) fn endpoints(answer: &[EndpointAnswer], wide: bool) -> Table {
    let mut table = match wide {
        false => columns(["namespace", "pod", "interface", "addresses", "state"]),
        true => {
            columns(["namespace", "pod", "interface", "addresses", "state", "attachment", "name"])
        }
    };
    for endpoint in answer {
        let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
        let mut row = vec![
            endpoint.namespace.clone(),
            endpoint.pod.clone(),
            endpoint.interface.clone(),
            addresses.join(", "),
            endpoint.state.clone(),
        ];
        if wide {
            row.extend([endpoint.attachment.clone(), endpoint.name.clone()]);
        }
        table.add_row(row);
    }
    table
}

pub(super) fn routes(answer: &[RouteAnswer]) -> Table {
    let mut table = columns(["prefix", "target", "next hop", "port", "link address", "origin"]);
    for route in answer {
        let origin = format!("{:?}", route.origin).to_lowercase();
        let first = [route.prefix.to_string(), route.target.clone()];
        if route.next_hops.is_empty() {
            let none = || String::new();
            let [prefix, target] = first.clone();
            table.add_row([prefix, target, none(), none(), none(), origin.clone()]);
        }
        for (at, next_hop) in route.next_hops.iter().enumerate() {
            let [prefix, target] = if at == 0 { first.clone() } else { Default::default() };
            table.add_row([
                prefix,
                target,
                address(next_hop),
                next_hop.port.clone(),
                next_hop.mac.clone().unwrap_or_default(),
                if at == 0 { origin.clone() } else { String::new() },
            ]);
        }
    }
    table
}

/// Where packets go, and the tunnel that takes them there.
fn address(next_hop: &NextHopAnswer) -> String {
    let address = next_hop.address.map(|address| address.to_string()).unwrap_or_default();
    match &next_hop.tunnel {
        Some(tunnel) => format!("{address}, by {tunnel}"),
        None => address,
    }
}

pub(super) fn tunnels(answer: &[TunnelAnswer], wide: bool) -> Table {
    let mut table = match wide {
        false => columns(["node", "kind", "remote", "ports", "mtu", "rx", "tx", "dropped"]),
        true => columns([
            "node",
            "kind",
            "remote",
            "ports",
            "mtu",
            "rx",
            "tx",
            "dropped",
            "local",
            "vni",
            "link address",
            "path mtu",
            "rx bytes",
            "tx bytes",
        ]),
    };
    let number = |value: Option<u32>| value.map(|value| value.to_string()).unwrap_or_default();
    for tunnel in answer {
        let ports: Vec<&str> = tunnel.next_hops.iter().map(|hop| hop.port.as_str()).collect();
        let mut row = vec![
            tunnel.node.clone(),
            tunnel.kind.clone(),
            tunnel.remote.to_string(),
            ports.join(","),
            number(tunnel.mtu.map(u32::from)),
            tunnel.rx_packets.to_string(),
            tunnel.tx_packets.to_string(),
            (tunnel.rx_drops + tunnel.tx_drops).to_string(),
        ];
        if wide {
            row.extend([
                tunnel.local.to_string(),
                number(tunnel.vni),
                tunnel.mac.clone().unwrap_or_default(),
                number(tunnel.path_mtu.map(u32::from)),
                tunnel.rx_bytes.to_string(),
                tunnel.tx_bytes.to_string(),
            ]);
        }
        table.add_row(row);
    }
    table
}

pub(super) fn neighbors(answer: &[NeighborAnswer]) -> Table {
    let mut table = columns(["port", "address", "link address", "state"]);
    for neighbor in answer {
        table.add_row([
            neighbor.port.clone(),
            neighbor.address.to_string(),
            neighbor.mac.clone().unwrap_or_default(),
            neighbor.state.clone(),
        ]);
    }
    table
}

pub(super) fn workers(answer: &[WorkerAnswer], wide: bool) -> Table {
    let mut table = match wide {
        false => columns(["worker", "core", "state", "ports", "forwarded", "punted", "dropped"]),
        true => columns([
            "worker",
            "core",
            "state",
            "ports",
            "forwarded",
            "punted",
            "dropped",
            "held",
            "handed over",
            "cycles a packet",
        ]),
    };
    for worker in answer {
        let core = worker.core.map_or_else(|| "any".to_owned(), |core| core.to_string());
        let mut row = vec![
            worker.index.to_string(),
            core,
            worker.state.clone(),
            worker.ports.to_string(),
            worker.forwarded.to_string(),
            worker.punted.to_string(),
            worker.dropped.to_string(),
        ];
        if wide {
            let used = worker.stages.iter().filter(|stage| stage.packets > 0);
            let stages: Vec<String> = used
                .map(|stage| format!("{} {}", stage.name, stage.cycles / stage.packets))
                .collect();
            row.extend([
                worker.held.to_string(),
                worker.handed_over.to_string(),
                stages.join(", "),
            ]);
        }
        table.add_row(row);
    }
    table
}

pub(super) fn drops(answer: &DropsAnswer) -> Table {
    let mut table = columns(["reason", "packets"]);
    for (reason, count) in answer {
        table.add_row([reason.clone(), count.to_string()]);
    }
    table
}
