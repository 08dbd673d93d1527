//! Pods as Calico's CNI plugin would make them, by veth or by TAP.
//!
//! By veth: the pair's far end stays in the node, is called `cali...`, has the MAC address
//! ee:ee:ee:ee:ee:ee and answers ARP for everything; the pod knows no subnet, only the way to
//! 169.254.1.1 and fe80::ecee:eeff:feee:eeee. By TAP: the daemon makes the device in the pod's
//! namespace when it sees the endpoint, and the lab then addresses it, as the plugin would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, bail};

use super::namespace::{LinkEnd, LinkSpec, Namespace, connect, connect_for_whole};
use super::process::wait_for;

/// MAC address of the host's end of every pod link.
pub const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The IPv4 next hop that every pod has.
pub const GATEWAY_V4: &str = "169.254.1.1";
/// The IPv6 next hop that every pod has: the link-local address of [`HOST_MAC`].
pub const GATEWAY_V6: &str = "fe80::ecee:eeff:feee:eeee";

/// Longest time that the daemon may take to make a TAP.
const TAP_LIMIT: Duration = Duration::from_secs(10);

/// How a pod hangs on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// A veth pair, made by the lab.
    Veth,
    /// A veth pair, served by tc.
    Tc,
    /// A TAP, made by the daemon in the pod's namespace.
    Tap,
}

impl Attachment {
    /// How pods with this name hang on their nodes, unless something else is said: by TAP those
    /// that begin with `tap`, by tc those that begin with `tc`.
    pub fn of(name: &str) -> Attachment {
        match name {
            _ if name.starts_with("tap") => Attachment::Tap,
            _ if name.starts_with("tc") => Attachment::Tc,
            _ => Attachment::Veth,
        }
    }

    /// Whether there is a veth pair.
    pub fn is_veth(self) -> bool {
        self != Attachment::Tap
    }
}

/// What a new pod is to be.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// Its name, unique on the node.
    pub name: String,
    /// How it hangs on the node.
    pub attachment: Attachment,
    /// MTU in bytes and queues of its device.
    pub link: LinkSpec,
    /// The namespace to put it into; several pods may share one.
    pub namespace: Namespace,
    /// The device's name in there.
    pub device: String,
    /// Routing table for what the pod sends, where several share a namespace; `None` is the main
    /// table.
    pub table: Option<u32>,
}

impl PodSpec {
    /// A pod of this name alone in a namespace: its device is `eth0`, with one queue and an MTU of
    /// so many bytes, and hangs on the node as [`Attachment::of`] says.
    pub fn new(name: &str, namespace: Namespace, mtu: u32) -> PodSpec {
        PodSpec {
            name: name.to_owned(),
            attachment: Attachment::of(name),
            link: LinkSpec { mtu, queues: 1 },
            namespace,
            device: "eth0".to_owned(),
            table: None,
        }
    }
}

/// A pod on a node.
#[derive(Debug, Clone)]
pub struct Pod {
    spec: PodSpec,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    host_device: String,
    mac: String,
}

impl Pod {
    /// Pod number `number` of node number `node`, with its addresses. Nothing is made yet.
    pub fn new(spec: PodSpec, node: u8, number: u32, v4: Ipv4Addr, v6: Ipv6Addr) -> Pod {
        let [_, a, b, c] = number.to_be_bytes();
        Pod {
            spec,
            v4,
            v6,
            host_device: format!("cali{node:02x}{number:08x}"),
            mac: format!("02:63:{node:02x}:{a:02x}:{b:02x}:{c:02x}"),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How it hangs on the node.
    pub fn attachment(&self) -> Attachment {
        self.spec.attachment
    }

    /// Where its processes run.
    pub fn namespace(&self) -> &Namespace {
        &self.spec.namespace
    }

    /// Its device inside the namespace.
    pub fn device(&self) -> &str {
        &self.spec.device
    }

    /// Its device on the node's side, a veth or the name of the TAP's port.
    pub fn host_device(&self) -> &str {
        &self.host_device
    }

    /// Its MAC address.
    pub fn mac(&self) -> &str {
        &self.mac
    }

    /// MTU of its device in bytes.
    pub fn mtu(&self) -> u32 {
        self.spec.link.mtu
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> IpAddr {
        self.v4.into()
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> IpAddr {
        self.v6.into()
    }

    /// Both addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }

    /// Makes the veth pair into `node` and configures both ends; not for a TAP.
    pub fn plug_veth(&self, node: &Namespace) -> Result<()> {
        if !self.attachment().is_veth() {
            bail!("pod {} has no veth", self.name());
        }
        let host = LinkEnd {
            namespace: node,
            device: &self.host_device,
            mac: Some(HOST_MAC),
            addresses: Vec::new(),
        };
        let pod = LinkEnd {
            namespace: self.namespace(),
            device: self.device(),
            mac: Some(&self.mac),
            addresses: self.addresses().map(Into::into).to_vec(),
        };
        match self.spec.attachment {
            Attachment::Tc => connect_for_whole(self.spec.link, &pod, &host)?,
            _ => connect(self.spec.link, &pod, &host)?,
        }
        let device = &self.host_device;
        node.sysctl(&[
            (&format!("net/ipv4/conf/{device}/proxy_arp"), "1"),
            (&format!("net/ipv4/neigh/{device}/proxy_delay"), "0"),
            (&format!("net/ipv4/conf/{device}/forwarding"), "1"),
            (&format!("net/ipv6/conf/{device}/forwarding"), "1"),
            (&format!("net/ipv6/conf/{device}/proxy_ndp"), "1"),
        ])?;
        self.add_default_routes()
    }

    /// Waits for the TAP that the daemon makes, and configures it.
    pub fn plug_tap(&self) -> Result<()> {
        let what = format!("the daemon to make the TAP of pod {}", self.name());
        wait_for(&what, TAP_LIMIT, || {
            Ok(self.namespace().has_device(self.device())?.then_some(()))
        })?;
        self.namespace().ip(&format!("link set {} mtu {}", self.device(), self.mtu()))?;
        self.namespace().configure(self.device(), &self.addresses().map(Into::into))?;
        self.add_default_routes()
    }

    /// The routes that a pod has: all by the node's end.
    fn add_default_routes(&self) -> Result<()> {
        let (device, v4, v6, table) = (self.device(), self.v4, self.v6, self.spec.table);
        let mut rule = String::new();
        if let Some(number) = table {
            rule = format!("rule add from {v4} lookup {number}");
            self.namespace().ip_v6(&format!("rule add from {v6} lookup {number}"))?;
        }
        let table = table.map_or("main".to_owned(), |number| number.to_string());
        self.namespace().ip(&format!(
            "route add {GATEWAY_V4} dev {device} scope link table {table}\n\
             route add default via {GATEWAY_V4} dev {device} onlink src {v4} table {table}\n\
             route add default via {GATEWAY_V6} dev {device} src {v6} table {table}\n{rule}"
        ))
    }

    /// Removes the device; the namespace stays. Not for a TAP, which is the daemon's.
    pub fn unplug_veth(&self) -> Result<()> {
        self.namespace().ip(&format!("link del {}", self.device()))
    }
}
