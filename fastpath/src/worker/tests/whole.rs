//! Super-packets of a TAP, and others, towards a wire that takes the former whole.

use super::*;
use crate::limit::{Limits, PortRate};
use crate::nat::Ranges;
use crate::packet::Gso;
use crate::port::TxOffloads;
use crate::segment::tests::{as_super, bytes_of, validate, written};

/// Where `written` sends to.
const UPLINK: u8 = 0;
const POD: u8 = 1;
/// Payload bytes of a super-packet and of its parts: three whole ones and a half.
const PAYLOAD: usize = 3500;
const PART: u16 = 1000;
const HEADERS: usize = 54;

fn rig(line: Option<Line>) -> Rig {
    let uplink = LinkConfig { offloads: TxOffloads::OF_TAPS, line, ..LinkConfig::default() };
    Rig::new(&[uplink, LinkConfig { offloads: TxOffloads::ALL, ..pod() }])
}

/// From the pod, in frames of 3000 bytes; `fill` is each byte of payload.
fn send_super(rig: &mut Rig, is_from_tap: bool, fill: u8) {
    let (mut bytes, l4) = written(false, false, &[], &[fill; PAYLOAD]);
    bytes[..6].copy_from_slice(&mac(POD).0);
    let mut frames = bytes.chunks(3000).map(|part| {
        let mut frame = rig.pool.alloc().unwrap();
        frame.bytes_mut(HEADROOM, part.len()).copy_from_slice(part);
        (frame, part.len())
    });
    let (head, len) = frames.next().unwrap();
    let mut packet = Packet::new(head, HEADROOM, len, PortId::NONE);
    frames.for_each(|(frame, len)| packet.append(frame, HEADROOM, len).unwrap());
    as_super(&mut packet, l4, Gso::Tcp4, PART);
    packet.set_from_tap(is_from_tap);
    rig.far[usize::from(POD)].port.tx(&mut rig.pool, &mut vec![packet]);
}

/// What has come out of the uplink.
fn arrived(rig: &mut Rig) -> Vec<Packet> {
    let mut out = Vec::new();
    for _ in 0..10 {
        rig.turn();
        rig.far[usize::from(UPLINK)].port.rx(&mut rig.pool, &mut out, BURST);
    }
    out
}

fn free(rig: &mut Rig, packets: Vec<Packet>) {
    packets.into_iter().for_each(|packet| packet.free(&mut rig.pool));
}

/// Packets and bytes that the uplink has sent, as its counters say.
fn counted(rig: &Rig) -> (u64, u64) {
    let counters = &rig.worker.slots[usize::from(UPLINK)].as_ref().unwrap().counters;
    (counters.tx_packets.get(), counters.tx_bytes.get())
}

#[test]
fn what_is_from_a_tap_goes_whole_and_counts_as_what_becomes_of_it() {
    let mut rig = rig(None);
    send_super(&mut rig, true, 7);
    let out = arrived(&mut rig);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].len(), HEADERS + PAYLOAD);
    let offload = out[0].offload();
    assert_eq!((offload.gso, offload.gso_size, offload.needs_csum), (Gso::Tcp4, PART, true));
    assert_eq!(rig.worker.pipeline.counters.made.get(), 0);
    assert_eq!(counted(&rig), (4, (4 * HEADERS + PAYLOAD) as u64));
    free(&mut rig, out);
    rig.end();
}

#[test]
fn a_super_packet_that_is_from_no_tap_is_cut() {
    let mut rig = rig(None);
    send_super(&mut rig, false, 7);
    let out = arrived(&mut rig);
    assert_parts(&out, false);
    assert_eq!(counted(&rig), (4, (4 * HEADERS + PAYLOAD) as u64));
    free(&mut rig, out);
    rig.end();
}

#[test]
fn a_wire_with_a_rate_gets_parts_which_go_the_same_way() {
    let mut rig = rig(None);
    let rate = (PortId(UPLINK.into()), Arc::new(PortRate::new(10_000_000_000, 1, 1)));
    let limits = Limits::new(&[], Ranges::default()).with_rates(&[rate]);
    rig.publish(|tables| tables.limits = Some(Arc::new(limits)));
    send_super(&mut rig, true, 7);
    let out = arrived(&mut rig);
    assert_parts(&out, true);
    assert_eq!(counted(&rig), (4, (4 * HEADERS + PAYLOAD) as u64));
    free(&mut rig, out);
    rig.end();
}

#[test]
fn behind_a_full_ring_what_waits_is_cut_and_stays_in_order() {
    // A packet takes long on the line, and the ring has room for one.
    let mut rig = rig(Some(Line { bits_per_s: 1_000_000_000, ring: 1 }));
    let mut out = Vec::new();
    for number in 1..=3 {
        send_super(&mut rig, true, number);
        out.extend(arrived(&mut rig));
    }
    while rig.worker.queued > 0 {
        out.extend(arrived(&mut rig));
    }
    rig.clock.advance(1_000_000);
    out.extend(arrived(&mut rig));
    assert_eq!(out[0].offload().gso, Gso::Tcp4, "the first found room");
    let numbers: Vec<u8> = out.iter().map(|packet| packet.head()[HEADERS]).collect();
    assert!(numbers.is_sorted() && numbers.last() == Some(&3), "{numbers:?}");
    let cut = out.iter().filter(|packet| packet.offload().gso == Gso::None).count();
    assert!(cut >= 4 && cut % 4 == 0, "{cut} of {}", out.len());
    assert!(out.iter().all(Packet::is_from_tap));
    assert_eq!(counted(&rig), (12, (12 * HEADERS + 3 * PAYLOAD) as u64));
    free(&mut rig, out);
    rig.end();
}

fn assert_parts(out: &[Packet], is_from_tap: bool) {
    let payloads: Vec<usize> = out.iter().map(|part| validate(&bytes_of(part)).len()).collect();
    assert_eq!(payloads, [1000, 1000, 1000, 500]);
    assert!(out.iter().all(|part| part.is_finished() && part.is_from_tap() == is_from_tap));
}
