//! Small traffic with a memory: when each answer came. For tests of how long something is away.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use margay::lab::namespace::Namespace;

/// How often a probe asks.
const INTERVAL: Duration = Duration::from_millis(10);
/// How long a socket call may wait.
const WAIT: Duration = Duration::from_millis(200);

/// Echoes until dropped.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Sends every datagram to `address`, port `port`, back.
    pub(crate) fn udp(namespace: &Namespace, address: IpAddr, port: u16) -> Echo {
        Echo::start(namespace, move |stop| {
            let socket = UdpSocket::bind((address, port)).unwrap();
            socket.set_read_timeout(Some(WAIT)).unwrap();
            let mut bytes = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                    // Unreachable for a while is what the test is about.
                    socket.send_to(&bytes[..len], from).ok();
                }
            }
        })
    }

    /// Sends every byte of one TCP session to `address`, port `port`, back.
    pub(crate) fn tcp(namespace: &Namespace, address: IpAddr, port: u16) -> Echo {
        Echo::start(namespace, move |stop| {
            let (mut stream, _) = TcpListener::bind((address, port)).unwrap().accept().unwrap();
            stream.set_read_timeout(Some(WAIT)).unwrap();
            let mut bytes = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                match stream.read(&mut bytes) {
                    Ok(0) => break,
                    Ok(len) => stream.write_all(&bytes[..len]).unwrap(),
                    Err(_) => (),
                }
            }
        })
    }

    fn start(namespace: &Namespace, work: impl FnOnce(&AtomicBool) + Send + 'static) -> Echo {
        let stop = Arc::new(AtomicBool::new(false));
        let (namespace, flag) = (namespace.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let work = || {
                work(&flag);
                Ok(())
            };
            namespace.enter(work).unwrap();
        });
        // The first questions may come before it listens: they are asked again.
        Echo { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// When answers came, in their order.
pub(crate) struct Answers {
    asked: usize,
    times: Vec<Instant>,
}

impl Answers {
    pub(crate) fn count(&self) -> usize {
        self.times.len()
    }

    /// How many questions there were.
    pub(crate) fn asked(&self) -> usize {
        self.asked
    }

    /// Questions without an answer.
    pub(crate) fn lost(&self) -> usize {
        self.asked - self.times.len()
    }

    /// The longest time between two answers.
    pub(crate) fn longest_gap(&self) -> Duration {
        let gaps = self.times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or(Duration::MAX)
    }

    /// What came at `time` and later.
    pub(crate) fn since(&self, time: Instant) -> Answers {
        let times: Vec<Instant> = self.times.iter().copied().filter(|at| *at >= time).collect();
        Answers { asked: times.len(), times }
    }

    /// The first answer after `time`.
    pub(crate) fn first_after(&self, time: Instant) -> Option<Instant> {
        self.times.iter().copied().find(|answer| *answer > time)
    }
}

/// Asks until told to end.
pub(crate) struct Asker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Answers>,
}

impl Asker {
    /// Datagrams from `namespace` to `target`; lost ones are not asked for again.
    pub(crate) fn udp(namespace: &Namespace, target: SocketAddr) -> Asker {
        Asker::start(namespace, move |stop| {
            let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            let (mut asked, mut times) = (0, Vec::new());
            let mut bytes = [0; 64];
            let mut hear = |for_time: Duration| {
                std::thread::sleep(for_time);
                while socket.recv(&mut bytes).is_ok() {
                    times.push(Instant::now());
                }
            };
            while !stop.load(Ordering::Relaxed) {
                // Refused and unreachable are states in between.
                socket.send_to(b"are you there", target).ok();
                asked += 1;
                hear(INTERVAL);
            }
            hear(WAIT);
            Answers { asked, times }
        })
    }

    /// One TCP session from `namespace` to `target`, which must live to the end.
    pub(crate) fn tcp(namespace: &Namespace, target: SocketAddr) -> Asker {
        Asker::start(namespace, move |stop| {
            let mut stream = connect(target);
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut answers = Vec::new();
            let mut byte = [0];
            while !stop.load(Ordering::Relaxed) {
                stream.write_all(&byte).unwrap();
                stream.read_exact(&mut byte).unwrap();
                answers.push(Instant::now());
                std::thread::sleep(INTERVAL);
            }
            Answers { asked: answers.len(), times: answers }
        })
    }

    fn start(
        namespace: &Namespace,
        work: impl FnOnce(&AtomicBool) -> Answers + Send + 'static,
    ) -> Asker {
        let stop = Arc::new(AtomicBool::new(false));
        let (namespace, flag) = (namespace.clone(), stop.clone());
        let thread = std::thread::spawn(move || namespace.enter(|| Ok(work(&flag))).unwrap());
        Asker { stop, thread }
    }

    /// Ends the questions; fails the test when the session broke.
    pub(crate) fn finish(self) -> Answers {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the probe's session broke")
    }
}

/// Connects, asking again while nobody listens yet.
fn connect(target: SocketAddr) -> TcpStream {
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&target, Duration::from_secs(2)) {
            Ok(stream) => return stream,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(5), "{target}: {error}"),
        }
        std::thread::sleep(INTERVAL);
    }
}
