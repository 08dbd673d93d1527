use super::*;
use crate::segment::tests::{assert_all_back, bytes_of, packet, pool};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, Endianness, TsResolution};
use proptest::prelude::*;
use std::process::Command;
use std::time::Duration;

fn classic(endianness: Endianness, ts_resolution: TsResolution, datalink: DataLink) -> Vec<u8> {
    let header = PcapHeader { endianness, ts_resolution, datalink, ..Default::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for at in 0..5u8 {
        let timestamp = Duration::new(1_700_000_000, 1_000 * u32::from(at));
        writer.write_packet(&PcapPacket::new(timestamp, 60, &[at; 60])).unwrap();
    }
    writer.into_writer()
}

fn recorded() -> Vec<u8> {
    let (arena, mut pool) = pool();
    let mut writer = Writer::new(Vec::new()).unwrap();
    let first = writer.interface("cali1").unwrap();
    let second = writer.interface("eth0").unwrap();
    let one = packet(&mut pool, &[7; 3000], 1000, 999);
    writer.packet(1_700_000_000_123_456_789, first, &one, Some("ttl-exceeded")).unwrap();
    writer.bytes(1_700_000_000_123_456_790, second, &[8; 61], None).unwrap();
    assert_all_back(&arena, pool, vec![one]);
    writer.into_inner()
}

#[test]
fn both_byte_orders_and_resolutions_are_read() {
    for endianness in [Endianness::Big, Endianness::Little] {
        for resolution in [TsResolution::MicroSecond, TsResolution::NanoSecond] {
            let file = classic(endianness, resolution, DataLink::ETHERNET);
            let capture = Capture::parse(&file).unwrap();
            let all: Vec<_> = capture.iter().collect();
            assert_eq!(all.len(), 5);
            assert_eq!(all[3], (1_700_000_000_000_003_000, &[3u8; 60][..]));
        }
    }
}

#[test]
fn what_is_written_reads_back_with_names_times_and_reasons() {
    let file = recorded();
    let capture = Capture::parse(&file).unwrap();
    assert_eq!(capture.packet(0), (1_700_000_000_123_456_789, &[7u8; 3000][..]));
    assert_eq!(capture.packet(1), (1_700_000_000_123_456_790, &[8u8; 61][..]));
    let mut reader = PcapNgReader::new(&file[..]).unwrap();
    let mut comments = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(block) = block.unwrap() {
            comments.push((block.interface_id, block.into_owned().options));
        }
    }
    let reason = EnhancedPacketOption::Comment("ttl-exceeded".into());
    assert_eq!(comments, [(0, vec![reason]), (1, vec![])]);
}

#[test]
fn tshark_reads_what_is_written() {
    let path = std::env::temp_dir().join(format!("mgy-{}.pcapng", std::process::id()));
    std::fs::write(&path, recorded()).unwrap();
    let fields = ["frame.interface_name", "frame.time_epoch", "frame.len", "frame.comment"];
    let mut command = Command::new("tshark");
    command.args(["-n", "-r"]).arg(&path).args(["-T", "fields", "-E", "separator=,"]);
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    let output = command.output();
    std::fs::remove_file(&path).unwrap();
    let Ok(output) = output else { return println!("SKIPPED: no tshark") };
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "cali1,1700000000.123456789,3000,ttl-exceeded");
    assert_eq!(lines[1], "eth0,1700000000.123456790,61,");
}

#[test]
fn foreign_and_cut_files_are_told_with_their_place() {
    let text = |file: &[u8]| Capture::parse(file).unwrap_err().to_string();
    assert!(text(b"#!/bin/sh\nexit 0 and some more text").contains("begins with [23, 21, 2f, 62]"));
    assert!(text(b"").contains("neither a pcap nor a pcapng"));
    let wifi = classic(Endianness::Little, TsResolution::MicroSecond, DataLink::IEEE802_11);
    assert!(text(&wifi).contains("at byte 20: link type 105 is not Ethernet"));
    let file = classic(Endianness::Big, TsResolution::MicroSecond, DataLink::ETHERNET);
    let cut = Capture::parse(&file[..24 + 76 * 2 + 30]).unwrap_err();
    assert!(matches!(cut, PcapError::Truncated { offset: 176, packets: 2 }), "{cut}");
    assert!(matches!(Capture::parse(&file[..10]), Err(PcapError::Truncated { offset: 0, .. })));
    let file = recorded();
    let cut = Capture::parse(&file[..file.len() - 4]).unwrap_err();
    assert!(matches!(cut, PcapError::Truncated { packets: 1, .. }), "{cut}");
    let missing = Capture::read(std::path::Path::new("/nonexistent.pcap")).unwrap_err();
    assert!(missing.to_string().starts_with("/nonexistent.pcap: No such file"));
}

proptest! {
    #[test]
    fn damaged_files_are_refused_or_read_but_never_panic(
        ng in any::<bool>(), cut in 0usize..4000, at in 0usize..400, byte in any::<u8>(),
    ) {
        let mut file = if ng {
            recorded()
        } else {
            classic(Endianness::Little, TsResolution::NanoSecond, DataLink::ETHERNET)
        };
        file.truncate(cut);
        if let Some(place) = file.get_mut(at) {
            *place = byte;
        }
        if let Ok(capture) = Capture::parse(&file) {
            prop_assert!(capture.len() <= 5);
        }
    }
}

fn capture() -> Arc<Capture> {
    let mut capture = Capture::default();
    for (at, length) in [60usize, 1500, 3392, 3393, 9014, 40_000].into_iter().enumerate() {
        capture.push(at as u64, &vec![at as u8 + 1; length]);
    }
    Arc::new(capture)
}

#[test]
fn a_replay_gives_every_packet_once_in_bursts() {
    let (arena, mut pool) = pool();
    let mut port = ReplayPort::new(capture(), PortId(4), false);
    let mut out = Vec::new();
    port.rx(&mut pool, &mut out, 4);
    assert_eq!((out.len(), port.remaining()), (4, 2));
    port.rx(&mut pool, &mut out, BURST);
    assert_eq!(port.rx(&mut pool, &mut out, BURST), RxState::Up);
    assert_eq!(out.len(), 6);
    for (one, (_, bytes)) in out.iter().zip(capture().iter()) {
        assert_eq!(bytes_of(one), bytes);
        assert_eq!(one.in_port, PortId(4));
    }
    assert!(port.report().kernel.contains(&("remaining", 0)));
    port.tx(&mut pool, &mut out);
    assert!(port.report().kernel.contains(&("sunk", 6)));
    assert_all_back(&arena, pool, out);
}

#[test]
fn an_endless_replay_goes_on_and_spreads_headers_over_the_cache() {
    let (arena, mut pool) = pool();
    let mut port = ReplayPort::new(capture(), PortId(4), true);
    let (mut out, mut sink, mut places) = (Vec::new(), NullPort::default(), [0; COLOURS]);
    for _ in 0..20 {
        port.rx(&mut pool, &mut out, 64);
        assert_eq!(out.len(), 64);
        for one in &out {
            places[(one.headroom() + LINK_SPACE - HEADROOM) / COLOUR_STEP] += 1;
        }
        sink.tx(&mut pool, &mut out);
    }
    assert!(places.iter().all(|&count| count > 0), "{places:?}");
    assert!(sink.report().kernel.contains(&("sunk", 20 * 64)));
    let mut empty = ReplayPort::new(Arc::default(), PortId(4), true);
    assert_eq!(empty.rx(&mut pool, &mut out, BURST), RxState::Up);
    assert_all_back(&arena, pool, out);
}

#[test]
fn a_replay_waits_for_frames_and_loses_nothing() {
    let (arena, mut pool) = pool();
    let mut port = ReplayPort::new(capture(), PortId(4), false);
    let mut held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    held.drain(..2).for_each(|frame| pool.free(frame));
    let mut out = Vec::new();
    port.rx(&mut pool, &mut out, BURST);
    assert_eq!((out.len(), port.remaining()), (2, 4));
    held.into_iter().for_each(|frame| pool.free(frame));
    port.rx(&mut pool, &mut out, BURST);
    assert_eq!((out.len(), port.remaining()), (6, 0));
    assert_all_back(&arena, pool, out);
}

#[test]
fn a_recording_port_writes_what_it_is_given() {
    let (arena, mut pool) = pool();
    let writer = Arc::new(Mutex::new(Writer::new(Vec::new()).unwrap()));
    let interface = writer.lock().unwrap().interface("eth0").unwrap();
    let mut port = WriterPort::new(writer.clone(), interface);
    let mut bad = WriterPort::new(writer.clone(), 9);
    let mut replay = ReplayPort::new(capture(), PortId(4), false);
    let mut out = Vec::new();
    replay.rx(&mut pool, &mut out, BURST);
    port.tx(&mut pool, &mut out);
    out.push(packet(&mut pool, &[1; 60], 60, 1));
    bad.tx(&mut pool, &mut out);
    assert_eq!(port.report().kernel, [("written", 6), ("write_failed", 0)]);
    assert_eq!(bad.report().kernel, [("written", 0), ("write_failed", 1)]);
    Box::new(port).close(&mut pool);
    drop(bad);
    let file = Arc::into_inner(writer).unwrap().into_inner().unwrap().into_inner();
    let read = Capture::parse(&file).unwrap();
    let lengths: Vec<usize> = read.iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(lengths, [60, 1500, 3392, 3393, 9014, 40_000]);
    assert!(read.packet(0).0 > 1_700_000_000_000_000_000);
    assert_all_back(&arena, pool, vec![]);
}
