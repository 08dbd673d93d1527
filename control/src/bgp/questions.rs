//! Questions about routes, answered a few milliseconds at a time: a walk over all of them must not
//! keep sessions waiting.

use std::time::Instant;

use margay_bgp::rib::{RouteFilter, RouteView, RouteWalk};
use tokio::sync::oneshot;

use super::handle::{MAX_QUESTIONS, Question};
use super::speaker::{SLICE, Speaker};

/// Prefixes that are looked at between two looks at the clock.
const STEPS: usize = 256;

/// A question that is being answered.
#[derive(Debug)]
pub(super) struct Walk {
    walk: RouteWalk,
    most: usize,
    views: Vec<RouteView>,
    answer: oneshot::Sender<Vec<RouteView>>,
}

impl Speaker {
    /// Takes questions in. One that finds no room gets no answer.
    pub(super) fn ask(&mut self, questions: Vec<Question>) {
        for (query, answer) in questions {
            let id = |name: &String| self.peers.get(self.names.get(name)?).map(|peer| peer.id);
            let peer = query.peer.as_ref().map(id);
            if peer == Some(None) {
                // Nobody of that name has routes; who asked may have gone.
                let _ = answer.send(Vec::new());
                continue;
            }
            if self.walks.len() >= MAX_QUESTIONS {
                continue;
            }
            let walk = RouteWalk::new(RouteFilter {
                prefix: query.prefix,
                longer: query.longer,
                peer: peer.flatten(),
                direction: query.direction,
            });
            self.walks.push_back(Walk { walk, most: query.most, views: Vec::new(), answer });
        }
    }

    /// Goes on answering for a while. True when more is left.
    pub(super) fn answer(&mut self) -> bool {
        let began = Instant::now();
        while let Some(mut asked) = self.walks.pop_front() {
            let Walk { walk, most, views, .. } = &mut asked;
            if self.rib.walk(walk, STEPS, *most, views) && !asked.answer.is_closed() {
                self.walks.push_front(asked);
            } else {
                let _ = asked.answer.send(asked.views);
            }
            if began.elapsed() >= SLICE {
                break;
            }
        }
        !self.walks.is_empty()
    }
}
