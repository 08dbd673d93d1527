//! The program in the kernel (BPF_PROG_TEST_RUN) beside the pipeline: what both make of a packet.

use super::tier::{IDLE_NS, INSTALLS_PER_TICK, OFFLOAD_AFTER};
use super::*;
use crate::fib::{Fib, FibWriter};
use crate::flow::{Limits, Session, Timeouts, Tuple};
use crate::limit;
use crate::nat::{Class, Filtering, PortRange, Ranges, Rules};
use crate::packet::Packet;
use crate::pipeline::{Pipeline, View};
use crate::steering::Steering;
use crate::steering::program::{Carrier, Hook, XDP_DROP, XDP_PASS, XDP_REDIRECT};
use crate::steering::tests::in_namespace;
use crate::sys::bpf::{Program, XdpContext};
use crate::sys::memory::{Arena, FramePool, HEADROOM};
use crate::tables::{Adjacency, AdjacencyId, PortEntry, Tables, Target, TargetId};
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{checksum, ipv4, ipv6, protocol, tcp};
use std::net::IpAddr;

mod life;
mod limits;
mod order;
mod same;
mod skb;
mod tunnels;

const POD: PortId = PortId(0);
const UPLINK: PortId = PortId(1);
const OTHER: PortId = PortId(2);
const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
const OTHER_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x12]);
const FAR: Mac = Mac([2, 0, 0, 0, 0, 0x99]);
const POD_MTU: u16 = 1500;
const UPLINK_MTU: u16 = 1400;

/// A connection of a pod with somebody outside.
#[derive(Debug, Clone, Copy)]
struct Flow {
    v6: bool,
    protocol: u8,
    ports: (u16, u16),
}

const UDP4: Flow = Flow { v6: false, protocol: protocol::UDP, ports: (4000, 53) };
const TCP4: Flow = Flow { v6: false, protocol: protocol::TCP, ports: (4001, 80) };
const UDP6: Flow = Flow { v6: true, protocol: protocol::UDP, ports: (4002, 53) };
const TCP6: Flow = Flow { v6: true, protocol: protocol::TCP, ports: (4003, 80) };

impl Flow {
    fn tuple(&self) -> Tuple {
        let (src, dst) = match self.v6 {
            false => ("10.1.0.5", "172.16.0.9"),
            true => ("fd00::5", "fd01::9"),
        };
        let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
        let (src_port, dst_port) = self.ports;
        let (src, dst) = (address(src), address(dst));
        Tuple { src, dst, src_port, dst_port, protocol: self.protocol }
    }
}

/// A frame to `station` with right checksums.
fn frame(station: Mac, tuple: &Tuple, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut transport = [tuple.src_port.to_be_bytes(), tuple.dst_port.to_be_bytes()].concat();
    let at = match tuple.protocol {
        protocol::TCP => {
            transport.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        }
        _ => {
            transport.extend((8 + payload.len() as u16).to_be_bytes());
            transport.extend([0, 0]);
            6
        }
    };
    transport.extend(payload);
    let length = transport.len();
    let (kind, header, pseudo) = match (IpAddr::from(tuple.src), IpAddr::from(tuple.dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => (
            ethernet::IPV4,
            ipv4::header(src, dst, tuple.protocol, 64, length as u16).to_vec(),
            checksum::pseudo_v4(src, dst, tuple.protocol, length),
        ),
        (IpAddr::V6(src), IpAddr::V6(dst)) => (
            ethernet::IPV6,
            ipv6::header(src, dst, tuple.protocol, 64, length as u16).to_vec(),
            checksum::pseudo_v6(src, dst, tuple.protocol, length),
        ),
        _ => unreachable!("both ends are of one family"),
    };
    let sum = checksum::finish(pseudo + checksum::sum(&transport));
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    [ethernet::header(station, FAR, kind).to_vec(), header, transport].concat()
}

/// A router in memory whose ports of the first two numbers have programs.
struct Rig {
    pipeline: Pipeline,
    tables: Tables,
    fib: Arc<Fib>,
    writer: FibWriter,
    map: Arc<FlowMap>,
    programs: [Program; 2],
    arrivals: [Arrivals; 2],
    hook: Hook,
    now_ns: u64,
    /// What the kernel's clock is ahead.
    clock_ns: u64,
    /// Limits that there were.
    limits: u64,
    _leases: Vec<PortLease>,
    _steering: Steering,
}

fn entry(name: &str, mac: Mac, mtu: u16) -> Option<PortEntry> {
    Some(PortEntry { implicit_partial_csum: name == "pod", ..PortEntry::network(name, mac, mtu) })
}

fn rules() -> Rules {
    let pod = Class(Class::POOL.0 | Class::INSIDE.0);
    let ranges = [
        ("10.1.0.0/24", pod),
        ("192.0.2.1/32", Class::OUTSIDE),
        ("fd00::/64", pod),
        ("2001:db8::1/128", Class::OUTSIDE),
    ];
    let ranges = ranges.map(|(net, class)| (net.parse().unwrap(), class));
    Rules {
        generation: 1,
        ranges: Ranges::new(&ranges),
        outside_v4: vec!["192.0.2.1".parse().unwrap()],
        outside_v6: vec!["2001:db8::1".parse().unwrap()],
        ports: PortRange { first: 61_000, last: 65_535 },
        taken: Vec::new(),
        exclude_nodes: false,
        filtering: Filtering::default(),
        limits: Limits { sessions: 10_000, per_source: 0 },
        timeouts: Timeouts::default(),
        workers: 1,
        services: None,
    }
}

fn tables(translated: bool) -> Tables {
    let next = |port, neighbor: &str| Adjacency {
        port,
        neighbor: neighbor.parse().unwrap(),
        mac: Some(FAR),
        tunnel: None,
    };
    Tables {
        ports: vec![
            entry("pod", POD_MAC, POD_MTU),
            entry("uplink", UPLINK_MAC, UPLINK_MTU),
            entry("other", OTHER_MAC, UPLINK_MTU),
        ],
        targets: vec![
            Target::NoRoute,
            Target::Forward(AdjacencyId(0)),
            Target::Forward(AdjacencyId(1)),
            Target::Forward(AdjacencyId(2)),
        ],
        adjacencies: vec![
            next(UPLINK, "192.168.0.1"),
            next(POD, "10.1.0.5"),
            next(OTHER, "192.168.1.1"),
        ],
        nat: translated.then(|| Arc::new(rules())),
        ..Tables::default()
    }
}

impl Rig {
    /// In the calling thread's network namespace, whose loopback stands for all devices.
    fn new(translated: bool) -> Rig {
        Rig::by(Hook::Xdp, translated)
    }

    fn by(hook: Hook, translated: bool) -> Rig {
        let arena = Arena::new(512, 2).unwrap();
        let map = FlowMap::new().unwrap();
        let steering = Steering::new(&arena, 4789).unwrap().with_offload(map.clone());
        let xsks = steering.new_xskmap(1).unwrap();
        let arrivals = [POD, UPLINK].map(|_| Arrivals::new(2).unwrap());
        let program = |port: PortId| {
            let arrivals = &arrivals[usize::from(port.0)];
            let carrier = Carrier { map: &map, port, arrivals, hook };
            match hook {
                Hook::Xdp => steering.load_with(&xsks, Some(carrier)).unwrap(),
                Hook::Tc => steering.load_tc_with(1, Some(carrier)).unwrap(),
            }
        };
        let programs = [POD, UPLINK].map(program);
        let leases = [POD, UPLINK, OTHER].map(|port| {
            if let Hook::Tc = hook {
                return map.open_tc_port(port, 1).unwrap();
            }
            let lease = map.open_port(port, 1).unwrap();
            map.set_egress(port, Some(1));
            lease
        });
        let (mut writer, fib) = FibWriter::new();
        writer.raise_on_change(map.generation());
        for (net, target) in
            [("172.16.0.0/16", 1), ("10.1.0.0/24", 2), ("fd01::/16", 1), ("fd00::/64", 2)]
        {
            writer.insert(net.parse().unwrap(), TargetId(target)).unwrap();
        }
        let mut pipeline = Pipeline::new(FramePool::new(arena), Arc::default());
        let now_ns = 1_000_000_000;
        let clock_ns = crate::sys::clock::monotonic_ns() - now_ns;
        pipeline.start_offload(map.clone(), 1, clock_ns);
        let (mut tables, _leases) = (tables(translated), leases.into_iter().collect());
        if let Hook::Tc = hook {
            let ports = tables.ports.iter_mut().flatten();
            ports.for_each(|port| port.implicit_partial_csum = false);
        }
        let _steering = steering;
        Rig {
            pipeline,
            tables,
            fib,
            writer,
            map,
            programs,
            arrivals,
            hook,
            now_ns,
            clock_ns,
            limits: 0,
            _leases,
            _steering,
        }
    }

    /// Limits of what is behind a port, towards it and from it, which both tiers keep.
    fn limit(&mut self, of: &[(PortId, [limit::WayLimits; 2])]) {
        let takers = limit::Takers { workers: 1, program: Some(self.map.gates().clone()) };
        self.limits += 1;
        let limits = of.iter().map(|(port, ways)| {
            let wanted = limit::Wanted { ways: *ways, dscp: None };
            let limits = limit::EndpointLimits::new(wanted, self.limits, takers.clone());
            (*port, Arc::new(limits))
        });
        let limits: Vec<_> = limits.collect();
        self.tables.limits = Some(Arc::new(limit::Limits::new(&limits, Ranges::default())));
        self.map.generation().raise();
    }

    /// Through the pipeline; what is sent, by port.
    fn feed(&mut self, from: PortId, frames: &[Vec<u8>]) -> Vec<(PortId, Vec<u8>)> {
        let pool = &mut self.pipeline.pool;
        let packet = |bytes: &Vec<u8>| {
            let mut frame = pool.alloc().unwrap();
            frame.bytes_mut(HEADROOM, bytes.len()).copy_from_slice(bytes);
            Packet::new(frame, HEADROOM, bytes.len(), from)
        };
        let mut burst: Vec<Packet> = frames.iter().map(packet).collect();
        self.pipeline.begin_turn();
        let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
        self.pipeline.process(view, from, &mut burst);
        let mut sent = Vec::new();
        let mut queue = Vec::new();
        while let Some(port) = self.pipeline.egress.take(&mut queue) {
            if self.tables.limits_of(port).is_some() {
                self.pipeline.limit_to(view, port, &mut queue);
            }
            for packet in queue.drain(..) {
                sent.push((port, packet.segments().flatten().copied().collect()));
                packet.free(&mut self.pipeline.pool);
            }
        }
        sent
    }

    /// Through the program of a port, whose worker has dealt with all that came before: `None` for
    /// what comes to the worker, as it came.
    fn carry(&self, from: PortId, frame: &[u8]) -> Option<Vec<u8>> {
        self.arrivals[usize::from(from.0)].set_seen(0, u64::MAX);
        // After a change the program finds out by a first packet that none is under way.
        self.run(from, frame).or_else(|| self.run(from, frame))
    }

    /// Through the program of a port once, on the first queue.
    fn run(&self, from: PortId, frame: &[u8]) -> Option<Vec<u8>> {
        if let Hook::Tc = self.hook {
            return self.run_tc(from, frame, 0);
        }
        let program = &self.programs[usize::from(from.0)];
        let run = program.test_run(frame, XdpContext { ifindex: 1, rx_queue: 0 }, 1).unwrap();
        if run.verdict == XDP_REDIRECT {
            return Some(run.packet);
        }
        assert_eq!((run.verdict, run.packet), (XDP_PASS, frame.to_vec()), "not as it came");
        None
    }

    /// The verdict of a port's program, whose worker has dealt with all that came before.
    fn run_any(&self, from: PortId, frame: &[u8]) -> u32 {
        self.arrivals[usize::from(from.0)].set_seen(0, u64::MAX);
        let program = &self.programs[usize::from(from.0)];
        program.test_run(frame, XdpContext { ifindex: 1, rx_queue: 0 }, 1).unwrap().verdict
    }

    fn tick_at(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.pipeline.begin_turn();
        let view = View { tables: &self.tables, fib: &self.fib, now_ns };
        self.pipeline.tick(view);
    }

    /// The tuple of answers to a flow, as they arrive at the uplink.
    fn answers(&mut self, flow: &Flow) -> Tuple {
        let sessions = self.sessions();
        let own = |session: &&Session| session.original() == flow.tuple();
        let translated = sessions.iter().find(own).map(|session| session.translated());
        translated.unwrap_or(flow.tuple()).reversed()
    }

    fn sessions(&mut self) -> Vec<Session> {
        let mut sessions = Vec::new();
        if let Some(tracker) = self.pipeline.tracker() {
            tracker.list(0, u32::MAX, |_, session, _| sessions.push(session.clone()));
        }
        sessions
    }

    /// An ordinary packet of a flow, from either end.
    fn ordinary(&mut self, flow: &Flow, from: PortId, payload: &[u8]) -> Vec<u8> {
        match from {
            POD => frame(POD_MAC, &flow.tuple(), tcp::ACK, payload),
            _ => frame(UPLINK_MAC, &self.answers(flow), tcp::ACK, payload),
        }
    }

    /// Brings a flow up in both directions, and sends until the program carries both.
    fn offload(&mut self, flow: &Flow) {
        if flow.protocol == protocol::TCP {
            self.feed(POD, &[frame(POD_MAC, &flow.tuple(), tcp::SYN, &[])]);
            let answer = self.answers(flow);
            self.feed(UPLINK, &[frame(UPLINK_MAC, &answer, tcp::SYN | tcp::ACK, &[])]);
        }
        for _ in 0..=OFFLOAD_AFTER + 2 {
            for from in [POD, UPLINK] {
                let packet = self.ordinary(flow, from, b"ordinary");
                assert_eq!(self.feed(from, &[packet]).len(), 1);
            }
        }
        for from in [POD, UPLINK] {
            assert!(self.is_carried(flow, from), "{flow:?} from {from} is not offloaded");
        }
    }

    fn is_carried(&mut self, flow: &Flow, from: PortId) -> bool {
        let packet = self.ordinary(flow, from, b"carried");
        self.carry(from, &packet).is_some()
    }
}
