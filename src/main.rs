//! The command line of margay: one file per command in `commands/`.
//!
//! A command parses its flags, calls a crate, and prints. Exit status: 0 fine, 1 the thing asked
//! for failed or is denied, 2 wrong usage.

mod commands;

use clap::Parser;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// A userspace router for Calico networks.
#[derive(Debug, Parser)]
#[command(name = "margay", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: commands::Command,
}

/// The name that the binary was called by.
fn name() -> String {
    let word = std::env::args_os().next().unwrap_or_default();
    Path::new(&word).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The command line; a binary called `calicoctl` is `margay ctl`.
fn words() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    if name() == "calicoctl" {
        words.insert(1, "ctl".into());
    }
    words
}

fn main() -> ExitCode {
    let outcome = match commands::cni::plugin(&name()) {
        Some(plugin) => commands::cni::execute(plugin),
        None => Arguments::parse_from(words()).command.execute(),
    };
    match outcome {
        Ok(status) => status,
        Err(error) => {
            commands::print_error(&error);
            ExitCode::FAILURE
        }
    }
}
