//! Which address of the host is the node's: calico-node's methods of autodetection. Pure, but for
//! [`interfaces`] and [`source_towards`], which ask the kernel.
//!
//! Names of interfaces are Go's regular expressions there and this crate's here; patterns of names
//! mean the same in both. They match anywhere in a name, as calico-node has it.

use ipnet::IpNet;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs, UdpSocket};
use std::str::FromStr;

/// How the address is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Method {
    /// The first address of the first interface that is none of a container engine's.
    #[default]
    FirstFound,
    /// The source of packets to this address or name.
    CanReach(String),
    /// The first address of the interfaces that one of these patterns matches.
    Interface(Vec<String>),
    /// As `FirstFound`, without the interfaces that one of these patterns matches.
    SkipInterface(Vec<String>),
    /// The first address in one of these ranges.
    Cidr(Vec<IpNet>),
    /// The InternalIP of the node in Kubernetes.
    KubernetesInternalIp,
}

/// Interfaces whose names begin so are never the node's own.
const NEVER: [&str; 19] = [
    "docker",
    "cbr",
    "dummy",
    "podman",
    "virbr",
    "lxcbr",
    "veth",
    "lo",
    "br-",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
];

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Method, String> {
        let words = |list: &str| -> Vec<String> {
            list.split(',').map(|word| word.trim().to_owned()).filter(|w| !w.is_empty()).collect()
        };
        let patterns = |list: &str| -> Result<Vec<String>, String> {
            let found = words(list);
            match found.iter().find(|word| Regex::new(word).is_err()) {
                _ if found.is_empty() => Err(format!("'{text}' names no interface")),
                Some(bad) => Err(format!("'{bad}' is no regular expression")),
                None => Ok(found),
            }
        };
        match text.split_once('=') {
            None if text.is_empty() || text == "first-found" => Ok(Method::FirstFound),
            None if text == "kubernetes-internal-ip" => Ok(Method::KubernetesInternalIp),
            Some(("can-reach", place)) if !place.trim().is_empty() => {
                Ok(Method::CanReach(place.trim().to_owned()))
            }
            Some(("interface", list)) => patterns(list).map(Method::Interface),
            Some(("skip-interface", list)) => patterns(list).map(Method::SkipInterface),
            Some(("cidr", list)) => {
                let range =
                    |word: &String| word.parse().map_err(|_| format!("'{word}' is no range"));
                words(list).iter().map(range).collect::<Result<_, _>>().map(Method::Cidr)
            }
            _ => Err(format!("'{text}' is no method of autodetection")),
        }
    }
}

impl TryFrom<String> for Method {
    type Error = String;

    fn try_from(text: String) -> Result<Method, String> {
        text.parse()
    }
}

impl From<Method> for String {
    fn from(method: Method) -> String {
        method.to_string()
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Method::FirstFound => write!(f, "first-found"),
            Method::CanReach(place) => write!(f, "can-reach={place}"),
            Method::Interface(list) => write!(f, "interface={}", list.join(",")),
            Method::SkipInterface(list) => write!(f, "skip-interface={}", list.join(",")),
            Method::Cidr(list) => {
                let words: Vec<String> = list.iter().map(IpNet::to_string).collect();
                write!(f, "cidr={}", words.join(","))
            }
            Method::KubernetesInternalIp => write!(f, "kubernetes-internal-ip"),
        }
    }
}

/// An interface of the host that is up, and its addresses with the length of their links'
/// prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<IpNet>,
}

/// What the methods look at.
pub struct Host<'a> {
    /// The interfaces, in the kernel's order.
    pub interfaces: &'a [Interface],
    /// Further beginnings of names that are never the node's.
    pub never: &'a [&'a str],
    /// Addresses that Kubernetes says are the node's, as InternalIP.
    pub internal: &'a [IpAddr],
    /// The source of packets to a place, of the family that is asked for.
    pub source_towards: &'a dyn Fn(&str, bool) -> Option<IpAddr>,
}

/// The node's address of one family, with the length of its link's prefix.
pub fn detect(method: &Method, v4: bool, host: &Host) -> Option<IpNet> {
    let own = |interface: &&Interface| {
        let is = |prefix: &&str| !prefix.is_empty() && interface.name.starts_with(prefix);
        !NEVER.iter().any(is) && !host.never.iter().any(is)
    };
    let first = |allowed: &dyn Fn(&&Interface) -> bool, fits: &dyn Fn(IpNet) -> bool| {
        let nets = host.interfaces.iter().filter(allowed).flat_map(|one| one.addresses.iter());
        nets.copied().find(|net| net.addr().is_ipv4() == v4 && is_usable(net.addr()) && fits(*net))
    };
    let with_length = |address: IpAddr| {
        let nets = host.interfaces.iter().flat_map(|interface| &interface.addresses);
        nets.copied().find(|net| net.addr() == address)
    };
    match method {
        Method::FirstFound => first(&own, &|_| true),
        Method::CanReach(place) => with_length((host.source_towards)(place, v4)?),
        Method::Interface(list) => first(&|one| matches(list, &one.name), &|_| true),
        Method::SkipInterface(list) => {
            first(&|one| own(one) && !matches(list, &one.name), &|_| true)
        }
        Method::Cidr(list) => {
            let within = |net: IpNet| list.iter().any(|range| range.contains(&net.addr()));
            first(&|_| true, &within)
        }
        Method::KubernetesInternalIp => {
            let mut own = host.internal.iter().filter(|address| address.is_ipv4() == v4);
            own.next().and_then(|address| with_length(*address))
        }
    }
}

fn matches(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| Regex::new(pattern).is_ok_and(|regex| regex.is_match(name)))
}

/// An address that others can reach.
fn is_usable(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !special && !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

/// The interfaces of the calling thread's namespace that are up.
pub fn interfaces() -> std::io::Result<Vec<Interface>> {
    use nix::net::if_::InterfaceFlags;
    let mut found: Vec<Interface> = Vec::new();
    for entry in nix::ifaddrs::getifaddrs()? {
        if !entry.flags.contains(InterfaceFlags::IFF_UP) {
            continue;
        }
        let ip = |address: Option<nix::sys::socket::SockaddrStorage>| -> Option<IpAddr> {
            let address = address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        };
        if !found.iter().any(|known| known.name == entry.interface_name) {
            found.push(Interface { name: entry.interface_name.clone(), addresses: Vec::new() });
        }
        let (Some(address), Some(mask)) = (ip(entry.address), ip(entry.netmask)) else { continue };
        let net = ipnet::ip_mask_to_prefix(mask).ok().and_then(|l| IpNet::new(address, l).ok());
        let known = found.iter_mut().find(|known| known.name == entry.interface_name);
        if let (Some(known), Some(net)) = (known, net) {
            known.addresses.push(net);
        }
    }
    Ok(found)
}

/// The source that the kernel would give packets to an address or a name. No packet is sent,
/// unless a name has to be looked up.
pub fn source_towards(place: &str, v4: bool) -> Option<IpAddr> {
    let found = match place.parse::<IpAddr>() {
        Ok(address) => vec![(address, 80).into()],
        Err(_) => (place, 80).to_socket_addrs().ok()?.collect::<Vec<_>>(),
    };
    let target = found.into_iter().find(|address| address.is_ipv4() == v4)?;
    let any = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Interface { name: name.to_owned(), addresses }
    }

    fn found(method: &str, v4: bool) -> Option<String> {
        let interfaces = [
            interface("lo", &["127.0.0.1/8", "::1/128"]),
            interface("docker0", &["172.17.0.1/16"]),
            interface("margay0", &["10.65.0.1/32"]),
            interface("eth0", &["169.254.7.7/16", "fe80::1/64", "10.0.0.7/24", "2001:db8::7/64"]),
            interface("eth1", &["10.1.0.7/16", "10.2.0.7/16"]),
        ];
        let host = Host {
            interfaces: &interfaces,
            never: &["margay0", ""],
            internal: &["2001:db8::7".parse().unwrap(), "10.1.0.7".parse().unwrap()],
            source_towards: &|place, v4| {
                (place == "192.0.2.1" && v4).then(|| "10.2.0.7".parse().unwrap())
            },
        };
        detect(&method.parse().unwrap(), v4, &host).map(|net| net.to_string())
    }

    #[test]
    fn each_method_finds_its_address() {
        for (method, v4, v6) in [
            ("first-found", Some("10.0.0.7/24"), Some("2001:db8::7/64")),
            ("", Some("10.0.0.7/24"), Some("2001:db8::7/64")),
            ("can-reach=192.0.2.1", Some("10.2.0.7/16"), None),
            ("can-reach=198.51.100.1", None, None),
            ("interface=eth1", Some("10.1.0.7/16"), None),
            ("interface=nothing, docker.*", Some("172.17.0.1/16"), None),
            ("interface=eth.*", Some("10.0.0.7/24"), Some("2001:db8::7/64")),
            ("skip-interface=eth0", Some("10.1.0.7/16"), None),
            ("skip-interface=eth.*", None, None),
            ("cidr=10.2.0.0/16,2001:db8::/32", Some("10.2.0.7/16"), Some("2001:db8::7/64")),
            ("cidr=172.16.0.0/12", Some("172.17.0.1/16"), None),
            ("kubernetes-internal-ip", Some("10.1.0.7/16"), Some("2001:db8::7/64")),
        ] {
            assert_eq!(found(method, true).as_deref(), v4, "{method}");
            assert_eq!(found(method, false).as_deref(), v6, "{method}");
        }
    }

    #[test]
    fn methods_are_written_as_they_are_read() {
        for text in ["can-reach=a.b", "interface=a,b.*", "cidr=10.0.0.0/8", "first-found"] {
            assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
        }
        for text in ["first", "interface=", "can-reach=", "cidr=ten", "skip-interface=(", "=x"] {
            assert!(text.parse::<Method>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_kernel_is_asked_for_loopback() {
        let own = interfaces().unwrap();
        let lo = own.iter().find(|one| one.name == "lo");
        assert!(lo.is_none_or(|lo| lo.addresses.contains(&"127.0.0.1/8".parse().unwrap())));
        assert_eq!(source_towards("127.0.0.1", true), Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(source_towards("127.0.0.1", false), None);
    }
}
