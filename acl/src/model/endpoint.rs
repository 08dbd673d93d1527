//! Endpoints and sets: who has which labels, addresses and ports.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// A workload or host endpoint, here or on another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its own labels.
    pub labels: Labels,
    /// Its addresses; the expected ones of a host endpoint.
    pub addresses: Vec<IpAddr>,
    /// Ports that rules can name.
    pub ports: Vec<NamedPort>,
    /// Its profiles, in order.
    pub profiles: Vec<String>,
    /// Where it is, and so which stages it has.
    pub place: Place,
}

/// Where an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// On another node: it only has labels and addresses.
    Elsewhere,
    /// A workload of this node.
    Workload,
    /// An interface of this node.
    Host {
        /// True for the host endpoint of `*`, which takes no untracked policy.
        every_interface: bool,
    },
}

/// A port of an endpoint with a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedPort {
    /// The name that rules use.
    pub name: String,
    /// Its protocol's number.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

/// A network set: ranges with labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkSet {
    /// Its own labels.
    pub labels: Labels,
    /// Profiles whose labels it has too: its namespace's.
    pub profiles: Vec<String>,
    /// Its ranges.
    pub nets: Vec<IpNet>,
}

/// A set that rules call by its name, such as the addresses of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressSet {
    /// Whole ranges.
    Nets(Vec<IpNet>),
    /// Addresses with protocol and port.
    Ports(Vec<(IpAddr, u8, u16)>),
}

/// What holds for a whole node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Ports of the host that stay open whatever policy says: its own.
    pub failsafe_in: Vec<Failsafe>,
    /// Ports of others that the host may always reach.
    pub failsafe_out: Vec<Failsafe>,
    /// The UDP port that workloads may not send to, being VXLAN's; `None` lets them.
    pub vxlan_port_denied: Option<u16>,
    /// True to drop IPIP from workloads.
    pub denies_ipip: bool,
}

/// A port that is always open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failsafe {
    /// The protocol's number.
    pub protocol: u8,
    /// The port.
    pub port: u16,
    /// Who may use it, or be reached; `None` for all.
    pub net: Option<IpNet>,
}

/// Own labels, then those of profiles: on conflict the earlier one stays.
pub fn inherit<'a>(own: &Labels, profiles: impl Iterator<Item = &'a Labels>) -> Labels {
    let mut labels = own.clone();
    for (name, value) in profiles.flatten() {
        if !labels.contains_key(name) {
            labels.insert(name.clone(), value.clone());
        }
    }
    labels
}

#[test]
fn own_labels_win_and_earlier_profiles_win() {
    let labels = |pairs: &[(&str, &str)]| -> Labels {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let (first, second) =
        (labels(&[("a", "1"), ("b", "1")]), labels(&[("a", "2"), ("b", "2"), ("c", "2")]));
    let inherited = inherit(&labels(&[("a", "0")]), [&first, &second].into_iter());
    assert_eq!(inherited, labels(&[("a", "0"), ("b", "1"), ("c", "2")]));
}
