use super::*;
use crate::resource::ip_pool::IpPool;
use crate::resource::node::TunnelAddresses;

fn model() -> Model {
    let mut model = Model::default();
    for (name, v4, v6) in [
        ("me", "172.30.0.1/24", "fd30::1/64"),
        ("near", "172.30.0.2/24", "fd30::2/64"),
        ("far", "172.31.0.2/8", "fd31::2/64"),
    ] {
        let node = Node { ipv4: v4.parse().ok(), ipv6: v6.parse().ok(), ..Node::default() };
        model.nodes.insert(name.to_owned(), node);
    }
    model
}

fn plan(model: &Model) -> TunnelPlan {
    TunnelPlan::of(model, "me", &TunnelSettings::default(), 1500)
}

fn between(model: &Model, prefix: &str, node: &str) -> Encapsulation {
    plan(model).between(model, &prefix.parse().unwrap(), node)
}

/// The kind of tunnel and its far end; `None` for no tunnel.
fn kind(model: &Model, prefix: &str, node: &str) -> Option<(TunnelKind, String)> {
    match between(model, prefix, node) {
        Encapsulation::Plain => None,
        Encapsulation::Through(tunnel) => Some((tunnel.kind(), tunnel.remote.to_string())),
        Encapsulation::Missing => panic!("{prefix} of {node}: no tunnel can be made"),
    }
}

#[test]
fn the_mode_of_the_pool_and_our_own_subnet_decide() {
    use EncapMode::{Always, CrossSubnet, Never};
    let ipip = |node: &str| Some((TunnelKind::Ipip, node.to_owned()));
    let vxlan = |node: &str| Some((TunnelKind::Vxlan, node.to_owned()));
    let (near, far) = ("172.30.0.2", "172.31.0.2");
    for (modes, to_near, to_far) in [
        ((Never, Never), None, None),
        ((Always, Never), ipip(near), ipip(far)),
        ((CrossSubnet, Never), None, ipip(far)),
        ((Never, Always), vxlan(near), vxlan(far)),
        // The far node's own prefix, a /8, would have this node in it.
        ((Never, CrossSubnet), None, vxlan(far)),
    ] {
        let mut model = model();
        model.pools.insert("a".to_owned(), IpPool::encapsulated("10.65.0.0/16", modes.0, modes.1));
        assert_eq!(kind(&model, "10.65.1.0/26", "near"), to_near, "{modes:?}");
        assert_eq!(kind(&model, "10.65.1.0/26", "far"), to_far, "{modes:?}");
        assert_eq!(kind(&model, "10.66.1.0/26", "far"), None, "outside of the pool");
    }
}

#[test]
fn a_node_without_a_prefix_length_is_alone_in_its_subnet() {
    let mut model = model();
    model.nodes.get_mut("me").unwrap().ipv4 = "172.30.0.1/32".parse().ok();
    model.pools.insert(
        "a".to_owned(),
        IpPool::encapsulated("10.65.0.0/16", EncapMode::CrossSubnet, EncapMode::Never),
    );
    assert!(kind(&model, "10.65.1.0/26", "near").is_some());
}

#[test]
fn ipv6_pools_have_vxlan_over_ipv6() {
    let mut model = model();
    model.pools.insert(
        "a".to_owned(),
        IpPool::encapsulated("fd65::/48", EncapMode::Never, EncapMode::CrossSubnet),
    );
    assert_eq!(kind(&model, "fd65::1:0/122", "near"), None);
    let (kind, remote) = kind(&model, "fd65::1:0/122", "far").unwrap();
    assert_eq!((kind, remote.as_str()), (TunnelKind::Vxlan, "fd31::2"));
    let plan = plan(&model);
    assert_eq!(plan.ends(), ["fd30::1".parse::<IpAddr>().unwrap()], "none over IPv4");
    assert!(plan.end.vxlan[0].is_none() && plan.end.vxlan[1].is_some() && !plan.end.ipip);
    assert_eq!((plan.mtus, plan.pod_mtu(1500)), ([0, 0, 1430], 1430));
}

#[test]
fn link_addresses_follow_from_names_unless_a_node_says_its_own() {
    let mut model = model();
    let digest = |name: &str| -> [u8; 5] { Sha1::digest(name)[..5].try_into().unwrap() };
    let [a, b, c, d, e] = digest("far-v6");
    assert_eq!(vtep_mac("far", &Node::default(), true), Mac([0x66, a, b, c, d, e]));
    // FIPS 180-2, appendix A.1: the digest of "abc".
    let abc = Mac([0x66, 0xa9, 0x99, 0x3e, 0x36, 0x47]);
    assert_eq!(vtep_mac("abc", &Node::default(), false), abc);
    let own = Mac([0x00, 0x15, 0x5d, 1, 2, 3]);
    let far = model.nodes.get_mut("far").unwrap();
    far.tunnels = TunnelAddresses { vxlan_macs: [Some(own), None], ..Default::default() };
    model.pools.insert(
        "a".to_owned(),
        IpPool::encapsulated("10.65.0.0/16", EncapMode::Never, EncapMode::Always),
    );
    let Encapsulation::Through(tunnel) = between(&model, "10.65.1.0/26", "far") else { panic!() };
    let ends = tunnel.vxlan.unwrap();
    assert_eq!((ends.remote, ends.port, ends.vni.get()), (own, 4789, 4096));
    let [a, b, c, d, e] = digest("me");
    assert_eq!(ends.local, Mac([0x66, a, b, c, d, e]));
}

#[test]
fn without_addresses_there_is_no_way() {
    let mut model = model();
    model.pools.insert(
        "a".to_owned(),
        IpPool::encapsulated("10.65.0.0/16", EncapMode::Always, EncapMode::Never),
    );
    model.nodes.get_mut("far").unwrap().ipv4 = None;
    model.nodes.get_mut("near").unwrap().ipv4 = "172.30.0.1/24".parse().ok();
    for node in ["far", "near", "unknown"] {
        assert_eq!(between(&model, "10.65.1.0/26", node), Encapsulation::Missing, "{node}");
    }
}

#[test]
fn settings_go_to_the_end_and_the_mtu() {
    let mut model = model();
    model.pools.insert(
        "a".to_owned(),
        IpPool::encapsulated("10.65.0.0/16", EncapMode::Always, EncapMode::Never),
    );
    model.pools.insert(
        "b".to_owned(),
        IpPool::encapsulated("10.66.0.0/16", EncapMode::Never, EncapMode::Always),
    );
    assert_eq!(plan(&model).mtus, [1480, 1450, 0]);
    assert_eq!(plan(&model).pod_mtu(1500), 1450, "the least of those in use");
    assert!(plan(&model).end.guards_ipip && plan(&model).end.guards_vxlan);
    let settings = TunnelSettings {
        vxlan_mtu: 1300,
        allow_ipip_from_workloads: true,
        external_nodes_list: vec!["192.0.2.0/24".parse().unwrap()],
        ..TunnelSettings::default()
    };
    let plan = TunnelPlan::of(&model, "me", &settings, 9000);
    assert_eq!((plan.mtus, plan.pod_mtu(9000)), ([8980, 1300, 0], 1300));
    assert!(!plan.end.guards_ipip && plan.end.guards_vxlan);
    assert_eq!(plan.end.networks, settings.external_nodes_list);
    assert_eq!(plan.tunnels().count(), 4, "two nodes, two kinds");
}

#[test]
fn no_more_tunnels_than_the_packet_path_has_room_for() {
    let mut model = model();
    model.pools.insert(
        "a".to_owned(),
        IpPool::encapsulated("10.65.0.0/16", EncapMode::Always, EncapMode::Never),
    );
    for number in 0..MAX_TUNNELS {
        let address = Ipv4Addr::from(0x0a00_0000 + number as u32);
        let node = Node { ipv4: Some(address.into()), ..Node::default() };
        model.nodes.insert(format!("node{number:05}"), node);
    }
    let plan = plan(&model);
    assert_eq!((plan.tunnels().count(), plan.left_out), (MAX_TUNNELS, 2));
    let last = format!("node{:05}", MAX_TUNNELS - 1);
    let prefix = "10.65.1.0/26".parse().unwrap();
    assert_eq!(plan.between(&model, &prefix, &last), Encapsulation::Missing);
}

/// What a case says of a block.
fn words(encapsulation: Encapsulation) -> String {
    match encapsulation {
        Encapsulation::Plain => "plain".to_owned(),
        Encapsulation::Missing => "missing".to_owned(),
        Encapsulation::Through(tunnel) => match tunnel.vxlan {
            None => format!("ipip {}", tunnel.remote),
            Some(ends) => format!("vxlan {} {}", tunnel.remote, ends.remote),
        },
    }
}

/// Scenarios of `tests/cases/tunnels`: resources, and what a node's answer must hold. The fields
/// named in an expectation count. Each also runs with its resources in another order.
#[test]
fn scenarios_have_their_tunnels() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/tunnels");
    let mut checked = 0;
    for case in std::fs::read_dir(root).unwrap() {
        let case = case.unwrap().path();
        let mut directory = crate::store::directory::Directory::new(&case);
        let events = directory.scan();
        let faults = directory.report().faults.iter();
        let faults: Vec<_> = faults.filter(|it| !it.file.ends_with(".expected.json")).collect();
        assert!(faults.is_empty(), "{}: {faults:?}", case.display());
        let (mut model, mut reversed) = (Model::default(), Model::default());
        events.iter().cloned().for_each(|event| model.apply(event));
        events.iter().rev().cloned().for_each(|event| reversed.apply(event));
        for entry in std::fs::read_dir(&case).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some(node) = name.strip_suffix(".expected.json") else { continue };
            let wanted: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let plan = TunnelPlan::of(&model, node, &TunnelSettings::default(), 1500);
            assert_eq!(plan, TunnelPlan::of(&reversed, node, &TunnelSettings::default(), 1500));
            let blocks: BTreeMap<String, String> = model
                .blocks()
                .owners()
                .iter()
                .map(|(block, owner)| (block, words(plan.between(&model, block, owner))))
                .map(|(block, words)| (block.to_string(), words))
                .collect();
            let mac = plan.end.vxlan[0].map(|end| end.mac.to_string());
            let got = serde_json::json!({
                "ends": plan.ends(), "mtus": plan.mtus, "podMtu": plan.pod_mtu(1500),
                "ownMac": mac, "blocks": blocks,
            });
            for (field, value) in wanted.as_object().unwrap() {
                let place = format!("{} {node} {field}", case.display());
                match value.as_object() {
                    Some(some) => {
                        for (key, value) in some {
                            assert_eq!(&got[field][key], value, "{place} {key}");
                        }
                    }
                    None => assert_eq!(&got[field], value, "{place}"),
                }
            }
            checked += 1;
        }
    }
    assert!(checked >= 6, "{checked} expectations");
}
