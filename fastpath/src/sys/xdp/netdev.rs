//! What a network device is and can do, asked of the kernel in the calling thread's namespace.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::netlink::{Netlink, attribute, put, u32_at};
use crate::sys::bpf::ProgramInfo;

/// What opening an AF_XDP port needs to know of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its driver, such as `veth`; empty when it says none.
    pub driver: String,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Whether it says that it does zero-copy AF_XDP; `None` when the kernel (before 6.3) can't.
    pub zero_copy: Option<bool>,
    /// The XDP program that is attached to it.
    pub program: Option<ProgramInfo>,
}

const SIOCETHTOOL: u64 = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_MTU: u16 = 4;
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFINFO_BYTES: usize = 16;
const GENL_ID_CTRL: u16 = 16;
const GENL_BYTES: usize = 4;
const NETDEV_INDEX: u16 = 1;
const NETDEV_XDP_FEATURES: u16 = 3;
const FEATURE_ZERO_COPY: u32 = 8;
const FEATURE_REDIRECT_TARGET: u32 = 4;

impl Device {
    /// The device with this name. `ENODEV` when there is none.
    pub fn by_name(name: &str) -> io::Result<Device> {
        let no_device = || io::Error::from_raw_os_error(libc::ENODEV);
        let text = CString::new(name).map_err(|_| no_device())?;
        // SAFETY: the kernel's library reads a string that ends with zero.
        let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
        if index == 0 {
            return Err(no_device());
        }
        Device::by_index(index)
    }

    /// The device with this number.
    pub fn by_index(index: u32) -> io::Result<Device> {
        let link = Netlink::open(libc::NETLINK_ROUTE)?;
        let mut request = vec![0; IFINFO_BYTES];
        request[4..8].copy_from_slice(&index.to_ne_bytes());
        let answer = link.ask(RTM_GETLINK, &request, Some(RTM_NEWLINK))?;
        let attributes = answer.get(IFINFO_BYTES..).unwrap_or_default();
        let name = attribute(attributes, IFLA_IFNAME).unwrap_or_default();
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_string();
        let mtu = attribute(attributes, IFLA_MTU).and_then(|value| u32_at(value, 0)).unwrap_or(0);
        Ok(Device {
            index,
            driver: driver(&name).unwrap_or_default(),
            rx_queues: rx_queues(&name).unwrap_or(1).max(1),
            mtu,
            zero_copy: features(index).ok().map(|features| features & FEATURE_ZERO_COPY != 0),
            program: attached(attributes),
            name,
        })
    }
}

fn attached(attributes: &[u8]) -> Option<ProgramInfo> {
    let xdp = attribute(attributes, IFLA_XDP)?;
    if attribute(xdp, IFLA_XDP_ATTACHED)?.first() == Some(&0) {
        return None;
    }
    let id = attribute(xdp, IFLA_XDP_PROG_ID).and_then(|value| u32_at(value, 0)).unwrap_or(0);
    Some(ProgramInfo::by_id(id))
}

/// Asks drivers what they say about XDP.
pub(crate) struct Features {
    netlink: Netlink,
    /// Number of the `netdev` family.
    family: u16,
}

impl Features {
    /// In the calling thread's namespace. `ENOENT` on kernels before 6.3.
    pub(crate) fn open() -> io::Result<Features> {
        let netlink = Netlink::open(libc::NETLINK_GENERIC)?;
        let mut request = vec![3, 1, 0, 0];
        put(&mut request, 2, b"netdev\0");
        let answer = netlink.ask(GENL_ID_CTRL, &request, Some(GENL_ID_CTRL))?;
        let family = attribute(answer.get(GENL_BYTES..).unwrap_or_default(), 1)
            .and_then(|value| Some(u16::from_ne_bytes(value.try_into().ok()?)))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        // Another socket: the acknowledgement of the question is still in this one.
        Ok(Features { netlink: Netlink::open(libc::NETLINK_GENERIC)?, family })
    }

    /// Bit set of a device.
    fn of(&mut self, index: u32) -> io::Result<u32> {
        let mut request = vec![1, 1, 0, 0];
        put(&mut request, 1, &index.to_ne_bytes());
        let answer = self.netlink.ask(self.family, &request, Some(self.family));
        self.netlink = Netlink::open(libc::NETLINK_GENERIC)?;
        attribute(answer?.get(GENL_BYTES..).unwrap_or_default(), NETDEV_XDP_FEATURES)
            .and_then(|value| u32_at(value, 0))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    /// The devices of the namespace that take frames that are redirected to them now, by number,
    /// in rising order.
    pub(crate) fn redirect_targets(&mut self) -> io::Result<Vec<u32>> {
        let mut targets = Vec::new();
        let add = |answer: &[u8]| {
            let attributes = answer.get(GENL_BYTES..).unwrap_or_default();
            let number = |kind| attribute(attributes, kind).and_then(|value| u32_at(value, 0));
            let features = number(NETDEV_XDP_FEATURES).unwrap_or(0);
            if features & FEATURE_REDIRECT_TARGET != 0 {
                targets.extend(number(NETDEV_INDEX));
            }
        };
        self.netlink.list(self.family, &[1, 1, 0, 0], (self.family, add))?;
        targets.sort_unstable();
        Ok(targets)
    }

    /// True when a device takes frames that are redirected to it now.
    pub(crate) fn takes_redirects(&mut self, index: u32) -> bool {
        self.of(index).is_ok_and(|features| features & FEATURE_REDIRECT_TARGET != 0)
    }
}

/// Has a device of the calling thread's namespace send what it is given at once: nothing is queued
/// before it, and who gives it a packet is told whether it took that.
pub(crate) fn send_at_once(index: u32) -> io::Result<()> {
    const RTM_NEWQDISC: u16 = 36;
    const ROOT: u32 = u32::MAX;
    const TCA_KIND: u16 = 1;
    // struct tcmsg: family, device, handle, parent, information.
    let mut payload: Vec<u8> =
        [0, index, 0, ROOT, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    put(&mut payload, TCA_KIND, b"noqueue\0");
    Netlink::open(libc::NETLINK_ROUTE)?.put(RTM_NEWQDISC, &payload)
}

/// True when a device of the calling thread's namespace takes redirected frames now.
pub(crate) fn takes_redirects(index: u32) -> bool {
    Features::open().is_ok_and(|mut all| all.takes_redirects(index))
}

fn features(index: u32) -> io::Result<u32> {
    Features::open()?.of(index)
}

/// Runs an ethtool command whose struct is `words` long, the first of them the command.
fn ethtool<const N: usize>(name: &str, command: u32) -> io::Result<[u32; N]> {
    let mut words = [0u32; N];
    words[0] = command;
    // SAFETY: all-zero bytes make a valid ifreq, a struct of plain bytes and a union of such.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: the call takes no addresses.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us, so nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the request is live and names a buffer of the command's size, which we borrow.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(words) }
}

fn driver(name: &str) -> io::Result<String> {
    // struct ethtool_drvinfo: the command, then the driver in 32 bytes, 196 bytes in all.
    let words = ethtool::<49>(name, ETHTOOL_GDRVINFO)?;
    let bytes: Vec<u8> = words[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let text = CStr::from_bytes_until_nul(&bytes).map_err(io::Error::other)?;
    Ok(text.to_string_lossy().into_owned())
}

fn rx_queues(name: &str) -> io::Result<u32> {
    // struct ethtool_channels: command, four maxima, then rx, tx, other, combined.
    let words = ethtool::<9>(name, ETHTOOL_GCHANNELS)?;
    Ok(words[5] + words[8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_described() {
        let device = Device::by_name("lo").unwrap();
        assert_eq!((device.index, device.name.as_str(), device.rx_queues), (1, "lo", 1));
        assert_eq!((device.mtu, device.program.clone()), (65536, None));
        assert_ne!(device.zero_copy, Some(true));
        assert_eq!(Device::by_index(1).unwrap(), device);
    }

    #[test]
    fn a_device_that_is_not_there_is_enodev() {
        for error in
            [Device::by_name("no-such-dev").unwrap_err(), Device::by_index(!0 >> 1).unwrap_err()]
        {
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        }
    }
}
