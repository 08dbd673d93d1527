//! IPAM by another plugin: `ipam.type` names a binary in `CNI_PATH`, which gets the same call.

use super::answer::{self, CniError};
use super::{Call, answer::addresses_of};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Has the plugin take addresses.
pub(super) fn add(kind: &str, call: &Call) -> Result<Vec<IpAddr>, CniError> {
    let text = run(kind, call, "ADD")?;
    let bad = |error| CniError::new(answer::BAD_JSON, format!("the answer of {kind}: {error}"));
    let result = serde_json::from_str(&text).map_err(bad)?;
    match addresses_of(&result) {
        found if found.is_empty() => {
            Err(CniError::new(answer::NO_ADDRESS, format!("{kind} gave no address")))
        }
        found => Ok(found),
    }
}

/// Has the plugin give them back.
pub(super) fn del(kind: &str, call: &Call) -> Result<(), CniError> {
    run(kind, call, "DEL").map(drop)
}

fn find(kind: &str, call: &Call) -> Result<PathBuf, CniError> {
    let plain = !kind.is_empty() && !kind.contains('/');
    let mut folders = call.path.split(':').filter(|folder| !folder.is_empty());
    let found = folders.find_map(|folder| {
        let path = Path::new(folder).join(kind);
        path.is_file().then_some(path)
    });
    let what = || format!("the IPAM plugin '{kind}' is in no folder of CNI_PATH ({})", call.path);
    found.filter(|_| plain).ok_or_else(|| CniError::new(answer::BAD_CONFIG, what()))
}

fn run(kind: &str, call: &Call, command: &str) -> Result<String, CniError> {
    let path = find(kind, call)?;
    let failed =
        |error: std::io::Error| CniError::new(answer::IO, format!("{}: {error}", path.display()));
    let mut child = Command::new(&path)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &call.container)
        .env("CNI_NETNS", &call.netns)
        .env("CNI_IFNAME", &call.ifname)
        .env("CNI_ARGS", &call.args)
        .env("CNI_PATH", &call.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(call.stdin.as_bytes()) {
            // It may do without the configuration.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            written => written.map_err(failed)?,
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let error: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let why = error["msg"].as_str().unwrap_or(text.trim());
    Err(CniError::new(answer::NO_ADDRESS, format!("{kind}: {why}")))
}
