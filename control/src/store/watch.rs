//! When to look at the directory again: at once on a change, and from time to time.
//!
//! inotify tells of changes; several within a short time are one. A slow poll finds what inotify
//! does not tell (network file systems, a directory that comes later), a faster one stands in
//! where the watch cannot be set at all.

use super::directory::Directory;
use super::{Event, Report};
use notify::{RecursiveMode, Watcher};
use std::time::Duration;
use tokio::sync::mpsc;

/// Quiet time after a change before the directory is looked at.
pub const SETTLE: Duration = Duration::from_millis(30);
/// Longest time that changes in a row put a look off.
pub const SETTLE_MAX: Duration = Duration::from_millis(300);
/// Time between looks without a word from inotify.
pub const POLL: Duration = Duration::from_secs(5);
/// The same where inotify does not work.
pub const POLL_ALONE: Duration = Duration::from_secs(1);
/// Batches that may wait for the control loop.
const QUEUE: usize = 4;

/// The changes of one look at the store. The first batch is the whole content.
#[derive(Debug)]
pub struct Batch {
    /// What changed.
    pub events: Vec<Event>,
    /// State and faults after it.
    pub report: Report,
    /// The whole store has been read once; before that, what is missing is not known to be gone.
    pub known: bool,
}

/// Watches the directory in a task of the current runtime until the receiver is dropped.
pub fn start(directory: Directory) -> mpsc::Receiver<Batch> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(run(directory, sender));
    receiver
}

async fn run(mut directory: Directory, sender: mpsc::Sender<Batch>) {
    let (wake, mut woken) = mpsc::channel::<()>(1);
    let mut watcher = Watch { wake, watcher: None };
    let mut first = true;
    loop {
        let poll = if watcher.ensure(&directory) { POLL } else { POLL_ALONE };
        let before = directory.report().clone();
        let events = tokio::task::block_in_place(|| directory.scan());
        let (report, known) = (directory.report().clone(), directory.is_known());
        for fault in report.faults.iter().filter(|fault| !before.faults.contains(fault)) {
            let line = fault.line;
            tracing::warn!(file = %fault.file, line, "{} ({})", fault.what, fault.mend);
        }
        if first || !events.is_empty() || report != before {
            first = false;
            if sender.send(Batch { events, report, known }).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sender.closed() => return,
            changed = tokio::time::timeout(poll, woken.recv()) => {
                if changed.is_ok() {
                    settle(&mut woken).await;
                }
            }
        }
    }
}

async fn settle(woken: &mut mpsc::Receiver<()>) {
    let end = tokio::time::Instant::now() + SETTLE_MAX;
    while tokio::time::Instant::now() < end {
        if tokio::time::timeout(SETTLE, woken.recv()).await.is_err() {
            return;
        }
    }
}

struct Watch {
    wake: mpsc::Sender<()>,
    watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    /// Sets the watch if it is not set; true when it is.
    fn ensure(&mut self, directory: &Directory) -> bool {
        if self.watcher.is_some() {
            if directory.path().exists() {
                return true;
            }
            self.watcher = None;
        }
        let wake = self.wake.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let reads = event.as_ref().is_ok_and(|event| event.kind.is_access());
            let closed = event.as_ref().is_ok_and(is_close_after_write);
            if !reads || closed {
                let _ = wake.try_send(());
            }
        });
        let Ok(mut watcher) = watcher else { return false };
        if watcher.watch(directory.path(), RecursiveMode::Recursive).is_ok() {
            self.watcher = Some(watcher);
        }
        self.watcher.is_some()
    }
}

/// Opening and reading a file wakes nobody, or each scan would wake the next.
fn is_close_after_write(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}
