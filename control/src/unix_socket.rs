//! Unix sockets that the daemon listens on: made in the place of a leftover, never in that of a
//! daemon that lives, and gone with whoever serves them.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// A task that serves a socket; ends, and takes the file away, when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Server {
    /// `task` serves the socket at `path`.
    pub(crate) fn new(path: PathBuf, task: JoinHandle<()>) -> Server {
        Server { path, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens at `path`. A leftover is replaced; a socket that somebody answers on is an error.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::other("another daemon answers there"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}
