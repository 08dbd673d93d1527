//! Dumps and events of the kernel, in order, for the control loop's mirror.
//!
//! The socket subscribes before the first dump, so nothing between them is missed. When the
//! kernel has more to tell than its socket holds it says ENOBUFS; then, on request, and from time
//! to time, everything is dumped anew. The control loop sets the pace: while it does not take
//! events they wait in the kernel.

use super::message::{self, Update};
use super::mirror::Mirror;
use super::{KernelError, connect};
use futures::{FutureExt, StreamExt, TryStreamExt};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols};
use rtnetlink::{Handle, MulticastGroup};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Time between dumps that nothing asks for.
pub const RECONCILE: Duration = Duration::from_secs(60);
/// Least time between two dumps, so that a flood of events does not become one of dumps.
pub const DUMP_GAP: Duration = Duration::from_millis(200);
/// Receive buffer of the event socket, in bytes.
pub const RECEIVE_BUFFER: usize = 8 << 20;
/// Datagrams taken at once.
const DATAGRAMS: usize = 256;
/// Largest datagram of rtnetlink.
const DATAGRAM_MAX: usize = 64 << 10;
/// Batches that may wait for the control loop.
const QUEUE: usize = 8;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];

/// What the kernel told.
#[derive(Debug)]
pub enum Told {
    /// Everything, from a dump.
    Everything(Box<Mirror>),
    /// Changes since.
    Updates(Vec<Update>),
}

/// The control loop's end of the watch.
#[derive(Debug)]
pub struct Watch {
    /// What the kernel tells; ends when the netlink socket is lost.
    pub told: mpsc::Receiver<Told>,
    resync: Arc<Notify>,
}

impl Watch {
    /// Asks for a dump.
    pub fn resync(&self) {
        self.resync.notify_one();
    }
}

/// Subscribes, and watches in a task of the current runtime until the receiver is dropped.
/// `receive_buffer` is in bytes; [`RECEIVE_BUFFER`] is right for all but tests.
pub fn start(receive_buffer: usize) -> Result<Watch, KernelError> {
    let socket = subscribe(receive_buffer).map_err(|error| KernelError {
        what: "netlink event socket".to_owned(),
        why: error.to_string(),
    })?;
    let (sender, told) = mpsc::channel(QUEUE);
    let resync = Arc::new(Notify::new());
    let task = Task { socket, handle: connect()?, sender, resync: resync.clone() };
    tokio::spawn(task.run());
    Ok(Watch { told, resync })
}

fn subscribe(receive_buffer: usize) -> std::io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocols::NETLINK_ROUTE)?;
    crate::sys::set_receive_buffer(socket.socket_ref(), receive_buffer)?;
    let groups = GROUPS.iter().fold(0, |all, group| all | 1 << (*group as u32 - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

struct Task {
    socket: TokioSocket,
    handle: Handle,
    sender: mpsc::Sender<Told>,
    resync: Arc<Notify>,
}

enum Heard {
    Updates(Vec<Update>),
    Overrun,
}

impl Task {
    async fn run(mut self) {
        let mut buffer = Vec::with_capacity(DATAGRAM_MAX);
        loop {
            match dump(&self.handle).await {
                Ok(mirror) => {
                    if self.sender.send(Told::Everything(Box::new(mirror))).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!("{error}");
                    if let Ok(handle) = connect() {
                        self.handle = handle;
                    }
                }
            }
            let dumped = tokio::time::Instant::now();
            if !self.listen(&mut buffer, dumped + RECONCILE).await {
                return;
            }
            tokio::time::sleep_until(dumped + DUMP_GAP).await;
        }
    }

    /// Passes events on until a dump is due; false when nobody listens any more.
    async fn listen(&mut self, buffer: &mut Vec<u8>, until: tokio::time::Instant) -> bool {
        loop {
            let heard = tokio::select! {
                () = self.sender.closed() => return false,
                () = self.resync.notified() => return true,
                () = tokio::time::sleep_until(until) => return true,
                heard = hear(&self.socket, buffer) => heard,
            };
            match heard {
                Ok(Heard::Updates(updates)) if updates.is_empty() => {}
                Ok(Heard::Updates(updates)) => {
                    if self.sender.send(Told::Updates(updates)).await.is_err() {
                        return false;
                    }
                }
                Ok(Heard::Overrun) => {
                    tracing::info!("the kernel had more events than fit; reading everything anew");
                    return true;
                }
                Err(error) => {
                    tracing::warn!("netlink events: {error}");
                    tokio::time::sleep(DUMP_GAP).await;
                    return true;
                }
            }
        }
    }
}

async fn hear(socket: &TokioSocket, buffer: &mut Vec<u8>) -> std::io::Result<Heard> {
    let mut updates = Vec::new();
    for datagram in 0..DATAGRAMS {
        buffer.clear();
        let received = match datagram {
            0 => socket.recv_from(buffer).await,
            _ => match socket.recv_from(buffer).now_or_never() {
                Some(received) => received,
                None => break,
            },
        };
        match received {
            Ok(_) => parse(buffer, &mut updates),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                return Ok(Heard::Overrun);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Heard::Updates(updates))
}

/// The messages of one datagram; one that cannot be parsed is skipped, and found by a later dump.
fn parse(mut bytes: &[u8], updates: &mut Vec<Update>) {
    while let Some(length) = bytes.first_chunk::<4>().map(|first| u32::from_ne_bytes(*first)) {
        let length = length as usize;
        let Some(message) = bytes.get(..length).filter(|_| length >= 16) else { return };
        if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            updates.extend(message::decode(message));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Everything that the kernel knows now.
pub async fn dump(handle: &Handle) -> Result<Mirror, KernelError> {
    let failed = |what: &'static str| move |error| KernelError::new(what, &error);
    let mut mirror = Mirror::default();
    let mut links = handle.link().get().execute();
    while let Some(message) = links.try_next().await.map_err(failed("dump of links"))? {
        if let Some(link) = message::link(&message) {
            mirror.apply(Update::Link(link));
        }
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await.map_err(failed("dump of addresses"))? {
        if let Some(net) = message::address(&message) {
            mirror.apply(Update::Address(message.header.index, net));
        }
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = RouteMessage::default();
        request.header.address_family = (family as u8).into();
        let mut routes = handle.route().get(request).execute();
        while let Some(message) = routes.try_next().await.map_err(failed("dump of routes"))? {
            if let Some(route) = message::told(&message) {
                mirror.apply(Update::Route(route, message::Replaces::Beside));
            }
        }
    }
    let mut neighbors = handle.neighbours().get().execute();
    while let Some(message) = neighbors.next().await {
        let message = message.map_err(failed("dump of neighbours"))?;
        if let Some((device, ip, state)) = message::neighbor(&message) {
            mirror.apply(Update::Neighbor(device, ip, state));
        }
    }
    Ok(mirror)
}
