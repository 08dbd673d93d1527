//! Feeds and receivers: as much of BGP as it takes to send and to count, for hundreds at once on
//! one thread.

use anyhow::{Context, Result, bail, ensure};
use ipnet::Ipv4Net;
use margay_bgp::session::Config;
use margay_bgp::wire::frame;
use margay_bgp::wire::nlri::{Prefix, Prefixes};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::feed::Table;

const CONNECT_LIMIT: Duration = Duration::from_secs(20);
const KEEPALIVE: Duration = Duration::from_secs(20);
const READ: usize = 256 << 10;

/// One end of a session.
pub(crate) struct Endpoint {
    stream: TcpStream,
    input: Vec<u8>,
    start: usize,
    out: Vec<u8>,
    feed: Option<(Table, usize)>,
    pub(crate) up: bool,
    /// Announced and withdrawn prefixes that have come.
    pub(crate) announced: usize,
    pub(crate) withdrawn: usize,
    /// Which have come, where some come more than once.
    seen: Option<std::collections::HashSet<Ipv4Net>>,
    last_sent: Instant,
}

/// Who it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) address: Ipv4Addr,
    pub(crate) asn: u32,
    pub(crate) remote_asn: u32,
}

fn connect(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let begun = Instant::now();
    loop {
        let done = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind((from, 0).into())?;
            socket.connect(to).await?.into_std()
        });
        match done {
            Ok(stream) => return Ok(stream),
            Err(error) if begun.elapsed() > CONNECT_LIMIT => {
                return Err(error).with_context(|| format!("{from} to {to}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

impl Endpoint {
    /// Connects, and says OPEN.
    pub(crate) fn new(who: Identity, to: SocketAddr, unique: bool) -> Result<Endpoint> {
        let stream = connect(who.address, to)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let remote = IpAddr::from(who.address);
        let mut config = Config::new(who.asn, who.address, who.remote_asn, remote);
        config.add_path_rx = margay_bgp::FamilySet::EMPTY;
        config.add_path_tx = margay_bgp::FamilySet::EMPTY;
        config.restart = None;
        Ok(Endpoint {
            stream,
            input: vec![0; READ],
            start: 0,
            out: config.open(false).encode(),
            feed: None,
            up: false,
            announced: 0,
            withdrawn: 0,
            seen: unique.then(std::collections::HashSet::new),
            last_sent: Instant::now(),
        })
    }

    /// Sends a table from now on.
    pub(crate) fn feed(&mut self, table: Table) {
        self.feed = Some((table, 0));
    }

    /// Prefixes that it has.
    pub(crate) fn has(&self) -> usize {
        match &self.seen {
            Some(seen) => seen.len(),
            None => self.announced - self.withdrawn.min(self.announced),
        }
    }

    /// Reads and writes what can be; true when anything moved.
    pub(crate) fn turn(&mut self) -> Result<bool> {
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
            Ok(0) => bail!("the daemon has closed the connection"),
            Ok(count) => self.start += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
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
                2 => self.update(body)?,
                3 => bail!("NOTIFICATION {:?}", &self.input[body]),
                _ => self.up = true,
            }
            done += length;
        }
        self.input.copy_within(done..self.start, 0);
        self.start -= done;
        Ok(true)
    }

    fn update(&mut self, body: std::ops::Range<usize>) -> Result<()> {
        let body = &self.input[body];
        let number = |at: usize| usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
        let withdrawn = number(0);
        let attributes = number(2 + withdrawn);
        for nlri in Prefixes::<Ipv4Net>::new(&body[2..2 + withdrawn], false) {
            let prefix = nlri?.prefix;
            self.withdrawn += 1;
            self.seen.iter_mut().for_each(|seen| {
                seen.remove(&prefix);
            });
        }
        for nlri in Prefixes::<Ipv4Net>::new(&body[4 + withdrawn + attributes..], false) {
            let prefix = nlri?.prefix;
            debug_assert!(prefix.bits() <= 32);
            self.announced += 1;
            self.seen.iter_mut().for_each(|seen| {
                seen.insert(prefix);
            });
        }
        Ok(())
    }
}

/// Turns all of them until `done`, or fails at `limit`.
pub(crate) fn turn_until(
    endpoints: &mut [Endpoint],
    limit: Duration,
    mut done: impl FnMut(&[Endpoint]) -> bool,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        let mut moved = false;
        for endpoint in endpoints.iter_mut() {
            moved |= endpoint.turn()?;
        }
        if done(endpoints) {
            return Ok(());
        }
        if begun.elapsed() > limit {
            let have: Vec<usize> = endpoints.iter().map(Endpoint::has).take(4).collect();
            bail!("not done after {limit:?}: the first have {have:?} prefixes");
        }
        margay::lab::process::check_interrupt()?;
        if !moved {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}
