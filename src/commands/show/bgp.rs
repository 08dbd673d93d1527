//! `margay show bgp`: peers and routes of the running daemon, and the BGP that a node would have,
//! from a directory of resources.

use crate::commands::output::{Format, columns, print};
use comfy_table::Table;
use margay_control::api::bgp::{BfdAnswer, PathAnswer, PeerAnswer};
use margay_control::api::bgp_config::{BgpConfigAnswer, SessionAnswer};
use margay_control::api::client;
use margay_control::offline;
use margay_control::resolve::bgp::LocalFacts;
use margay_control::resource::bgp_peer::Hops;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Bgp {
    /// Peers, as `calicoctl node status` shows them
    Peers,
    /// Paths that peers have told, and why one won
    Routes {
        /// A prefix, or an address whose longest match is wanted
        prefix: Option<String>,
        /// Of one peer, by name or address: what it has announced
        #[arg(long, value_name = "PEER")]
        peer: Option<String>,
        /// What the peer has announced, also what policy refused
        #[arg(long = "in", requires = "peer", conflicts_with = "out")]
        inward: bool,
        /// What the peer has been told
        #[arg(long, requires = "peer")]
        out: bool,
    },
    /// Sessions, policies and own routes that a node would have, offline
    Config {
        /// Directory of Calico and Kubernetes resources
        #[arg(long, value_name = "DIR")]
        store: PathBuf,
        /// Name of the node
        #[arg(long, value_name = "NAME")]
        node: String,
        /// Router id, where it is not the node's IPv4 address
        #[arg(long, value_name = "ADDRESS")]
        router_id: Option<Ipv4Addr>,
    },
}

impl Bgp {
    pub(super) fn execute(&self, socket: &Path, output: Format) -> anyhow::Result<ExitCode> {
        match self {
            Bgp::Peers => {
                let answer: Vec<PeerAnswer> = client::get(socket, "/v1/bgp/peers")?;
                print(output, &answer, |answer| peers(answer, output))?;
            }
            Bgp::Routes { prefix, peer, out, inward } => {
                let direction = match (out, inward) {
                    (true, _) => Some("out"),
                    (_, true) => Some("in"),
                    _ => None,
                };
                let asked = [
                    ("prefix", prefix.as_deref()),
                    ("peer", peer.as_deref()),
                    ("direction", direction),
                ];
                let asked = asked.iter().filter_map(|(key, value)| Some((key, (*value)?)));
                let pairs: Vec<String> =
                    asked.map(|(key, value)| format!("{key}={}", escaped(value))).collect();
                let path = format!("/v1/bgp/routes?{}", pairs.join("&"));
                let answer: Vec<PathAnswer> = client::get(socket, &path)?;
                print(output, &answer, |answer| routes(answer, output))?;
                let missing = prefix.is_some() && answer.is_empty();
                return Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS });
            }
            Bgp::Config { store, node, router_id } => {
                let facts = LocalFacts { router_id: *router_id, ..LocalFacts::default() };
                let plan = offline::bgp(store, node, &facts)?;
                print(output, &BgpConfigAnswer::from(&plan), |answer| table(answer, output))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// For a query: everything but letters, digits and a few signs in per cent.
fn escaped(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    let one = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    value.bytes().map(one).collect()
}

fn peers(answer: &[PeerAnswer], output: Format) -> Table {
    let wide = output == Format::Wide;
    let mut table = match wide {
        false => columns(["peer address", "peer type", "state", "since", "info"]),
        true => columns([
            "peer address",
            "peer type",
            "state",
            "since",
            "info",
            "name",
            "as",
            "local as",
            "router id",
            "received",
            "accepted",
            "bfd",
        ]),
    };
    for peer in answer {
        let mut row = vec![
            peer.address.to_string(),
            peer.peer_type.clone(),
            peer.state.clone(),
            peer.since.clone(),
            peer.info.clone(),
        ];
        if wide {
            row.push(peer.name.clone());
            row.push(peer.remote_as.to_string());
            row.push(peer.local_as.to_string());
            row.push(peer.router_id.clone().unwrap_or_default());
            row.push(peer.received.to_string());
            row.push(peer.accepted.to_string());
            row.push(peer.bfd.as_ref().map(BfdAnswer::brief).unwrap_or_default());
        }
        table.add_row(row);
    }
    table
}

fn routes(answer: &[PathAnswer], output: Format) -> Table {
    let wide = output == Format::Wide;
    let mut table = match wide {
        false => columns(["", "prefix", "next hop", "peer", "as path", "why"]),
        true => columns([
            "",
            "prefix",
            "next hop",
            "peer",
            "as path",
            "why",
            "local-pref",
            "med",
            "origin",
            "communities",
        ]),
    };
    for path in answer {
        let mut marks = String::new();
        marks.push(if path.best { '*' } else { ' ' });
        marks.push(if path.used { '>' } else { ' ' });
        marks.push(if path.stale { 'S' } else { ' ' });
        let number = |value: Option<u32>| value.map(|value| value.to_string()).unwrap_or_default();
        let mut row = vec![
            marks,
            path.prefix.to_string(),
            path.next_hop.map_or_else(|| "-".to_owned(), |next_hop| next_hop.to_string()),
            path.peer.clone().unwrap_or_else(|| "(own)".to_owned()),
            path.as_path.clone(),
            path.why.clone(),
        ];
        if wide {
            row.push(number(path.local_pref));
            row.push(number(path.med));
            row.push(path.origin.clone());
            row.push(path.communities.join(" "));
        }
        table.add_row(row);
    }
    table
}

/// One table for all: what a line is, its name, and its facts.
fn table(answer: &BgpConfigAnswer, output: Format) -> Table {
    let mut table = columns(["what", "name", "details"]);
    match &answer.instance {
        None => table.add_row(["instance", "-", "none: the node has no address"]),
        Some(instance) => {
            let listen = match instance.listen.is_empty() {
                true => "all addresses".to_owned(),
                false => instance.listen.join(", "),
            };
            let mut details = vec![
                format!("AS {}", instance.local_as),
                format!("listens on port {} of {listen}", instance.listen_port),
            ];
            details.extend(instance.cluster_id.as_ref().map(|id| format!("cluster id {id}")));
            let id = instance.router_id.as_deref().unwrap_or("no router id");
            table.add_row(["instance", id, &details.join(", ")])
        }
    };
    for (name, session) in &answer.sessions {
        table.add_row(["session", name, &describe(session)]);
        if output == Format::Wide {
            let lists = [("import", &session.import), ("export", &session.export)];
            for (what, rule) in lists
                .into_iter()
                .flat_map(|(what, rules)| rules.iter().map(move |rule| (what, rule)))
            {
                table.add_row([what, name, rule]);
            }
        }
    }
    for (prefix, route) in &answer.advertisements {
        let kind = format!("{:?}", route.kind).to_lowercase();
        let mut details = vec![kind, format!("local-pref {}", route.local_pref)];
        details.extend((!route.exported).then(|| "not exported".to_owned()));
        details.extend(route.communities.iter().map(|one| format!("community {one}")));
        table.add_row(["route", prefix, &details.join(", ")]);
    }
    for (peer, gateway) in &answer.peer_routes {
        table.add_row(["peer route", peer, &format!("via {gateway}")]);
    }
    for fault in &answer.faults {
        table.add_row(["fault", "-", fault]);
    }
    table
}

fn describe(session: &SessionAnswer) -> String {
    let mut words = vec![format!("AS {} port {}", session.remote_as, session.port)];
    let has = |text: &str| text.to_owned();
    words.push(has(if session.remote_as == session.local_as { "iBGP" } else { "eBGP" }));
    words.extend(session.resource.iter().map(|name| format!("BGPPeer {name}")));
    words.extend(session.passive.then(|| has("passive")));
    words.extend(session.source.iter().map(|source| format!("from {source}")));
    words.extend(session.client_of.iter().map(|id| format!("client of {id}")));
    words.extend(session.password.iter().map(|key| format!("password {key}")));
    words.extend(session.ttl_security.map(|hops| format!("TTL security {hops}")));
    words.extend(session.bfd.map(|bfd| {
        let hops = match bfd.hops {
            Hops::Auto => "",
            Hops::Single => " over one hop",
            Hops::Multi => " over several hops",
        };
        format!("BFD {} ms x {}{hops}", bfd.interval_ms, bfd.multiplier)
    }));
    words.extend(session.max_prefixes.map(|most| format!("at most {most} prefixes")));
    words.extend((!session.filters.is_empty()).then(|| session.filters.join(" ")));
    words.extend(session.blocked.iter().map(|reason| format!("NOT STARTED: {reason}")));
    words.join(", ")
}
