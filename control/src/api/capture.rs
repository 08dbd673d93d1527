//! `capture`: copies of packets as a pcapng stream, for as long as somebody reads.
//!
//! Each port is an interface of the file. A dropped packet's comment says why. Once a second
//! without packets, and at each burst, interface statistics say how many copies were left out, so
//! that a reader notices a quiet stream from a dead one. A new capture ends the one before it.

use crate::status::Status;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use futures::stream;
use margay_fastpath::capture::{CaptureFilter, Captured, Point};
use margay_fastpath::dataplane::Dataplane;
use margay_fastpath::port::PortId;
use margay_fastpath::port::pcap::{PcapError, Writer};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Longest time without a block.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Packets that are written before the reader gets them.
const BURST: usize = 256;
/// Bursts that wait for a slow reader; after that, copies are left out.
const WAITING: usize = 16;

/// What the reader asks for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CaptureQuery {
    /// Only this port, by name.
    port: Option<String>,
    /// Only what is dropped.
    #[serde(default)]
    drops: bool,
}

pub(crate) async fn stream(
    State(status): State<Arc<Status>>,
    Query(query): Query<CaptureQuery>,
) -> Response {
    let ports = open_ports(&status);
    let wanted = match &query.port {
        None => None,
        Some(name) => match ports.iter().find(|(_, known)| *known == name) {
            Some((id, _)) => Some(*id),
            None => {
                let known = ports.values().map(String::as_str).collect::<Vec<_>>().join(", ");
                let text = format!("no port {name} is open\nhint: open ports: {known}");
                return (StatusCode::BAD_REQUEST, text).into_response();
            }
        },
    };
    let filter = CaptureFilter { port: wanted, drops_only: query.drops };
    let (sender, receiver) = mpsc::channel(WAITING);
    let run = move || {
        // The reader has gone, or another capture has begun: both end this one.
        let _ = copy(status.dataplane(), filter, &ports, Outlet { sender, buffer: Vec::new() });
    };
    if let Err(error) = std::thread::Builder::new().name("capture".to_owned()).spawn(run) {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
    }
    let blocks = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Vec<u8>>| {
        let block = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(block), receiver))
    });
    Response::new(Body::from_stream(blocks))
}

fn open_ports(status: &Status) -> BTreeMap<PortId, String> {
    let snapshot = status.snapshot();
    let open = snapshot.ports.iter().filter_map(|(name, state)| {
        let (id, _) = state.open.as_ref()?;
        Some((*id, name.to_string()))
    });
    open.collect()
}

/// Hands what was written to the reader, at each flush.
struct Outlet {
    sender: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.buffer);
        self.sender.blocking_send(block).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Writes what the workers copy until the reader is gone.
fn copy(
    dataplane: &Dataplane,
    filter: CaptureFilter,
    ports: &BTreeMap<PortId, String>,
    outlet: Outlet,
) -> Result<(), PcapError> {
    let mut file = File::new(dataplane, ports, outlet)?;
    let (copies, missed) = dataplane.capture(filter);
    let outcome = file.follow(&copies, &missed);
    if outcome.is_err() {
        // Not when another capture took its place: the workers copy for that one now.
        dataplane.end_capture();
    }
    outcome
}

struct File {
    writer: Writer<Outlet>,
    interfaces: BTreeMap<PortId, u32>,
    /// When the workers' clock began, in nanoseconds since 1970.
    epoch_ns: u64,
}

impl File {
    fn new(
        dataplane: &Dataplane,
        ports: &BTreeMap<PortId, String>,
        outlet: Outlet,
    ) -> Result<File, PcapError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch_ns = (now.as_nanos() as u64).saturating_sub(dataplane.now_ns());
        let mut writer = Writer::new(outlet)?;
        let mut interfaces = BTreeMap::new();
        for (id, name) in ports {
            interfaces.insert(*id, writer.interface(name)?);
        }
        // For packets that margay makes itself, and so that there is an interface at all.
        interfaces.insert(PortId::NONE, writer.interface("margay")?);
        writer.flush()?;
        Ok(File { writer, interfaces, epoch_ns })
    }

    fn follow(&mut self, copies: &Receiver<Captured>, missed: &AtomicU64) -> Result<(), PcapError> {
        loop {
            match copies.recv_timeout(HEARTBEAT) {
                Ok(first) => {
                    let rest = copies.try_iter().take(BURST - 1);
                    for copy in std::iter::once(first).chain(rest) {
                        self.packet(&copy)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let own = self.interfaces[&PortId::NONE];
            self.writer.statistics(now.as_nanos() as u64, own, missed.load(Ordering::Relaxed))?;
            self.writer.flush()?;
        }
    }

    fn packet(&mut self, copy: &Captured) -> Result<(), PcapError> {
        let interface = match self.interfaces.get(&copy.port) {
            Some(known) => *known,
            None => {
                let new = self.writer.interface(&format!("port {}", copy.port))?;
                self.interfaces.insert(copy.port, new);
                new
            }
        };
        let comment = match copy.point {
            Point::Drop(reason) => Some(format!("dropped: {}", reason.name())),
            Point::Rx | Point::Tx => None,
        };
        let time_ns = self.epoch_ns + copy.time_ns;
        self.writer.bytes(time_ns, interface, &copy.bytes, comment.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use margay_fastpath::drop_reason::DropReason;
    use margay_fastpath::port::pcap::Capture;

    #[test]
    fn a_stream_is_a_capture_file_that_goes_on_until_the_reader_leaves() {
        let config = margay_fastpath::dataplane::DataplaneConfig {
            worker_cores: Vec::new(),
            frames: 1,
            large_frames: 0,
        };
        let (_, fib) = margay_fastpath::fib::FibWriter::new();
        let (dataplane, _events) = Dataplane::start(&config, fib).unwrap();
        let (sender, mut receiver) = mpsc::channel(WAITING);
        let ports = BTreeMap::from([(PortId(3), "eth0".to_owned())]);
        let outlet = Outlet { sender, buffer: Vec::new() };
        let mut file = File::new(&dataplane, &ports, outlet).unwrap();
        let (copies, source) = crossbeam::channel::bounded(4);
        let copy = |port, point| Captured { port, point, time_ns: 5, len: 4, bytes: vec![1; 4] };
        copies.send(copy(PortId(3), Point::Rx)).unwrap();
        copies.send(copy(PortId(7), Point::Drop(DropReason::NoRoute))).unwrap();
        drop(copies);
        file.follow(&source, &AtomicU64::new(2)).unwrap();
        let mut bytes = Vec::new();
        while let Ok(block) = receiver.try_recv() {
            bytes.extend(block);
        }
        assert_eq!(Capture::parse(&bytes).unwrap().len(), 2);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("eth0") && text.contains("port 7"));
        assert!(text.contains("dropped: no-route"));
        drop(receiver);
        let (copies, source) = crossbeam::channel::bounded(1);
        copies.send(copy(PortId(3), Point::Tx)).unwrap();
        assert!(file.follow(&source, &AtomicU64::new(0)).is_err());
    }
}
