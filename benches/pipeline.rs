//! Cost of the pipeline alone: bursts of 60-byte UDP packets of 4,096 flows from a replay port
//! through parse, longest prefix match and rewrite into a port that throws them away. No kernel.
//! The same into IPIP and VXLAN tunnels, and out of them.

#[path = "flows/tables.rs"]
mod tables;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use margay_fastpath::fib::{Fib, FibWriter};
use margay_fastpath::pipeline::{Pipeline, View};
use margay_fastpath::port::pcap::{Capture, NullPort, ReplayPort};
use margay_fastpath::port::{BURST, Port, PortId};
use margay_fastpath::sys::memory::{Arena, FramePool};
use margay_fastpath::tables::{Tables, TargetId};
use margay_fastpath::tunnel::{Tunnel, TunnelEnd, TunnelId, TunnelKind, VxlanEnd};
use margay_tunnels::encap::{Encap, Inner, VxlanEnds};
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::vxlan::Vni;
use margay_tunnels::wire::{ipv4, protocol};
use std::net::Ipv4Addr;
use std::sync::Arc;

const FLOWS: u32 = 4096;
const FIRST_DST: u32 = 0xc612_0000;
const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn packet(flow: u32) -> Vec<u8> {
    let mut bytes = ethernet::header(ROUTER, Mac([2, 0, 0, 0, 0, 2]), ethernet::IPV4).to_vec();
    let src = Ipv4Addr::from(0x0a00_0001 + flow);
    let dst = Ipv4Addr::from(FIRST_DST + (flow << 4) + 1);
    bytes.extend(ipv4::header(src, dst, protocol::UDP, 64, 26));
    bytes.extend([0x04, 0x00, 0x00, 0x09, 0, 26, 0, 0]);
    bytes.resize(60, 0);
    bytes
}

/// One port each way.
fn tables() -> Tables {
    tables::tables(1, [ROUTER, Mac([2, 0, 0, 0, 0, 9])])
}

fn source(packet: impl Fn(u32) -> Vec<u8>) -> ReplayPort {
    let mut capture = Capture::default();
    (0..FLOWS).for_each(|flow| capture.push(0, &packet(flow)));
    ReplayPort::new(Arc::new(capture), PortId(0), true)
}

fn forward(criterion: &mut Criterion) {
    let (mut writer, fib) = FibWriter::new();
    for third in 0..256u32 {
        let net = ipnet::Ipv4Net::new(Ipv4Addr::from(FIRST_DST + (third << 8)), 24);
        let net = net.expect("24 is a prefix length").into();
        writer.insert(net, TargetId(1)).expect("room for 256 routes");
    }
    let mut group = criterion.benchmark_group("pipeline");
    let plain = tables();
    for size in [1, 8, 32, 64] {
        let name = format!("forward/burst-{size}");
        run(&mut group, &name, (&plain, &fib), (source(packet), size));
    }
    for (name, encap) in [("ipip", ipip()), ("vxlan", vxlan())] {
        let tables = through(encap.clone());
        run(&mut group, &format!("encap/{name}"), (&tables, &fib), (source(packet), BURST));
        let wrapped = source(|flow| wrapped(&encap, flow));
        run(&mut group, &format!("decap/{name}"), (&tables_of_end(), &fib), (wrapped, BURST));
    }
    group.finish();
}

fn run(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    (tables, fib): (&Tables, &Fib),
    (mut source, size): (ReplayPort, usize),
) {
    let arena = Arena::new(4096, 0).expect("16 MiB of memory");
    let mut pipeline = Pipeline::new(FramePool::new(arena), Arc::default());
    let mut sink = NullPort::default();
    let tables = tables.clone().ready();
    let view = View { tables: &tables, fib, now_ns: 0 };
    let (mut burst, mut queue) = (Vec::with_capacity(BURST), Vec::with_capacity(BURST));
    group.throughput(Throughput::Elements(size as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            source.rx(&mut pipeline.pool, &mut burst, size);
            pipeline.process(view, PortId(0), &mut burst);
            while pipeline.egress.take(&mut queue).is_some() {
                sink.tx(&mut pipeline.pool, &mut queue);
            }
        });
    });
    let lost = pipeline.counters.drops().map(|(_, count)| count).sum::<u64>();
    assert_eq!(lost, 0, "{name} drops packets");
}

const NEAR: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 7);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 8);

fn vni() -> Vni {
    Vni::new(4096).expect("24 bits")
}

fn ipip() -> Encap {
    Encap::ipip(NEAR, FAR)
}

fn vxlan() -> Encap {
    let ends = VxlanEnds { vni: vni(), port: 4789, local: ROUTER, remote: ROUTER };
    Encap::vxlan(NEAR.into(), FAR.into(), ends).expect("one family")
}

/// All routes lead into one tunnel.
fn through(encap: Encap) -> Tables {
    let mut tables = tables();
    tables.adjacencies[0].tunnel = Some(TunnelId(0));
    let (kind, base) = (TunnelKind::Vxlan, Default::default());
    tables.tunnels.push(Some(Tunnel { kind, remote: FAR.into(), encap, mss_mtu: 0, base }));
    tables
}

/// Tunnels from the near end come out here.
fn tables_of_end() -> Tables {
    let kinds = [TunnelKind::Ipip, TunnelKind::Vxlan];
    let sources = kinds.into_iter().map(|kind| ((kind, NEAR.into()), TunnelId(0))).collect();
    let tunnel_end = TunnelEnd {
        v4: FAR,
        ipip: true,
        vxlan: [Some(VxlanEnd { vni: vni(), mac: ROUTER }), None],
        vxlan_port: 4789,
        sources,
        ..TunnelEnd::default()
    };
    Tables { tunnel_end, ..tables() }
}

fn wrapped(encap: &Encap, flow: u32) -> Vec<u8> {
    let frame = packet(flow);
    // Without the padding of the short frame.
    let inner = &frame[14..14 + 46];
    let mut bytes = frame[..14].to_vec();
    let mut outer = vec![0; encap.overhead()];
    let about = Inner::of(inner, inner.len(), flow).expect("an IPv4 packet");
    assert!(encap.write(&mut outer, about), "it fits");
    bytes.extend(outer);
    bytes.extend(inner);
    bytes
}

criterion_group!(benches, forward);
criterion_main!(benches);
