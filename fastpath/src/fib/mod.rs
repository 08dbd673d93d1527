//! The FIB: longest-prefix match for both families, changed in place by one writer under readers.
//!
//! [`FibWriter`] belongs to the control side, [`Fib`] to the workers. Neither waits for the other.
//!
//! What a reader may rely on: each lookup gives an answer that was right at some moment between
//! its begin and its end. So while a prefix is changed, an address gives the old answer or the new
//! one, never a third; but two addresses under the same prefix may change at different moments,
//! and two changes are seen in the order in which they were made by each reader.
//!
//! What the writer must rely on: a lookup may still be inside a node that a removal, or the
//! splitting of a node, has taken out of use. Such nodes stay as they are until
//! [`FibWriter::reclaim`] is called, which promises that each reader has been between two lookups
//! since. A broken promise can give a wrong next hop, but nothing worse: all memory is atomics.

mod entry;
mod fallback;
mod rib;
mod slots;
mod v4;
mod v6;

#[cfg(test)]
mod tests;

pub use entry::MAX_TARGET;

use crate::offload::Generation;
use crate::tables::TargetId;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Prefixes of one family from which its tables are asked to be in huge pages.
const PROMOTE_AT: usize = 8192;

/// Greatest sizes. They bound address space; memory is used as far as it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FibLimits {
    /// Prefixes of each family.
    pub prefixes: usize,
    /// IPv4 /24s that have longer prefixes inside; 1 KiB each.
    pub groups_v4: u32,
    /// Nodes of 256 entries for IPv6; 1 KiB each.
    pub strides_v6: u32,
    /// Nodes of up to 8 intervals for IPv6; 64 bytes each.
    pub buckets_v6: u32,
}

impl Default for FibLimits {
    fn default() -> FibLimits {
        FibLimits {
            prefixes: 1 << 22,
            groups_v4: 1 << 18,
            strides_v6: 1 << 17,
            buckets_v6: 1 << 20,
        }
    }
}

/// What can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// [`FibLimits::prefixes`], IPv4.
    PrefixesV4,
    /// [`FibLimits::prefixes`], IPv6.
    PrefixesV6,
    /// [`FibLimits::groups_v4`].
    GroupsV4,
    /// [`FibLimits::strides_v6`].
    StridesV6,
    /// [`FibLimits::buckets_v6`].
    BucketsV6,
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Resource::PrefixesV4 => "IPv4 prefixes",
            Resource::PrefixesV6 => "IPv6 prefixes",
            Resource::GroupsV4 => "groups for IPv4 prefixes longer than /24",
            Resource::StridesV6 => "strides for IPv6 prefixes",
            Resource::BucketsV6 => "buckets for IPv6 prefixes",
        })
    }
}

/// Why a prefix could not be written. The table is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FibError {
    /// A limit is reached. Room may come back by [`FibWriter::reclaim`].
    #[error("the FIB is full: no more {0}")]
    Full(Resource),
    /// The target's number is above [`MAX_TARGET`].
    #[error("target {} is above the greatest, {MAX_TARGET}", .0.0)]
    TargetTooLarge(TargetId),
}

/// What is in use of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FibUsage {
    /// Of [`FibLimits::groups_v4`].
    pub groups_v4: usize,
    /// Of [`FibLimits::strides_v6`].
    pub strides_v6: usize,
    /// Of [`FibLimits::buckets_v6`].
    pub buckets_v6: usize,
    /// Nodes of all kinds that wait for [`FibWriter::reclaim`].
    pub retired: usize,
}

/// What workers read.
#[derive(Debug)]
pub struct Fib {
    v4: v4::Table4,
    v6: v6::Table6,
}

impl Fib {
    /// The target of the longest prefix that covers `address`; 0 when none does.
    #[inline]
    pub fn lookup_v4(&self, address: Ipv4Addr) -> TargetId {
        self.v4.lookup(address.to_bits())
    }

    /// The target of the longest prefix that covers `address`; 0 when none does.
    #[inline]
    pub fn lookup_v6(&self, address: Ipv6Addr) -> TargetId {
        self.v6.lookup(address)
    }

    /// Asks the processor for what [`Fib::lookup_v4`] reads first.
    #[inline]
    pub fn prefetch_v4(&self, address: Ipv4Addr) {
        self.v4.prefetch(address.to_bits());
    }

    /// As [`Fib::lookup_v4`] for many: `out[n]` answers `addresses[n]`, as far as both go.
    pub fn lookup_v4_batch(&self, addresses: &[Ipv4Addr], out: &mut [TargetId]) {
        self.v4.lookup_batch(addresses, out);
    }

    /// As [`Fib::lookup_v4_batch`] for up to 64, without those that take a second look into memory:
    /// a bit for each of them, to be asked about one by one a little later.
    #[inline]
    pub fn begin_v4_batch(&self, addresses: &[Ipv4Addr], out: &mut [TargetId]) -> u64 {
        self.v4.begin_batch(addresses, out)
    }

    /// As [`Fib::lookup_v6`] for many: `out[n]` answers `addresses[n]`, as far as both go.
    pub fn lookup_v6_batch(&self, addresses: &[Ipv6Addr], out: &mut [TargetId]) {
        self.v6.lookup_batch(addresses, out);
    }

    /// Either family.
    pub fn lookup(&self, address: IpAddr) -> TargetId {
        match address {
            IpAddr::V4(address) => self.lookup_v4(address),
            IpAddr::V6(address) => self.lookup_v6(address),
        }
    }
}

/// The one writer: what is in the table, and the right to change it.
#[derive(Debug)]
pub struct FibWriter {
    fib: Arc<Fib>,
    v4: v4::Writer4,
    v6: v6::Writer6,
    limits: FibLimits,
    promoted: [bool; 2],
    generation: Option<Generation>,
}

impl FibWriter {
    /// An empty table with the default limits. Panics when the system refuses the address space
    /// (under 1 GiB); [`FibWriter::with_limits`] gives an error instead.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> (FibWriter, Arc<Fib>) {
        FibWriter::with_limits(FibLimits::default()).expect("1 GiB of address space for the FIB")
    }

    /// An empty table. An error means that the system refuses the address space. More groups than
    /// 2^24, strides than 2^19 and buckets than 2^22 count as that.
    pub fn with_limits(limits: FibLimits) -> std::io::Result<(FibWriter, Arc<Fib>)> {
        let most = MAX_TARGET + 1;
        let groups = limits.groups_v4.min(most);
        let strides = limits.strides_v6.min(v6::STRIDES_MAX);
        let buckets = limits.buckets_v6.min(v6::BUCKETS_MAX);
        let fib =
            Arc::new(Fib { v4: v4::Table4::new(groups)?, v6: v6::Table6::new(strides, buckets)? });
        let (v4, v6) = (v4::Writer4::new(groups), v6::Writer6::new(strides, buckets));
        let (promoted, generation) = ([false; 2], None);
        let writer = FibWriter { fib: fib.clone(), v4, v6, limits, promoted, generation };
        Ok((writer, fib))
    }

    /// The readers' side.
    pub fn fib(&self) -> &Arc<Fib> {
        &self.fib
    }

    /// Raises the generation of offloaded flows after each change from now on.
    pub fn raise_on_change(&mut self, generation: Generation) {
        self.generation = Some(generation);
    }

    /// Sets the target of a prefix, whose host bits don't matter; the target it had before.
    pub fn insert(&mut self, net: IpNet, to: TargetId) -> Result<Option<TargetId>, FibError> {
        if to.0 > MAX_TARGET {
            return Err(FibError::TargetTooLarge(to));
        }
        let old = match net.trunc() {
            IpNet::V4(net) => self.insert_v4(net, to),
            IpNet::V6(net) => self.insert_v6(net, to),
        }?;
        self.changed();
        self.promote();
        Ok(old)
    }

    fn insert_v4(&mut self, net: Ipv4Net, to: TargetId) -> Result<Option<TargetId>, FibError> {
        if net.prefix_len() == 0 {
            return Ok(self.fib.v4.fallback.set(Some(to)));
        }
        let prefix = (net.addr().to_bits(), net.prefix_len());
        if self.v4.rib.len() >= self.limits.prefixes && self.get(net.into()).is_none() {
            return Err(FibError::Full(Resource::PrefixesV4));
        }
        self.v4.insert(&self.fib.v4, prefix, to)
    }

    fn insert_v6(&mut self, net: Ipv6Net, to: TargetId) -> Result<Option<TargetId>, FibError> {
        if net.prefix_len() == 0 {
            return Ok(self.fib.v6.fallback.set(Some(to)));
        }
        let prefix = (net.addr().to_bits(), net.prefix_len());
        if self.v6.rib.len() >= self.limits.prefixes && self.get(net.into()).is_none() {
            return Err(FibError::Full(Resource::PrefixesV6));
        }
        self.v6.insert(&self.fib.v6, prefix, to)
    }

    /// Takes a prefix away; the target it had, `None` when it was not there. Never fails.
    pub fn remove(&mut self, net: IpNet) -> Option<TargetId> {
        let removed = self.take(net);
        self.changed();
        removed
    }

    fn changed(&self) {
        if let Some(generation) = &self.generation {
            generation.raise();
        }
    }

    fn take(&mut self, net: IpNet) -> Option<TargetId> {
        match net.trunc() {
            IpNet::V4(net) if net.prefix_len() == 0 => self.fib.v4.fallback.set(None),
            IpNet::V6(net) if net.prefix_len() == 0 => self.fib.v6.fallback.set(None),
            IpNet::V4(net) => self.v4.remove(&self.fib.v4, net.addr().to_bits(), net.prefix_len()),
            IpNet::V6(net) => self.v6.remove(&self.fib.v6, net.addr().to_bits(), net.prefix_len()),
        }
    }

    /// The target of exactly this prefix.
    pub fn get(&self, net: IpNet) -> Option<TargetId> {
        match net.trunc() {
            IpNet::V4(net) if net.prefix_len() == 0 => self.fib.v4.fallback.read().get(),
            IpNet::V6(net) if net.prefix_len() == 0 => self.fib.v6.fallback.read().get(),
            IpNet::V4(net) => self.v4.rib.get(net.addr().to_bits(), net.prefix_len()),
            IpNet::V6(net) => self.v6.rib.get(net.addr().to_bits(), net.prefix_len()),
        }
    }

    /// IPv4 prefixes in the table.
    pub fn len_v4(&self) -> usize {
        self.v4.rib.len() + usize::from(self.fib.v4.fallback.read().get().is_some())
    }

    /// IPv6 prefixes in the table.
    pub fn len_v6(&self) -> usize {
        self.v6.rib.len() + usize::from(self.fib.v6.fallback.read().get().is_some())
    }

    /// All prefixes: IPv4, then IPv6; a shorter one before those it covers, else by address.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, TargetId)> + '_ {
        let default_v4 = self.fib.v4.fallback.read().get();
        let default_v4 = default_v4.map(|to| (Ipv4Net::default().into(), to));
        let default_v6 = self.fib.v6.fallback.read().get();
        let default_v6 = default_v6.map(|to| (Ipv6Net::default().into(), to));
        let v4 =
            self.v4.rib.iter().map(|(key, len, to)| {
                (Ipv4Net::new_assert(Ipv4Addr::from_bits(key), len).into(), to)
            });
        let v6 =
            self.v6.rib.iter().map(|(key, len, to)| {
                (Ipv6Net::new_assert(Ipv6Addr::from_bits(key), len).into(), to)
            });
        default_v4.into_iter().chain(v4).chain(default_v6).chain(v6)
    }

    /// Makes room of nodes that were taken out of use. The caller promises that every reader has
    /// been outside of all lookups at some moment since the last change.
    pub fn reclaim(&mut self) {
        self.v4.groups.reclaim();
        self.v6.strides.reclaim();
        self.v6.buckets.reclaim();
    }

    /// What is in use of the limits, and whether [`FibWriter::reclaim`] would free something.
    pub fn usage(&self) -> FibUsage {
        let (groups, strides, buckets) = (&self.v4.groups, &self.v6.strides, &self.v6.buckets);
        FibUsage {
            groups_v4: groups.in_use(),
            strides_v6: strides.in_use(),
            buckets_v6: buckets.in_use(),
            retired: groups.retired() + strides.retired() + buckets.retired(),
        }
    }

    fn promote(&mut self) {
        if !self.promoted[0] && self.v4.rib.len() >= PROMOTE_AT {
            self.promoted[0] = true;
            self.fib.v4.promote();
        }
        if !self.promoted[1] && self.v6.rib.len() >= PROMOTE_AT {
            self.promoted[1] = true;
            self.fib.v6.promote();
        }
    }
}
