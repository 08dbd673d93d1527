//! A TCP server that tells every client its name and as whom it sees the client, and the client's
//! side: for telling who answers, and what is translated on the way.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::namespace::Namespace;

/// Time between two looks for news.
const TICK: Duration = Duration::from_millis(2);
/// Longest time for a connection, and for an answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Longest line.
const MAX_LINE: usize = 256;

/// A running server. A client that sends a byte gets `NAME again`.
#[derive(Debug)]
pub struct Greeter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Greeter {
    /// Listens at `at` in `namespace`.
    pub fn start(namespace: &Namespace, at: SocketAddr, name: &str) -> Result<Greeter> {
        let listener = namespace.enter(|| TcpListener::bind(at).context("cannot listen"))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, name) = (stop.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut clients = Vec::new();
            while !flag.load(Ordering::Relaxed) {
                if let Ok((stream, from)) = listener.accept() {
                    clients.extend(greet(stream, from, &name).ok());
                }
                clients.retain_mut(|client| again(client, &name).is_ok());
                std::thread::sleep(TICK);
            }
        });
        Ok(Greeter { stop, thread: Some(thread) })
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that has panicked has said so.
        self.thread.take().map(JoinHandle::join);
    }
}

fn greet(mut stream: TcpStream, from: SocketAddr, name: &str) -> std::io::Result<TcpStream> {
    stream.write_all(format!("{name} {}\n", from.ip()).as_bytes())?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// An error once the client has gone.
fn again(client: &mut TcpStream, name: &str) -> std::io::Result<()> {
    match client.read(&mut [0; 8]) {
        Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => client.write_all(format!("{name} again\n").as_bytes()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// A connection to whoever serves at `at`.
pub fn connect(from: &Namespace, at: SocketAddr) -> Result<TcpStream> {
    let connect = || {
        TcpStream::connect_timeout(&at, LIMIT).with_context(|| format!("no connection with {at}"))
    };
    let stream = from.enter(connect)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// One line of a server's.
pub fn line(stream: &mut TcpStream) -> Result<String> {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with('\n') {
        ensure!(text.len() < MAX_LINE, "a line without end: {text}");
        stream.read_exact(&mut byte).context("no answer")?;
        text.push(char::from(byte[0]));
    }
    Ok(text.trim().to_owned())
}

/// Who answers, and as whom it sees the client.
pub fn ask(from: &Namespace, at: SocketAddr) -> Result<(String, IpAddr)> {
    let text = line(&mut connect(from, at)?)?;
    let (name, client) = text.split_once(' ').with_context(|| format!("no greeting: {text}"))?;
    Ok((name.to_owned(), client.parse().with_context(|| format!("no address: {client}"))?))
}
