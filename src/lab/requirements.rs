//! What a machine must have for the lab: root, and tools that packages bring.

use std::path::Path;

use anyhow::{Result, bail};
use nix::unistd::Uid;

/// A program, and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The program's name.
    pub program: &'static str,
    /// The package's name.
    pub package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// What building a network takes.
pub const NETWORK: &[Tool] = &[tool("ip", "iproute2"), tool("setpriv", "util-linux")];

/// What the steps of `margay lab` take besides.
pub const STEPS: &[Tool] =
    &[tool("ping", "iputils-ping"), tool("iperf3", "iperf3"), tool("traceroute", "traceroute")];

/// An error that names everything missing and how to get it.
pub fn check(tools: &[Tool]) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("it makes network namespaces, which needs root: run it with sudo");
    }
    let missing: Vec<Tool> = tools.iter().copied().filter(|tool| !is_installed(*tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list =
        |pick: fn(&Tool) -> &'static str| missing.iter().map(pick).collect::<Vec<_>>().join(" ");
    let (programs, packages) = (list(|tool| tool.program), list(|tool| tool.package));
    bail!("not installed: {programs}; on Debian: apt-get install {packages}")
}

fn is_installed(tool: Tool) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places = path.split(':').chain(["/usr/sbin", "/sbin"]);
    places.any(|place| Path::new(place).join(tool.program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        if !Uid::effective().is_root() {
            println!("SKIPPED: not root");
            return;
        }
        let error = check(&[tool("sh", "dash"), tool("no-such-tool", "some-package")]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no-such-tool") && text.contains("apt-get install some-package"));
        assert!(!text.contains("dash"), "{text}");
    }
}
