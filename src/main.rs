//! The command line of margay: one file per command in `commands/`.
//!
//! A command parses its flags, calls a crate, and prints. Exit status: 0 fine, 1 the thing asked
//! for failed or is denied, 2 wrong usage.

mod commands;

use clap::Parser;
use std::process::ExitCode;

/// A userspace router for Calico networks.
#[derive(Debug, Parser)]
#[command(name = "margay", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command.execute() {
        Ok(status) => status,
        Err(error) => {
            commands::print_error(&error);
            ExitCode::FAILURE
        }
    }
}
