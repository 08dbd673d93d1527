//! Pods on TAPs: super-packets cross margay whole between two of them, and are cut, with right
//! checksums, towards a veth pod and an uplink of 1500 bytes.

use margay::lab::measure::{self, IperfSpec, Load};
use margay::lab::namespace::Namespace;
use margay::lab::{requirements, steps};
use std::net::IpAddr;

/// Who sends, who receives, and at which addresses.
pub(crate) type Way<'a> = (&'a str, &'a Namespace, &'a Namespace, [IpAddr; 2]);

/// TCP and UDP go well each way.
pub(crate) fn carries(ways: &[Way<'_>]) {
    for &(way, client, server, targets) in ways {
        for target in targets {
            let udp = Load::Udp { length: 1200, rate: 20_000_000 };
            for load in [Load::Tcp, udp] {
                let spec = IperfSpec { client, server, target, load, seconds: 1 };
                let (_, text) = steps::run_load(spec).unwrap_or_else(|error| {
                    panic!("{way}, {target}, {load:?}: {error:#}");
                });
                println!("{way}, {target}: {text}");
            }
        }
    }
}

#[test]
fn tcp_between_tap_and_every_other_attachment() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut network = crate::network(1500);
    network.add_pod(0, "tap-c").unwrap();
    let pod = |node: usize, name: &str| network.nodes[node].pod(name).unwrap();
    let (tap_a, tap_c, veth_a) = (pod(0, "tap-a"), pod(0, "tap-c"), pod(0, "veth-a"));
    let tap_b = pod(1, "tap-b");
    let outside = network.outside_addresses().unwrap();
    let ways = [
        ("TAP to TAP, one node", tap_a.namespace(), tap_c.namespace(), tap_c.addresses()),
        ("TAP to TAP, across nodes", tap_a.namespace(), tap_b.namespace(), tap_b.addresses()),
        ("TAP to veth", tap_a.namespace(), veth_a.namespace(), veth_a.addresses()),
        ("veth to TAP", veth_a.namespace(), tap_a.namespace(), tap_a.addresses()),
        ("TAP to outside", tap_a.namespace(), &network.outside, outside),
        ("outside to TAP", &network.outside, tap_a.namespace(), tap_a.addresses()),
    ];
    carries(&ways);
    assert_eq!(steps::checksum_errors(&network).unwrap(), 0);
    assert_eq!(measure::checksum_errors(tap_c.namespace()).unwrap(), 0);
}
