//! What the program has carried: read from the map's memory, and counted where a worker's own
//! packets are.

use super::{Row, Tier};
use crate::counters::WorkerCounters;
use crate::flow::{Carried, Session, SessionId};
use crate::limit::{Excess, Tally};
use crate::nat::Tracker;
use crate::offload::layout;
use margay_tunnels::wire::ethernet;
use std::sync::atomic::Ordering;

/// What of a row was not counted yet.
#[derive(Debug, Clone, Copy, Default)]
struct News {
    packets: u64,
    bytes: u64,
    /// What they are more on the wire, and their bytes there.
    parts: (u64, u64),
}

impl Tier {
    /// What the program has carried of a row since this was asked last.
    fn news(&mut self, row: u32) -> Option<News> {
        let records = &self.map.records;
        let load = |word| records.word(row, word).load(Ordering::Relaxed);
        let (packets, bytes) = (load(layout::PACKETS), load(layout::BYTES));
        let extra = load(layout::EXTRA);
        let used_ns = load(layout::USED_NS).saturating_sub(self.clock_ns);
        let by_tc = self.map.is_by_tc(self.row(row)?.key.port);
        let row = self.rows.get_mut((row - self.first) as usize)?.as_mut()?;
        if (packets, bytes) == (row.packets, row.bytes) {
            return None;
        }
        let news = News {
            packets: packets.wrapping_sub(row.packets),
            bytes: bytes.wrapping_sub(row.bytes),
            parts: if by_tc { parts(extra.wrapping_sub(row.extra)) } else { (0, 0) },
        };
        (row.packets, row.bytes, row.extra) = (packets, bytes, extra);
        row.used_ns = row.used_ns.max(used_ns);
        Some(news)
    }

    /// Counts what the program has carried of a row; what of it is a session's.
    fn count(&mut self, row: u32, counters: &WorkerCounters) -> Option<Carried> {
        let news = self.news(row);
        let News { packets, bytes, parts } = news.unwrap_or_default();
        let of_frames = bytes + packets * ethernet::HEADER_LEN as u64;
        let on_wire = (packets + parts.0, of_frames + parts.1);
        self.count_limits(row, on_wire, counters);
        news?;
        let row = self.row(row)?;
        counters.forwarded.add(packets);
        counters.offloaded.add(packets);
        let mut at_egress = if row.decision.on_wire { on_wire } else { (packets, of_frames) };
        if let Some(wrap) = row.decision.wrap {
            at_egress.1 += packets * u64::from(wrap.overhead);
            if let Some(counter) = counters.tunnels.of(wrap.tunnel) {
                counter.tx_packets.add(packets);
                counter.tx_bytes.add(bytes);
            }
        }
        let ports = (row.key.port, row.decision.egress);
        self.map.count(ports, [(packets, of_frames), at_egress]);
        let (_, _, direction) = row.session?;
        let mut carried = Carried { bytes, last_seen_s: seconds(row.used_ns), packets: [0; 2] };
        carried.packets[direction as usize] = packets;
        Some(carried)
    }

    /// Counts what was carried at the limits that it took from, and what they refused.
    fn count_limits(&self, row: u32, (packets, bytes): (u64, u64), counters: &WorkerCounters) {
        let limits = self.row(row).map(|row| &row.limits);
        for limited in limits.into_iter().flatten().flatten() {
            let news = limited.row.take_news();
            if packets == 0 && news == Default::default() {
                continue;
            }
            let mut tally = Tally::default();
            tally.carry(packets + news.lost[0], bytes + news.lost[1]);
            for (excess, count) in
                [Excess::Bandwidth, Excess::PacketRate].into_iter().zip(news.dropped)
            {
                tally.lose(excess, count);
                counters.drops[excess.drop_reason() as usize].add(count);
            }
            limited.account.add(&tally, self.now_ns);
        }
    }

    pub(super) fn read(
        &mut self,
        row: u32,
        tracker: &mut Option<Tracker>,
        counters: &WorkerCounters,
    ) {
        let carried = self.count(row, counters);
        let session = self.row(row).and_then(|row| row.session);
        if let (Some(carried), Some((id, original, _)), Some(tracker)) =
            (carried, session, tracker.as_mut())
        {
            tracker.note_carried(id, &original, carried);
        }
    }

    /// What of a session is not counted yet.
    pub(crate) fn carried(
        &mut self,
        (id, session): (SessionId, &Session),
        counters: &WorkerCounters,
    ) -> Option<Carried> {
        let rows = self.by_session.get(&id).copied()?;
        let mut sum = Carried::default();
        for row in rows.into_iter().filter(|row| *row != 0) {
            let is_its =
                |row: &Row| row.session.is_some_and(|(_, tuple, _)| tuple == session.original());
            if self.row(row).is_some_and(is_its)
                && let Some(carried) = self.count(row, counters)
            {
                (0..2).for_each(|at| sum.packets[at] += carried.packets[at]);
                sum.bytes += carried.bytes;
                sum.last_seen_s = sum.last_seen_s.max(carried.last_seen_s);
            }
        }
        Some(sum)
    }

    /// Reads all rows, for somebody who asks.
    pub(crate) fn read_all(&mut self, tracker: &mut Option<Tracker>, counters: &WorkerCounters) {
        for at in 0..self.rows.len() as u32 {
            self.read(self.first + at, tracker, counters);
        }
    }
}

/// Packets and bytes of [`layout::EXTRA`].
fn parts(extra: u64) -> (u64, u64) {
    (extra >> layout::EXTRA_SHIFT, extra & ((1 << layout::EXTRA_SHIFT) - 1))
}

fn seconds(now_ns: u64) -> u32 {
    (now_ns / 1_000_000_000) as u32
}
