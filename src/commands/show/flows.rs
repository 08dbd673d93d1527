//! `margay show flows` and `margay show nat`.

use crate::commands::output::{Format, columns, print};
use comfy_table::Table;
use margay_control::api::client;
use margay_control::api::flows::{EndedAnswer, FlowAnswer, TupleAnswer};
use margay_control::api::nat::NatAnswer;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

/// Which flows, and whether they are to end
#[derive(Debug, clap::Args)]
pub(super) struct Flows {
    /// With this address on any side
    #[arg(long)]
    address: Option<IpAddr>,
    /// Begun by this address
    #[arg(long)]
    src: Option<IpAddr>,
    /// To this address, before or after translation
    #[arg(long)]
    dst: Option<IpAddr>,
    /// With this port on any side
    #[arg(long)]
    port: Option<u16>,
    /// tcp, udp, icmp, icmpv6, sctp or a number
    #[arg(long)]
    protocol: Option<String>,
    /// In this state, such as ESTABLISHED
    #[arg(long)]
    state: Option<String>,
    /// Only those that are translated, or are not
    #[arg(long, value_name = "BOOL")]
    translated: Option<bool>,
    /// Flows at most
    #[arg(long, default_value_t = margay_control::api::flows::USUAL_LIMIT)]
    limit: usize,
    /// End them instead of showing them
    #[arg(long)]
    delete: bool,
}

impl Flows {
    fn path(&self) -> String {
        let text = |value: &Option<IpAddr>| value.map(|address| address.to_string());
        let pairs = [
            ("address", text(&self.address)),
            ("src", text(&self.src)),
            ("dst", text(&self.dst)),
            ("port", self.port.map(|port| port.to_string())),
            ("protocol", self.protocol.clone()),
            ("state", self.state.clone()),
            ("translated", self.translated.map(|value| value.to_string())),
            ("limit", Some(self.limit.to_string())),
        ];
        let said = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let words: Vec<String> = said
            .map(|(name, value)| format!("{name}={}", value.replace([' ', '&', '#', '%'], "+")))
            .collect();
        format!("/v1/flows?{}", words.join("&"))
    }

    /// Nothing to end is exit status 1.
    pub(super) fn execute(&self, socket: &Path, output: Format) -> anyhow::Result<ExitCode> {
        if self.delete {
            let answer: EndedAnswer = client::delete(socket, &self.path())?;
            print(output, &answer, |answer| {
                let mut table = columns(["ended"]);
                table.add_row([answer.ended.to_string()]);
                table
            })?;
            let none = answer.ended == 0;
            return Ok(if none { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        let answer: Vec<FlowAnswer> = client::get(socket, &self.path())?;
        print(output, &answer, |answer| flows(answer, output == Format::Wide))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn endpoint(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn ends(tuple: &TupleAnswer) -> [String; 2] {
    [endpoint(tuple.src, tuple.src_port), endpoint(tuple.dst, tuple.dst_port)]
}

const COLUMNS: [&str; 8] =
    ["protocol", "state", "from", "to", "answers from", "answers to", "packets", "timeout"];
const WIDE_COLUMNS: [&str; 4] = ["bytes", "assured", "worker", "tier"];

fn flows(answer: &[FlowAnswer], wide: bool) -> Table {
    let headings = COLUMNS.into_iter().chain(WIDE_COLUMNS.into_iter().filter(|_| wide));
    let mut table = columns(headings);
    for flow in answer {
        let mut row = vec![flow.protocol.clone(), flow.state.clone()];
        row.extend(ends(&flow.original));
        row.extend(if flow.translated { ends(&flow.reply) } else { ["-".into(), "-".into()] });
        row.push(format!("{}/{}", flow.packets[0], flow.packets[1]));
        row.push(format!("{} s", flow.timeout_seconds));
        if wide {
            row.push(flow.bytes.to_string());
            row.push(if flow.assured { "yes" } else { "no" }.to_owned());
            row.push(flow.worker.to_string());
            row.push(flow.tier.clone());
        }
        table.add_row(row);
    }
    table
}

pub(super) fn nat(answer: &NatAnswer) -> Table {
    let mut table = columns(["what", "value"]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("enabled", if answer.enabled { "yes" } else { "no" }.to_owned());
    row("natOutgoing", if answer.nat_outgoing { "yes" } else { "no" }.to_owned());
    row("frontends of services", answer.frontends.to_string());
    for outside in &answer.outside {
        let used: Vec<String> =
            outside.used.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let [first, last] = outside.ports;
        let whose = if outside.is_host { ", shared with the host" } else { "" };
        let used = if used.is_empty() { "none".to_owned() } else { used.join(", ") };
        row(
            &format!("outside {}", outside.address),
            format!("ports {first} to {last}{whose}; in use: {used}"),
        );
    }
    row("flows", format!("{} of {}, {} bytes", answer.flows, answer.flows_max, answer.bytes));
    row("made", answer.made.to_string());
    row("expired", answer.expired.to_string());
    row("gave way", answer.gave_way.to_string());
    row("refused", answer.refused.to_string());
    row("ports exhausted", answer.ports_exhausted.to_string());
    row("fragments waiting", answer.fragments_waiting.to_string());
    table
}
