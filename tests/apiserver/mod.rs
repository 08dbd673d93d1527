//! A stand-in for the API server of Kubernetes, for tests: real HTTP with list, watch,
//! resourceVersion, 409 and 410, paging, bookmarks, patches, `status` subresources, discovery for
//! kubectl, and the rights of calico-node for who comes with its token.
//!
//! It keeps what it is sent in memory and runs nothing: Pods stay as they were written, and the
//! clock of `creationTimestamp` stands still. Left out: schemas, tables, admission, CBOR, server
//! side apply's owners of fields, selectors other than of equality.

mod kinds;
mod request;
mod rights;
mod state;
mod watch;

pub(crate) use state::State;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// A server that runs until it is dropped: then its connections break, as when it is killed.
pub(crate) struct ApiServer {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    #[allow(dead_code, reason = "not every user of this folder reads it")]
    pub(crate) address: SocketAddr,
}

impl ApiServer {
    /// Serves a state, which outlives the server, on a socket.
    pub(crate) fn start(listener: TcpListener, state: &Arc<State>) -> ApiServer {
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel();
        let app = request::app(state.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            runtime.block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    outcome = axum::serve(listener, app).into_future() => outcome.unwrap(),
                    _ = ended => {}
                }
            });
        });
        ApiServer { end: Some(end), thread: Some(thread), address }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.end.take());
        self.thread.take().map(JoinHandle::join);
    }
}
