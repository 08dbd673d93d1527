//! Rewriting, against sums made anew by the word.

use super::*;
use crate::nat::subject::quoted;
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn header(src: u32, dst: u32, number: u8, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (Ipv4Addr::from_bits(src), Ipv4Addr::from_bits(dst));
    let mut bytes =
        margay_tunnels::wire::ipv4::header(src, dst, number, 64, payload.len() as u16).to_vec();
    bytes.extend(payload);
    bytes
}

fn with_checksum(mut ip: Vec<u8>) -> Vec<u8> {
    let number = ip[9];
    let at = 20 + checksum_offset(number).unwrap();
    ip[at..at + 2].fill(0);
    let pseudo = match number {
        protocol::ICMP => 0,
        _ => {
            let word = |at: usize| u64::from(ip[at]) << 8 | u64::from(ip[at + 1]);
            [12, 14, 16, 18].map(word).iter().sum::<u64>()
                + u64::from(number)
                + (ip.len() - 20) as u64
        }
    };
    let value = checksum::finish(checksum::sum(&ip[20..]) + pseudo);
    let value = if number == protocol::UDP { udp::nonzero(value) } else { value };
    ip[at..at + 2].copy_from_slice(&value.to_be_bytes());
    ip
}

proptest! {
    #[test]
    fn sums_after_a_rewrite_are_those_of_the_new_packet(
        old in any::<(u32, u32, u16, u16)>(), new in any::<(u32, u32, u16, u16)>(),
        payload in proptest::collection::vec(any::<u8>(), 0..60), number in 0usize..3,
    ) {
        let number = [protocol::UDP, protocol::TCP, protocol::ICMP][number];
        let mut transport = vec![0; 20];
        transport[..2].copy_from_slice(&old.2.to_be_bytes());
        transport[2..4].copy_from_slice(&old.3.to_be_bytes());
        if number == protocol::ICMP {
            transport[0] = 8;
            transport[1] = 0;
        }
        // Off the all-zero case, where the two zeros of one's complement differ.
        transport[19] = 1;
        transport.extend(&payload);
        let mut ip = with_checksum(header(old.0, old.1, number, &transport));
        let before = quoted(&ip).unwrap();
        let to = Tuple {
            src: Ipv4Addr::from_bits(new.0).into(),
            dst: Ipv4Addr::from_bits(new.1).into(),
            src_port: new.2,
            dst_port: if number == protocol::ICMP { before.dst_port } else { new.3 },
            protocol: number,
        };
        let (front, transport) = ip.split_at_mut(20);
        let pseudo = put_addresses(front, to.src, to.dst);
        let ports = put_ports(transport, &to);
        put_checksum(transport, number, (pseudo, ports), false);
        prop_assert_eq!(quoted(&ip), Some(to));
        prop_assert!(margay_tunnels::wire::ipv4::View::new(&ip).unwrap().checksum_ok());
        prop_assert_eq!(with_checksum(ip.clone()), ip);
    }
}
