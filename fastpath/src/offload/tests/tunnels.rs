//! Flows that leave through tunnels: outer headers as the pipeline writes them.

use super::*;
use crate::tunnel::{Tunnel, TunnelId, TunnelKind, TunnelTotals};
use margay_tunnels::encap::{Encap, IPIP_OVERHEAD, VXLAN_V4_OVERHEAD, VxlanEnds};
use margay_tunnels::wire::vxlan::Vni;

impl Rig {
    /// What leaves by the uplink is in a tunnel from now on.
    pub(super) fn tunnel(&mut self, kind: TunnelKind) {
        let (src, dst) = ([192, 168, 0, 7].into(), [192, 168, 9, 9].into());
        let encap = match kind {
            TunnelKind::Ipip => Encap::ipip(src, dst),
            TunnelKind::Vxlan => {
                let [local, remote] = [Mac([0x66, 1, 2, 3, 4, 5]), Mac([0x66, 9, 8, 7, 6, 5])];
                let ends = VxlanEnds { vni: Vni::new(4096).unwrap(), port: 4789, local, remote };
                Encap::vxlan(src.into(), dst.into(), ends).unwrap()
            }
        };
        self.wrap_in(kind, encap);
    }

    fn wrap_in(&mut self, kind: TunnelKind, encap: Encap) {
        let (remote, base) = ([192, 168, 9, 9].into(), TunnelTotals::default());
        self.tables.tunnels = vec![Some(Tunnel { kind, remote, encap, mss_mtu: 0, base })];
        self.tables.adjacencies[0].tunnel = Some(TunnelId(0));
        self.map.generation().raise();
    }
}

/// Longest packet that goes into a tunnel by the uplink.
pub(super) fn room(kind: TunnelKind) -> u16 {
    UPLINK_MTU
        - match kind {
            TunnelKind::Ipip => IPIP_OVERHEAD as u16,
            TunnelKind::Vxlan => VXLAN_V4_OVERHEAD as u16,
        }
}

#[test]
fn outer_ports_are_the_flows() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        rig.tunnel(TunnelKind::Vxlan);
        let mut ports = std::collections::BTreeSet::new();
        for port in 0..40 {
            for flow in [UDP4, TCP4, UDP6, TCP6] {
                let flow = Flow { ports: (5000 + port, 80), ..flow };
                let packet = rig.ordinary(&flow, POD, b"some");
                let mut sent = Vec::new();
                for _ in 0..OFFLOAD_AFTER {
                    sent = rig.feed(POD, std::slice::from_ref(&packet));
                }
                let carried = rig.carry(POD, &packet).expect("it is offloaded");
                assert_eq!(sent, [(UPLINK, carried.clone())], "{flow:?}");
                ports.insert(carried[34..36].to_vec());
            }
        }
        assert!(ports.len() > 100, "{} outer ports of 160 flows", ports.len());
    });
}

#[test]
fn what_goes_into_a_tunnel_is_counted_there() {
    in_namespace(|| {
        for kind in [TunnelKind::Ipip, TunnelKind::Vxlan] {
            let mut rig = Rig::new(false);
            rig.tunnel(kind);
            rig.offload(&UDP4);
            rig.pipeline.read_offload();
            let tunnel = |rig: &Rig| {
                let counters = &rig.pipeline.counters.tunnels;
                let counter = counters.get(TunnelId(0)).unwrap();
                (counter.tx_packets.get(), counter.tx_bytes.get())
            };
            let (before, port) = (tunnel(&rig), rig.map.totals(UPLINK));
            let packet = rig.ordinary(&UDP4, POD, &[1; 100]);
            assert_eq!((0..5).filter(|_| rig.carry(POD, &packet).is_some()).count(), 5);
            rig.pipeline.read_offload();
            let (after, now) = (tunnel(&rig), rig.map.totals(UPLINK));
            assert_eq!((after.0 - before.0, after.1 - before.1), (5, 5 * 128), "{kind:?}");
            let overhead = u64::from(UPLINK_MTU - room(kind));
            assert_eq!(now.tx_bytes - port.tx_bytes, 5 * (142 + overhead), "{kind:?}");
        }
    });
}

#[test]
fn a_path_that_takes_less_gets_no_more() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        rig.tunnel(TunnelKind::Vxlan);
        rig.offload(&UDP4);
        let long = rig.ordinary(&UDP4, POD, &[1; 1000]);
        assert!(rig.carry(POD, &long).is_some());
        rig.pipeline.path_mtus.learn(TunnelId(0), 1000, rig.now_ns);
        rig.pipeline.recall_offload();
        let short = rig.ordinary(&UDP4, POD, &[1; 1000 - 50 - 28]);
        rig.feed(POD, std::slice::from_ref(&short));
        assert!(rig.carry(POD, &short).is_some());
        assert_eq!(rig.carry(POD, &long), None);
    });
}

#[test]
fn tunnels_over_ipv6_and_families_that_do_not_fit_are_the_workers() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        rig.tunnel(TunnelKind::Ipip);
        let packet = rig.ordinary(&UDP6, POD, b"not in IPIP");
        (0..2 * OFFLOAD_AFTER).for_each(|_| drop(rig.feed(POD, std::slice::from_ref(&packet))));
        assert_eq!(rig.carry(POD, &packet), None);
        let ends = |text: &str| text.parse::<IpAddr>().unwrap();
        let macs = [Mac([0x66, 1, 2, 3, 4, 5]), Mac([0x66, 9, 8, 7, 6, 5])];
        let vni = Vni::new(4096).unwrap();
        let over = VxlanEnds { vni, port: 4789, local: macs[0], remote: macs[1] };
        let encap = Encap::vxlan(ends("2001:db8::7"), ends("2001:db8::9"), over).unwrap();
        rig.wrap_in(TunnelKind::Vxlan, encap);
        let packet = rig.ordinary(&UDP4, POD, b"with a checksum");
        for _ in 0..2 * OFFLOAD_AFTER {
            assert_eq!(rig.feed(POD, std::slice::from_ref(&packet)).len(), 1);
        }
        assert_eq!(rig.carry(POD, &packet), None);
    });
}

#[test]
fn rows_of_outer_headers_are_shared_and_come_back() {
    let map = FlowMap::new().unwrap();
    let open =
        |last| map.outers().open(&Encap::ipip([10, 0, 0, 1].into(), [10, 0, 0, last].into()));
    let (first, other) = (open(2).unwrap(), open(3).unwrap());
    assert_eq!(open(2).unwrap().number(), first.number());
    assert_ne!(first.number(), other.number());
    drop(first);
    assert_ne!(open(2).unwrap().number(), other.number());
    // Each is free again at once, at the end of the list.
    for _ in 0..100_000 {
        assert!(open(2).is_some() && open(4).is_some());
    }
}
