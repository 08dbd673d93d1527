//! Feeds and receivers: as much of BGP as it takes to send and to count, for hundreds at once on
//! one thread.

use anyhow::{Context, Result, bail, ensure};
use margay_bgp::session::Config;
use margay_bgp::wire::frame;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::count::Count;
use crate::feed::Table;
use crate::scenario::{PORT, TARGET, TARGET_V6};

/// Longest time until a daemon takes and keeps a connection, and how often it is asked.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);
const CONNECT_WAIT: Duration = Duration::from_millis(20);
const KEEPALIVE: Duration = Duration::from_secs(20);
const READ: usize = 256 << 10;

/// One end of a session.
pub(crate) struct Endpoint {
    who: Identity,
    stream: TcpStream,
    input: Vec<u8>,
    start: usize,
    out: Vec<u8>,
    feed: Option<(Table, usize)>,
    pub(crate) up: bool,
    /// What has come.
    pub(crate) count: Count,
    /// Prefixes that come again count once.
    unique: bool,
    last_sent: Instant,
    closed: bool,
    begun: Instant,
}

/// Who it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) router_id: Ipv4Addr,
    /// Decides the family that the session carries.
    pub(crate) address: IpAddr,
    pub(crate) asn: u32,
    pub(crate) remote_asn: u32,
}

impl Identity {
    fn open(self) -> Vec<u8> {
        let mut config = Config::new(self.asn, self.router_id, self.remote_asn, self.address);
        config.add_path_rx = margay_bgp::FamilySet::EMPTY;
        config.add_path_tx = margay_bgp::FamilySet::EMPTY;
        config.restart = None;
        config.open(false).encode()
    }
}

/// Connects, asking again while nobody listens yet.
fn connect(who: Identity) -> Result<TcpStream> {
    let target = if who.address.is_ipv4() { TARGET.into() } else { IpAddr::from(TARGET_V6) };
    let to = SocketAddr::new(target, PORT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let begun = Instant::now();
    loop {
        let done = runtime.block_on(async {
            let socket = match target {
                IpAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
                IpAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
            };
            socket.set_reuseaddr(true)?;
            socket.bind((who.address, 0).into())?;
            socket.connect(to).await?.into_std()
        });
        match done {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if begun.elapsed() > CONNECT_LIMIT => {
                return Err(error).with_context(|| format!("{} to {to}", who.address));
            }
            Err(_) => std::thread::sleep(CONNECT_WAIT),
        }
    }
}

/// The next read says so too.
fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

impl Endpoint {
    /// Connects, and says OPEN.
    pub(crate) fn new(who: Identity, unique: bool) -> Result<Endpoint> {
        Ok(Endpoint {
            who,
            stream: connect(who)?,
            input: vec![0; READ],
            start: 0,
            out: who.open(),
            feed: None,
            up: false,
            count: Count::new(unique),
            unique,
            last_sent: Instant::now(),
            closed: false,
            begun: Instant::now(),
        })
    }

    /// The daemon has closed the connection. GoBGP does so while it still sets up its peers.
    fn lost(&mut self) -> Result<bool> {
        let is_early = !self.up && self.begun.elapsed() < CONNECT_LIMIT;
        ensure!(is_early, "the daemon has closed the connection");
        std::thread::sleep(CONNECT_WAIT);
        self.stream = connect(self.who)?;
        (self.start, self.out) = (0, self.who.open());
        Ok(true)
    }

    /// Closes the connection as the kernel does when a daemon is killed: without a NOTIFICATION.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.closed = true;
        self.stream.shutdown(std::net::Shutdown::Both).context("cannot close")
    }

    /// Sends a table from now on.
    pub(crate) fn feed(&mut self, table: Table) {
        self.feed = Some((table, 0));
    }

    /// Counts from here on only: what it has so far is forgotten.
    pub(crate) fn forget(&mut self) {
        self.count = Count::new(self.unique);
    }

    /// Reads and writes what can be; true when anything moved.
    pub(crate) fn turn(&mut self) -> Result<bool> {
        if self.closed {
            return Ok(false);
        }
        let read = self.read()?;
        let wrote = self.write()?;
        if self.up && self.last_sent.elapsed() > KEEPALIVE && self.out.is_empty() {
            self.out.extend_from_slice(&frame::KEEPALIVE);
        }
        Ok(read | wrote)
    }

    fn write(&mut self) -> Result<bool> {
        let mut moved = false;
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                Err(error) if is_gone(&error) && !self.up => return Ok(moved),
                Err(error) => return Err(error.into()),
            }
            self.last_sent = Instant::now();
            moved = true;
        }
        while let Some((table, at)) = &mut self.feed
            && *at < table.bytes.len()
        {
            let end = table.bytes.len().min(*at + READ);
            match self.stream.write(&table.bytes[*at..end]) {
                Ok(count) => *at += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                Err(error) => return Err(error.into()),
            }
            self.last_sent = Instant::now();
            moved = true;
        }
        Ok(moved)
    }

    fn read(&mut self) -> Result<bool> {
        match self.stream.read(&mut self.input[self.start..]) {
            Ok(0) => return self.lost(),
            Ok(count) => self.start += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return self.lost(),
            Err(error) => return Err(error.into()),
        }
        let mut done = 0;
        while self.start - done >= 19 {
            let length =
                usize::from(u16::from_be_bytes([self.input[done + 16], self.input[done + 17]]));
            ensure!((19..=4096).contains(&length), "a message of {length} bytes");
            if self.start - done < length {
                break;
            }
            let kind = self.input[done + 18];
            let body = done + 19..done + length;
            match kind {
                1 => self.out.extend_from_slice(&frame::KEEPALIVE),
                2 => self.count.update(&self.input[body])?,
                3 => bail!("NOTIFICATION {:?}", &self.input[body]),
                _ => self.up = true,
            }
            done += length;
        }
        self.input.copy_within(done..self.start, 0);
        self.start -= done;
        Ok(true)
    }
}

/// Turns all of them until `done`, or fails at `limit`.
pub(crate) fn turn_until(
    endpoints: &mut [Endpoint],
    limit: Duration,
    mut done: impl FnMut(&[Endpoint]) -> Result<bool>,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        let mut moved = false;
        for endpoint in endpoints.iter_mut() {
            moved |= endpoint.turn()?;
        }
        if done(endpoints)? {
            return Ok(());
        }
        if begun.elapsed() > limit {
            let have: Vec<usize> = endpoints.iter().map(|one| one.count.has()).take(4).collect();
            bail!("not done after {limit:?}: the first have {have:?} prefixes");
        }
        margay::lab::process::check_interrupt()?;
        if !moved {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}
