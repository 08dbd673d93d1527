//! Making and attaching to TAP devices: TUNSETIFF and its companions, address, MTU, up.
//!
//! A device in another network namespace is opened by a short-lived thread that enters it: the
//! descriptor stays tied to that namespace, and the caller's thread never leaves its own.

use super::HEADER_LEN;
use margay_tunnels::wire::ethernet::Mac;
use nix::sched::{CloneFlags, setns};
use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

const TUNSETIFF: u64 = 0x4004_54ca;
const TUNSETPERSIST: u64 = 0x4004_54cb;
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;

const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// A device whose last owner was killed is busy until the kernel has cleaned up after it.
const BUSY_TRIES: usize = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Which step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Namespace,
    OpenTun,
    Attach,
    Persist,
    Header,
    Address,
    Mtu,
    Up,
}

/// What the device is to be.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u16,
    pub(crate) persistent: bool,
    pub(crate) up: bool,
}

/// An attached device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) fd: OwnedFd,
    pub(crate) name: String,
    pub(crate) if_index: u32,
    /// The kernel gives us TCP super-packets and unfinished checksums.
    pub(crate) has_tso: bool,
    /// It knows UDP super-packets (Linux 6.2).
    pub(crate) has_uso: bool,
}

/// Attaches to the device, making it if it is not there, in the namespace at `netns` or our own.
pub(crate) fn open(wanted: &Wanted, netns: Option<&Path>) -> Result<Device, (Step, io::Error)> {
    let Some(path) = netns else { return open_here(wanted) };
    let namespace = File::open(path).map_err(|error| (Step::Namespace, error))?;
    let wanted = wanted.clone();
    let body = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| (Step::Namespace, errno.into()))?;
        open_here(&wanted)
    };
    let thread = std::thread::Builder::new().name("tap-netns".to_string()).spawn(body);
    let joined = thread.map_err(|error| (Step::Namespace, error))?.join();
    joined.unwrap_or_else(|_| Err((Step::Namespace, io::Error::other("the opening thread died"))))
}

fn open_here(wanted: &Wanted) -> Result<Device, (Step, io::Error)> {
    let fd = open_tun().map_err(|error| (Step::OpenTun, error))?;
    attach(&fd, &wanted.name).map_err(|error| (Step::Attach, error))?;
    let persist = c_int::from(wanted.persistent);
    ioctl_value(&fd, TUNSETPERSIST, persist.into()).map_err(|error| (Step::Persist, error))?;
    ioctl_int(&fd, TUNSETVNETHDRSZ, HEADER_LEN as c_int).map_err(|error| (Step::Header, error))?;
    let (has_tso, has_uso) = set_offloads(&fd);
    let control = control_socket().map_err(|error| (Step::Up, error))?;
    let mut request = request_for(&wanted.name);
    if let Some(mac) = wanted.mac {
        set_mac(&control, &wanted.name, mac).map_err(|error| (Step::Address, error))?;
    }
    request.ifr_ifru.ifru_mtu = wanted.mtu.into();
    ioctl(&control, libc::SIOCSIFMTU, &mut request).map_err(|error| (Step::Mtu, error))?;
    set_up(&control, &wanted.name, wanted.up).map_err(|error| (Step::Up, error))?;
    let if_index = index_of(&control, &wanted.name).map_err(|error| (Step::Up, error))?;
    Ok(Device { fd, name: wanted.name.clone(), if_index, has_tso, has_uso })
}

impl Device {
    /// Sets it up; only in the namespace that it was opened in.
    pub(crate) fn set_up(&self) -> io::Result<()> {
        set_up(&control_socket()?, &self.name, true)
    }
}

fn open_tun() -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    options.open("/dev/net/tun").map(OwnedFd::from)
}

fn attach(fd: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    for turn in 1.. {
        let mut request = request_for(name);
        request.ifr_ifru.ifru_flags = flags as i16;
        match ioctl(fd, TUNSETIFF, &mut request) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && turn < BUSY_TRIES => {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
    Ok(())
}

/// Asks for all that we can take, and for less when the kernel does not know it.
fn set_offloads(fd: &OwnedFd) -> (bool, bool) {
    let tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if ioctl_value(fd, TUNSETOFFLOAD, (tso | TUN_F_USO4 | TUN_F_USO6).into()).is_ok() {
        return (true, true);
    }
    (ioctl_value(fd, TUNSETOFFLOAD, tso.into()).is_ok(), false)
}

fn set_mac(control: &OwnedFd, name: &str, mac: Mac) -> io::Result<()> {
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(mac.0) {
        *to = from as libc::c_char;
    }
    let mut request = request_for(name);
    request.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data };
    ioctl(control, libc::SIOCSIFHWADDR, &mut request)
}

fn set_up(control: &OwnedFd, name: &str, up: bool) -> io::Result<()> {
    let mut request = request_for(name);
    ioctl(control, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has just written this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let flag = libc::IFF_UP as i16;
    request.ifr_ifru.ifru_flags = if up { flags | flag } else { flags & !flag };
    ioctl(control, libc::SIOCSIFFLAGS, &mut request)
}

fn index_of(control: &OwnedFd, name: &str) -> io::Result<u32> {
    let mut request = request_for(name);
    ioctl(control, libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: SIOCGIFINDEX has just written this member.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex } as u32)
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The caller has checked that the name fits.
fn request_for(name: &str) -> libc::ifreq {
    // SAFETY: all members are integers or arrays of them, for which zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn ioctl(fd: &OwnedFd, request: u64, argument: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every request passed here reads or writes one ifreq, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(argument)) })
}

fn ioctl_value(fd: &OwnedFd, request: u64, value: libc::c_long) -> io::Result<()> {
    // SAFETY: these requests take their argument by value and touch no memory of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, value) })
}

fn ioctl_int(fd: &OwnedFd, request: u64, value: c_int) -> io::Result<()> {
    // SAFETY: the request reads one int, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw const value) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The descriptor's number, for the engines.
pub(crate) fn raw(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}
