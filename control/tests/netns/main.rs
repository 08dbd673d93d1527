//! Margay against a real kernel, in network namespaces of the tests' own.
//!
//! Each test runs in a thread that enters a new namespace; the threads that it starts are born
//! there. Namespaces end with their threads, so nothing is left behind. Needs root.
#![allow(clippy::unwrap_used)]

mod cni;
mod daemon;
mod etcd;
mod host_policy;
mod kernel;
mod nft;
mod startup;

use std::process::Command;

/// Runs a test in a namespace of its own, with `lo` up.
fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: namespaces need root");
        return;
    }
    let body = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        sh("ip link set lo up");
        runtime.block_on(test());
    };
    std::thread::spawn(body).join().unwrap();
}

/// Runs shell commands in the namespace of the calling thread.
fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {text}");
    String::from_utf8(output.stdout).unwrap()
}
