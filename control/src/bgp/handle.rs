//! How the rest of margay speaks with the thread of BGP: wants go in by a letter box in which the
//! newest wins, results come out of a short queue, and the status is a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use margay_bgp::session::StopReason;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{mpsc, oneshot};

use super::{BgpConfig, BgpStatus, Change, Direction, RouteView};

/// Most questions that wait for an answer.
pub const MAX_QUESTIONS: usize = 64;
/// Most batches that wait for whoever takes them.
pub const MAX_OUTPUTS: usize = 8;
/// Most changes in a batch.
pub const MAX_CHANGES: usize = 1024;

/// What the thread has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Best paths have changed: the newest state of each prefix.
    Changes(Vec<Change>),
    /// `true`: tell the metric of this next hop by [`Handle::set_next_hops`], now and when it
    /// changes; `false`: no longer.
    NextHops(Vec<(IpAddr, bool)>),
}

/// Which routes to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteQuery {
    /// These only.
    pub prefix: Option<IpNet>,
    /// And what lies inside of it.
    pub longer: bool,
    /// Those of one peer, by name.
    pub peer: Option<String>,
    /// Where to look.
    pub direction: Direction,
    /// Most routes to answer.
    pub most: usize,
}

/// A question, and where its answer goes.
pub(super) type Question = (RouteQuery, oneshot::Sender<Vec<RouteView>>);

/// What the thread has yet to look at.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) config: Option<BgpConfig>,
    pub(super) next_hops: BTreeMap<IpAddr, Option<u32>>,
    pub(super) resets: BTreeSet<String>,
    pub(super) questions: Vec<Question>,
    pub(super) stop: Option<StopReason>,
}

/// What both sides hold.
#[derive(Debug)]
pub(super) struct Shared {
    inbox: Mutex<Inbox>,
    pub(super) waker: EventFd,
    pub(super) status: ArcSwap<BgpStatus>,
}

impl Shared {
    pub(super) fn new() -> io::Result<Arc<Shared>> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Arc::new(Shared {
            inbox: Mutex::default(),
            waker: EventFd::from_flags(flags)?,
            status: ArcSwap::default(),
        }))
    }

    fn put<T>(&self, put: impl FnOnce(&mut Inbox) -> T) -> T {
        let result = put(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake();
        result
    }

    pub(super) fn wake(&self) {
        // Fails only when the counter is full, and then the thread is about to wake anyway.
        let _ = self.waker.write(1);
    }

    /// All that has come.
    pub(super) fn take(&self) -> Inbox {
        std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The thread of BGP. It ends when this is dropped.
#[derive(Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Wants this from now on. Of several, the thread may see the last only.
    pub fn apply(&self, config: BgpConfig) {
        self.shared.put(|inbox| inbox.config = Some(config));
    }

    /// Metrics of next hops; `None` for one that cannot be reached.
    pub fn set_next_hops(&self, next_hops: Vec<(IpAddr, Option<u32>)>) {
        self.shared.put(|inbox| inbox.next_hops.extend(next_hops));
    }

    /// Ends the session with a peer, which then comes back.
    pub fn reset(&self, peer: &str) {
        self.shared.put(|inbox| inbox.resets.insert(peer.to_owned()));
    }

    /// How it does; at most a second old.
    pub fn status(&self) -> Arc<BgpStatus> {
        self.shared.status.load_full()
    }

    /// Routes to show; `None` when too many questions wait, or the thread has ended.
    pub async fn query_routes(&self, query: RouteQuery) -> Option<Vec<RouteView>> {
        let (answer, answered) = oneshot::channel();
        let question = (query, answer);
        let is_asked = self.shared.put(|inbox| {
            let has_room = inbox.questions.len() < MAX_QUESTIONS;
            if has_room {
                inbox.questions.push(question);
            }
            has_room
        });
        if is_asked { answered.await.ok() } else { None }
    }

    /// Ends all sessions and the thread, and waits for it: a second or so at most.
    pub fn stop(mut self, reason: StopReason) {
        self.end(reason);
    }

    fn end(&mut self, reason: StopReason) {
        if let Some(thread) = self.thread.take() {
            self.shared.put(|inbox| inbox.stop = Some(reason));
            // A panic over there has been told on its own.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end(StopReason::Restart);
    }
}

/// Where results come out, for one owner.
#[derive(Debug)]
pub struct Outputs {
    pub(super) receiver: mpsc::Receiver<Output>,
    pub(super) shared: Arc<Shared>,
}

impl Outputs {
    /// The next one; `None` when the thread has ended. Who is slow misses nothing but states
    /// between.
    pub async fn next(&mut self) -> Option<Output> {
        let output = self.receiver.recv().await;
        self.shared.wake();
        output
    }

    /// The same, for who has to wait in a plain thread.
    pub fn blocking_next(&mut self) -> Option<Output> {
        let output = self.receiver.blocking_recv();
        self.shared.wake();
        output
    }
}
