//! A peer of BGP that keeps a session with a short hold time, and nothing else: what it sees is
//! whether the other side is there in time.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use margay::lab::namespace::Namespace;

/// Its AS.
pub(crate) const ASN: u16 = 65_010;
/// The hold time that it asks for, in seconds: the least that there is (RFC 4271 4.2).
pub(crate) const HOLD_S: u16 = 3;
const KEEPALIVE: Duration = Duration::from_secs(1);
const OPEN: u8 = 1;
const KEEPALIVE_TYPE: u8 = 4;

/// A speaker. Its sessions are counted as they come up and end.
pub(crate) struct Speaker {
    stop: Arc<AtomicBool>,
    begun: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Speaker {
    /// Waits for sessions at an address of a namespace.
    pub(crate) fn start(namespace: &Namespace, at: SocketAddr) -> Speaker {
        let listener = namespace.enter(|| Ok(TcpListener::bind(at)?)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop: Arc<AtomicBool> = Arc::default();
        let (begun, ended): (Arc<AtomicU64>, Arc<AtomicU64>) = (Arc::default(), Arc::default());
        let (stops, begins, ends) = (stop.clone(), begun.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            while !stops.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let before = begins.load(Ordering::Relaxed);
                speak(stream, &stops, &begins).ok();
                if !stops.load(Ordering::Relaxed) && begins.load(Ordering::Relaxed) > before {
                    ends.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Speaker { stop, begun, ended, thread: Some(thread) }
    }

    /// Sessions that have come up, and those of them that have ended.
    pub(crate) fn sessions(&self) -> (u64, u64) {
        (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().ok();
    }
}

/// One session, until it ends or nobody wants it any more.
fn speak(mut stream: TcpStream, stop: &AtomicBool, begun: &AtomicU64) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut body = vec![4];
    body.extend(ASN.to_be_bytes());
    body.extend(HOLD_S.to_be_bytes());
    body.extend([192, 0, 2, 77, 0]);
    stream.write_all(&message(OPEN, &body))?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let (mut sent, mut heard, mut is_up) = (Instant::now(), Instant::now(), false);
    stream.write_all(&message(KEEPALIVE_TYPE, &[]))?;
    while !stop.load(Ordering::Relaxed) {
        if sent.elapsed() >= KEEPALIVE {
            stream.write_all(&message(KEEPALIVE_TYPE, &[]))?;
            sent = Instant::now();
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => bytes.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        while let Some(kind) = next(&mut bytes) {
            heard = Instant::now();
            if kind == KEEPALIVE_TYPE && !std::mem::replace(&mut is_up, true) {
                begun.fetch_add(1, Ordering::Relaxed);
            }
        }
        // RFC 4271 6.5: nothing for as long as the hold time.
        if heard.elapsed() >= Duration::from_secs(HOLD_S.into()) {
            return Ok(());
        }
    }
    Ok(())
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend((19 + body.len() as u16).to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// Takes the next message off; its type.
fn next(bytes: &mut Vec<u8>) -> Option<u8> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(16)?, *bytes.get(17)?]));
    if length < 19 || bytes.len() < length {
        return None;
    }
    let kind = bytes[18];
    bytes.drain(..length);
    Some(kind)
}
