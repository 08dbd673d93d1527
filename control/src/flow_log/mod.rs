//! The flow log: what policy says of first packets, as JSON lines, at most so many a second.
//!
//! Workers put records into a bounded ring (`margay_fastpath::flow_log`); a thread of its own takes
//! them out, puts those together that differ by their source port only, gives them names, and
//! writes. What has no room in the ring, or no line left in its second, is counted in the next
//! line's `missed`.

mod file;
mod line;
#[cfg(test)]
mod tests;

use crate::clock;
use crate::config::FlowLogSettings;
use crate::ipam::time;
use crate::router::policy::{SharedPolicies, lock};
use crate::status::Status;
use ahash::AHashMap;
use file::LogFile;
use line::{Told, line};
use margay_fastpath::dataplane::Dataplane;
use margay_fastpath::flow_log::{FLOW_LOG_QUEUE, Record, Wanted};
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two looks into the ring.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

/// The writing thread; it ends, after a last look, when this is dropped.
#[derive(Debug)]
pub(crate) struct FlowLogs {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for FlowLogs {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts writing if there is a file to write to.
pub(crate) fn start(
    settings: &FlowLogSettings,
    status: &Arc<Status>,
) -> io::Result<Option<FlowLogs>> {
    let Some(path) = &settings.file else { return Ok(None) };
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("flowLogs.file: {}: {error}", path.display()))
    };
    let file = LogFile::open(path, u64::from(settings.max_size) * MIB).map_err(named)?;
    let wanted = if settings.allowed { Wanted::Everything } else { Wanted::Denied };
    let mut writer = Writer {
        dataplane: status.dataplane().clone(),
        policies: status.policies().clone(),
        path: path.clone(),
        file,
        budget: Budget { per_second: settings.lines_per_second, second: 0, left: 0 },
        missed: 0,
        is_failing: false,
    };
    let (stop, stopped) = channel();
    let body = move || {
        writer.dataplane.flow_log().set_wanted(wanted);
        while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            writer.look(clock::now());
        }
        writer.dataplane.flow_log().set_wanted(Wanted::Nothing);
        writer.look(clock::now());
    };
    let thread = std::thread::Builder::new().name("flow-log".to_owned()).spawn(body)?;
    Ok(Some(FlowLogs { stop: Some(stop), thread: Some(thread) }))
}

/// Lines that may still be written in a second.
#[derive(Debug)]
struct Budget {
    per_second: u32,
    second: u64,
    left: u32,
}

impl Budget {
    fn take(&mut self, now_s: u64) -> bool {
        if self.second != now_s {
            (self.second, self.left) = (now_s, self.per_second);
        }
        let has = self.left > 0;
        self.left -= u32::from(has);
        has
    }
}

/// Records that differ by their time and source port only are one; the first tells the time.
fn gather(records: impl Iterator<Item = Record>) -> Vec<(Record, u64)> {
    let mut places: AHashMap<_, usize> = AHashMap::new();
    let mut gathered: Vec<(Record, u64)> = Vec::new();
    for record in records {
        let mut tuple = record.question.tuple;
        tuple.src_port = 0;
        let decision =
            |decision: &margay_fastpath::policy::Decision| (decision.rulings, decision.dropped);
        let real = decision(&record.judgement.real);
        let staged = record.judgement.staged.as_ref().map(decision);
        let key = (record.generation, tuple, record.question.icmp_code, real, staged);
        match places.get(&key) {
            Some(place) => gathered[*place].1 += 1,
            None => {
                places.insert(key, gathered.len());
                gathered.push((record, 1));
            }
        }
    }
    gathered
}

struct Writer {
    dataplane: Arc<Dataplane>,
    policies: SharedPolicies,
    path: PathBuf,
    file: LogFile,
    budget: Budget,
    /// First packets that no line has told of.
    missed: u64,
    is_failing: bool,
}

impl Writer {
    /// Writes what there is in the ring now.
    fn look(&mut self, now_s: u64) {
        let log = self.dataplane.flow_log();
        self.missed += log.take_missed();
        let now_ns = self.dataplane.now_ns();
        let records = std::iter::from_fn(|| log.take()).take(FLOW_LOG_QUEUE);
        let mut text = String::new();
        for (record, packets) in gather(records) {
            if !self.budget.take(now_s) {
                self.missed += packets;
                continue;
            }
            let ago_s = now_ns.saturating_sub(record.at_ns) / 1_000_000_000;
            let time = time::format(now_s.saturating_sub(ago_s));
            let policy = self.dataplane.recent_policy(record.generation);
            let told = Told { record: &record, packets, time };
            let mut line = line(told, policy.as_deref(), |address| self.name(address));
            line.missed = std::mem::take(&mut self.missed);
            if let Ok(json) = serde_json::to_string(&line) {
                let _ = writeln!(text, "{json}");
            }
        }
        if !text.is_empty() {
            self.write(&text);
        }
    }

    /// A disk that is full is told once, until it takes lines again.
    fn write(&mut self, text: &str) {
        match self.file.add(text) {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!("flow log {}: {error}", self.path.display());
                }
                self.missed += text.lines().count() as u64;
            }
        }
    }

    /// The endpoint, of any node, that has an address.
    fn name(&self, address: IpAddr) -> Option<String> {
        let policies = lock(&self.policies);
        let mut endpoints = policies.model().endpoints.iter();
        let found = endpoints.find(|(_, endpoint)| endpoint.addresses.contains(&address));
        found.map(|(name, _)| name.clone())
    }
}
