//! Settings of the kernel's own IP stack that Calico's data plane counts on.
//!
//! For the host side of a pod's veth pair they are Felix's. What could not be written is returned
//! as text: a kernel without IPv6 must not keep IPv4 from working.

use std::path::Path;

/// One setting: path below `/proc/sys/net` and value.
type Setting = (String, &'static str);

/// Turns forwarding on for the whole host.
pub fn enable_forwarding() -> Vec<String> {
    write_all(&[("ipv4/ip_forward".to_owned(), "1"), ("ipv6/conf/all/forwarding".to_owned(), "1")])
}

/// Least room for neighbours that a node needs: the kernel's own is 1024 for all namespaces
/// together, fewer than a node with a thousand pods has.
const NEIGHBORS: [(&str, u32); 3] =
    [("gc_thresh1", 4096), ("gc_thresh2", 16_384), ("gc_thresh3", 32_768)];

/// Makes room in the kernel's neighbour tables; they can only be grown from the host's own
/// network namespace, and are never made smaller.
pub fn make_room_for_neighbors() -> Vec<String> {
    let settings = ["ipv4", "ipv6"].into_iter().flat_map(|family| {
        NEIGHBORS.map(|(name, value)| (format!("{family}/neigh/default/{name}"), value))
    });
    let grow = |(path, least): (String, u32)| {
        let now: u32 = read(&path)?.parse().ok()?;
        let full = Path::new("/proc/sys/net").join(&path);
        let write = || std::fs::write(&full, least.to_string()).err();
        (now < least).then(write).flatten().map(|error| format!("{}: {error}", full.display()))
    };
    settings.filter_map(grow).collect()
}

/// Settings of the host side of a pod's veth pair. The kernel answers ARP for any address there
/// and at once, takes no router advertisements from pods, and checks their source addresses.
pub fn prepare_pod_device(device: &str) -> Vec<String> {
    let v4 = |name: &str| format!("ipv4/conf/{device}/{name}");
    let v6 = |name: &str| format!("ipv6/conf/{device}/{name}");
    write_all(&[
        (v4("route_localnet"), "1"),
        (v4("proxy_arp"), "1"),
        (format!("ipv4/neigh/{device}/proxy_delay"), "0"),
        (v4("forwarding"), "1"),
        (v4("rp_filter"), "1"),
        (v6("accept_ra"), "0"),
        (v6("proxy_ndp"), "1"),
        (v6("forwarding"), "1"),
    ])
}

/// Settings of the TAP to the host's stack: packets come in there that were sent to other
/// devices, so their sources cannot be checked against it.
pub fn prepare_host_device(device: &str) -> Vec<String> {
    let strict_everywhere = read("ipv4/conf/all/rp_filter").is_some_and(|value| value != "0");
    // The larger of this value and that of `all` counts; 2 is the loose check.
    let rp_filter = if strict_everywhere { "2" } else { "0" };
    write_all(&[
        (format!("ipv4/conf/{device}/rp_filter"), rp_filter),
        (format!("ipv4/conf/{device}/forwarding"), "1"),
        (format!("ipv4/conf/{device}/accept_local"), "1"),
        (format!("ipv6/conf/{device}/forwarding"), "1"),
        (format!("ipv6/conf/{device}/accept_ra"), "0"),
    ])
}

fn read(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/proc/sys/net").join(path)).ok()?;
    Some(text.trim().to_owned())
}

fn write_all(settings: &[Setting]) -> Vec<String> {
    let write = |(path, value): &Setting| {
        if read(path).as_deref() == Some(value) {
            return None;
        }
        let full = Path::new("/proc/sys/net").join(path);
        std::fs::write(&full, value).err().map(|error| format!("{}: {error}", full.display()))
    };
    settings.iter().filter_map(write).collect()
}
