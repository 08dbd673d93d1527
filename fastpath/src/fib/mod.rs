//! Longest-prefix match, as a scan over all routes: right, and slow.

use crate::tables::TargetId;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, RwLock};

/// Why a route could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FibError {
    /// No room.
    #[error("the table is full")]
    Full,
}

/// What readers see.
#[derive(Debug, Default)]
pub struct Fib(RwLock<HashMap<IpNet, TargetId>>);

/// The one writer.
#[derive(Debug)]
pub struct FibWriter(Arc<Fib>);

impl FibWriter {
    /// An empty table and its readers' side.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> (FibWriter, Arc<Fib>) {
        let fib = Arc::new(Fib::default());
        (FibWriter(fib.clone()), fib)
    }

    /// Sets a route; the target it had before.
    pub fn insert(&mut self, net: IpNet, to: TargetId) -> Result<Option<TargetId>, FibError> {
        let mut routes = self.0.0.write().map_err(|_| FibError::Full)?;
        Ok(routes.insert(net.trunc(), to))
    }

    /// Takes a route away; the target it had.
    pub fn remove(&mut self, net: IpNet) -> Option<TargetId> {
        self.0.0.write().ok()?.remove(&net.trunc())
    }
}

impl Fib {
    fn lookup(&self, address: IpAddr) -> TargetId {
        let Ok(routes) = self.0.read() else { return TargetId(0) };
        let matching = routes.iter().filter(|(net, _)| net.contains(&address));
        matching.max_by_key(|(net, _)| net.prefix_len()).map_or(TargetId(0), |(_, to)| *to)
    }

    /// The target of the longest matching prefix.
    pub fn lookup_v4(&self, address: Ipv4Addr) -> TargetId {
        self.lookup(address.into())
    }

    /// The target of the longest matching prefix.
    pub fn lookup_v6(&self, address: Ipv6Addr) -> TargetId {
        self.lookup(address.into())
    }

    /// Looks each address up; `out` is as long as `addresses`.
    pub fn lookup_v4_batch(&self, addresses: &[Ipv4Addr], out: &mut [TargetId]) {
        addresses.iter().zip(out).for_each(|(address, to)| *to = self.lookup_v4(*address));
    }

    /// Looks each address up; `out` is as long as `addresses`.
    pub fn lookup_v6_batch(&self, addresses: &[Ipv6Addr], out: &mut [TargetId]) {
        addresses.iter().zip(out).for_each(|(address, to)| *to = self.lookup_v6(*address));
    }
}
