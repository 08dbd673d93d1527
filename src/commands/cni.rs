//! The CNI plugins: margay under the name `calico` or `calico-ipam`.
//!
//! The runtime speaks by variables and standard input, and reads JSON from standard output; errors
//! are JSON too, with exit status 1.

use margay_control::cni::{self, Call, Plugin};
use std::io::Read;
use std::process::ExitCode;

/// The plugin that a program of this name is, if it is one.
pub(crate) fn plugin(name: &str) -> Option<Plugin> {
    match name {
        "calico" => Some(Plugin::Network),
        "calico-ipam" => Some(Plugin::Ipam),
        _ => None,
    }
}

/// Serves the call that the environment and standard input are.
pub(crate) fn execute(plugin: Plugin) -> anyhow::Result<ExitCode> {
    if std::env::args().nth(1).is_some_and(|word| word == "-v" || word == "--version") {
        println!("{}", env!("CARGO_PKG_VERSION"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut stdin = String::new();
    std::io::stdin().read_to_string(&mut stdin)?;
    let call = Call::new(&|name| std::env::var(name).ok(), stdin);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (text, fine) = runtime.block_on(cni::serve(plugin, &call));
    if !text.is_empty() {
        println!("{text}");
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
