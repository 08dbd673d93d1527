//! The flows of all workers, for people: listed and ended page by page, so that no worker stands
//! still for long.

use super::{ANSWER_TIME, Dataplane};
use crate::flow::{Session, SessionId, Tuple};
use crate::flow_log::FlowLog;
use crate::nat::NatReport;
use crate::policy::{Hit, Policy};
use crate::worker::Command;
use crossbeam::channel::{Sender, bounded};
use std::sync::{Arc, PoisonError};

/// Slots of the table that a worker looks at between two bursts.
const PAGE: u32 = 4096;
/// Snapshots of policy that are kept for those who read records of the flow log.
pub const RECENT_POLICIES: usize = 16;

/// A flow of one worker.
#[derive(Debug, Clone)]
pub struct Flow {
    /// The worker's number.
    pub worker: usize,
    /// Its number there.
    pub id: SessionId,
    /// What it is.
    pub session: Session,
    /// Seconds that it lives on without a packet.
    pub lives_on_s: u32,
}

/// What is asked of a worker about its flows.
#[derive(Debug)]
pub(crate) enum FlowQuestion {
    /// The flows in the slots from this one on.
    Page(u32, Sender<Page>),
    /// End these, where they still are what they were.
    End(Vec<(SessionId, Tuple)>, Sender<usize>),
    /// How translation is.
    Report(Sender<Option<NatReport>>),
    /// How often rules of policy have decided: those of one endpoint, or of all.
    Hits(Option<Arc<str>>, Sender<Vec<Hit>>),
}

/// Some flows, and the slot to go on from.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) flows: Vec<(SessionId, Session, u32)>,
    pub(crate) next: Option<u32>,
}

impl Dataplane {
    /// The flows that `keep` keeps, at most `limit` of them.
    pub fn flows(&self, limit: usize, keep: impl Fn(&Session) -> bool) -> Vec<Flow> {
        let mut kept = Vec::new();
        for worker in 0..self.threads.len() {
            let mut next = Some(0);
            while let Some(from) = next.filter(|_| kept.len() < limit) {
                let page = self.page(worker, from);
                let flows = page.flows.into_iter().filter(|(_, session, _)| keep(session));
                kept.extend(flows.map(|(id, session, lives_on_s)| Flow {
                    worker,
                    id,
                    session,
                    lives_on_s,
                }));
                next = page.next;
            }
        }
        kept.truncate(limit);
        kept
    }

    fn page(&self, worker: usize, from: u32) -> Page {
        let (answer, receiver) = bounded(1);
        self.tell(worker, Command::Flows(FlowQuestion::Page(from, answer)));
        receiver.recv_timeout(ANSWER_TIME).unwrap_or_default()
    }

    /// Ends these flows; how many there still were.
    pub fn end_flows(&self, flows: &[Flow]) -> usize {
        let of_worker = |worker: usize| {
            let own = flows.iter().filter(|flow| flow.worker == worker);
            own.map(|flow| (flow.id, flow.session.original())).collect::<Vec<_>>()
        };
        let mut ended = 0;
        for worker in 0..self.threads.len() {
            for part in of_worker(worker).chunks(PAGE as usize) {
                let (answer, receiver) = bounded(1);
                self.tell(worker, Command::Flows(FlowQuestion::End(part.to_vec(), answer)));
                ended += receiver.recv_timeout(ANSWER_TIME).unwrap_or(0);
            }
        }
        ended
    }

    /// Where workers tell of first packets.
    pub fn flow_log(&self) -> &FlowLog {
        &self.shared.flow_log
    }

    /// One of the last [`RECENT_POLICIES`] snapshots of policy, by its generation.
    pub fn recent_policy(&self, generation: u32) -> Option<Arc<Policy>> {
        let recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().rev().find(|policy| policy.generation() == generation).cloned()
    }

    pub(super) fn remember(&self, policy: Option<&Arc<Policy>>) {
        let Some(policy) = policy else { return };
        let mut recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.back().is_some_and(|last| last.generation() == policy.generation()) {
            return;
        }
        if recent.len() == RECENT_POLICIES {
            recent.pop_front();
        }
        recent.push_back(policy.clone());
    }

    /// How often rules of policy have decided about first packets, on each worker.
    pub fn policy_hits(&self, endpoint: Option<&str>) -> Vec<Hit> {
        let endpoint: Option<Arc<str>> = endpoint.map(Arc::from);
        let ask = |worker| {
            let (answer, receiver) = bounded(1);
            let question = FlowQuestion::Hits(endpoint.clone(), answer);
            self.tell(worker, Command::Flows(question));
            receiver.recv_timeout(ANSWER_TIME).unwrap_or_default()
        };
        (0..self.threads.len()).flat_map(ask).collect()
    }

    /// How each worker's translation is; `None` for those that have nothing to translate.
    pub fn nat(&self) -> Vec<Option<NatReport>> {
        let ask = |worker| {
            let (answer, receiver) = bounded(1);
            self.tell(worker, Command::Flows(FlowQuestion::Report(answer)));
            receiver.recv_timeout(ANSWER_TIME).ok().flatten()
        };
        (0..self.threads.len()).map(ask).collect()
    }
}

impl crate::pipeline::Pipeline {
    /// Answers a question about this worker's flows.
    pub(crate) fn answer_flows(&mut self, question: FlowQuestion) {
        match question {
            FlowQuestion::Page(from, answer) => {
                self.read_offload();
                let mut page = Page::default();
                if let Some(tracker) = self.tracker() {
                    let take = |id, session: &Session, lives_on_s| {
                        page.flows.push((id, session.clone(), lives_on_s));
                    };
                    page.next = tracker.list(from, PAGE, take);
                }
                let _ = answer.send(page);
            }
            FlowQuestion::End(flows, answer) => {
                let ended = flows.iter().filter(|(id, original)| self.end_flow(*id, original));
                let _ = answer.send(ended.count());
            }
            FlowQuestion::Report(answer) => {
                let _ = answer.send(self.tracker().map(crate::nat::Tracker::report));
            }
            FlowQuestion::Hits(endpoint, answer) => {
                let _ = answer.send(self.hits(endpoint.as_deref()));
            }
        }
    }
}
