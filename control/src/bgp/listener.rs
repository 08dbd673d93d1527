//! Where peers connect to: one socket an address, with the keys of all peers that have one. A
//! listener has its keys before it listens, so no peer with a key gets in without (RFC 2385).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::socket;

/// Most connections that are accepted in one turn of the loop.
const MAX_ACCEPTS: usize = 64;

/// Keys of peers.
pub(super) type Keys = BTreeMap<IpAddr, Vec<u8>>;

/// All listeners.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    wanted: Vec<IpAddr>,
    port: u16,
    open: BTreeMap<IpAddr, TcpListener>,
    keys: Keys,
    /// Addresses that cannot be listened at, and why.
    pub(super) errors: BTreeMap<IpAddr, String>,
    /// Peers whose key some listener does not have, and why.
    pub(super) keyless: BTreeMap<IpAddr, String>,
}

impl Listeners {
    /// Listens at these addresses, none being all, from [`Listeners::open`] on.
    pub(super) fn want(&mut self, addresses: &[IpAddr], port: u16) {
        let all = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        self.wanted = if addresses.is_empty() { all.to_vec() } else { addresses.to_vec() };
        if self.port != port {
            self.open.clear();
            self.port = port;
        }
        let wanted = &self.wanted;
        self.open.retain(|address, _| wanted.contains(address));
        self.errors.retain(|address, _| wanted.contains(address));
    }

    /// Begins to listen where it is wanted and not done. True when all is done.
    pub(super) fn open(&mut self, epoll: &Epoll, token: u64) -> bool {
        for address in self.wanted.clone() {
            if self.open.contains_key(&address) {
                continue;
            }
            match self.listen(address, epoll, token) {
                Ok(listener) => {
                    self.open.insert(address, listener);
                    self.errors.remove(&address);
                }
                Err(why) => _ = self.errors.insert(address, why.to_string()),
            }
        }
        self.errors.is_empty()
    }

    fn listen(&mut self, address: IpAddr, epoll: &Epoll, token: u64) -> io::Result<TcpListener> {
        let socket = socket::bind(address, self.port)?;
        let keys = self.keys.iter().filter(|(peer, _)| peer.is_ipv4() == address.is_ipv4());
        for (peer, key) in keys {
            if let Err(why) = socket::set_key(&socket, *peer, key) {
                self.keyless.insert(*peer, key_error(&why));
            }
        }
        let listener = socket::listen(socket)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        Ok(listener)
    }

    /// Listens nowhere.
    pub(super) fn close(&mut self) {
        self.wanted.clear();
        self.open.clear();
    }

    /// Has exactly these keys from now on. True when some are not as they were.
    pub(super) fn set_keys(&mut self, keys: Keys) -> bool {
        let is_change = self.keys != keys;
        let removed = self.keys.keys().filter(|peer| !keys.contains_key(*peer));
        let removed: Vec<IpAddr> = removed.copied().collect();
        for peer in removed {
            self.set_key(peer, &[]);
            self.keyless.remove(&peer);
        }
        for (peer, key) in &keys {
            if self.keys.get(peer) != Some(key) || self.keyless.contains_key(peer) {
                self.keyless.remove(peer);
                self.set_key(*peer, key);
            }
        }
        self.keys = keys;
        is_change
    }

    fn set_key(&mut self, peer: IpAddr, key: &[u8]) {
        let listeners = self.open.iter().filter(|(at, _)| at.is_ipv4() == peer.is_ipv4());
        for (_, listener) in listeners {
            if let Err(why) = socket::set_key(listener, peer, key) {
                self.keyless.insert(peer, key_error(&why));
            }
        }
    }

    /// Connections that have come.
    pub(super) fn accept(&self) -> Vec<(TcpStream, IpAddr)> {
        let mut accepted = Vec::new();
        for listener in self.open.values() {
            while accepted.len() < MAX_ACCEPTS {
                match listener.accept() {
                    Ok((stream, from)) => {
                        if stream.set_nonblocking(true).is_ok() {
                            accepted.push((stream, from.ip()));
                        }
                    }
                    // One that was reset while it waited.
                    Err(why) if why.kind() == io::ErrorKind::ConnectionAborted => (),
                    Err(_) => break,
                }
            }
        }
        accepted
    }
}

fn key_error(why: &io::Error) -> String {
    let hint = match why.raw_os_error() {
        Some(libc::ENOMEM) => " (more keys need a larger net.core.optmem_max)",
        _ => "",
    };
    format!("the key of TCP MD5 cannot be set: {why}{hint}")
}
