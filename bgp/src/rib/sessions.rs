//! Peers that come, go, and say something.

use super::attributes::AttrId;
use super::import::{self, Judge};
use super::path::Source;
use super::peer::{Live, Peer};
use super::{MAX_PEERS, PeerId, PeerOptions, Rib, RibOptions};
use crate::family::{Family, FamilySet};
use crate::session::Up;
use crate::wire::Notification;
use crate::wire::route_refresh::{RouteRefresh, Subtype};
use crate::wire::treatment::Treatment;
use crate::wire::update::{Sections, split};
use std::net::IpAddr;

impl Rib {
    /// Adds a peer, whose session is down. `None` when there are [`MAX_PEERS`].
    pub fn add_peer(&mut self, options: PeerOptions) -> Option<PeerId> {
        let peers = &mut self.core.peers;
        let retired = |at: &usize| !self.retired.contains(&(*at as Source));
        let vacant = peers.iter().position(Option::is_none).filter(retired);
        let at = vacant.unwrap_or(peers.len());
        if at >= MAX_PEERS {
            return None;
        }
        if at == peers.len() {
            peers.push(None);
        }
        peers[at] = Some(Peer::new(options));
        Some(PeerId(at as Source))
    }

    /// Changes a peer. Its session goes on: what it has announced is judged anew, and it hears of
    /// whatever changes for it. AS numbers only count from the next session on.
    pub fn set_peer(&mut self, id: PeerId, options: PeerOptions) {
        let Some(peer) = self.core.peer_mut(id.0) else { return };
        let old = std::mem::replace(&mut peer.options, options.clone());
        if old.import != options.import || old.allowed_own_as != options.allowed_own_as {
            self.judge_again.push(id.0);
            self.ask_for_sweep();
        }
        if old.client_of != options.client_of {
            // Who hears of its routes is another question now.
            self.v4.judge_all();
            self.v6.judge_all();
        }
        let (router_id, cluster_id) = (self.options.router_id, self.options.cluster_id);
        let reflector = Some(cluster_id.unwrap_or(router_id));
        self.v4.regroup(&mut self.core, id.0, reflector);
        self.v6.regroup(&mut self.core, id.0, reflector);
    }

    /// What the options before meant for routes is looked at again.
    pub(super) fn options_change(&mut self, old: &RibOptions) {
        let new = &self.options;
        if (old.router_id, old.cluster_id) != (new.router_id, new.cluster_id) {
            let reflectors = [old, new].map(|one| one.cluster_id.unwrap_or(one.router_id));
            self.v4.change_reflector(&mut self.core, reflectors);
            self.v6.change_reflector(&mut self.core, reflectors);
            // What is a loop is another matter now.
            let peers = self.core.peers.iter().enumerate().filter(|(_, peer)| peer.is_some());
            self.judge_again.extend(peers.map(|(at, _)| at as Source));
            self.ask_for_sweep();
        } else if old.max_ecmp != new.max_ecmp {
            self.ask_for_sweep();
        }
    }

    /// Removes a peer with all that it has said.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.down(id, FamilySet::EMPTY);
        self.drop_stale(id, Family::ALL.into_iter().collect());
        if self.core.peer(id.0).is_some() && !self.retired.contains(&id.0) {
            self.retired.push(id.0);
            self.ask_for_sweep();
        }
    }

    /// The session is up; `local` is our address on its connection.
    pub fn up(&mut self, id: PeerId, up: &Up, local: IpAddr) {
        self.down(id, up.stale);
        let others = Family::ALL.into_iter().filter(|family| !up.stale.contains(*family));
        self.drop_stale(id, others.collect());
        let Some(peer) = self.core.peer_mut(id.0) else { return };
        peer.live = Some(Live { agreed: up.agreed, local });
        peer.router_id = up.peer.router_id;
        peer.ended = FamilySet::EMPTY;
        let reflector = Some(self.options.cluster_id.unwrap_or(self.options.router_id));
        for family in up.agreed.families.iter() {
            match family {
                Family::Ipv4Unicast => self.v4.join(&self.core, id.0, reflector),
                Family::Ipv6Unicast => self.v6.join(&self.core, id.0, reflector),
            }
        }
    }

    /// The session is down. Routes of the families in `retain` stay, until they come again or
    /// [`Rib::drop_stale`].
    pub fn down(&mut self, id: PeerId, retain: FamilySet) {
        self.v4.leave(&mut self.core, id.0);
        self.v6.leave(&mut self.core, id.0);
        let Some(peer) = self.core.peer_mut(id.0) else { return };
        if peer.live.take().is_none() {
            return;
        }
        // What was stale already, and has not come again, stays no longer.
        Family::ALL.into_iter().for_each(|one| self.advance(id.0, one, retain.contains(one)));
        self.ask_for_sweep();
    }

    /// Begins a new generation of a peer's paths.
    fn advance(&mut self, source: Source, family: Family, keep: bool) {
        // Sessions take far longer to come and go a hundred times than the sweep to go round, so
        // there is next to never anything to wait for.
        while !self.may_advance(source, family) {
            self.ask_for_sweep();
            self.sweep(usize::MAX >> 1);
        }
        let rounds = self.rounds(family);
        let Some(peer) = self.core.peer_mut(source) else { return };
        peer.generations[family as usize].advance(keep, rounds);
    }

    fn may_advance(&self, source: Source, family: Family) -> bool {
        let rounds = self.rounds(family);
        let is_empty = match family {
            Family::Ipv4Unicast => self.v4.nodes.is_empty(),
            Family::Ipv6Unicast => self.v6.nodes.is_empty(),
        };
        let peer = self.core.peer(source);
        is_empty || peer.is_none_or(|peer| peer.generation(family).may_advance(rounds))
    }

    /// How often the sweep has been round.
    fn rounds(&self, family: Family) -> u64 {
        match family {
            Family::Ipv4Unicast => self.v4.rounds,
            Family::Ipv6Unicast => self.v6.rounds,
        }
    }

    /// Stale routes of these families go.
    pub fn drop_stale(&mut self, id: PeerId, families: FamilySet) {
        let Some(peer) = self.core.peer_mut(id.0) else { return };
        let mut any = false;
        for family in families.iter() {
            any |= std::mem::take(&mut peer.generations[family as usize].keeps_last);
        }
        if any {
            self.ask_for_sweep();
        }
    }

    /// The peer asks for our routes again, or marks where its own begin and end (RFC 7313).
    pub fn refresh(&mut self, id: PeerId, refresh: &RouteRefresh) {
        match refresh.subtype {
            Subtype::Request => {
                let live = self.core.peer(id.0).and_then(|peer| peer.live);
                let enhanced = live.is_some_and(|live| live.agreed.enhanced_refresh);
                match refresh.family {
                    Family::Ipv4Unicast => self.v4.resend(id.0, enhanced),
                    Family::Ipv6Unicast => self.v6.resend(id.0, enhanced),
                }
            }
            Subtype::Begin if self.may_advance(id.0, refresh.family) => {
                self.advance(id.0, refresh.family, true);
            }
            // Faster than any table can be sent: it begins no new one.
            Subtype::Begin => self.ask_for_sweep(),
            Subtype::End => self.drop_stale(id, FamilySet::EMPTY.with(refresh.family)),
        }
    }

    /// The body of an UPDATE. An error ends the session, and says what the peer is told.
    pub fn update(&mut self, id: PeerId, body: &[u8]) -> Result<(), Notification> {
        let Some(live) = self.core.peer(id.0).and_then(|peer| peer.live) else { return Ok(()) };
        let sections = split(body, &live.agreed).map_err(|error| error.notification())?;
        if let Some(peer) = self.core.peer_mut(id.0) {
            peer.counts.updates_in += 1;
        }
        if let Some(family) = sections.is_end_of_rib() {
            self.end_of_rib(id, family);
            return Ok(());
        }
        let (announced, withdrawn, damaged) = self.sections(id.0, &sections, &live)?;
        let Some(peer) = self.core.peer_mut(id.0) else { return Ok(()) };
        peer.counts.announced_in += announced;
        peer.counts.withdrawn_in += withdrawn;
        peer.counts.erroneous_in += u64::from(damaged);
        match peer.options.max_prefixes {
            Some(limit) if peer.counts.received > u64::from(limit) => {
                let family = live.agreed.families.iter().next().unwrap_or(Family::Ipv4Unicast);
                Err(Notification::maximum_prefixes(family, limit))
            }
            _ => Ok(()),
        }
    }

    fn end_of_rib(&mut self, id: PeerId, family: Family) {
        if let Some(peer) = self.core.peer_mut(id.0) {
            peer.ended = peer.ended.with(family);
        }
        self.drop_stale(id, FamilySet::EMPTY.with(family));
    }

    /// Prefixes announced and withdrawn, and whether errors have cost any or their attributes.
    fn sections(
        &mut self,
        source: Source,
        sections: &Sections<'_>,
        live: &Live,
    ) -> Result<(u64, u64, bool), Notification> {
        let (mut announced, mut withdrawn, mut damaged) = (0, 0, !sections.errors.is_empty());
        for (family, section) in sections.withdrawals() {
            withdrawn += self.withdraw(source, family, section)?;
        }
        if let Some(block) = sections.orphans() {
            // RFC 7606 section 5.2: what would withdraw routes cannot name them.
            match import::receive(&mut self.core, &mut self.blocks, &block, &live.agreed)? {
                Some(taken) => self.core.release(taken.received),
                None => return Err(Notification::new(3, 1)),
            }
        }
        let all_bad = sections.treatment() == Treatment::TreatAsWithdraw;
        for (family, section, block) in sections.announced() {
            let taken = match all_bad {
                true => None,
                false => import::receive(&mut self.core, &mut self.blocks, &block, &live.agreed)?,
            };
            let Some(taken) = taken else {
                damaged = true;
                withdrawn += self.withdraw(source, family, section)?;
                continue;
            };
            damaged |= taken.damaged;
            let done = self.announce((source, taken.received), family, section);
            self.core.release(taken.received);
            announced += done?;
        }
        Ok((announced, withdrawn, damaged))
    }

    /// Puts the prefixes of a section into the table of its family; how many.
    fn announce(
        &mut self,
        route: (Source, AttrId),
        family: Family,
        section: &[u8],
    ) -> Result<u64, Notification> {
        let Rib { core, v4, v6, options, verdict, .. } = self;
        let Some(mut judge) = Judge::new(core, options, route, verdict) else { return Ok(0) };
        let done = match family {
            Family::Ipv4Unicast => import::announce(v4, core, section, &mut judge),
            Family::Ipv6Unicast => import::announce(v6, core, section, &mut judge),
        };
        done.map_err(|error| error.notification())
    }

    /// Takes the prefixes of a section out of the table of its family; how many.
    fn withdraw(
        &mut self,
        source: Source,
        family: Family,
        section: &[u8],
    ) -> Result<u64, Notification> {
        let core = &mut self.core;
        let done = match family {
            Family::Ipv4Unicast => import::withdraw(&mut self.v4, core, section, source),
            Family::Ipv6Unicast => import::withdraw(&mut self.v6, core, section, source),
        };
        done.map_err(|error| error.notification())
    }

    /// True while a peer is to be told something.
    pub fn has_output(&self, id: PeerId) -> bool {
        !self.holding && (self.v4.has_output(id.0) || self.v6.has_output(id.0))
    }

    /// Appends whole messages for a peer, about `room` bytes of them; nothing when there is nothing
    /// to say now.
    pub fn fill(&mut self, id: PeerId, room: usize, out: &mut Vec<u8>) {
        if self.holding {
            return;
        }
        let start = out.len();
        self.v4.fill(&self.core, id.0, room, out);
        let used = out.len() - start;
        self.v6.fill(&self.core, id.0, room.saturating_sub(used), out);
        let bytes = (out.len() - start) as u64;
        if let Some(peer) = self.core.peer_mut(id.0) {
            peer.counts.bytes_out += bytes;
        }
    }
}
