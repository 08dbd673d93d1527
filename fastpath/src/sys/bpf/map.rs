//! A BPF map: a table that programs in the kernel and this process share.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::syscall::{self, Attr, bpf, bpf_fd};

/// The kinds of map that margay's programs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapKind {
    /// Any key to any value.
    Hash = 1,
    /// A number to a value.
    Array = 2,
    /// A number to a value for each CPU: counters without contention.
    PerCpuArray = 6,
    /// A number to the device that packets are redirected to.
    Devmap = 14,
    /// A queue number to the AF_XDP socket that takes its packets.
    Xskmap = 17,
}

/// Owns the descriptor of a map. The map lives on while a loaded program uses it.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

// SAFETY: eleven u32 in a row, no padding and no address.
unsafe impl Attr for CreateAttr {}

#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

// SAFETY: no padding; only `Map`'s methods make one, with the key's and value's lengths checked
// against the map's, and both borrowed for the call.
unsafe impl Attr for ElemAttr {}

/// Entries of a hash are allocated as they come, not all at the start.
const NO_PREALLOC: u32 = 1;

impl Map {
    /// Makes a map of `max_entries`, with keys and values of the sizes given in bytes. A per-CPU
    /// map has one value of `value_size`, rounded up to 8, for each possible CPU.
    pub fn new(
        kind: MapKind,
        name: &str,
        key_size: usize,
        value_size: usize,
        max_entries: u32,
    ) -> io::Result<Map> {
        let flags = if kind == MapKind::Hash { NO_PREALLOC } else { 0 };
        Map::with_flags((kind, flags), name, key_size, value_size, max_entries)
    }

    /// As [`Map::new`], with flags of the kernel's.
    pub(super) fn with_flags(
        (kind, flags): (MapKind, u32),
        name: &str,
        key_size: usize,
        value_size: usize,
        max_entries: u32,
    ) -> io::Result<Map> {
        let mut attr = CreateAttr {
            map_type: kind as u32,
            key_size: key_size as u32,
            value_size: value_size as u32,
            max_entries,
            map_flags: flags,
            map_name: syscall::object_name(name),
            ..CreateAttr::default()
        };
        let fd = bpf_fd(syscall::MAP_CREATE, &mut attr)?;
        let value_size = match kind {
            MapKind::PerCpuArray => value_size.next_multiple_of(8) * possible_cpus()?,
            _ => value_size,
        };
        Ok(Map { fd, key_size, value_size })
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn elem(&self, key: &[u8], value: u64) -> io::Result<ElemAttr> {
        if key.len() != self.key_size {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let map_fd = self.fd.as_raw_fd() as u32;
        Ok(ElemAttr {
            map_fd,
            zero: 0,
            key: key.as_ptr().expose_provenance() as u64,
            value,
            flags: 0,
        })
    }

    /// Sets the value of `key`. Fails with `EINVAL` when a size is not the map's, `E2BIG` or
    /// `ENOSPC` when the map is full.
    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if value.len() != self.value_size {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut attr = self.elem(key, value.as_ptr().expose_provenance() as u64)?;
        bpf(syscall::MAP_UPDATE_ELEM, &mut attr).map(drop)
    }

    /// Removes `key`; true when it was there.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        let mut attr = self.elem(key, 0)?;
        match bpf(syscall::MAP_DELETE_ELEM, &mut attr) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The value of `key`, if it is there. Of a per-CPU map: the values of all CPUs in a row.
    pub fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value_size];
        let mut attr = self.elem(key, value.as_mut_ptr().expose_provenance() as u64)?;
        match bpf(syscall::MAP_LOOKUP_ELEM, &mut attr) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// CPUs that the kernel may ever have: how many values a per-CPU map holds for a key.
fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or_default();
    let last: usize = last.parse().map_err(|_| io::Error::other("unreadable CPU list"))?;
    Ok(last + 1)
}
