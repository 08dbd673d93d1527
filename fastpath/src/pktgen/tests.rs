//! The programs by BPF_PROG_TEST_RUN, beside plain models.

use super::frames::CHECK_SEQUENCE;
use super::receiver::{Maps, read_counts, read_times};
use super::*;
use crate::sys::bpf::{Program, XdpContext};
use margay_tunnels::wire::ethernet::{HEADER_LEN, Mac};
use margay_tunnels::wire::{checksum, ipv4, ipv6};
use proptest::prelude::*;
use std::net::IpAddr;

fn is_root() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        println!("SKIPPED: not root");
    }
    root
}

/// CPUs have counters of their own, so a test stays on one.
fn stay() {
    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
}

fn template(src: &str, dst: &str) -> Template {
    Template {
        macs: [Mac([2, 0, 0, 0, 0, 9]), Mac([2, 0, 0, 0, 0, 1])],
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        destinations: 3,
        protocol: Protocol::Udp,
        ports: [65_534, 9],
        flows: 4,
        lengths: vec![128],
    }
}

const V4: (&str, &str) = ("198.18.0.1", "198.19.0.1");
const V6: (&str, &str) = ("2001:2::1", "2001:2:0:1::1");

/// All checksums of a frame are right.
fn assert_sound(frame: &[u8]) {
    let packet = &frame[HEADER_LEN..];
    let (pseudo, segment) = if packet[0] >> 4 == 4 {
        let view = ipv4::View::new(packet).unwrap();
        assert!(view.checksum_ok() && view.total_len() == packet.len());
        let segment = &packet[ipv4::MIN_HEADER_LEN..];
        let (protocol, length) = (view.protocol(), segment.len());
        (checksum::pseudo_v4(view.src(), view.dst(), protocol, length), segment)
    } else {
        let view = ipv6::View::new(packet).unwrap();
        assert_eq!(view.payload_len(), packet.len() - ipv6::HEADER_LEN);
        let segment = &packet[ipv6::HEADER_LEN..];
        let (protocol, length) = (view.next_header(), segment.len());
        (checksum::pseudo_v6(view.src(), view.dst(), protocol, length), segment)
    };
    assert_eq!(checksum::fold(pseudo + checksum::sum(segment)), 0xffff);
}

fn sender(frames: &Frames, per_second: Option<u64>, limit: Option<u64>) -> Sender {
    let sender = Sender::new(frames, 1).unwrap();
    sender.begin(Pace { per_second, limit, ..Pace::default() }).unwrap();
    sender
}

#[test]
fn frames_go_out_in_turn_with_stamps_and_right_checksums() {
    if !is_root() {
        return;
    }
    stay();
    for (src, dst) in [V4, V6] {
        for protocol in [Protocol::Udp, Protocol::TcpSyn] {
            let spec = Template {
                protocol,
                lengths: IMIX.map(|it| it.max(100)).to_vec(),
                ..template(src, dst)
            };
            let frames = Frames::stamped(&spec).unwrap();
            let at = frames.stamp_at.unwrap();
            let sender = sender(&frames, None, None);
            let mut last = 0;
            for turn in 0..2 * frames.count() {
                let ran = sender.run_once();
                assert_eq!(ran.verdict, 4, "redirected");
                let number = turn % frames.count();
                assert_eq!(ran.packet.len() + CHECK_SEQUENCE, IMIX[number % 12].max(100));
                assert_sound(&ran.packet);
                let (flow, sequence, time) = stamp::read(&ran.packet, at).unwrap();
                assert_eq!((flow, sequence), (number as u32, (turn / frames.count()) as u32));
                assert!(time > last);
                last = time;
            }
            assert_eq!(sender.sent().unwrap().packets, 2 * frames.count() as u64);
        }
    }
}

#[test]
fn captured_frames_go_out_as_they_are() {
    if !is_root() {
        return;
    }
    stay();
    let list: Vec<Vec<u8>> = [60usize, 1514, 14, 999]
        .map(|length| (0..length).map(|at| (at * length) as u8).collect())
        .to_vec();
    let sender = sender(&Frames::captured(list.clone()).unwrap(), None, None);
    for frame in list.iter().chain(&list) {
        assert_eq!(&sender.run_once().packet, frame);
    }
}

#[test]
fn no_more_is_sent_than_pace_and_limit_say() {
    if !is_root() {
        return;
    }
    stay();
    let frames = Frames::stamped(&template(V4.0, V4.1)).unwrap();
    let limited = sender(&frames, None, Some(3));
    let verdicts: Vec<u32> = (0..5).map(|_| limited.run_once().verdict).collect();
    assert_eq!(verdicts, [4, 4, 4, 1, 1]);
    // One an hour and a half: the second is not due.
    let slow = sender(&frames, Some(1), None);
    assert_eq!((slow.run_once().verdict, slow.run_once().verdict), (4, 1));
    assert_eq!(slow.sent().unwrap().packets, 1);
}

#[test]
fn frames_that_cannot_be_are_refused() {
    let wrong = |change: &dyn Fn(&mut Template)| {
        let mut spec = template(V4.0, V4.1);
        change(&mut spec);
        Frames::stamped(&spec).unwrap_err()
    };
    assert_eq!(wrong(&|spec| spec.flows = 0), FramesError::Number(0));
    assert_eq!(wrong(&|spec| spec.flows = 1 << 21), FramesError::Number(1 << 21));
    let length = |length, least| FramesError::Length { length, least, most: 3004 };
    assert_eq!(wrong(&|spec| spec.lengths = vec![63]), length(63, 64));
    assert_eq!(wrong(&|spec| spec.lengths = vec![3005]), length(3005, 64));
    let v6: IpAddr = V6.0.parse().unwrap();
    assert!(matches!(wrong(&|spec| spec.src = v6), FramesError::Families(..)));
    assert_eq!(Frames::captured(Vec::new()), Err(FramesError::Number(0)));
    assert_eq!(Frames::captured(vec![vec![0; 13]]), Err(length(17, 18)));
}

/// The receiver's books, kept slowly.
#[derive(Default)]
struct Books {
    counts: Counts,
    next: std::collections::HashMap<u32, u32>,
}

impl Books {
    fn take(&mut self, flow: u32, sequence: u32, length: usize) {
        self.counts.packets += 1;
        self.counts.bytes += length as u64;
        if flow >= 4 {
            return;
        }
        self.counts.stamped += 1;
        let next = self.next.entry(flow).or_insert(sequence);
        match sequence.wrapping_sub(*next) {
            ahead if ahead < 1 << 31 => {
                self.counts.missing += u64::from(ahead);
                *next = sequence.wrapping_add(1);
            }
            _ => self.counts.late += 1,
        }
    }
}

fn sequence() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0u32..12, 1 => any::<u32>()]
}

/// A frame of `template` with another stamp.
fn stamped(spec: &Template, flow: u32, sequence: u32, time: u64) -> Vec<u8> {
    let frames = Frames::stamped(spec).unwrap();
    let at = frames.stamp_at.unwrap();
    let mut frame = frames.list[0].clone();
    assert!(stamp::write(&mut frame, at, (flow, sequence, time)));
    assert_eq!(stamp::read(&frame, at), Some((flow, sequence, time)));
    frame
}

fn receive(program: &Program, frame: &[u8]) {
    assert_eq!(program.test_run(frame, XdpContext::default(), 1).unwrap().verdict, 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn losses_and_late_ones_are_counted_as_a_plain_model_does(
        steps in prop::collection::vec((0u32..6, sequence()), 1..40),
        tcp: bool,
    ) {
        if !is_root() {
            return Ok(());
        }
        stay();
        let protocol = if tcp { Protocol::TcpSyn } else { Protocol::Udp };
        let maps = Maps::new(4).unwrap();
        let program = Program::load_xdp("mgy_receiver", &maps.program().finish().unwrap()).unwrap();
        let mut books = Books::default();
        for (turn, (flow, sequence)) in steps.into_iter().enumerate() {
            let (src, dst) = if turn % 2 == 0 { V4 } else { V6 };
            let spec = Template { protocol, ..template(src, dst) };
            let frame = stamped(&spec, flow, sequence, 0);
            receive(&program, &frame);
            books.take(flow, sequence, frame.len());
        }
        prop_assert_eq!(read_counts(&maps.counts).unwrap(), books.counts);
        prop_assert_eq!(read_times(&maps.times).unwrap().packets(), books.counts.stamped);
    }
}

#[test]
fn damaged_and_foreign_frames_are_told_apart_and_times_are_right() {
    if !is_root() {
        return;
    }
    stay();
    let maps = Maps::new(4).unwrap();
    let program = Program::load_xdp("mgy_receiver", &maps.program().finish().unwrap()).unwrap();
    let spec = template(V4.0, V4.1);
    let frames = Frames::stamped(&spec).unwrap();
    let sent = sender(&frames, None, None).run_once().packet;
    let (_, _, now_ns) = stamp::read(&sent, frames.stamp_at.unwrap()).unwrap();
    let good = stamped(&spec, 0, 7, now_ns - 1_800_000_000_000);
    receive(&program, &good);
    let at = HEADER_LEN + ipv4::MIN_HEADER_LEN;
    for byte in [HEADER_LEN, HEADER_LEN + 12, at + 8, at + 8 + 3, at + 8 + 17] {
        let mut frame = good.clone();
        frame[byte] ^= 0x20;
        receive(&program, &frame);
    }
    let mut arp = good.clone();
    arp[13] = 6;
    let mut icmp = good[..HEADER_LEN].to_vec();
    icmp.extend(ipv4::header([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 1, 64, 26));
    icmp.resize(60, 0);
    for frame in [&arp, &icmp, &vec![0; 20]] {
        receive(&program, frame);
    }
    let counts = read_counts(&maps.counts).unwrap();
    assert_eq!((counts.packets, counts.stamped, counts.damaged, counts.foreign()), (9, 1, 5, 3));
    let half_hour = read_times(&maps.times).unwrap().within(1_000_000).unwrap();
    assert!((1_800_000_000_000..2_050_000_000_000).contains(&half_hour), "{half_hour}");
}
