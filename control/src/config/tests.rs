use super::*;

fn no_environment(_: &str) -> Option<String> {
    None
}

fn environment<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
}

#[test]
fn the_whole_file_is_read() {
    let text = "\
nodeName: edge-1
store: {type: local, path: /srv/calico}
uplinks: [eth1, eth2]
uplinkBandwidth: {eth1: 1.5G, eth2: 250000000}
workers: {count: 2, cores: [0, 1]}
staticRoutes:
  - {prefix: 0.0.0.0/0, via: 192.0.2.1}
  - {prefix: 10.9.0.0/16, type: blackhole}
  - {prefix: '2001:db8:9::/48', via: 'fe80::1', device: eth1}
hostDevice: margay7
keepRoutes: true
socket: /tmp/margay.sock
metrics: {port: 19091}
health: {port: 0, host: 127.0.0.1}
frames: 8192
xdpMode: generic
busyPoll: true
bulkTransmit: false
offload: false
bgp: {enabled: false, routerId: hash, kernelRoutes: 5000, maxPaths: 4}
tunnels: {vxlanPort: 8472, vxlanVNI: 7, mssClamp: true, externalNodesList: [192.0.2.0/24]}
";
    let config = Config::parse(text, "margay.yaml").unwrap();
    config.check().unwrap();
    assert_eq!(config.node_name, "edge-1");
    assert_eq!(config.store.path, Path::new("/srv/calico"));
    assert_eq!(config.worker_cores(), vec![Some(0), Some(1)]);
    let bandwidth: Vec<u64> = config.uplink_bandwidth.values().map(|rate| rate.0).collect();
    assert_eq!(bandwidth, [1_500_000_000, 250_000_000]);
    assert_eq!(config.static_routes[1].kind, Some(StaticRouteKind::Blackhole));
    assert_eq!(config.static_routes[2].device.as_deref(), Some("eth1"));
    assert_eq!((config.metrics.port, config.health.port), (19091, 0));
    assert_eq!(config.xdp_mode, XdpMode::Generic);
    assert!(config.keep_routes && config.busy_poll);
    assert!(!config.bulk_transmit && !config.offload);
    assert_eq!((config.bgp.enabled, config.bgp.router_id), (Switch::Off, Some(RouterId::Hash)));
    assert_eq!((config.bgp.kernel_routes, config.bgp.max_paths), (Some(5000), 4));
    assert_eq!((config.tunnels.vxlan_port, config.tunnels.vxlan_vni), (8472, 7));
    assert!(config.tunnels.mss_clamp && config.tunnels.external_nodes_list.len() == 1);
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse("\n", "x").unwrap(), Config::default());
}

#[test]
fn calicos_environment_speaks_of_tunnels() {
    let load = |pairs: &[(&str, &str)]| {
        let mut config = Config::default();
        environment::apply(&mut config, &environment(pairs))?;
        config.check().map(|()| config.tunnels)
    };
    assert_eq!(load(&[]).unwrap(), TunnelSettings::default());
    let tunnels = load(&[
        ("FELIX_VXLANPORT", "8472"),
        ("FELIX_VXLANVNI", "16777215"),
        ("FELIX_IPINIPMTU", "1400"),
        ("FELIX_EXTERNALNODESLIST", "192.0.2.7, 198.51.100.9/24"),
        ("FELIX_ALLOWIPIPPACKETSFROMWORKLOADS", "true"),
    ])
    .unwrap();
    assert_eq!((tunnels.vxlan_port, tunnels.vxlan_vni, tunnels.ipip_mtu), (8472, 0xff_ffff, 1400));
    let nets: Vec<String> = tunnels.external_nodes_list.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["192.0.2.7/32", "198.51.100.0/24"]);
    assert!(tunnels.allow_ipip_from_workloads && !tunnels.allow_vxlan_from_workloads);
    for (name, value) in [
        ("FELIX_VXLANPORT", "vxlan"),
        ("FELIX_VXLANVNI", "-1"),
        ("FELIX_EXTERNALNODESLIST", "elsewhere"),
        ("FELIX_ALLOWVXLANPACKETSFROMWORKLOADS", "perhaps"),
    ] {
        assert_eq!(load(&[(name, value)]).unwrap_err().place, name);
    }
    let refused = load(&[("FELIX_VXLANVNI", "16777216")]).unwrap_err();
    assert_eq!(refused.place, "tunnels.vxlanVNI");
    let many = vec!["192.0.2.7"; EXTERNAL_NODES_MAX + 1].join(",");
    let refused = load(&[("FELIX_EXTERNALNODESLIST", &many)]).unwrap_err();
    assert_eq!(refused.place, "tunnels.externalNodesList");
}

#[test]
fn calicos_environment_speaks_of_bgp() {
    let load = |pairs: &[(&str, &str)]| {
        let mut config = Config::default();
        environment::apply(&mut config, &environment(pairs)).map(|()| config.bgp)
    };
    assert_eq!(load(&[]).unwrap(), BgpSettings::default());
    let bgp = load(&[
        ("CALICO_NETWORKING_BACKEND", "bird"),
        ("CALICO_ROUTER_ID", "192.0.2.7"),
        ("CALICO_ADVERTISE_CLUSTER_IPS", "10.96.0.0/12, fd96::/108"),
    ]);
    let bgp = bgp.unwrap();
    assert_eq!(bgp.enabled, BgpSettings::default().enabled);
    assert_eq!(bgp.router_id, Some(RouterId::Address([192, 0, 2, 7].into())));
    assert_eq!(bgp.cluster_ips.len(), 2);
    for backend in ["none", "vxlan"] {
        let bgp = load(&[("CALICO_NETWORKING_BACKEND", backend)]).unwrap();
        assert_eq!(bgp.enabled, Switch::Off);
    }
    for wrong in [
        ("CALICO_NETWORKING_BACKEND", "ospf"),
        ("CALICO_ROUTER_ID", "seven"),
        ("CALICO_ADVERTISE_CLUSTER_IPS", "10.96.0.0"),
    ] {
        assert_eq!(load(&[wrong]).unwrap_err().place, wrong.0);
    }
}

#[test]
fn a_hashed_router_id_is_calicos() {
    // FIPS 180-4: the digest of "a" begins with ca 97 81 12.
    assert_eq!(RouterId::Hash.of("a"), std::net::Ipv4Addr::new(0xca, 0x97, 0x81, 0x12));
    let ids = (0..200).map(|node| RouterId::Hash.of(&format!("node-{node}")));
    assert!(ids.into_iter().all(|id| id.octets()[0] < 224), "none in the multicast range");
}

#[test]
fn faults_name_file_line_and_field() {
    let unknown = Config::parse("nodeName: a\nuplink: eth0\n", "m.yaml").unwrap_err();
    assert!(unknown.place.starts_with("m.yaml:2:"), "{}", unknown.place);
    assert!(unknown.what.contains("uplink"), "{}", unknown.what);
    let rate = Config::parse("uplinkBandwidth: {eth0: fast}\n", "m.yaml").unwrap_err();
    assert!(rate.what.contains("250M"), "{}", rate.what);
    let kind = Config::parse("frames: many\n", "m.yaml").unwrap_err();
    assert!(kind.place.starts_with("m.yaml:1:"), "{}", kind.place);
    assert!(!kind.what.contains('\n'));
}

#[test]
fn each_rule_has_its_error() {
    let cases = [
        ("uplinks: [eth0, eth0]", "uplinks[1]"),
        ("uplinks: [a-name-that-is-too-long]", "uplinks[0]"),
        ("uplinks: [margay0]", "hostDevice"),
        ("hostDevice: a/b", "hostDevice"),
        ("{uplinks: [eth0], uplinkBandwidth: {eth1: 1G}}", "uplinkBandwidth.eth1"),
        ("{uplinks: [eth0], uplinkBandwidth: {eth0: 999}}", "uplinkBandwidth.eth0"),
        ("workers: {cores: [1, 1]}", "workers.cores"),
        ("workers: {count: 65}", "workers.count"),
        ("frames: 4095", "frames"),
        ("staticRoutes: [{prefix: 10.0.0.1/8, via: 10.0.0.1}]", "staticRoutes[0].prefix"),
        ("staticRoutes: [{prefix: 10.0.0.0/8}]", "staticRoutes[0]"),
        ("staticRoutes: [{prefix: 10.0.0.0/8, via: 10.0.0.1, type: prohibit}]", "staticRoutes[0]"),
        ("staticRoutes: [{prefix: 10.0.0.0/8, via: 'fe80::1'}]", "staticRoutes[0].via"),
    ];
    for (text, place) in cases {
        let error = Config::parse(text, "m").unwrap().check().unwrap_err();
        assert_eq!(error.place, place, "{text}");
        assert!(!error.hint.is_empty());
    }
    Config::parse("workers: {count: 64}\nframes: 4096", "m").unwrap().check().unwrap();
}

#[test]
fn the_environment_beats_the_file_and_flags_beat_both() {
    let directory = crate::scratch::Directory::new("config");
    let file = directory.write("m.yaml", "nodeName: file\nmetrics: {port: 1}\nhealth: {port: 2}\n");
    let variables = [
        ("NODENAME", "environment"),
        ("IP", "10.0.0.7/24"),
        ("IP6", "autodetect"),
        ("DATASTORE_TYPE", "local"),
        ("FELIX_PROMETHEUSMETRICSPORT", "9191"),
        ("FELIX_HEALTHPORT", "9199"),
        ("FELIX_HEALTHHOST", "0.0.0.0"),
        ("FELIX_INTERFACEPREFIX", "tap,cali"),
    ];
    let load = |flags: &dyn Fn(&mut Config)| {
        Config::load(Some(&file), &environment(&variables), |config| flags(config)).unwrap()
    };
    let config = load(&|_| ());
    assert_eq!(config.node_name, "environment");
    assert_eq!((config.metrics.port, config.health.port), (9191, 9199));
    assert_eq!(config.interface_prefix, "tap");
    assert_eq!((config.ip, config.ip6), (Some("10.0.0.7".parse().unwrap()), None));
    assert_eq!(load(&|config| config.node_name = "flag".into()).node_name, "flag");
}

#[test]
fn variables_that_are_wrong_are_named() {
    let cases = [
        ("FELIX_HEALTHPORT", "99999"),
        ("IP", "fe80::1"),
        ("FELIX_HEALTHENABLED", "perhaps"),
        ("DATASTORE_TYPE", "consul"),
        ("ETCD_DISCOVERY_SRV", "example.org"),
    ];
    for (name, value) in cases {
        let mut config = Config::default();
        let error = environment::apply(&mut config, &environment(&[(name, value)])).unwrap_err();
        assert_eq!(error.place, name);
    }
}

#[test]
fn switched_off_services_have_no_port() {
    let variables = [("FELIX_PROMETHEUSMETRICSENABLED", "false"), ("FELIX_HEALTHENABLED", "false")];
    let mut config = Config::default();
    environment::apply(&mut config, &environment(&variables)).unwrap();
    assert_eq!((config.metrics.port, config.health.port), (0, 0));
}

#[test]
fn a_missing_file_says_so() {
    let error = Config::load(Some(Path::new("/nonexistent/m.yaml")), &no_environment, |_| ());
    assert!(error.unwrap_err().place.contains("/nonexistent/m.yaml"));
}
