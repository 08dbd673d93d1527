//! The kinds that `margay ctl` knows, by all their names, and their columns in tables.

/// A kind.
#[derive(Debug)]
pub(super) struct Kind {
    /// As in `kind:`.
    pub(super) name: &'static str,
    /// Plural, and short forms; lower case.
    names: &'static [&'static str],
    pub(super) namespaced: bool,
    /// Columns by default.
    columns: &'static [Column],
    /// Columns of `-o wide`, where they are others.
    wide: &'static [Column],
}

/// Heading, where the value is (`#` before it counts a list), and what stands where it is missing.
pub(super) type Column = (&'static str, &'static str, &'static str);

const NAME: Column = ("NAME", "metadata.name", "");
const NODE: Column = ("NODE", "spec.node", "");
const TIER: Column = ("TIER", "spec.tier", "default");
const ORDER: Column = ("ORDER", "spec.order", "<nil>");
const SELECTOR: Column = ("SELECTOR", "spec.selector", "");
const CIDR: Column = ("CIDR", "spec.cidr", "");
const POOL_SELECTOR: Column = ("SELECTOR", "spec.nodeSelector", "all()");
const POLICY: &[Column] = &[NAME, TIER];
const POLICY_WIDE: &[Column] = &[NAME, TIER, ORDER, SELECTOR];
const INTERFACE: Column = ("INTERFACE", "spec.interfaceName", "");
const WORKLOAD: Column = ("WORKLOAD", "spec.pod|spec.workload", "");
const NETWORKS: Column = ("NETWORKS", "spec.ipNetworks", "");
const STRICT: Column = ("STRICTAFFINITY", "spec.strictAffinity", "false");
const AUTO: Column = ("AUTOALLOCATEBLOCKS", "spec.autoAllocateBlocks", "false");

/// All of them, with the columns of calicoctl.
const KINDS: &[Kind] = &[
    kind("Node", &["nodes", "no"], false, &[NAME]).wide(&[
        NAME,
        ("ASN", "spec.bgp.asNumber", "(64512)"),
        ("IPV4", "spec.bgp.ipv4Address", ""),
        ("IPV6", "spec.bgp.ipv6Address", ""),
    ]),
    kind(
        "IPPool",
        &["ippools", "ipp", "ipps", "pool", "pools"],
        false,
        &[NAME, CIDR, POOL_SELECTOR],
    )
    .wide(&[
        NAME,
        CIDR,
        ("NAT", "spec.natOutgoing", "false"),
        ("IPIPMODE", "spec.ipipMode", "Never"),
        ("VXLANMODE", "spec.vxlanMode", "Never"),
        ("DISABLED", "spec.disabled", "false"),
        ("DISABLEBGPEXPORT", "spec.disableBGPExport", "false"),
        POOL_SELECTOR,
        ("ASSIGNMENTMODE", "spec.assignmentMode", "Automatic"),
    ]),
    kind(
        "BGPPeer",
        &["bgppeers", "bgpp", "bgpps", "bp", "bps"],
        false,
        &[
            NAME,
            ("PEERIP", "spec.peerIP", ""),
            ("NODE", "spec.node|spec.nodeSelector", "(global)"),
            ("ASN", "spec.asNumber", "0"),
        ],
    ),
    kind(
        "BGPConfiguration",
        &["bgpconfigurations", "bgpconfig", "bgpconfigs"],
        false,
        &[
            NAME,
            ("LOGSEVERITY", "spec.logSeverityScreen", ""),
            ("MESHENABLED", "spec.nodeToNodeMeshEnabled", "-"),
            ("ASNUMBER", "spec.asNumber", "-"),
        ],
    ),
    kind(
        "BGPFilter",
        &["bgpfilters", "bgpf", "bgpfs", "bf", "bfs"],
        false,
        &[
            NAME,
            ("NUMEXPORTV4", "#spec.exportV4", "0"),
            ("NUMIMPORTV4", "#spec.importV4", "0"),
            ("NUMEXPORTV6", "#spec.exportV6", "0"),
            ("NUMIMPORTV6", "#spec.importV6", "0"),
        ],
    ),
    kind("GlobalNetworkPolicy", &["globalnetworkpolicies", "gnp", "gnps"], false, POLICY)
        .wide(POLICY_WIDE),
    kind(
        "NetworkPolicy",
        &["networkpolicies", "policy", "np", "policies", "pol", "pols"],
        true,
        POLICY,
    )
    .wide(POLICY_WIDE),
    kind("StagedGlobalNetworkPolicy", &["stagedglobalnetworkpolicies", "sgnp"], false, POLICY)
        .wide(POLICY_WIDE),
    kind(
        "StagedNetworkPolicy",
        &["stagednetworkpolicies", "snp", "stagedpolicy", "spol"],
        true,
        POLICY,
    )
    .wide(POLICY_WIDE),
    kind(
        "StagedKubernetesNetworkPolicy",
        &["stagedkubernetesnetworkpolicies", "sknp", "skpol"],
        true,
        &[NAME],
    )
    .wide(&[NAME, ("PODSELECTOR", "spec.podSelector", "")]),
    kind("Tier", &["tiers"], false, &[NAME, ORDER]),
    kind("GlobalNetworkSet", &["globalnetworksets", "gnetsets"], false, &[NAME])
        .wide(&[NAME, ("NETS", "spec.nets", "")]),
    kind("NetworkSet", &["networksets", "netsets"], true, &[NAME])
        .wide(&[NAME, ("NETS", "spec.nets", "")]),
    kind("HostEndpoint", &["hostendpoints", "hep", "heps"], false, &[NAME, NODE]).wide(&[
        NAME,
        NODE,
        INTERFACE,
        ("IPS", "spec.expectedIPs", ""),
        ("PROFILES", "spec.profiles", ""),
    ]),
    kind(
        "WorkloadEndpoint",
        &["workloadendpoints", "wep", "weps"],
        true,
        &[WORKLOAD, NODE, NETWORKS, INTERFACE],
    )
    .wide(&[
        NAME,
        WORKLOAD,
        NODE,
        NETWORKS,
        INTERFACE,
        ("PROFILES", "spec.profiles", ""),
        ("NATS", "spec.ipNATs", ""),
    ]),
    kind("Profile", &["profiles", "pro", "pros"], false, &[NAME])
        .wide(&[NAME, ("LABELS", "spec.labelsToApply", "")]),
    kind(
        "FelixConfiguration",
        &["felixconfigurations", "felixconfig", "felixconfigs"],
        false,
        &[NAME],
    ),
    kind(
        "ClusterInformation",
        &["clusterinformations", "clusterinfo", "clusterinfos"],
        false,
        &[
            NAME,
            ("CLUSTERGUID", "spec.clusterGUID", ""),
            ("CLUSTERTYPE", "spec.clusterType", ""),
            ("CALICOVERSION", "spec.calicoVersion", ""),
            ("DATASTOREREADY", "spec.datastoreReady", "<nil>"),
        ],
    ),
    kind(
        "KubeControllersConfiguration",
        &["kubecontrollersconfigurations", "kubecontrollersconfig"],
        false,
        &[NAME],
    ),
    kind("IPReservation", &["ipreservations", "reservation", "reservations"], false, &[NAME])
        .wide(&[NAME, ("CIDRS", "spec.reservedCIDRs", "")]),
    kind("IPAMConfiguration", &["ipamconfigurations", "ipamconfig"], false, &[NAME, STRICT, AUTO])
        .wide(&[NAME, STRICT, AUTO, ("MAXBLOCKSPERHOST", "spec.maxBlocksPerHost", "0")]),
    kind("CalicoNodeStatus", &["caliconodestatuses", "nodestatus"], false, &[NAME, NODE]).wide(&[
        NAME,
        NODE,
        ("CLASSES", "spec.classes", ""),
    ]),
    kind(
        "BlockAffinity",
        &["blockaffinities"],
        false,
        &[NAME, NODE, CIDR, ("STATE", "spec.state", "")],
    ),
];

const fn kind(
    name: &'static str,
    names: &'static [&'static str],
    namespaced: bool,
    columns: &'static [Column],
) -> Kind {
    Kind { name, names, namespaced, columns, wide: columns }
}

impl Kind {
    const fn wide(mut self, columns: &'static [Column]) -> Kind {
        self.wide = columns;
        self
    }

    /// Columns of a table.
    pub(super) fn columns(&self, wide: bool) -> &'static [Column] {
        if wide { self.wide } else { self.columns }
    }

    /// The kind that has this name in any case: its own, its plural, or a short one.
    pub(super) fn named(name: &str) -> Option<&'static Kind> {
        let name = name.to_lowercase();
        KINDS
            .iter()
            .find(|kind| kind.name.to_lowercase() == name || kind.names.contains(&name.as_str()))
    }

    /// Their names.
    pub(super) fn each() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|kind| kind.name)
    }

    /// Their names, for people.
    pub(super) fn all() -> String {
        KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
    }
}
