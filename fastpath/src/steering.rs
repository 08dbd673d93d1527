//! Steering: which packets of a device the workers get, and which the host's kernel keeps.
//!
//! An XDP program on each device (see [`program`]) decides. Its sets of the host's own addresses
//! are shared by all devices and kept here; the map from queues to sockets is each device's own,
//! because a socket only takes packets of its own queue. The program hangs on a BPF link, so that
//! a daemon that dies gives its devices back to the kernel at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::nat::PortRange;
use crate::offload::{Arrivals, FlowMap};
use crate::port::PortId;
use crate::sys::bpf::{Map, MapKind, Program, ProgramError};
use crate::sys::memory::Arena;
use crate::sys::xdp::raise_memlock_limit;
use crate::sys::xdp::umem::Umem;

pub mod program;

use program::{Carrier, Hook};

/// No port of an address is for translation.
pub const NO_PORTS: PortRange = PortRange { first: 1, last: 0 };

/// Most addresses of the host of one family.
pub const MAX_LOCAL: u32 = 65_536;
/// Most services at the host's addresses of one family.
pub const MAX_SERVICES: u32 = 65_536;

/// The name under which the kernel lists the program.
pub const PROGRAM_NAME: &str = "margay_steering";

/// Flags of an address, and its ports for translation.
type Local = (u32, PortRange);

/// An address of the host with a port and a protocol number, at which there is a service.
pub type Served = (IpAddr, u16, u8);

/// What the workers get of packets to the host's addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steered {
    /// The host's addresses, each with its ports for translation ([`NO_PORTS`] for none).
    pub local: BTreeMap<IpAddr, PortRange>,
    /// Those at which tunnels end: their packets go to the workers, and errors about them.
    pub tunnel_ends: Vec<IpAddr>,
    /// Services at the host's addresses; others' are nobody's business here.
    pub services: BTreeSet<Served>,
}

impl Steered {
    fn wanted(&self) -> BTreeMap<IpAddr, Local> {
        let served: BTreeSet<IpAddr> = self.services.iter().map(|(at, ..)| *at).collect();
        let flags = |address: &IpAddr, range: &PortRange| {
            let mut flags = program::HOST;
            if self.tunnel_ends.contains(address) {
                flags |= program::TUNNEL_END;
            }
            if range.first <= range.last || served.contains(address) {
                flags |= program::WORKERS;
            }
            flags
        };
        self.local.iter().map(|(at, range)| (*at, (flags(at, range), *range))).collect()
    }
}

fn value((flags, range): &Local) -> [u8; 8] {
    let mut value = [0; 8];
    value[..4].copy_from_slice(&flags.to_ne_bytes());
    value[4..6].copy_from_slice(&range.first.to_ne_bytes());
    value[6..].copy_from_slice(&range.last.to_ne_bytes());
    value
}

/// The key of a service, behind its address.
fn service_key(port: u16, protocol: u8) -> [u8; 4] {
    let mut key = [0; 4];
    key[..2].copy_from_slice(&port.to_be_bytes());
    key[2..].copy_from_slice(&u16::from(protocol).to_ne_bytes());
    key
}

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
    /// A service could not be added or removed.
    #[error(
        "the service at {} could not be set: {source} (at most {MAX_SERVICES} of a family)",
        std::net::SocketAddr::new(served.0, served.1)
    )]
    Service {
        /// Which.
        served: Served,
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

/// What the maps have.
#[derive(Debug, Default)]
struct Current {
    local: BTreeMap<IpAddr, Local>,
    services: BTreeSet<Served>,
}

/// What all AF_XDP ports of the process share.
#[derive(Debug)]
pub struct Steering {
    umem: Arc<Umem>,
    local_v4: Map,
    local_v6: Map,
    services_v4: Map,
    services_v6: Map,
    current: Mutex<Current>,
    vxlan_port: u16,
    offload: Option<Arc<FlowMap>>,
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
            services_v4: map(MapKind::Hash, "services_v4", (8, 4), MAX_SERVICES)?,
            services_v6: map(MapKind::Hash, "services_v6", (20, 4), MAX_SERVICES)?,
            current: Mutex::default(),
            vxlan_port,
            offload: None,
        })
    }

    /// Ports that are opened from now on carry flows by themselves, where their devices can.
    #[must_use]
    pub fn with_offload(self, map: Arc<FlowMap>) -> Steering {
        Steering { offload: Some(map), ..self }
    }

    /// The flows that are carried so.
    pub fn offload(&self) -> Option<&Arc<FlowMap>> {
        self.offload.as_ref()
    }

    /// Packet memory and who holds it.
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// Sets what the workers get of packets to the host's addresses. Additions come first, and what
    /// stays is never missing meanwhile. On an error the rest is done, and a later call makes it
    /// good.
    pub fn set(&self, steered: &Steered) -> Result<(), SteeringError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let served = self.set_services(&steered.services, &mut current.services);
        let local = self.set_local(steered.wanted(), &mut current.local);
        if let Some(map) = &self.offload {
            map.raise();
        }
        local.and(served)
    }

    fn set_local(
        &self,
        wanted: BTreeMap<IpAddr, Local>,
        current: &mut BTreeMap<IpAddr, Local>,
    ) -> Result<(), SteeringError> {
        let removed: Vec<IpAddr> =
            current.keys().filter(|address| !wanted.contains_key(*address)).copied().collect();
        let mut result = Ok(());
        for (address, local) in wanted {
            if current.get(&address) == Some(&local) {
                continue;
            }
            let (map, key) = self.local_of(address);
            match map.update(&key, &value(&local)) {
                Ok(()) => drop(current.insert(address, local)),
                Err(source) => result = Err(SteeringError::Local { address, source }),
            }
        }
        for address in removed {
            let (map, key) = self.local_of(address);
            match map.delete(&key) {
                Ok(_) => drop(current.remove(&address)),
                Err(source) => result = Err(SteeringError::Local { address, source }),
            }
        }
        result
    }

    fn set_services(
        &self,
        wanted: &BTreeSet<Served>,
        current: &mut BTreeSet<Served>,
    ) -> Result<(), SteeringError> {
        let mut result = Ok(());
        let change = |served: &Served, change: &dyn Fn(&Map, &[u8]) -> io::Result<()>| {
            let (map, mut key) = match served.0 {
                IpAddr::V4(address) => (&self.services_v4, address.octets().to_vec()),
                IpAddr::V6(address) => (&self.services_v6, address.octets().to_vec()),
            };
            key.extend(service_key(served.1, served.2));
            change(map, &key).map_err(|source| SteeringError::Service { served: *served, source })
        };
        let (added, removed): (Vec<Served>, Vec<Served>) = (
            wanted.difference(current).copied().collect(),
            current.difference(wanted).copied().collect(),
        );
        for served in added {
            match change(&served, &|map, key| map.update(key, &[0; 4])) {
                Ok(()) => drop(current.insert(served)),
                Err(error) => result = Err(error),
            }
        }
        for served in removed {
            match change(&served, &|map, key| map.delete(key).map(drop)) {
                Ok(()) => drop(current.remove(&served)),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    fn local_of(&self, address: IpAddr) -> (&Map, Vec<u8>) {
        match address {
            IpAddr::V4(address) => (&self.local_v4, address.octets().to_vec()),
            IpAddr::V6(address) => (&self.local_v6, address.octets().to_vec()),
        }
    }

    /// An empty map from the queues of one device to their sockets.
    pub(crate) fn new_xskmap(&self, queues: u32) -> Result<Map, SteeringError> {
        map(MapKind::Xskmap, "xsks", (4, 4), queues)
    }

    /// The program of one port's device with so many queues, loaded, and what is known of the
    /// queues when it carries flows. Kernels before 5.18 take it without that part only.
    pub(crate) fn load(
        &self,
        xsks: &Map,
        port: PortId,
        queues: u32,
    ) -> Result<(Program, Option<Arc<Arrivals>>), SteeringError> {
        let load = |carrier: Option<Carrier<'_>>| self.load_with(xsks, carrier);
        self.load_to_carry(Hook::Xdp, Some(port), queues, load)
    }

    /// What `load` gives for a program that carries flows, as those of the port, if it may and the
    /// kernel takes such; else for one that does not.
    fn load_to_carry(
        &self,
        hook: Hook,
        port: Option<PortId>,
        queues: u32,
        load: impl Fn(Option<Carrier<'_>>) -> Result<Program, SteeringError>,
    ) -> Result<(Program, Option<Arc<Arrivals>>), SteeringError> {
        if let Some((map, port)) = self.offload.as_ref().zip(port) {
            let arrivals = Arc::new(Arrivals::new(queues)?);
            match load(Some(Carrier { map, port, arrivals: &arrivals, hook })) {
                Ok(program) => return Ok((program, Some(arrivals))),
                Err(error) => tracing::warn!(%port, "no flow offload: {error}"),
            }
        }
        Ok((load(None)?, None))
    }

    pub(crate) fn load_with(
        &self,
        xsks: &Map,
        offload: Option<Carrier<'_>>,
    ) -> Result<Program, SteeringError> {
        let insns = program::assemble(program::Maps { offload, ..self.maps(Hook::Xdp) }, xsks)?;
        Ok(Program::load_xdp(PROGRAM_NAME, &insns)?)
    }

    fn maps(&self, hook: Hook) -> program::Maps<'_> {
        program::Maps {
            local_v4: &self.local_v4,
            local_v6: &self.local_v6,
            services_v4: &self.services_v4,
            services_v6: &self.services_v6,
            hook,
            vxlan_port: self.vxlan_port,
            offload: None,
        }
    }

    /// The programs of a pod's veth `device` that is served by the TAP `tap`, both by index: what
    /// becomes of packets that come in by the one, and by the other, and what is known of the TAP
    /// when the first one carries flows, as those of `port`, if it may.
    pub(crate) fn load_tc(
        &self,
        (device, tap): (u32, u32),
        port: Option<PortId>,
    ) -> Result<(Program, Program, Option<Arc<Arrivals>>), SteeringError> {
        let delivery = program::deliver(device)?;
        let delivery = Program::load_tc(PROGRAM_NAME, &delivery)?;
        let load = |carrier: Option<Carrier<'_>>| self.load_tc_with(tap, carrier);
        let (program, arrivals) = self.load_to_carry(Hook::Tc, port, 1, load)?;
        Ok((program, delivery, arrivals))
    }

    pub(crate) fn load_tc_with(
        &self,
        tap: u32,
        offload: Option<Carrier<'_>>,
    ) -> Result<Program, SteeringError> {
        let maps = program::Maps { offload, ..self.maps(Hook::Tc) };
        Ok(Program::load_tc(PROGRAM_NAME, &program::assemble_tc(maps, tap)?)?)
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
pub(crate) mod tests;
