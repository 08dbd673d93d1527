//! `margay show`: the state of the running daemon, from its socket.

mod bgp;
mod flows;
mod limits;
mod policy;
mod tables;

use crate::commands::output::{Format, print};
use margay_control::api::client;
use margay_control::config::SOCKET;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show the state of the running daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(subcommand)]
    what: What,
    /// How to print
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Format,
    /// The daemon's Unix socket
    #[arg(long, value_name = "PATH", default_value = SOCKET, global = true)]
    socket: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The node as a whole
    Status,
    /// Ports: how they work and why so, traffic, totals of the kernel
    Ports,
    /// Pods of this node
    Endpoints,
    /// Routes of the packet path
    Routes {
        /// A prefix, or an address whose longest match is wanted
        prefix: Option<String>,
    },
    /// Hosts on the links of the ports
    Neighbors,
    /// What endpoints may send and receive, and what they do
    Limits,
    /// Tunnels to other nodes, and what they carried
    Tunnels,
    /// Threads of the packet path, and what their stages cost
    Workers,
    /// Dropped packets by reason
    Drops,
    /// Rules of this node's endpoints, and how often each has decided
    Policy {
        /// namespace/name of an endpoint, as `show endpoints` has it
        endpoint: Option<String>,
    },
    /// Flows that are tracked; with --delete, ends them
    Flows(flows::Flows),
    /// Translation: outside addresses, ports in use
    Nat,
    /// BGP
    #[command(subcommand)]
    Bgp(bgp::Bgp),
}

impl Show {
    /// Asks and prints.
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let (socket, output) = (&self.socket, self.output);
        let wide = output == Format::Wide;
        match &self.what {
            What::Status => {
                let answer = client::get(socket, "/v1/status")?;
                print(output, &answer, tables::status)?;
            }
            What::Ports => {
                let answer: Vec<_> = client::get(socket, "/v1/ports")?;
                print(output, &answer, |answer| tables::ports(answer, wide))?;
            }
            What::Endpoints => {
                let answer: Vec<_> = client::get(socket, "/v1/endpoints")?;
                print(output, &answer, |answer| tables::endpoints(answer, wide))?;
            }
            What::Routes { prefix } => return self.routes(prefix.as_deref()),
            What::Neighbors => {
                let answer: Vec<_> = client::get(socket, "/v1/neighbors")?;
                print(output, &answer, |answer| tables::neighbors(answer))?;
            }
            What::Limits => {
                let answer: Vec<_> = client::get(socket, "/v1/limits")?;
                print(output, &answer, |answer| limits::table(answer, wide))?;
            }
            What::Tunnels => {
                let answer: Vec<_> = client::get(socket, "/v1/tunnels")?;
                print(output, &answer, |answer| tables::tunnels(answer, wide))?;
            }
            What::Workers => {
                let answer: Vec<_> = client::get(socket, "/v1/workers")?;
                print(output, &answer, |answer| tables::workers(answer, wide))?;
            }
            What::Policy { endpoint } => {
                let path = match endpoint {
                    Some(name) => format!("/v1/policy?endpoint={}", name.replace('/', "%2F")),
                    None => "/v1/policy".to_owned(),
                };
                let answer: Vec<_> = client::get(socket, &path)?;
                print(output, &answer, |answer| policy::table(answer))?;
            }
            What::Bgp(bgp) => return bgp.execute(socket, output),
            What::Flows(flows) => return flows.execute(socket, output),
            What::Nat => {
                let answer = client::get(socket, "/v1/nat")?;
                print(output, &answer, flows::nat)?;
            }
            What::Drops => {
                let answer = client::get(socket, "/v1/drops")?;
                print(output, &answer, tables::drops)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// No route for what was asked for is exit status 1.
    fn routes(&self, prefix: Option<&str>) -> anyhow::Result<ExitCode> {
        let path = match prefix {
            Some(prefix) => format!("/v1/routes?prefix={}", prefix.replace('/', "%2F")),
            None => "/v1/routes".to_owned(),
        };
        let answer: Vec<_> = client::get(&self.socket, &path)?;
        print(self.output, &answer, |answer| tables::routes(answer))?;
        let missing = prefix.is_some() && answer.is_empty();
        Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
