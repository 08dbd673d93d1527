//! What a group tells of a path, remembered by what it depends on: most paths share it with many.

use super::OwnRoutes;
use super::adj_out::Told;
use super::attributes::AttrId;
use super::export::{From, attributes_for, may_pass};
use super::group::Key;
use super::path::Path;
use super::table::Core;
use crate::policy::Verdict;
use ahash::AHashMap;
use ipnet::IpNet;

/// Verdicts that a group remembers.
const MEMO_LIMIT: usize = 1 << 18;

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    memo: AHashMap<(AttrId, From, u64), AttrId>,
    verdict: Verdict,
}

impl Verdicts {
    /// What is to be told of a path now; the answer's attributes have one more user.
    pub(super) fn judge(
        &mut self,
        key: &Key,
        core: &mut Core,
        own: &OwnRoutes,
        (prefix, path): (IpNet, &Path),
    ) -> Told {
        let Some(from) = From::of(core, path).filter(|from| may_pass(key, *from)) else {
            return Told::NOTHING;
        };
        // Reflected routes differ by who brought them only where that is written down.
        let class = match from {
            From::Internal { .. } if !key.ibgp => Some(From::External),
            From::Ours => None,
            from => Some(from),
        };
        let memo_key = class
            .zip(key.policy.prefix_class(prefix))
            .map(|(class, prefixes)| (path.taken, class, prefixes));
        let known = memo_key.and_then(|memo_key| self.memo.get(&memo_key).copied());
        let attributes = match known {
            Some(known) => {
                core.sets.retain(known);
                known
            }
            None => {
                let route = (prefix, path.taken, from);
                let made = attributes_for(key, core, own, route, &mut self.verdict);
                let made =
                    made.map_or(AttrId::NONE, |made| core.sets.intern(&made, &mut core.hops));
                if let Some(memo_key) = memo_key {
                    self.remember(core, memo_key, made);
                }
                made
            }
        };
        match attributes {
            AttrId::NONE => Told::NOTHING,
            attributes => Told { attributes, source: path.source },
        }
    }

    fn remember(&mut self, core: &mut Core, key: (AttrId, From, u64), made: AttrId) {
        if self.memo.len() >= MEMO_LIMIT {
            self.clear(core);
        }
        core.sets.retain(key.0);
        core.sets.retain(made);
        self.memo.insert(key, made);
    }

    /// Forgets all of them, for instance since the policy is another one.
    pub(super) fn clear(&mut self, core: &mut Core) {
        for ((taken, ..), made) in self.memo.drain() {
            core.release(taken);
            core.release(made);
        }
    }
}
