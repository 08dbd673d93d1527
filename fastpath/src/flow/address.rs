//! What names a flow: two addresses, two ports and a protocol.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address of either family; IPv4 as RFC 4291 2.5.5.2 maps it into IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Address([u32; 4]);

const MAPPED: u32 = 0xffff;

impl Address {
    /// True for IPv4.
    #[inline]
    pub fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// The IPv4 address as a number; the last 32 bits where it is none.
    #[inline]
    pub fn v4_bits(self) -> u32 {
        self.0[3]
    }

    /// The words of it, the first one the most significant.
    #[inline]
    pub(super) fn words(self) -> [u32; 4] {
        self.0
    }

    /// The IPv4 address of these bits.
    #[inline]
    pub(super) fn of_v4(bits: u32) -> Address {
        Address([0, 0, MAPPED, bits])
    }

    /// The address of these words.
    #[inline]
    pub(super) fn of_words(words: [u32; 4]) -> Address {
        Address(words)
    }

    /// The 128 bits.
    #[inline]
    pub fn bits(self) -> u128 {
        let [a, b, c, d] = self.0.map(u128::from);
        a << 96 | b << 64 | c << 32 | d
    }
}

impl From<Ipv4Addr> for Address {
    #[inline]
    fn from(address: Ipv4Addr) -> Address {
        Address([0, 0, MAPPED, address.to_bits()])
    }
}

impl From<Ipv6Addr> for Address {
    #[inline]
    fn from(address: Ipv6Addr) -> Address {
        let bits = address.to_bits();
        Address([(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32])
    }
}

impl From<IpAddr> for Address {
    #[inline]
    fn from(address: IpAddr) -> Address {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

impl From<Address> for IpAddr {
    #[inline]
    fn from(address: Address) -> IpAddr {
        match address.is_v4() {
            true => IpAddr::V4(Ipv4Addr::from_bits(address.v4_bits())),
            false => IpAddr::V6(Ipv6Addr::from_bits(address.bits())),
        }
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// The name of a flow in one direction.
///
/// Of an ICMP query the identifier is the asker's port, and the type of the question is the other
/// one; protocols without ports have 0 for both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct Tuple {
    /// Who sends.
    pub src: Address,
    /// To whom.
    pub dst: Address,
    /// Port of the sender.
    pub src_port: u16,
    /// Port of the receiver.
    pub dst_port: u16,
    /// Protocol number of IP.
    pub protocol: u8,
}

impl Tuple {
    /// The same flow in the other direction.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> Tuple {
        Tuple {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
        }
    }
}

/// A tuple of IPv4 with ports: what most packets have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TupleV4 {
    /// Who sends.
    pub src: u32,
    /// To whom.
    pub dst: u32,
    /// Port of the sender.
    pub src_port: u16,
    /// Port of the receiver.
    pub dst_port: u16,
    /// Protocol number of IP.
    pub protocol: u8,
}

impl TupleV4 {
    /// The same flow in the other direction.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> TupleV4 {
        let TupleV4 { src, dst, src_port, dst_port, protocol } = self;
        TupleV4 { src: dst, dst: src, src_port: dst_port, dst_port: src_port, protocol }
    }
}

impl From<TupleV4> for Tuple {
    #[inline]
    fn from(tuple: TupleV4) -> Tuple {
        let TupleV4 { src, dst, src_port, dst_port, protocol } = tuple;
        Tuple { src: Address::of_v4(src), dst: Address::of_v4(dst), src_port, dst_port, protocol }
    }
}

impl std::fmt::Debug for Tuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tuple { src, dst, src_port, dst_port, protocol } = self;
        write!(f, "{protocol} {src:?}:{src_port} -> {dst:?}:{dst_port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_come_back_as_they_went_in() {
        for text in ["10.1.2.3", "255.255.255.255", "2001:db8::7", "::", "::1", "fe80::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(address)), address);
            assert_eq!(Address::from(address).is_v4(), address.is_ipv4());
        }
    }

    #[test]
    fn a_tuple_reversed_twice_is_the_same() {
        let tuple = Tuple {
            src: Ipv4Addr::new(10, 0, 0, 1).into(),
            dst: Ipv4Addr::new(10, 0, 0, 2).into(),
            src_port: 7,
            dst_port: 9,
            protocol: 17,
        };
        assert_ne!(tuple.reversed(), tuple);
        assert_eq!(tuple.reversed().reversed(), tuple);
        assert_eq!(size_of::<Tuple>(), 40);
    }
}
