//! As much netlink as two questions about a device need: one request, its answers, attributes.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const HEADER: usize = 16;
const ALIGN: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// Make what is not there, and put it in the place of what is.
const NLM_F_PUT: u16 = 0x500;
const NLM_F_DUMP: u16 = 0x300;
/// The answers that we ask for are below 8 kB; the kernel gives no more in one piece than 32 kB.
const ANSWER_BYTES: usize = 32 * 1024;
/// Datagrams read for one answer.
const MAX_DATAGRAMS: usize = 16;
/// Datagrams read for a list, each of which has many entries.
const MAX_LIST: usize = 1 << 16;

/// A netlink socket of the calling thread's network namespace.
pub(super) struct Netlink {
    fd: OwnedFd,
}

impl Netlink {
    pub(super) fn open(protocol: i32) -> io::Result<Netlink> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: the call takes no addresses.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given this descriptor to us, so nobody else owns it.
        Ok(Netlink { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Sends one request and gives the payload of the first answer of type `answer`, or of any
    /// type if that is `None`.
    pub(super) fn ask(
        &self,
        kind: u16,
        payload: &[u8],
        answer: Option<u16>,
    ) -> io::Result<Vec<u8>> {
        self.send(kind, NLM_F_ACK, payload)?;
        let mut buffer = vec![0u8; ANSWER_BYTES];
        for _ in 0..MAX_DATAGRAMS {
            let got = self.receive(&mut buffer)?;
            if let Some(found) = find_answer(&buffer[..got], answer)? {
                return Ok(found);
            }
        }
        Err(io::Error::other("netlink gave no answer"))
    }

    /// Sends a request to put something in its place, and waits until that is done.
    pub(super) fn put(&self, kind: u16, payload: &[u8]) -> io::Result<()> {
        self.send(kind, NLM_F_ACK | NLM_F_PUT, payload)?;
        let mut buffer = vec![0u8; ANSWER_BYTES];
        let got = self.receive(&mut buffer)?;
        match messages(&buffer[..got]).find(|(kind, _)| *kind == NLMSG_ERROR) {
            Some((_, payload)) if u32_at(payload, 0) == Some(0) => Ok(()),
            Some((_, payload)) => Err(error_of(payload)),
            None => Err(io::Error::other("netlink gave no answer")),
        }
    }

    /// Sends a request for a list, and gives the payload of each of its entries, which are of the
    /// type `entry`.
    pub(super) fn list(
        &self,
        kind: u16,
        payload: &[u8],
        (entry, mut each): (u16, impl FnMut(&[u8])),
    ) -> io::Result<()> {
        self.send(kind, NLM_F_DUMP, payload)?;
        let mut buffer = vec![0u8; ANSWER_BYTES];
        for _ in 0..MAX_LIST {
            let got = self.receive(&mut buffer)?;
            for (kind, payload) in messages(&buffer[..got]) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return Err(error_of(payload)),
                    _ if kind == entry => each(payload),
                    _ => {}
                }
            }
        }
        Err(io::Error::other("netlink's list does not end"))
    }

    fn send(&self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + payload.len());
        message.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(payload);
        let (fd, start) = (self.fd.as_raw_fd(), message.as_ptr().cast());
        // SAFETY: the kernel reads the bytes of a live vector.
        let sent = unsafe { libc::send(fd, start, message.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let start = buffer.as_mut_ptr().cast();
        // SAFETY: the kernel writes at most the length of the buffer that we borrow.
        let got = unsafe { libc::recv(self.fd.as_raw_fd(), start, buffer.len(), 0) };
        if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got as usize) }
    }
}

/// Types and payloads of the messages of a datagram; a malformed one ends it.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let message = bytes.get(..len).filter(|message| message.len() >= HEADER)?;
        bytes = &bytes[len.next_multiple_of(ALIGN).min(bytes.len())..];
        Some((u16::from_ne_bytes([message[4], message[5]]), &message[HEADER..]))
    })
}

/// What an error message says; an acknowledgement says that there was no answer before it.
fn error_of(payload: &[u8]) -> io::Error {
    let code = u32_at(payload, 0).unwrap_or(0) as i32;
    io::Error::from_raw_os_error(if code == 0 { libc::ENOENT } else { -code })
}

fn find_answer(bytes: &[u8], wanted: Option<u16>) -> io::Result<Option<Vec<u8>>> {
    for (kind, payload) in messages(bytes) {
        match kind {
            NLMSG_ERROR => return Err(error_of(payload)),
            NLMSG_DONE => return Err(io::Error::from_raw_os_error(libc::ENOENT)),
            _ if wanted.is_none_or(|wanted| wanted == kind) => return Ok(Some(payload.to_vec())),
            _ => {}
        }
    }
    Ok(None)
}

/// Adds an attribute to a request.
pub(super) fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((ALIGN + value.len()) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(ALIGN), 0);
}

/// The value of the first attribute of a kind; malformed ones end the search.
pub(super) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// Flags that the kernel may set in an attribute's kind: nested, network order.
    const FLAGS: u16 = 0xc000;
    while bytes.len() >= ALIGN {
        let len = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & !FLAGS;
        let value = bytes.get(ALIGN..len)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(ALIGN)..)?;
    }
    None
}

/// The number at a place of a message, in the host's order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_malformed_ones_end_the_search() {
        let mut message = Vec::new();
        put(&mut message, 3, &[1, 2, 3]);
        put(&mut message, 0x8005, &7u32.to_ne_bytes());
        assert_eq!(message.len(), 16);
        assert_eq!(attribute(&message, 3), Some(&[1, 2, 3][..]));
        assert_eq!(attribute(&message, 5).and_then(|value| u32_at(value, 0)), Some(7));
        assert_eq!(attribute(&message, 4), None);
        message[0] = 200;
        assert_eq!(attribute(&message, 5), None);
        message[0] = 0;
        assert_eq!(attribute(&message, 5), None);
    }
}
