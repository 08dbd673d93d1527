//! A TCP session that says one byte a hundred times a second and notes when it comes back: for
//! telling when a way opens and when it ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::namespace::Namespace;

/// Time between two bytes.
const INTERVAL: Duration = Duration::from_millis(10);
/// How long a call may wait before it looks whether it is to end.
const WAIT: Duration = Duration::from_millis(50);
/// Longest time for the connection.
const CONNECT: Duration = Duration::from_secs(5);

/// A running session.
#[derive(Debug)]
pub struct Conversation {
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<Result<()>>>,
    client: Option<JoinHandle<Result<Vec<Instant>>>>,
}

impl Conversation {
    /// Listens at `target` in `to`, and talks to it from `from`.
    pub fn start(from: &Namespace, to: &Namespace, target: SocketAddr) -> Result<Conversation> {
        let listener = to.enter(|| TcpListener::bind(target).context("cannot listen"))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let server = std::thread::spawn(move || echo(&listener, &flag));
        let (flag, from) = (stop.clone(), from.clone());
        let client = std::thread::spawn(move || from.enter(|| talk(target, &flag)));
        Ok(Conversation { stop, server: Some(server), client: Some(client) })
    }

    /// Ends it; gives when bytes came back.
    pub fn finish(mut self) -> Result<Vec<Instant>> {
        self.stop.store(true, Ordering::Relaxed);
        let gone = |_| anyhow!("a thread of a TCP session has panicked");
        if let Some(server) = self.server.take() {
            server.join().map_err(gone)??;
        }
        self.client.take().map_or(Ok(Vec::new()), |client| client.join().map_err(gone)?)
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // What they would say is of no interest any more.
        self.server.take().map(JoinHandle::join);
        self.client.take().map(JoinHandle::join);
    }
}

fn is_wait(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn echo(listener: &TcpListener, stop: &AtomicBool) -> Result<()> {
    let mut stream: Option<TcpStream> = None;
    let mut bytes = [0; 256];
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = &mut stream else {
            match listener.accept() {
                Ok((accepted, _)) => {
                    accepted.set_nonblocking(false)?;
                    accepted.set_read_timeout(Some(WAIT))?;
                    stream = Some(accepted);
                }
                Err(error) if is_wait(&error) => std::thread::sleep(INTERVAL),
                Err(error) => return Err(error).context("cannot accept"),
            }
            continue;
        };
        match open.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => open.write_all(&bytes[..count])?,
            Err(error) if is_wait(&error) => (),
            // The client's end was first.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

fn talk(target: SocketAddr, stop: &AtomicBool) -> Result<Vec<Instant>> {
    let mut stream = TcpStream::connect_timeout(&target, CONNECT)
        .with_context(|| format!("no TCP session with {target}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(WAIT))?;
    let mut answers = Vec::new();
    let mut byte = [0];
    let mut is_said = false;
    while !stop.load(Ordering::Relaxed) {
        if !is_said {
            stream.write_all(&byte)?;
            is_said = true;
        }
        match stream.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => {
                answers.push(Instant::now());
                is_said = false;
                std::thread::sleep(INTERVAL);
            }
            Err(error) if is_wait(&error) => (),
            // An ICMP error is an end, too.
            Err(_) => break,
        }
    }
    Ok(answers)
}
