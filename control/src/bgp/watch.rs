//! BFD's sockets (RFC 5881 section 4, RFC 5883 section 5): a sending one for each session, with a
//! source port of its own, and a receiving one for each local address and kind of path.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use margay_bgp::bfd::{self, Packet, Path, SOURCE_PORTS};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use socket2::{Domain, Protocol, Socket, Type};

use super::socket::{NETWORK_CONTROL, set_ttl};
use super::{Bfd, BfdStatus, PeerConfig};

/// Most packets that one socket gives in one turn of the loop.
const MAX_PACKETS: usize = 256;
/// Most source ports that are tried for a session.
const MAX_PORT_TRIES: usize = 64;

/// One BFD session with its socket.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) session: bfd::Session,
    socket: UdpSocket,
    wanted: Bfd,
    local: IpAddr,
    remote: IpAddr,
    discriminator: u32,
}

impl Watch {
    pub(super) fn status(&self) -> BfdStatus {
        let (tx_us, detection_us) = self.session.times_us();
        BfdStatus {
            state: self.session.state(),
            remote: self.session.remote().map(|packet| packet.state),
            multihop: self.wanted.multihop,
            tx_us,
            detection_us,
            diagnostic: self.session.diagnostic(),
            remote_diagnostic: self.session.remote().map(|packet| packet.diagnostic),
        }
    }

    /// Sends a packet. One that does not get out is as good as lost on the way.
    pub(super) fn send(&self, packet: &[u8]) {
        let _ = self.socket.send(packet);
    }

    fn port(&self) -> u16 {
        if self.wanted.multihop { bfd::MULTIHOP_PORT } else { bfd::SINGLE_HOP_PORT }
    }

    /// True when it goes on as `wanted` from `local`, with other intervals at most.
    pub(super) fn becomes(&mut self, wanted: Bfd, local: IpAddr, now_ns: u64) -> bool {
        let is_same = Bfd { interval_ms: self.wanted.interval_ms, ..wanted } == self.wanted;
        if !is_same || local != self.local {
            return false;
        }
        if wanted.interval_ms != self.wanted.interval_ms {
            let interval_us = wanted.interval_ms.saturating_mul(1000);
            self.session.set_intervals(interval_us, interval_us, now_ns);
            self.wanted = wanted;
        }
        true
    }
}

/// All that sessions share.
#[derive(Debug, Default)]
pub(super) struct Ports {
    receivers: BTreeMap<(IpAddr, u16), UdpSocket>,
    /// Peers by our discriminator.
    discriminators: BTreeMap<u32, u32>,
    next_discriminator: u32,
    next_port: u16,
}

/// A packet that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) payload: Vec<u8>,
    pub(super) ttl: u8,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
}

impl Ports {
    /// Begins a session for `peer`, whose sockets are between `local` and the peer.
    pub(super) fn open(
        &mut self,
        (peer, config, wanted): (u32, &PeerConfig, Bfd),
        local: IpAddr,
        epoll: (&Epoll, u64),
    ) -> io::Result<Watch> {
        let remote = config.session.socket.remote;
        let port = if wanted.multihop { bfd::MULTIHOP_PORT } else { bfd::SINGLE_HOP_PORT };
        self.receive_at((local, port), epoll)?;
        let socket = self.sender(local)?;
        socket.connect(SocketAddr::new(remote, port))?;
        let discriminator = self.number(peer);
        let interval_us = wanted.interval_ms.saturating_mul(1000);
        let session = bfd::Session::new(bfd::Config {
            discriminator,
            path: if wanted.multihop { Path::Multihop(1) } else { Path::SingleHop },
            desired_min_tx_us: interval_us,
            required_min_rx_us: interval_us,
            detect_mult: wanted.multiplier,
            passive: false,
            seed: discriminator.into(),
        });
        Ok(Watch { session, socket, wanted, local, remote, discriminator })
    }

    /// Ends a session; `others` are those that stay.
    pub(super) fn close<'a>(&mut self, watch: &Watch, others: impl Iterator<Item = &'a Watch>) {
        self.discriminators.remove(&watch.discriminator);
        let used: BTreeSet<_> = others.map(|other| (other.local, other.port())).collect();
        self.receivers.retain(|at, _| used.contains(at));
    }

    fn number(&mut self, peer: u32) -> u32 {
        loop {
            self.next_discriminator = self.next_discriminator.wrapping_add(1).max(1);
            let number = self.next_discriminator;
            if let Entry::Vacant(vacant) = self.discriminators.entry(number) {
                vacant.insert(peer);
                return number;
            }
        }
    }

    fn receive_at(&mut self, at: (IpAddr, u16), (epoll, token): (&Epoll, u64)) -> io::Result<()> {
        if self.receivers.contains_key(&at) {
            return Ok(());
        }
        let socket = udp(at.0)?;
        match at.0 {
            IpAddr::V4(_) => {
                use nix::sys::socket::{setsockopt, sockopt::Ipv4RecvTtl};
                setsockopt(&socket, Ipv4RecvTtl, &true)?;
            }
            IpAddr::V6(_) => socket.set_recv_hoplimit_v6(true)?,
        }
        socket.bind(&SocketAddr::from(at).into())?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        self.receivers.insert(at, socket.into());
        Ok(())
    }

    /// A socket with the next source port that is free.
    fn sender(&mut self, local: IpAddr) -> io::Result<UdpSocket> {
        let (first, last) = (*SOURCE_PORTS.start(), *SOURCE_PORTS.end());
        let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..MAX_PORT_TRIES {
            let port = self.next_port.max(first);
            self.next_port = if port == last { first } else { port + 1 };
            let socket = udp(local)?;
            set_ttl(&socket, local.is_ipv4())?;
            match socket.bind(&SocketAddr::new(local, port).into()) {
                Ok(()) => return Ok(socket.into()),
                Err(why) => refused = why,
            }
        }
        Err(refused)
    }

    /// What has come. A level-triggered socket that has more says so again.
    pub(super) fn receive(&self) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for ((to, _), socket) in &self.receivers {
            let got = std::iter::from_fn(|| receive(socket, *to));
            arrivals.extend(got.take(MAX_PACKETS));
        }
        arrivals
    }

    /// The peer that a packet is for, by our discriminator in it; `None` when there is none, which
    /// leaves the addresses (RFC 5880 section 6.8.6).
    pub(super) fn peer(&self, arrival: &Arrival) -> Option<u32> {
        let packet = Packet::decode(&arrival.payload).ok()?;
        self.discriminators.get(&packet.your_discriminator).copied()
    }
}

impl Arrival {
    /// True when its addresses are those of this session.
    pub(super) fn is_for(&self, watch: &Watch) -> bool {
        (watch.remote, watch.local) == (self.from, self.to)
    }
}

fn udp(local: IpAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(local, 0));
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(domain, kind, Some(Protocol::UDP))?;
    if local.is_ipv4() {
        socket.set_tos_v4(NETWORK_CONTROL)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_tclass_v6(NETWORK_CONTROL)?;
    }
    Ok(socket)
}

/// The next packet with its TTL. One without a source or a TTL is passed over as having none.
fn receive(socket: &UdpSocket, to: IpAddr) -> Option<Arrival> {
    let mut payload = [0; 128];
    let mut room = [IoSliceMut::new(&mut payload)];
    let mut control = nix::cmsg_space!(i32);
    let flags = MsgFlags::MSG_DONTWAIT;
    let got = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut room, Some(&mut control), flags);
    let got = got.ok()?;
    let from = got.address.as_ref().and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| from.ip().into());
        v4.or_else(|| from.as_sockaddr_in6().map(|from| from.ip().into()))
    });
    let ttl = got.cmsgs().ok()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4Ttl(ttl) => Some(ttl),
        ControlMessageOwned::Ipv6HopLimit(ttl) => Some(ttl),
        _ => None,
    });
    let ttl = ttl.and_then(|ttl| u8::try_from(ttl).ok()).unwrap_or(0);
    let length = got.bytes;
    let payload = payload[..length].to_vec();
    Some(Arrival { payload, ttl, from: from.unwrap_or(IpAddr::from([0; 4])), to })
}
