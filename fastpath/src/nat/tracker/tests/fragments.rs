//! Fragmented packets through translation: in order, out of order, with loss, and as a flood.

use super::*;
use crate::flow::Address;

const POD: &str = "10.1.0.5:4000";
const SERVER: &str = "198.51.100.1:53";

/// A datagram of `len` bytes in fragments of 1480.
fn fragments(src: &str, dst: &str, len: usize, id: u16) -> (Vec<u8>, Vec<Vec<u8>>) {
    let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    let whole = udp(src, dst, &payload);
    let pieces = whole[34..].chunks(1480).enumerate().map(|(at, part)| {
        let mut piece = whole[..34].to_vec();
        let more = if (at + 1) * 1480 < whole.len() - 34 { 0x2000 } else { 0 };
        let word = (at * 1480 / 8) as u16 | more;
        margay_tunnels::wire::ipv4::set_fragment(
            &mut piece[14..],
            20 + part.len() as u16,
            id,
            word,
        );
        piece.extend(part);
        piece
    });
    let pieces = pieces.collect();
    (whole, pieces)
}

impl Bench {
    /// All fragments in this order; what leaves, in the order in which it does.
    fn send_all(&mut self, pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for piece in pieces {
            let packet = self.packet(piece);
            let mut todo = vec![packet];
            while let Some(mut packet) = todo.pop() {
                match self.track(&mut packet) {
                    Verdict::Rewritten => {
                        out.push(packet.segments().flatten().copied().collect());
                        packet.free(&mut self.pool);
                    }
                    Verdict::Wait => {
                        let now_ns = self.now_ns;
                        if let Err(packet) = self.workers[0].wait(packet, now_ns) {
                            packet.free(&mut self.pool);
                        }
                    }
                    verdict => panic!("{verdict:?}"),
                }
                todo.append(&mut self.workers[0].released);
            }
        }
        out
    }
}

/// Puts fragments together again, and checks the datagram with its own checksum.
fn reassemble(mut pieces: Vec<Vec<u8>>) -> Vec<u8> {
    let offset = |piece: &Vec<u8>| u16::from_be_bytes([piece[20], piece[21]]) & 0x1fff;
    pieces.iter().for_each(|piece| verify(piece));
    pieces.sort_by_key(offset);
    let mut whole = pieces[0][..34].to_vec();
    pieces.iter().for_each(|piece| whole.extend(&piece[34..]));
    let len = (whole.len() - 14) as u16;
    margay_tunnels::wire::ipv4::set_fragment(&mut whole[14..], len, 0, 0);
    verify(&whole);
    whole
}

#[test]
fn sixty_kilobytes_out_of_order_arrive_whole_both_ways() {
    let mut bench = Bench::new(rules());
    bench.udp("10.1.0.9:4000", SERVER).unwrap();
    let mut random = 7u64;
    for id in 1..20 {
        let (_, mut pieces) = fragments(POD, SERVER, 60_000, id);
        for at in (1..pieces.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(at, (random >> 33) as usize % (at + 1));
        }
        let out = bench.send_all(&pieces);
        assert_eq!(out.len(), pieces.len());
        let whole = reassemble(out);
        let (outside, server) = endpoints(&whole);
        assert_eq!(server, to(SERVER));
        assert_ne!(outside.port(), 4000);
        let (_, mut back) = fragments(SERVER, &outside.to_string(), 60_000, id);
        back.reverse();
        let whole = reassemble(bench.send_all(&back));
        assert_eq!(endpoints(&whole), (to(SERVER), to(POD)));
    }
    assert_eq!(bench.sessions(), 2);
}

#[test]
fn what_waits_for_a_lost_first_fragment_is_counted_out() {
    let mut bench = Bench::new(rules());
    let (_, pieces) = fragments(POD, SERVER, 60_000, 9);
    for time_s in [30, 5] {
        assert!(bench.rules.timeouts.set("ipfrag_time", time_s));
        bench.rules.generation += 1;
        assert!(bench.send_all(&pieces[1..]).is_empty());
        bench.pass(u64::from(time_s) - 1);
        assert!(bench.workers[0].expired.is_empty());
        bench.pass(2);
        let expired = std::mem::take(&mut bench.workers[0].expired);
        assert_eq!(expired.len(), pieces.len() - 1);
        expired.into_iter().for_each(|packet| packet.free(&mut bench.pool));
    }
}

#[test]
fn fragments_to_the_hosts_own_address_go_to_the_host_once_their_port_is_known() {
    let mut bench = Bench::new(host_rules());
    let (_, pieces) = fragments(SERVER, "172.16.0.1:2049", 5000, 3);
    for (at, piece) in pieces.iter().enumerate().rev() {
        let mut packet = bench.packet(piece);
        let verdict = bench.track(&mut packet);
        if at > 0 {
            assert_eq!(verdict, Verdict::Wait);
            let now_ns = bench.now_ns;
            assert!(bench.workers[0].wait(packet, now_ns).is_ok());
        } else {
            assert_eq!(verdict, Verdict::Go);
            packet.free(&mut bench.pool);
        }
    }
    let released = std::mem::take(&mut bench.workers[0].released);
    assert_eq!(released.len(), pieces.len() - 1);
    for mut packet in released {
        assert_eq!(bench.track(&mut packet), Verdict::Go);
        packet.free(&mut bench.pool);
    }
}

#[test]
fn an_ipv6_fragment_is_known_by_its_own_header() {
    let mut bench = Bench::new(rules());
    let mut bytes = udp("[2001:db8:1::5]:4000", "[2001:db8:9::1]:53", b"12345678");
    let transport = bytes.split_off(54);
    bytes[20] = 44;
    let payload = 8 + transport.len() as u16;
    bytes[18..20].copy_from_slice(&payload.to_be_bytes());
    let header = |word: u16| [17, 0, (word >> 8) as u8, word as u8, 0, 0, 0, 5];
    let first = [&bytes[..], &header(1)[..], &transport[..]].concat();
    let later = [&bytes[..], &header(16 << 3)[..], &[7; 16][..]].concat();
    let out = bench.send_all(&[later, first]);
    assert_eq!(out.len(), 2);
    let outside: Address = to("[2001:db8:ff::1]:0").ip().into();
    for bytes in &out {
        assert_eq!(bytes[22..38], outside.bits().to_be_bytes());
    }
    assert_eq!(out[1][62..], [7; 16], "a later fragment has no ports to be written over");
}
