//! A packet socket that only sends: the way of super-packets to a device, whole, in the manner of
//! a TAP's (packet(7), PACKET_VNET_HDR).
//!
//! Protocol 0 lets nothing in. The kernel copies what it is given before a call returns. It cuts
//! super-packets and finishes checksums where the device does not; with PACKET_QDISC_BYPASS it
//! would drop what it has to cut.

use crate::packet::{MAX_SEGMENTS, Packet};
use crate::port::BURST;
use crate::sys::tap::HEADER_LEN;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes that may wait in the device and its queues, by the kernel's measure of memory; what is
/// beyond waits with us. Twice this is what the kernel allows.
const SEND_BUFFER: i32 = 1 << 20;

/// The socket, and room for what one call tells the kernel.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
    call: Call,
}

/// Reused from call to call; what it points to is set, used and out of date within one.
struct Call {
    headers: [[u8; HEADER_LEN]; BURST],
    vectors: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

// SAFETY: its pointers are read only by the call that set them, before that returns.
unsafe impl Send for Call {}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

impl PacketSocket {
    /// Of the device with this number, in the calling thread's network namespace.
    pub(crate) fn open(if_index: u32) -> io::Result<PacketSocket> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: the call takes no addresses.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given this descriptor to us, so nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        set(&fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        // Only with CAP_NET_ADMIN beyond the system's own limit.
        if set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER).is_err() {
            set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER)?;
        }
        // SAFETY: all members are integers or arrays of them, for which zero bytes are valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = if_index as i32;
        let size = size_of_val(&address) as u32;
        // SAFETY: the kernel reads `size` bytes of a live address.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        let call = Call {
            headers: [[0; HEADER_LEN]; BURST],
            vectors: Vec::with_capacity(2 * BURST),
            messages: Vec::with_capacity(BURST),
        };
        Ok(PacketSocket { fd, call })
    }

    /// Sends from the front of `packets`, at most [`BURST`] of them; how many the kernel has
    /// taken. The error is the first one's, and none was taken then.
    pub(crate) fn send(
        &mut self,
        packets: &[Packet],
        header: impl Fn(&Packet) -> [u8; HEADER_LEN],
    ) -> io::Result<usize> {
        let count = packets.len().min(BURST);
        self.call.describe(&packets[..count], header);
        let (fd, messages) = (self.fd.as_raw_fd(), self.call.messages.as_mut_ptr());
        // SAFETY: `count` messages have been described, whose headers, vectors and packets are
        // borrowed through the call; the kernel only reads what the vectors name.
        let sent = unsafe { libc::sendmmsg(fd, messages, count as u32, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }

    /// True when nothing that was sent is still on its way through the device and its queues. Not
    /// when the kernel does not tell.
    pub(crate) fn is_drained(&self) -> bool {
        let mut bytes = 0i32;
        // SAFETY: the request writes one int, which lives through the call.
        let told = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        told == 0 && bytes == 0
    }
}

impl Call {
    fn describe(&mut self, packets: &[Packet], header: impl Fn(&Packet) -> [u8; HEADER_LEN]) {
        let vector = |bytes: &[u8]| libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        self.vectors.clear();
        for (room, packet) in self.headers.iter_mut().zip(packets) {
            *room = header(packet);
            self.vectors.push(vector(room));
            self.vectors.extend(packet.segments().map(vector));
        }
        self.messages.clear();
        let mut at = 0;
        for packet in packets {
            // SAFETY: all members are integers and pointers, for which zero bytes are valid.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            let parts = &mut self.vectors[at..=at + packet.segment_count()];
            message.msg_hdr.msg_iov = parts.as_mut_ptr();
            message.msg_hdr.msg_iovlen = parts.len() as _;
            self.messages.push(message);
            at += packet.segment_count() + 1;
        }
    }
}

const _: () = assert!(MAX_SEGMENTS < 1024, "more vectors than the kernel takes in one message");

fn set(fd: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let (from, size) = ((&raw const value).cast(), size_of::<i32>() as u32);
    // SAFETY: the kernel reads `size` bytes of a live value.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, from, size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
