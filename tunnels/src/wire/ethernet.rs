//! Ethernet II (IEEE 802.3): destination, source, EtherType. VLAN tags are left to the kernel.

use super::be16;
use std::fmt;

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 14;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// A 48-bit link address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// As a word to be compared with [`View::dst_word`].
    #[inline]
    pub const fn word(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([0, 0, a, b, c, d, e, f])
    }

    /// True for group addresses, broadcast among them.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Mac, ()> {
        let mut octets = [0u8; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        if parts.next().is_some() { Err(()) } else { Ok(Mac(octets)) }
    }
}

/// View of a frame from its first byte.
#[derive(Debug, Clone, Copy)]
pub struct View<'a>(&'a [u8; HEADER_LEN], &'a [u8]);

impl<'a> View<'a> {
    /// `None` when `bytes` is shorter than the header.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.split_first_chunk().map(|(header, payload)| View(header, payload))
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Mac {
        Mac([self.0[0], self.0[1], self.0[2], self.0[3], self.0[4], self.0[5]])
    }

    /// Destination address as [`Mac::word`] has it: one load.
    #[inline]
    pub fn dst_word(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h]) << 16
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Mac {
        Mac([self.0[6], self.0[7], self.0[8], self.0[9], self.0[10], self.0[11]])
    }

    /// EtherType, host order.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        be16(self.0, 12)
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.1
    }
}

/// The header as it stands on the wire.
pub fn header(dst: Mac, src: Mac, ethertype: u16) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..6].copy_from_slice(&dst.0);
    bytes[6..12].copy_from_slice(&src.0);
    bytes[12..].copy_from_slice(&ethertype.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_standard_puts_them() {
        let dst: Mac = "02:00:00:00:00:01".parse().unwrap();
        let src: Mac = "02:00:00:00:00:02".parse().unwrap();
        let bytes = header(dst, src, IPV6);
        let view = View::new(&bytes).unwrap();
        assert_eq!((view.dst(), view.src(), view.ethertype()), (dst, src, IPV6));
        assert!(View::new(&bytes[..13]).is_none());
        assert_eq!(dst.to_string(), "02:00:00:00:00:01");
    }

    #[test]
    fn bad_link_addresses_are_refused() {
        for text in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "zz:00:00:00:00:01"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
