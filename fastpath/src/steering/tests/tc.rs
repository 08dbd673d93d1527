//! The program of tc steers as that of XDP does.

use super::*;

/// To the TAP.
const REDIRECT: u32 = 7;
/// On, in the kernel.
const NEXT: u32 = u32::MAX;

fn programs() -> (Steering, Program, Program) {
    let steering = Steering::new(&Arena::new(256, 0).unwrap(), VXLAN_PORT).unwrap();
    let (sent, written, _) = steering.load_tc((1, 1), None).unwrap();
    (steering, sent, written)
}

fn verdict(program: &Program, packet: &[u8]) -> u32 {
    let run = program.test_run_tc(packet, 0).unwrap();
    assert_eq!(run.packet, packet, "the program wrote into the packet");
    run.verdict
}

#[test]
fn every_branch_steers_as_it_should() {
    let (steering, sent, written) = programs();
    steering.set(&steered(&LOCAL, NO_PORTS)).unwrap();
    for (name, packet) in &forwarded() {
        assert_eq!(verdict(&sent, packet), REDIRECT, "{name}");
    }
    // The kernel runs no program on a frame without a whole header.
    for (name, packet) in kept().iter().filter(|(name, _)| !name.starts_with("short")) {
        assert_eq!(verdict(&sent, packet), NEXT, "{name}");
    }
    for (name, packet) in
        forwarded().iter().chain(&kept()).filter(|(name, _)| !name.starts_with("short"))
    {
        assert_eq!(verdict(&written, packet), REDIRECT, "{name}, written by a worker");
    }
}

#[test]
fn what_the_workers_have_of_the_hosts_addresses_is_theirs() {
    let (steering, sent, _) = programs();
    let [v4, v6] = LOCAL;
    let tunnel_ends = LOCAL.map(|text| text.parse().unwrap()).to_vec();
    let range = PortRange { first: 61_000, last: 61_999 };
    let services = [(v4.parse().unwrap(), 80, 6), (v6.parse().unwrap(), 80, 6)].into();
    steering.set(&Steered { tunnel_ends, services, ..steered(&LOCAL, range) }).unwrap();
    for (name, packet) in &of_tunnels(v4, v6) {
        assert_eq!(verdict(&sent, packet), REDIRECT, "{name}");
    }
    let to = |port: u16| [&[0xc0, 0][..], &port.to_be_bytes(), &[0; 16]].concat();
    for (port, expected) in [(80, REDIRECT), (61_500, REDIRECT), (81, NEXT), (60_999, NEXT)] {
        assert_eq!(verdict(&sent, &over_v4(v4, 6, &to(port))), expected, "port {port}");
        assert_eq!(verdict(&sent, &ipv6(v6, 6, &to(port))), expected, "port {port}, IPv6");
    }
}
