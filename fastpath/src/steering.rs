//! Steering: which packets of a device the workers get, and which the host's kernel keeps.
//!
//! An XDP program on each device (see [`program`]) decides. Its sets of the host's own addresses
//! are shared by all devices and kept here; the map from queues to sockets is each device's own,
//! because a socket only takes packets of its own queue. The program hangs on a BPF link, so that
//! a daemon that dies gives its devices back to the kernel at once.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::nat::PortRange;
use crate::sys::bpf::{Map, MapKind, Program, ProgramError};
use crate::sys::memory::Arena;
use crate::sys::xdp::raise_memlock_limit;
use crate::sys::xdp::umem::Umem;

pub mod program;

/// No port of an address is for translation.
pub const NO_PORTS: PortRange = PortRange { first: 1, last: 0 };

/// Most addresses of the host of one family.
pub const MAX_LOCAL: u32 = 65_536;

/// The name under which the kernel lists the program.
pub const PROGRAM_NAME: &str = "margay_steering";

/// Flags of an address, and its ports for translation.
type Local = (u32, PortRange);

/// Why steering does not work.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// The kernel makes no maps.
    #[error("BPF map {name} not made: {source}; margay needs CAP_BPF and CAP_NET_ADMIN")]
    Map {
        /// Which.
        name: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An address could not be added or removed.
    #[error(
        "the host's address {address} could not be set: {source} (at most {MAX_LOCAL} of a family)"
    )]
    Local {
        /// Which.
        address: IpAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not take the program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The program is written wrongly.
    #[error("steering program: {0}")]
    Assembler(#[from] crate::sys::bpf::asm::AsmError),
}

/// What all AF_XDP ports of the process share.
#[derive(Debug)]
pub struct Steering {
    umem: Arc<Umem>,
    local_v4: Map,
    local_v6: Map,
    local: Mutex<BTreeMap<IpAddr, Local>>,
    vxlan_port: u16,
}

impl Steering {
    /// Makes the shared maps, and the book of frames over `arena`'s small chunks. Make one for
    /// the process. `vxlan_port` is the UDP port at which VXLAN ends here.
    pub fn new(arena: &Arc<Arena>, vxlan_port: u16) -> Result<Steering, SteeringError> {
        raise_memlock_limit();
        Ok(Steering {
            umem: Umem::new(arena.clone()),
            local_v4: map(MapKind::Hash, "local_v4", (4, 8), MAX_LOCAL)?,
            local_v6: map(MapKind::Hash, "local_v6", (16, 8), MAX_LOCAL)?,
            local: Mutex::new(BTreeMap::new()),
            vxlan_port,
        })
    }

    /// Packet memory and who holds it.
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// Sets the addresses whose packets the kernel keeps, but for a range of ports of each that is
    /// for translation ([`NO_PORTS`] for none), and for packets of tunnels, and errors about them,
    /// to `tunnel_ends`. Additions come first, and what stays is never missing meanwhile. On an
    /// error the rest is done, and a later call makes it good.
    pub fn set_local(
        &self,
        addresses: &[(IpAddr, PortRange)],
        tunnel_ends: &[IpAddr],
    ) -> Result<(), SteeringError> {
        let flags = |address| match tunnel_ends.contains(address) {
            true => program::HOST | program::TUNNEL_END,
            false => program::HOST,
        };
        let wanted: BTreeMap<IpAddr, Local> =
            addresses.iter().map(|(at, range)| (*at, (flags(at), *range))).collect();
        let mut current = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        let removed: Vec<IpAddr> =
            current.keys().filter(|address| !wanted.contains_key(*address)).copied().collect();
        let mut result = Ok(());
        for (address, (flags, range)) in wanted {
            if current.get(&address) == Some(&(flags, range)) {
                continue;
            }
            let mut value = [0; 8];
            value[..4].copy_from_slice(&flags.to_ne_bytes());
            value[4..6].copy_from_slice(&range.first.to_ne_bytes());
            value[6..].copy_from_slice(&range.last.to_ne_bytes());
            match self.change(address, |map, key| map.update(key, &value)) {
                Ok(()) => drop(current.insert(address, (flags, range))),
                Err(source) => result = Err(SteeringError::Local { address, source }),
            }
        }
        for address in removed {
            match self.change(address, |map, key| map.delete(key).map(drop)) {
                Ok(()) => drop(current.remove(&address)),
                Err(source) => result = Err(SteeringError::Local { address, source }),
            }
        }
        result
    }

    fn change(
        &self,
        address: IpAddr,
        change: impl Fn(&Map, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => change(&self.local_v4, &address.octets()),
            IpAddr::V6(address) => change(&self.local_v6, &address.octets()),
        }
    }

    /// An empty map from the queues of one device to their sockets.
    pub(crate) fn new_xskmap(&self, queues: u32) -> Result<Map, SteeringError> {
        map(MapKind::Xskmap, "xsks", (4, 4), queues)
    }

    /// The program of one device, loaded.
    pub(crate) fn load(&self, xsks: &Map) -> Result<Program, SteeringError> {
        let insns = program::assemble(self.maps(xsks))?;
        Ok(Program::load_xdp(PROGRAM_NAME, &insns)?)
    }

    fn maps<'a>(&'a self, xsks: &'a Map) -> program::Maps<'a> {
        let (local_v4, local_v6, vxlan_port) = (&self.local_v4, &self.local_v6, self.vxlan_port);
        program::Maps { local_v4, local_v6, xsks, vxlan_port }
    }
}

fn map(
    kind: MapKind,
    name: &'static str,
    (key, value): (usize, usize),
    entries: u32,
) -> Result<Map, SteeringError> {
    Map::new(kind, name, key, value, entries).map_err(|source| SteeringError::Map { name, source })
}

#[cfg(test)]
mod tests;
