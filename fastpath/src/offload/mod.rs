//! Flow offload: established flows that the program of their port carries by itself: of XDP, or of
//! tc for pods whose super-packets are to stay whole.
//!
//! ```text
//!   program: key known? generation right? -> rewrite -> redirect to the egress device
//!          | no                                            (no worker, no copy)
//!          v
//!   worker: the whole pipeline; every few packets of a heavy flow -> decide -> FlowMap
//! ```
//!
//! The workers stay the only deciders: [`decide`] makes of what the pipeline would do with a flow a
//! plain [`Decision`], [`tier`] keeps one worker's share of the [`FlowMap`]. Whatever may change a
//! decision raises the map's generation, and all older entries are the workers' again at once.
//!
//! Limits are kept by both: of each rate workers and program take from one word
//! ([`crate::limit::gates`]). What goes into a tunnel gets its outer headers from a table
//! ([`outer`]).
//!
//! Order is kept: the program carries a flow only once all of its packets that went to a worker
//! before have left that worker ([`arrivals`]). While the worker is far behind, packets of a flow
//! that waits for this are dropped like those that find its ring full.

mod arrivals;
mod decide;
mod key;
mod outer;
mod record;
pub(crate) mod tier;

pub(crate) use arrivals::{Arrivals, QUEUE_SHIFT, layout as arrivals_layout};
pub use key::Key;
pub(crate) use key::TCP_TURNING;
pub(crate) use outer::layout as outer_layout;
pub(crate) use record::layout;
pub use record::{Decision, Wrap};

use crate::limit::Gates;
use crate::port::PortId;
use crate::steering::SteeringError;
use crate::sys::bpf::{Map, MapKind, MappedArray};
use crate::sys::xdp::netdev::{Features, takes_redirects};
use outer::Outers;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Most flows that are offloaded at a time, each direction of a connection being one.
pub const MAX_FLOWS: u32 = 65_536;
/// Ports with numbers from this one on have no part in offload.
pub const MAX_PORTS: usize = 4096;

/// What of a port's traffic programs carried, as far as workers have read it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortTotals {
    /// Packets that came in by it, those that limits refused among them.
    pub rx_packets: u64,
    /// Their bytes, Ethernet headers included, padding left out.
    pub rx_bytes: u64,
    /// Packets that left by it.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
}

/// A port, by its number.
#[derive(Debug, Default)]
struct PortState {
    /// The device's number; 0 while the port has no part in offload.
    device: AtomicU32,
    /// The device takes redirected frames now.
    egress: AtomicBool,
    /// Its program is one of tc.
    by_tc: AtomicBool,
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
}

/// The maps that the workers write and the programs of all ports read.
#[derive(Debug)]
pub struct FlowMap {
    /// Two words: the generation, and what the kernel's clock is ahead of the data plane's. An
    /// array of its own, for programs read only such without a call.
    generation: MappedArray,
    /// Also one row: for each port the packets that limits refused, and their bytes.
    refused: MappedArray,
    gates: Arc<Gates>,
    outers: Arc<Outers>,
    /// One row: for each port where tc's programs send its packets, [`target`].
    targets: MappedArray,
    /// Flows from row 1 on, see [`layout`].
    records: MappedArray,
    v4: Map,
    v6: Map,
    devices: Map,
    ports: Box<[PortState]>,
}

/// The right to raise the generation: whoever changes what decisions are made of has one.
#[derive(Debug, Clone)]
pub struct Generation(Arc<FlowMap>);

impl Generation {
    /// All decisions so far are void. To be called after the change can be seen.
    #[inline]
    pub fn raise(&self) {
        self.0.raise();
    }
}

/// A port's part in offload; ends when dropped.
#[derive(Debug)]
pub(crate) struct PortLease {
    map: Arc<FlowMap>,
    port: PortId,
}

/// Where a program of tc sends packets for a port: the device, and with a bit above that to its
/// peer.
fn target(device: u32, by_tc: bool) -> u64 {
    u64::from(by_tc) << 32 | u64::from(device)
}

fn failed(name: &'static str) -> impl Fn(std::io::Error) -> SteeringError {
    move |source| SteeringError::Map { name, source }
}

impl FlowMap {
    /// Empty maps.
    pub fn new() -> Result<Arc<FlowMap>, SteeringError> {
        let hash = |name, key_size| {
            Map::new(MapKind::Hash, name, key_size, 4, MAX_FLOWS).map_err(failed(name))
        };
        let records = MappedArray::new("flows", MAX_FLOWS + 1, layout::WORDS);
        let devices = Map::new(MapKind::Devmap, "devices", 4, 4, MAX_PORTS as u32);
        let map = FlowMap {
            generation: MappedArray::new("generation", 1, 2).map_err(failed("generation"))?,
            refused: MappedArray::new("refused", 1, 2 * MAX_PORTS).map_err(failed("refused"))?,
            gates: Gates::new().map_err(failed("limits"))?,
            outers: Outers::new().map_err(failed("outers"))?,
            targets: MappedArray::new("targets", 1, MAX_PORTS).map_err(failed("targets"))?,
            records: records.map_err(failed("flows"))?,
            v4: hash("flows_v4", key::V4_BYTES)?,
            v6: hash("flows_v6", key::V6_BYTES)?,
            devices: devices.map_err(failed("devices"))?,
            ports: (0..MAX_PORTS).map(|_| PortState::default()).collect(),
        };
        map.raise();
        Ok(Arc::new(map))
    }

    /// The right to raise its generation.
    pub fn generation(self: &Arc<Self>) -> Generation {
        Generation(self.clone())
    }

    /// The generation that valid entries have.
    #[inline]
    pub(crate) fn current(&self) -> u64 {
        self.generation.word(0, 0).load(Ordering::Acquire)
    }

    /// All decisions so far are void.
    #[inline]
    pub(crate) fn raise(&self) {
        self.generation.word(0, 0).fetch_add(1, Ordering::AcqRel);
    }

    /// What the program needs: flows by key of either family, and their records.
    pub(crate) fn maps(&self, v4: bool) -> (&Map, &Map) {
        (if v4 { &self.v4 } else { &self.v6 }, self.records.map())
    }

    /// The map with the devices that frames are redirected to.
    pub(crate) fn devices_map(&self) -> &Map {
        &self.devices
    }

    /// The map with the generation.
    pub(crate) fn generation_map(&self) -> &Map {
        self.generation.map()
    }

    /// The map that counts what limits refuse.
    pub(crate) fn refused_map(&self) -> &Map {
        self.refused.map()
    }

    /// The limits that the program keeps together with the workers.
    pub fn gates(&self) -> &Arc<Gates> {
        &self.gates
    }

    /// Outer headers of tunnels.
    pub(crate) fn outers(&self) -> &Arc<Outers> {
        &self.outers
    }

    /// The map with where ports' packets go.
    pub(crate) fn targets_map(&self) -> &Map {
        self.targets.map()
    }

    /// What the kernel's clock is ahead of the data plane's, in nanoseconds.
    pub(crate) fn set_clock(&self, clock_ns: u64) {
        self.generation.word(0, 1).store(clock_ns, Ordering::Release);
    }

    /// Packets of a port that limits refused, and their bytes.
    fn refused(&self, id: PortId) -> [&AtomicU64; 2] {
        let at = 2 * usize::from(id.0).min(MAX_PORTS - 1);
        [0, 1].map(|word| self.refused.word(0, at + word))
    }

    /// Rows that worker `worker` of `workers` may fill.
    pub(crate) fn share(worker: u16, workers: u16) -> Range<u32> {
        let part = MAX_FLOWS / u32::from(workers.max(1));
        let first = 1 + part * u32::from(worker);
        first..first + part
    }

    fn port(&self, id: PortId) -> Option<&PortState> {
        self.ports.get(usize::from(id.0))
    }

    /// A port with native XDP takes part, with the device of this number.
    pub(crate) fn open_port(self: &Arc<Self>, port: PortId, device: u32) -> Option<PortLease> {
        let lease = self.begin_port(port, device, false)?;
        self.note(port, self.port(port)?, takes_redirects(device));
        Some(lease)
    }

    /// A pod's veth by tc takes part, with the host's end of this number.
    pub(crate) fn open_tc_port(self: &Arc<Self>, port: PortId, device: u32) -> Option<PortLease> {
        self.begin_port(port, device, true)
    }

    fn begin_port(self: &Arc<Self>, port: PortId, device: u32, by_tc: bool) -> Option<PortLease> {
        let state = self.port(port)?;
        for total in [&state.rx_packets, &state.rx_bytes, &state.tx_packets, &state.tx_bytes] {
            total.store(0, Ordering::Relaxed);
        }
        self.refused(port).iter().for_each(|total| total.store(0, Ordering::Relaxed));
        state.by_tc.store(by_tc, Ordering::Release);
        state.device.store(device, Ordering::Release);
        self.targets.word(0, port.0.into()).store(target(device, by_tc), Ordering::Release);
        Some(PortLease { map: self.clone(), port })
    }

    /// Finds out anew which devices take redirected frames: a veth does while its peer has XDP or
    /// GRO on. To be called every second or so, in the devices' network namespace.
    pub fn look_at_devices(&self) {
        let mut targets = None;
        for id in (0..self.ports.len()).map(|at| PortId(at as u16)) {
            let takes_part = self.is_ingress(id) && !self.is_by_tc(id);
            let Some(port) = self.port(id).filter(|_| takes_part) else { continue };
            // All at once: a question for each of a thousand pods takes a core's hundredth part.
            let targets = targets.get_or_insert_with(|| {
                let all = Features::open().and_then(|mut all| all.redirect_targets());
                all.unwrap_or_default()
            });
            let device = port.device.load(Ordering::Acquire);
            self.note(id, port, targets.binary_search(&device).is_ok());
        }
    }

    /// A port's device takes redirected frames now, or does not.
    fn note(&self, id: PortId, port: &PortState, takes: bool) {
        if takes != port.egress.load(Ordering::Acquire) {
            self.set_egress(id, takes.then_some(port.device.load(Ordering::Acquire)));
        }
    }

    /// Lets packets be redirected to a port's device, or no longer.
    pub(crate) fn set_egress(&self, id: PortId, device: Option<u32>) {
        let Some(port) = self.port(id) else { return };
        let key = u32::from(id.0).to_ne_bytes();
        match device {
            Some(device) => {
                let taken = self.devices.update(&key, &device.to_ne_bytes()).is_ok();
                port.egress.store(taken, Ordering::Release);
            }
            None => {
                port.egress.store(false, Ordering::Release);
                self.raise();
                // An empty slot is what we want; the map has no other way to fail.
                let _ = self.devices.delete(&key);
            }
        }
    }

    /// True when flows that come in by this port may be offloaded.
    #[inline]
    pub(crate) fn is_ingress(&self, id: PortId) -> bool {
        self.port(id).is_some_and(|port| port.device.load(Ordering::Acquire) != 0)
    }

    /// True when the program of this port is one of tc.
    #[inline]
    pub(crate) fn is_by_tc(&self, id: PortId) -> bool {
        self.port(id).is_some_and(|port| port.by_tc.load(Ordering::Acquire))
    }

    /// True when programs of tc may send packets to this port.
    pub(crate) fn is_target(&self, id: PortId) -> bool {
        self.is_ingress(id)
    }

    /// True when flows may be redirected to this port.
    #[inline]
    pub(crate) fn is_egress(&self, id: PortId) -> bool {
        self.port(id).is_some_and(|port| port.egress.load(Ordering::Acquire))
    }

    /// What the program carried for a port.
    pub fn totals(&self, id: PortId) -> PortTotals {
        let Some(port) = self.port(id) else { return PortTotals::default() };
        let get = |total: &AtomicU64| total.load(Ordering::Relaxed);
        let [packets, bytes] = self.refused(id).map(get);
        PortTotals {
            rx_packets: get(&port.rx_packets) + packets,
            rx_bytes: get(&port.rx_bytes) + bytes,
            tx_packets: get(&port.tx_packets),
            tx_bytes: get(&port.tx_bytes),
        }
    }

    /// Counts packets that went from one port to another, with their bytes, at either.
    pub(crate) fn count(&self, (from, to): (PortId, PortId), counts: [(u64, u64); 2]) {
        let [(rx_packets, rx_bytes), (tx_packets, tx_bytes)] = counts;
        if let Some(port) = self.port(from) {
            port.rx_packets.fetch_add(rx_packets, Ordering::Relaxed);
            port.rx_bytes.fetch_add(rx_bytes, Ordering::Relaxed);
        }
        if let Some(port) = self.port(to) {
            port.tx_packets.fetch_add(tx_packets, Ordering::Relaxed);
            port.tx_bytes.fetch_add(tx_bytes, Ordering::Relaxed);
        }
    }

    /// Leads the packets of a key to a row. False when the map has no room.
    pub(crate) fn insert(&self, key: &Key, row: u32) -> bool {
        let row = row.to_ne_bytes();
        match key.bytes() {
            key::Bytes::V4(bytes) => self.v4.update(&bytes, &row),
            key::Bytes::V6(bytes) => self.v6.update(&bytes, &row),
        }
        .is_ok()
    }

    /// Packets of a key are the workers' again, if they are led to this row: a flow that came to
    /// another worker since, by another queue, has a row of that one.
    pub(crate) fn remove(&self, key: &Key, row: u32) {
        let remove = |map: &Map, bytes: &[u8]| {
            if map.lookup(bytes).is_ok_and(|found| found.as_deref() == Some(&row.to_ne_bytes())) {
                // It fails only when the key is not there, which is what we want.
                let _ = map.delete(bytes);
            }
        };
        match key.bytes() {
            key::Bytes::V4(bytes) => remove(&self.v4, &bytes),
            key::Bytes::V6(bytes) => remove(&self.v6, &bytes),
        }
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        if let Some(port) = self.map.port(self.port) {
            port.device.store(0, Ordering::Release);
            port.by_tc.store(false, Ordering::Release);
            self.map.targets.word(0, self.port.0.into()).store(0, Ordering::Release);
        }
        self.map.set_egress(self.port, None);
    }
}

#[cfg(test)]
mod tests;
