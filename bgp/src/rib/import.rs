//! From an UPDATE to paths: sections, attributes (decoded once per set), what must not be taken at
//! all, and the import policy.

use super::RibOptions;
use super::attributes::AttrId;
use super::export::{apply, with_facts};
use super::path::{Path, Source};
use super::table::{Core, Table};
use crate::policy::{Origin, Policy, Verdict, evaluate};
use crate::wire::attribute::{Attributes, NextHop};
use crate::wire::nlri::{Prefix, Prefixes};
use crate::wire::treatment::Treatment;
use crate::wire::update::{Block, UpdateError};
use crate::wire::{Negotiated, Notification};
use ahash::RandomState;
use ipnet::IpNet;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

/// Blocks that are remembered; a power of two.
const KNOWN_BLOCKS: usize = 1 << 14;
/// A policy that takes a route so has it win over this node's own (calico.md: live migration).
const ELEVATED: u32 = 200;

/// A block that came before, by two independent hashes of 64 bits.
#[derive(Debug, Clone, Copy)]
struct Known {
    hashes: [u64; 2],
    received: AttrId,
    life: u32,
    damaged: bool,
}

/// The blocks that came last. A feed repeats its attribute sets, so most need no decoding.
#[derive(Debug)]
pub(super) struct KnownBlocks {
    slots: Vec<Known>,
    hashers: [RandomState; 2],
}

impl KnownBlocks {
    pub(super) fn new() -> KnownBlocks {
        KnownBlocks { slots: Vec::new(), hashers: [RandomState::new(), RandomState::new()] }
    }

    fn hashes(&self, block: &Block<'_>) -> [u64; 2] {
        self.hashers.each_ref().map(|state| {
            let mut hasher = state.build_hasher();
            block.material().iter().for_each(|bytes| hasher.write(bytes));
            hasher.finish()
        })
    }

    fn find(&self, hashes: [u64; 2], core: &Core) -> Option<Taken> {
        let known = self.slots.get(hashes[0] as usize % KNOWN_BLOCKS)?;
        let Known { received, damaged, .. } = *known;
        let same = known.hashes == hashes && core.sets.is_alive(received, known.life);
        same.then_some(Taken { received, damaged })
    }

    fn remember(&mut self, hashes: [u64; 2], taken: &Taken, core: &Core) {
        if self.slots.is_empty() {
            let received = AttrId::NONE;
            let nothing = Known { hashes: [0; 2], received, life: 0, damaged: false };
            self.slots = vec![nothing; KNOWN_BLOCKS];
        }
        let Taken { received, damaged } = *taken;
        let life = core.sets.life(received);
        self.slots[hashes[0] as usize % KNOWN_BLOCKS] = Known { hashes, received, life, damaged };
    }
}

/// What a block comes to.
pub(super) struct Taken {
    /// One reference is the taker's.
    pub(super) received: AttrId,
    pub(super) damaged: bool,
}

/// Finds or decodes the attributes of a block. `None` when its routes count as withdrawn.
pub(super) fn receive(
    core: &mut Core,
    blocks: &mut KnownBlocks,
    block: &Block<'_>,
    agreed: &Negotiated,
) -> Result<Option<Taken>, Notification> {
    let hashes = blocks.hashes(block);
    if let Some(taken) = blocks.find(hashes, core) {
        core.sets.retain(taken.received);
        return Ok(Some(taken));
    }
    let decoded = Attributes::decode(block, agreed);
    match decoded.treatment {
        Treatment::SessionReset => {
            let worst = decoded.errors.iter().find(|one| one.treatment == Treatment::SessionReset);
            Err(worst.map_or(Notification::new(3, 1), |error| error.notification()))
        }
        Treatment::TreatAsWithdraw => Ok(None),
        Treatment::Accept | Treatment::AttributeDiscard => {
            let received = core.sets.intern(&decoded.attributes, &mut core.hops);
            let damaged = decoded.treatment != Treatment::Accept;
            let taken = Taken { received, damaged };
            blocks.remember(hashes, &taken, core);
            Ok(Some(taken))
        }
    }
}

/// Judges one set of attributes of one peer for prefix after prefix.
pub(super) struct Judge<'a> {
    source: Source,
    policy: Arc<Policy>,
    received: AttrId,
    attributes: Attributes,
    /// It must not be taken whatever the policy says.
    looped: bool,
    by_prefix: bool,
    /// The last verdict and the class of prefixes that it is for.
    last: Option<(u64, AttrId, bool)>,
    verdict: &'a mut Verdict,
}

impl<'a> Judge<'a> {
    /// `None` when the peer is not there.
    pub(super) fn new(
        core: &Core,
        options: &RibOptions,
        (source, received): (Source, AttrId),
        verdict: &'a mut Verdict,
    ) -> Option<Judge<'a>> {
        let peer = core.peer(source)?;
        let policy = peer.options.import.clone();
        let attributes = core.sets.attributes(received);
        let looped = must_not_be_taken(&attributes, options, peer);
        let by_prefix = policy.dependence().prefix;
        let last = None;
        Some(Judge { source, policy, received, attributes, looped, by_prefix, last, verdict })
    }

    /// What the path becomes, with a reference for the path; and whether it is elevated.
    pub(super) fn judge(&mut self, core: &mut Core, prefix: IpNet) -> (AttrId, bool) {
        if self.looped {
            return (AttrId::NONE, false);
        }
        let class = if self.by_prefix { self.policy.prefix_class(prefix) } else { Some(0) };
        if let (Some(class), Some((last, taken, elevated))) = (class, self.last)
            && last == class
        {
            core.sets.retain(taken);
            return (taken, elevated);
        }
        let (taken, elevated) = self.evaluate(core, prefix);
        if let Some(class) = class {
            self.last = Some((class, taken, elevated));
        }
        (taken, elevated)
    }

    fn evaluate(&mut self, core: &mut Core, prefix: IpNet) -> (AttrId, bool) {
        let attributes = &self.attributes;
        let verdict = &mut *self.verdict;
        with_facts(prefix, Origin::Peer, None, attributes, |facts| {
            evaluate(&self.policy, facts, verdict);
        });
        if !verdict.accept {
            return (AttrId::NONE, false);
        }
        let elevated = verdict.preference.is_some_and(|value| value >= ELEVATED);
        let same = verdict.local_pref.is_none_or(|value| attributes.local_pref == Some(value))
            && verdict.communities.is_empty()
            && verdict.prepend.is_empty();
        if same {
            core.sets.retain(self.received);
            return (self.received, elevated);
        }
        let mut changed = attributes.clone();
        apply(verdict, &mut changed);
        (core.sets.intern(&changed, &mut core.hops), elevated)
    }
}

/// Loops, and what is our own: RFC 4271 section 9.1.2, RFC 4456 section 8, RFC 4271 section 5.1.3.
fn must_not_be_taken(
    attributes: &Attributes,
    options: &RibOptions,
    peer: &super::peer::Peer,
) -> bool {
    let own_as = peer.options.local_asn;
    let times = attributes.as_path.count(own_as);
    let clusters = [options.cluster_id, peer.options.client_of];
    let own_cluster = |id| attributes.cluster_list.contains(&id);
    let own_next_hop = peer.live.is_some_and(|live| is_at(attributes.next_hop, live.local));
    times > usize::from(peer.options.allowed_own_as)
        || attributes.originator_id == Some(options.router_id)
        || clusters.into_iter().flatten().any(own_cluster)
        || own_next_hop
}

fn is_at(next_hop: Option<NextHop>, address: IpAddr) -> bool {
    next_hop.is_some_and(|next_hop| next_hop.address() == address)
}

/// Puts the prefixes of a section into the table.
pub(super) fn announce<P: Prefix + Into<IpNet>>(
    table: &mut Table<P>,
    core: &mut Core,
    section: &[u8],
    judge: &mut Judge<'_>,
) -> Result<u64, UpdateError> {
    let source = judge.source;
    let Some(peer) = core.peer(source) else { return Ok(0) };
    let Some(live) = peer.live else { return Ok(0) };
    let generation = peer.generation(P::FAMILY).current;
    let mut count = 0;
    for nlri in Prefixes::<P>::new(section, live.agreed.add_path_rx.contains(P::FAMILY)) {
        let nlri = nlri?;
        let (taken, elevated) = judge.judge(core, nlri.prefix.into());
        core.sets.retain(judge.received);
        let (received, path_id) = (judge.received, nlri.path_id);
        let path = Path { received, taken, path_id, source, generation, elevated };
        table.put(core, nlri.prefix, path);
        count += 1;
    }
    Ok(count)
}

/// Takes the prefixes of a section out of the table.
pub(super) fn withdraw<P: Prefix>(
    table: &mut Table<P>,
    core: &mut Core,
    section: &[u8],
    source: Source,
) -> Result<u64, UpdateError> {
    let Some(live) = core.peer(source).and_then(|peer| peer.live) else { return Ok(0) };
    let mut count = 0;
    for nlri in Prefixes::<P>::new(section, live.agreed.add_path_rx.contains(P::FAMILY)) {
        let nlri = nlri?;
        table.withdraw(core, nlri.prefix, source, nlri.path_id);
        count += 1;
    }
    Ok(count)
}
