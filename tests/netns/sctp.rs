//! SCTP between raw sockets (RFC 9260), since the tests' kernel may have none: the handshake of an
//! association (section 5.1) and its end by ABORT, one chunk a packet.
//!
//! While a namespace has such a socket its kernel takes the protocol for one that somebody speaks,
//! and sends no ICMP protocol unreachable. Left out: data, retransmission, several addresses.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const PROTOCOL: i32 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
/// The parameter of an INIT ACK that holds the cookie (RFC 9260 3.3.3).
const STATE_COOKIE: u16 = 7;
/// What an INIT says beside its tag: window, streams out and in, first TSN.
const OFFER: [u8; 12] = [0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
/// The first of the clients' ports.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

/// A packet with its only chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    ports: (u16, u16),
    tag: u32,
    kind: u8,
    value: Vec<u8>,
}

impl Packet {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.kind, 0]);
        bytes.extend((self.value.len() as u16 + 4).to_be_bytes());
        bytes.extend(&self.value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let sum = crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&sum);
        bytes
    }

    /// `None` unless its checksum is right and its first chunk is whole.
    fn parse(bytes: &[u8]) -> Option<Packet> {
        let mut plain = bytes.to_vec();
        plain.get_mut(8..12)?.fill(0);
        if bytes[8..12] != crc32c(&plain).to_le_bytes() {
            return None;
        }
        let length = usize::from(u16_at(bytes, 14)?);
        Some(Packet {
            ports: (u16_at(bytes, 0)?, u16_at(bytes, 2)?),
            tag: u32_at(bytes, 4)?,
            kind: bytes[12],
            value: bytes.get(16..12 + length)?.to_vec(),
        })
    }

    fn reply(&self, tag: u32, kind: u8, value: Vec<u8>) -> Packet {
        Packet { ports: (self.ports.1, self.ports.0), tag, kind, value }
    }

    /// The cookie of an INIT ACK.
    fn cookie(&self) -> Option<&[u8]> {
        let mut rest = self.value.get(16..)?;
        loop {
            let length = usize::from(u16_at(rest, 2)?);
            if u16_at(rest, 0)? == STATE_COOKIE {
                return rest.get(4..length);
            }
            rest = rest.get(length.max(4).next_multiple_of(4)..)?;
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// RFC 9260 appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}

/// A raw socket of this thread's namespace, for one family.
fn open(v4: bool) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::RAW, Some(Protocol::from(PROTOCOL)))
}

fn send(socket: &Socket, to: IpAddr, packet: &Packet) -> io::Result<()> {
    let to = SockAddr::from(SocketAddr::new(to, 0));
    socket.send_to(&packet.to_bytes(), &to).map(drop)
}

/// The next packet, and who sent it; raw sockets of IPv4 give its header too.
fn receive(socket: &Socket) -> io::Result<(IpAddr, Option<Packet>)> {
    let mut bytes = [0; 2048];
    let from = socket.peek_sender()?.as_socket().ok_or(io::ErrorKind::InvalidData)?.ip();
    let length = (&mut &*socket).read(&mut bytes)?;
    let header = if from.is_ipv4() { usize::from(bytes[0] & 15) * 4 } else { 0 };
    Ok((from, bytes[..length].get(header..).and_then(Packet::parse)))
}

/// Answers to all who begin an association, and keeps no state of it: RFC 9260 5.1.3.
pub(crate) struct Server {
    sockets: [Socket; 2],
    ports: Vec<u16>,
    secret: RandomState,
}

impl Server {
    /// Listens in this thread's namespace.
    pub(crate) fn open(ports: &[u16]) -> io::Result<Server> {
        let sockets = [open(true)?, open(false)?];
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        Ok(Server { sockets, ports: ports.to_vec(), secret: RandomState::new() })
    }

    /// Answers what has come.
    pub(crate) fn turn(&self) {
        for socket in &self.sockets {
            while let Ok((from, packet)) = receive(socket) {
                let answer = packet.and_then(|packet| self.answer(from, &packet));
                // A client that is gone does not hear it.
                answer.map(|answer| send(socket, from, &answer));
            }
        }
    }

    fn answer(&self, from: IpAddr, packet: &Packet) -> Option<Packet> {
        if !self.ports.contains(&packet.ports.1) {
            return None;
        }
        match packet.kind {
            INIT if packet.tag == 0 => {
                let peer = u32_at(&packet.value, 0)?;
                let own = self.secret.hash_one(Instant::now()) as u32 | 1;
                let cookie = self.cookie(from, packet.ports, [peer, own]);
                let mut value = own.to_be_bytes().to_vec();
                value.extend(OFFER);
                value.extend(STATE_COOKIE.to_be_bytes());
                value.extend((cookie.len() as u16 + 4).to_be_bytes());
                value.extend(cookie);
                Some(packet.reply(peer, INIT_ACK, value))
            }
            COOKIE_ECHO => {
                let tags = [u32_at(&packet.value, 0)?, u32_at(&packet.value, 4)?];
                let cookie = self.cookie(from, packet.ports, tags);
                (packet.value == cookie && packet.tag == tags[1])
                    .then(|| packet.reply(tags[0], COOKIE_ACK, Vec::new()))
            }
            _ => None,
        }
    }

    fn cookie(&self, from: IpAddr, ports: (u16, u16), tags: [u32; 2]) -> Vec<u8> {
        let sign = self.secret.hash_one((from, ports, tags));
        let tags = tags.iter().flat_map(|tag| tag.to_be_bytes());
        tags.chain(sign.to_be_bytes()).collect()
    }
}

/// Begins an association from this thread's namespace, and ends it. True when the other side has
/// taken it up within `wait`.
pub(crate) fn associate(to: SocketAddr, wait: Duration) -> io::Result<bool> {
    let socket = open(to.is_ipv4())?;
    let ports = (NEXT_PORT.fetch_add(1, Ordering::Relaxed), to.port());
    let tag = RandomState::new().hash_one(ports) as u32 | 1;
    let answer = |kind: u8| -> io::Result<Option<Packet>> {
        let end = Instant::now() + wait;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            socket.set_read_timeout(Some(left))?;
            let wanted = |packet: &Packet| {
                (packet.ports, packet.tag, packet.kind) == ((ports.1, ports.0), tag, kind)
            };
            match receive(&socket) {
                Ok((from, Some(packet))) if from == to.ip() && wanted(&packet) => {
                    return Ok(Some(packet));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    };
    let ask = |tag: u32, kind: u8, value: Vec<u8>| {
        send(&socket, to.ip(), &Packet { ports, tag, kind, value })
    };
    ask(0, INIT, [&tag.to_be_bytes()[..], &OFFER].concat())?;
    let Some(begun) = answer(INIT_ACK)? else { return Ok(false) };
    let (Some(peer), Some(cookie)) = (u32_at(&begun.value, 0), begun.cookie()) else {
        return Ok(false);
    };
    ask(peer, COOKIE_ECHO, cookie.to_vec())?;
    let is_taken_up = answer(COOKIE_ACK)?.is_some();
    ask(peer, ABORT, Vec::new())?;
    Ok(is_taken_up)
}

#[test]
fn checksums_are_those_of_rfc_3720_b_4() {
    assert_eq!(crc32c(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
    assert_eq!(crc32c(&[0xff; 32]).to_le_bytes(), [0x43, 0xab, 0xa8, 0x62]);
    let ascending: Vec<u8> = (0..32).collect();
    assert_eq!(crc32c(&ascending).to_le_bytes(), [0x4e, 0x79, 0xdd, 0x46]);
}

#[test]
fn packets_are_read_as_they_were_written_and_damaged_ones_are_not() {
    let value = vec![1, 2, 3, 4, 5];
    let packet = Packet { ports: (1, 2), tag: 0xdead_beef, kind: COOKIE_ECHO, value };
    let bytes = packet.to_bytes();
    assert_eq!(Packet::parse(&bytes), Some(packet));
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert_eq!(Packet::parse(&damaged), None, "byte {at}");
        assert_eq!(Packet::parse(&bytes[..at]), None, "{at} bytes");
    }
}
