//! The veth pair of a pod, as Calico makes it: the host's end has the link address
//! ee:ee:ee:ee:ee:ee and answers ARP for everything; the pod knows no subnet, only the way to
//! 169.254.1.1 and to the link-local address of the host's end.
//!
//! Offloads stay as the kernel sets them: it turns segmentation off on the pod's end when the
//! daemon attaches to the host's, and the daemon finishes the checksums of what pods send.

use super::answer::{self, CniError};
use crate::kernel::{message, sysctl};
use futures::TryStreamExt;
use margay_fastpath::proxy_neighbor::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6};
use margay_tunnels::wire::ethernet::Mac;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkMessage};
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

/// A pair that is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    /// Name of the host's end.
    pub(super) host: &'a str,
    /// Name of the pod's end.
    pub(super) pod: &'a str,
    /// The pod's namespace.
    pub(super) netns: &'a Path,
    /// Of both ends, in bytes.
    pub(super) mtu: u32,
    /// Link address of the pod's end; the kernel chooses one without it.
    pub(super) mac: Option<Mac>,
    /// The pod's addresses.
    pub(super) addresses: &'a [IpAddr],
    /// The pod may forward.
    pub(super) forwards: bool,
}

fn failed(what: impl std::fmt::Display) -> impl Fn(rtnetlink::Error) -> CniError {
    let what = what.to_string();
    move |error| {
        let error = crate::kernel::KernelError::new(what.clone(), &error);
        CniError::new(answer::IO, error.to_string())
    }
}

fn refused(what: impl std::fmt::Display, error: impl std::fmt::Display) -> CniError {
    CniError::new(answer::IO, format!("{what}: {error}"))
}

/// Does work over netlink in a namespace, on a thread of its own that enters it.
fn within<T: Send>(
    netns: &Path,
    work: impl AsyncFnOnce(Handle) -> Result<T, CniError> + Send,
) -> Result<T, CniError> {
    let body = || {
        let file = File::open(netns).map_err(|error| refused(netns.display(), error))?;
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|error| refused(netns.display(), error))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| refused("a runtime", error))?;
        runtime.block_on(async {
            let handle = crate::kernel::connect();
            work(handle.map_err(|error| refused("netlink", error))?).await
        })
    };
    let dead = |_| Err(refused(netns.display(), "the thread in there died"));
    std::thread::scope(|scope| scope.spawn(body).join().unwrap_or_else(dead))
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, CniError> {
    let found = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    match found {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        found => found.map_err(failed(name)),
    }
}

async fn remove(handle: &Handle, name: &str) -> Result<(), CniError> {
    let Some(link) = find(handle, name).await? else { return Ok(()) };
    match handle.link().del(link.header.index).execute().await {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(()),
        outcome => outcome.map_err(failed(format!("removal of {name}"))),
    }
}

/// Makes the pair, each end in its namespace from the start; answers the pod's link address. What
/// is there of an earlier try is replaced.
pub(super) async fn plug(pair: Pair<'_>) -> Result<String, CniError> {
    let handle = crate::kernel::connect().map_err(|error| refused("netlink", error))?;
    remove(&handle, pair.host).await?;
    let here = File::open("/proc/thread-self/ns/net")
        .map_err(|error| refused("the node's namespace", error))?;
    within(pair.netns, async |inside: Handle| {
        remove(&inside, pair.pod).await?;
        make(&inside, pair, &here).await
    })?;
    let outcome = async {
        let host = find(&handle, pair.host).await?;
        let host = host.ok_or_else(|| refused(pair.host, "it is gone already"))?;
        let up = LinkUnspec::new_with_index(host.header.index).up().build();
        handle.link().set(up).execute().await.map_err(failed(pair.host))?;
        for fault in sysctl::prepare_pod_device(pair.host) {
            tracing::debug!("{fault}");
        }
        within(pair.netns, async |inside: Handle| configure(&inside, pair).await)
    };
    match outcome.await {
        Ok(mac) => Ok(mac),
        Err(error) => {
            remove(&handle, pair.host).await?;
            Err(error)
        }
    }
}

async fn make(inside: &Handle, pair: Pair<'_>, here: &File) -> Result<(), CniError> {
    let peer = LinkUnspec::new_with_name(pair.host)
        .mtu(pair.mtu)
        .address(GATEWAY_MAC.0.to_vec())
        .setns_by_fd(here.as_raw_fd())
        .build();
    let mut link = LinkVeth::new(pair.pod, pair.host)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(pair.mtu);
    if let Some(mac) = pair.mac {
        link = link.address(mac.0.to_vec());
    }
    let done = inside.link().add(link.build()).execute().await;
    done.map_err(failed(format!("veth pair {} and {}", pair.host, pair.pod)))
}

/// Addresses and routes inside of the pod; answers its link address.
async fn configure(inside: &Handle, pair: Pair<'_>) -> Result<String, CniError> {
    let missing = |name: &str| refused(name, "it is gone already");
    settings(pair)?;
    for name in ["lo", pair.pod] {
        let link = find(inside, name).await?.ok_or_else(|| missing(name))?;
        let up = LinkUnspec::new_with_index(link.header.index).up().build();
        inside.link().set(up).execute().await.map_err(failed(name))?;
    }
    let link = find(inside, pair.pod).await?.ok_or_else(|| missing(pair.pod))?;
    let device = link.header.index;
    for address in pair.addresses {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let added = inside.address().add(device, *address, length).execute().await;
        added.map_err(failed(format!("address {address} of the pod")))?;
    }
    if pair.addresses.iter().any(IpAddr::is_ipv4) {
        let link = RouteMessageBuilder::<Ipv4Addr>::new()
            .protocol(RouteProtocol::Boot)
            .destination_prefix(GATEWAY_V4, 32)
            .output_interface(device)
            .scope(RouteScope::Link)
            .build();
        let default = RouteMessageBuilder::<Ipv4Addr>::new()
            .protocol(RouteProtocol::Boot)
            .gateway(GATEWAY_V4)
            .output_interface(device)
            .build();
        for route in [link, default] {
            let added = inside.route().add(route).execute().await;
            added.map_err(failed("IPv4 routes of the pod"))?;
        }
    }
    if pair.addresses.iter().any(IpAddr::is_ipv6) {
        let default = RouteMessageBuilder::<Ipv6Addr>::new()
            .protocol(RouteProtocol::Boot)
            .gateway(GATEWAY_V6)
            .output_interface(device)
            .build();
        let added = inside.route().add(default).execute().await;
        added.map_err(failed("IPv6 route of the pod"))?;
    }
    let mac = message::link(&link).and_then(|link| link.mac);
    Ok(mac.map(|mac| mac.to_string()).unwrap_or_default())
}

/// Settings of the pod's own stack; called in its namespace.
fn settings(pair: Pair<'_>) -> Result<(), CniError> {
    let flag = |on: bool| if on { "1" } else { "0" };
    let write = |path: String, value: &str| {
        let path = format!("/proc/sys/net/{path}");
        std::fs::write(&path, value).map_err(|error| refused(path, error))
    };
    if pair.addresses.iter().any(IpAddr::is_ipv4) {
        write("ipv4/ip_forward".to_owned(), flag(pair.forwards))?;
    }
    if pair.addresses.iter().any(IpAddr::is_ipv6) {
        for name in ["all", "default", "lo", pair.pod] {
            write(format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
        }
        write("ipv6/conf/all/forwarding".to_owned(), flag(pair.forwards))?;
        // Nobody else can have the address, and it is to be usable at once.
        write(format!("ipv6/conf/{}/accept_dad", pair.pod), "0")?;
        write(format!("ipv6/conf/{}/accept_ra", pair.pod), "0")?;
    }
    Ok(())
}

/// Removes the pair: the pod's end where its namespace is still there, else the host's.
pub(super) async fn unplug(host: &str, pod: &str, netns: &Path) -> Result<(), CniError> {
    if !netns.as_os_str().is_empty() && netns.exists() {
        within(netns, async |inside: Handle| remove(&inside, pod).await)?;
    }
    let handle = crate::kernel::connect().map_err(|error| refused("netlink", error))?;
    remove(&handle, host).await
}

/// What of a pair is not as it was made; none when all is.
pub(super) async fn differs(pair: Pair<'_>) -> Result<Option<String>, CniError> {
    let handle = crate::kernel::connect().map_err(|error| refused("netlink", error))?;
    if find(&handle, pair.host).await?.is_none() {
        return Ok(Some(format!("{} is gone", pair.host)));
    }
    within(pair.netns, async |inside: Handle| {
        let Some(link) = find(&inside, pair.pod).await? else {
            return Ok(Some(format!("{} is gone", pair.pod)));
        };
        for address in pair.addresses {
            let found = inside.address().get().set_link_index_filter(link.header.index);
            let mut found = found.set_address_filter(*address).execute();
            if found.try_next().await.map_err(failed(pair.pod))?.is_none() {
                return Ok(Some(format!("{address} is not on {}", pair.pod)));
            }
        }
        Ok(None)
    })
}
