//! `margay show bgp config`: the BGP that a node would have, from a directory of resources.

use crate::commands::output::{Format, columns, print};
use comfy_table::Table;
use margay_control::api::bgp_config::{BgpConfigAnswer, SessionAnswer};
use margay_control::offline;
use margay_control::resolve::bgp::LocalFacts;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Bgp {
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
    pub(super) fn execute(&self, output: Format) -> anyhow::Result<ExitCode> {
        let Bgp::Config { store, node, router_id } = self;
        let facts = LocalFacts { router_id: *router_id, ..LocalFacts::default() };
        let plan = offline::bgp(store, node, &facts)?;
        print(output, &BgpConfigAnswer::from(&plan), |answer| table(answer, output))?;
        Ok(ExitCode::SUCCESS)
    }
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
    words.extend(session.bfd.map(|bfd| format!("BFD {} ms x {}", bfd.interval_ms, bfd.multiplier)));
    words.extend((!session.filters.is_empty()).then(|| session.filters.join(" ")));
    words.extend(session.blocked.iter().map(|reason| format!("NOT STARTED: {reason}")));
    words.join(", ")
}
