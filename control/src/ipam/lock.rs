//! The lock that Calico's own programs take while they allocate on this host.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::Duration;

/// Where it is.
pub(crate) const LOCK: &str = "/var/run/calico/ipam.lock";
/// Longest wait for it.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The host's lock, where there is one; allocation goes on without it after a while.
pub(crate) async fn take(path: &Path) -> Option<Flock<File>> {
    let mut file = OpenOptions::new().create(true).append(true).open(path).ok()?;
    let end = tokio::time::Instant::now() + LOCK_WAIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err(_) if tokio::time::Instant::now() > end => return None,
            Err((unlocked, _)) => file = unlocked,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
