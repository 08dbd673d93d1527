use super::*;
use crate::sys::memory::{Arena, HEADROOM, SMALL_CHUNK};
use proptest::prelude::*;

const FRAMES: usize = 200;

fn pool() -> FramePool {
    FramePool::new(Arena::new(FRAMES, 1).unwrap())
}

fn free_frames(pool: &FramePool) -> usize {
    pool.arena().free_small() + pool.cached()
}

/// A packet whose frames hold `parts`, and the same bytes in a vector: the oracle.
fn chain(parts: &[Vec<u8>], pool: &mut FramePool) -> (Packet, Vec<u8>) {
    let mut frames = parts.iter().map(|part| {
        let mut frame = pool.alloc().unwrap();
        frame.bytes_mut(HEADROOM, part.len()).copy_from_slice(part);
        (frame, part.len())
    });
    let (first, length) = frames.next().unwrap();
    let mut packet = Packet::new(first, HEADROOM, length, PortId(0));
    for (frame, length) in frames {
        packet.append(frame, HEADROOM, length).unwrap();
    }
    (packet, parts.concat())
}

fn bytes(packet: &Packet) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}

fn parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..400), 1..8)
}

proptest! {
    #[test]
    fn a_chain_reads_like_one_string(
        parts in parts(), from in 0usize..1500, length in 0usize..1500,
    ) {
        let mut pool = pool();
        let (packet, oracle) = chain(&parts, &mut pool);
        prop_assert_eq!(packet.len(), oracle.len());
        prop_assert_eq!(bytes(&packet), oracle.clone());
        let mut out = vec![0; length];
        let count = packet.copy_out(from, &mut out);
        let behind = &oracle[from.min(oracle.len())..];
        let wanted = &behind[..length.min(behind.len())];
        prop_assert_eq!(&out[..count], wanted);
        let taken: Vec<_> = packet.into_segments().collect();
        prop_assert_eq!(taken.iter().map(|(_, _, length)| length).sum::<usize>(), oracle.len());
        taken.into_iter().for_each(|(frame, _, _)| pool.free(frame));
        prop_assert_eq!(free_frames(&pool), FRAMES);
    }

    #[test]
    fn truncation_cuts_the_end_and_frees_what_is_behind(parts in parts(), keep in 0usize..2000) {
        let mut pool = pool();
        let (mut packet, mut oracle) = chain(&parts, &mut pool);
        packet.truncate(keep, &mut pool);
        oracle.truncate(keep);
        prop_assert_eq!(bytes(&packet), oracle);
        let in_use = packet.segment_count();
        prop_assert_eq!(free_frames(&pool), FRAMES - in_use);
        packet.free(&mut pool);
        prop_assert_eq!(free_frames(&pool), FRAMES);
    }

    #[test]
    fn a_copied_range_spills_into_new_frames(
        parts in parts(), at in 0usize..300, length in 0usize..9000,
    ) {
        let mut pool = pool();
        let (from, oracle) = chain(&parts, &mut pool);
        let at = at.min(oracle.len());
        let length = length.min(oracle.len() - at);
        let frame = pool.alloc().unwrap();
        let mut copy = Packet::new(frame, HEADROOM, 0, PortId(0));
        prop_assert!(copy.copy_in(&from, at, length, &mut pool));
        prop_assert_eq!(bytes(&copy), &oracle[at..at + length]);
        copy.free(&mut pool);
        from.free(&mut pool);
        prop_assert_eq!(free_frames(&pool), FRAMES);
    }
}

#[test]
fn the_start_moves_within_the_headroom_only() {
    let mut pool = pool();
    let (mut packet, _) = chain(&[vec![7; 10]], &mut pool);
    let room = packet.headroom();
    assert_eq!(room, HEADROOM - LINK_SPACE);
    packet.push_front(room).unwrap().fill(1);
    assert!(packet.push_front(1).is_none());
    assert_eq!((packet.len(), packet.head()[0], packet.head()[room]), (room + 10, 1, 7));
    assert!(!packet.pull_front(room + 11));
    assert!(packet.pull_front(room + 9));
    assert_eq!(packet.head(), [7]);
    packet.free(&mut pool);
}

#[test]
fn a_chain_has_a_bound() {
    let mut pool = pool();
    let (mut packet, _) = chain(&vec![vec![1]; MAX_SEGMENTS], &mut pool);
    let frame = pool.alloc().unwrap();
    let frame = packet.append(frame, HEADROOM, 1).unwrap_err();
    pool.free(frame);
    assert_eq!(packet.segment_count(), MAX_SEGMENTS);
    packet.free(&mut pool);
    assert_eq!(free_frames(&pool), FRAMES);
}

#[test]
#[should_panic(expected = "outside a chunk")]
fn bytes_past_the_chunk_make_no_packet() {
    let mut pool = pool();
    let frame = pool.alloc().unwrap();
    Packet::new(frame, HEADROOM, SMALL_CHUNK - HEADROOM + 1, PortId(0));
}

#[test]
fn what_has_happened_stays_when_the_rest_of_the_state_is_set() {
    let mut pool = pool();
    let (mut packet, _) = chain(&[vec![7; 60]], &mut pool);
    packet.set_from_tap(true);
    assert!(packet.is_finished() && packet.is_from_tap() && !packet.is_from_tunnel());
    packet.set_from_tunnel();
    packet.set_offload(Offload { needs_csum: true, gso: Gso::Udp, ..Offload::default() });
    assert!(packet.is_from_tap() && packet.is_from_tunnel() && !packet.is_finished());
    packet.set_from_tap(false);
    assert!(!packet.is_from_tap() && packet.is_from_tunnel());
    assert_eq!(packet.offload().gso, Gso::Udp);
    packet.free(&mut pool);
}
