//! The loop of the thread.

use std::io;
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::sync::mpsc;

use super::handle::{Output, Shared};
use super::{BgpStatus, Options};

/// All that the thread owns.
pub(super) struct Speaker {
    shared: Arc<Shared>,
    outputs: mpsc::Sender<Output>,
    epoll: Epoll,
    restarting: bool,
}

impl Speaker {
    pub(super) fn new(
        options: Options,
        shared: Arc<Shared>,
        outputs: mpsc::Sender<Output>,
    ) -> io::Result<Speaker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&shared.waker, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Speaker { shared, outputs, epoll, restarting: options.restarting })
    }

    /// Runs until it is told to stop.
    pub(super) fn run(&mut self) {
        loop {
            let mut events = [EpollEvent::empty(); 1];
            let _ = self.epoll.wait(&mut events, EpollTimeout::NONE);
            let _ = self.shared.waker.read();
            let inbox = self.shared.take();
            if inbox.stop.is_some() || self.outputs.is_closed() {
                return;
            }
            if let Some(config) = inbox.config {
                let instance = Some(config.instance);
                let status = BgpStatus { instance, holding: self.restarting, ..Default::default() };
                self.shared.status.store(Arc::new(status));
            }
        }
    }
}
