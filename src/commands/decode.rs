//! `margay decode`: one message or frame, given as hex, as JSON.
//!
//! Stateless: needs no daemon, no root and no configuration. With `--batch` each line of standard
//! input is an object `{"hex": "..."}`, with a `"session"` beside it for BGP, and each answer is
//! one line of standard output, in order.

mod bgp;
mod layers;
mod packet;
mod transport;
mod update;

use super::batch;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::process::ExitCode;

/// Longest input, in bytes of the frame: a super-packet and its Ethernet header.
const MAX_BYTES: usize = 65_536 + 14;

/// Flags of `margay decode`.
#[derive(Debug, clap::Args)]
pub(crate) struct Decode {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// One Ethernet frame, layer by layer.
    Packet(Input),
    /// One BGP message.
    Bgp {
        #[command(flatten)]
        input: Input,
        /// What the speakers have agreed on, as in {"asn4":false,"addpath":[[1,1]]}.
        #[arg(long, value_name = "JSON", conflicts_with = "batch", value_parser = session)]
        session: Option<bgp::Session>,
    },
}

fn session(text: &str) -> Result<bgp::Session, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[derive(Debug, clap::Args)]
struct Input {
    /// The bytes in hex; blanks, colons and a leading 0x are passed over.
    #[arg(required_unless_present = "batch")]
    hex: Option<String>,
    /// Read {"hex":"..."} objects from standard input, one a line; for BGP with a "session".
    #[arg(long, conflicts_with = "hex")]
    batch: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    hex: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BgpLine {
    hex: String,
    #[serde(default)]
    session: bgp::Session,
}

/// What is wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Malformed {
    /// A stable word for scripts; the data path's drop reason where it has one.
    code: &'static str,
    /// The layer that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<&'static str>,
    /// Where that layer begins, in bytes from the start of the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<usize>,
    /// What a router does with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    treatment: Option<&'static str>,
    detail: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer<T, E> {
    Decoded(T),
    Malformed { error: E },
    BadLine { error: String },
}

type PacketAnswer = Answer<packet::Decoded, Malformed>;
type BgpAnswer = Answer<serde_json::Value, bgp::Malformed>;

impl Decode {
    /// Exit status 1 when the input is malformed; a batch goes on after bad lines.
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Packet(Input { hex: Some(hex), .. }) => single(&answer(&hex)),
            What::Packet(_) => batches(|line: Line| answer(&line.hex)),
            What::Bgp { input: Input { hex: Some(hex), .. }, session } => {
                single(&bgp_answer(&hex, &session.unwrap_or_default()))
            }
            What::Bgp { .. } => batches(|line: BgpLine| bgp_answer(&line.hex, &line.session)),
        }
    }
}

fn single<T: Serialize, E: Serialize>(answer: &Answer<T, E>) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, answer)?;
    writeln!(out)?;
    let fine = matches!(answer, Answer::Decoded(_));
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn batches<L: DeserializeOwned, T: Serialize, E: Serialize>(
    answer: impl Fn(L) -> Answer<T, E>,
) -> anyhow::Result<ExitCode> {
    batch::run(std::io::stdin().lock(), &mut std::io::stdout().lock(), answer)?;
    Ok(ExitCode::SUCCESS)
}

fn answer(hex: &str) -> PacketAnswer {
    match bytes_of(hex).and_then(|bytes| packet::decode(&bytes)) {
        Ok(decoded) => Answer::Decoded(decoded),
        Err(error) => Answer::Malformed { error },
    }
}

fn bgp_answer(hex: &str, session: &bgp::Session) -> BgpAnswer {
    let bytes = match bytes_of(hex) {
        Ok(bytes) => bytes,
        Err(error) => return Answer::BadLine { error: error.detail },
    };
    match bgp::decode(&bytes, session) {
        Ok(decoded) => Answer::Decoded(decoded),
        Err(error) => Answer::Malformed { error },
    }
}

fn bytes_of(hex: &str) -> Result<Vec<u8>, Malformed> {
    let bad = |detail: String| Malformed {
        code: "hex-invalid",
        layer: None,
        offset: None,
        treatment: None,
        detail,
    };
    let hex = hex.trim();
    let hex = hex.strip_prefix("0x").or_else(|| hex.strip_prefix("0X")).unwrap_or(hex);
    let mut bytes = Vec::new();
    let mut high = None;
    for (at, letter) in hex.chars().enumerate() {
        if letter.is_ascii_whitespace() || letter == ':' {
            continue;
        }
        let digit = letter
            .to_digit(16)
            .ok_or_else(|| bad(format!("{letter:?} at character {at} is no hex digit")))?;
        match high.take() {
            None => high = Some(digit),
            Some(first) => bytes.push((first << 4 | digit) as u8),
        }
        if bytes.len() > MAX_BYTES {
            return Err(bad(format!("longer than {MAX_BYTES} bytes")));
        }
    }
    match high {
        Some(_) => Err(bad("an odd number of hex digits".into())),
        None if bytes.is_empty() => Err(bad("no bytes".into())),
        None => Ok(bytes),
    }
}

#[cfg(test)]
mod tests;
