//! Nodes as BGP sees them: address, AS, port, cluster id, with the defaults filled in.

use super::{AS_NUMBER, LocalFacts, NORMAL_PRIORITY};
use crate::config;
use crate::model::Model;
use crate::resource::bgp_configuration::{BgpConfiguration, PrefixAdvertisement};
use crate::resource::field::SecretKey;
use crate::resource::secret::Password;
use margay_acl::selector::Selector;
use std::net::{IpAddr, Ipv4Addr};

/// The cluster from one node's point of view.
pub(super) struct Cluster<'a> {
    pub(super) model: &'a Model,
    pub(super) node: &'a str,
    pub(super) facts: &'a LocalFacts,
    /// The BGPConfiguration named `default`, or an empty one.
    pub(super) default: BgpConfiguration,
}

/// Namespaces of Secrets when the configuration names none.
const SECRET_NAMESPACES: [&str; 3] =
    [config::SECRET_NAMESPACES[0], config::SECRET_NAMESPACES[1], ""];

impl<'a> Cluster<'a> {
    pub(super) fn new(model: &'a Model, node: &'a str, facts: &'a LocalFacts) -> Cluster<'a> {
        let none = BgpConfiguration { aggregates_load_balancers: true, ..Default::default() };
        let default = model.bgp_configurations.get("default").cloned().unwrap_or(none);
        Cluster { model, node, facts, default }
    }

    fn of_node(&self, node: &str) -> Option<&'a BgpConfiguration> {
        self.model.bgp_configurations.get(&format!("node.{node}"))
    }

    /// The address of a node, of one family.
    pub(super) fn address(&self, node: &str, v6: bool) -> Option<IpAddr> {
        let node = self.model.nodes.get(node)?;
        match v6 {
            false => node.ipv4.map(|net| net.addr().into()),
            true => node.ipv6.map(|net| net.addr().into()),
        }
    }

    pub(super) fn as_number(&self, node: &str) -> u32 {
        let own = self.model.nodes.get(node).and_then(|node| node.as_number);
        own.unwrap_or(self.default_as())
    }

    pub(super) fn default_as(&self) -> u32 {
        self.default.as_number.unwrap_or(AS_NUMBER)
    }

    /// The port that a configuration gives to a node.
    pub(super) fn listen_port(&self, node: &str) -> Option<u16> {
        self.of_node(node).and_then(|own| own.listen_port).or(self.default.listen_port)
    }

    pub(super) fn cluster_id(&self, node: &str) -> Option<Ipv4Addr> {
        self.model.nodes.get(node).and_then(|node| node.cluster_id)
    }

    pub(super) fn normal_priority(&self, v6: bool) -> u32 {
        self.default.normal_priority[usize::from(v6)].unwrap_or(NORMAL_PRIORITY)
    }

    /// The node's own prefix advertisements, or else those of the cluster.
    pub(super) fn prefix_advertisements(&self) -> &[PrefixAdvertisement] {
        let own = self.of_node(self.node).and_then(|own| own.prefix_advertisements.as_deref());
        own.or(self.default.prefix_advertisements.as_deref()).unwrap_or_default()
    }

    /// Names of the nodes with these labels.
    pub(super) fn selected(&self, selector: &Selector) -> impl Iterator<Item = &'a str> {
        let nodes = self.model.nodes.iter();
        nodes
            .filter(|(_, node)| selector.matches(|name| node.labels.get(name).map(String::as_str)))
            .map(|(name, _)| name.as_str())
    }

    /// A password, or why there is none.
    pub(super) fn password(&self, key: &SecretKey) -> Result<&'a Password, String> {
        let named = self.facts.secret_namespace.as_deref();
        let namespaces = named.as_ref().map_or(&SECRET_NAMESPACES[..], std::slice::from_ref);
        let secret = namespaces.iter().find_map(|namespace| {
            self.model.secrets.get(&(namespace.to_string(), key.name.clone()))
        });
        let secret = secret.ok_or_else(|| format!("there is no Secret {}", key.name))?;
        let value = secret.values.get(&key.key).filter(|value| !value.bytes().is_empty());
        value.ok_or_else(|| format!("Secret {} has no value for {}", key.name, key.key))
    }
}
