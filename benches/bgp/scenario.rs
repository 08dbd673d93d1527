//! The scenarios: who the daemon's peers are, what they send and what they are to get.

use anyhow::Result;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Which;
use crate::endpoint::Identity;
use crate::feed::{Sender, Set, Table, made_up, own_prefixes};
use crate::recorded;

/// The daemon's addresses and AS; the port.
pub(crate) const TARGET: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub(crate) const TARGET_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const TARGET_AS: u32 = 64_512;
pub(crate) const PORT: u16 = 1790;

/// Prefixes of a full table when it is made up: as the recorded session had, and IPv4 ones in 2024.
const SESSION: usize = 577_706;
const WHOLE: usize = 901_899;
/// External feeds, and who gets their routes.
const FEEDS: [u32; 2] = [65_001, 65_002];
const RECEIVER: u32 = 65_100;
/// ASes that no recorded path may have.
pub(crate) const ASNS: [u32; 4] = [TARGET_AS, FEEDS[0], FEEDS[1], RECEIVER];

/// A peer of the daemon, in one family.
pub(crate) struct Player {
    pub(crate) who: Identity,
    pub(crate) table: Option<Table>,
    /// Prefixes that it is to have in the end; 0 for one that only sends.
    pub(crate) expects: usize,
    /// It goes down when all is loaded, and the clock runs from there.
    pub(crate) goes: bool,
}

impl Player {
    pub(crate) fn is_client(&self) -> bool {
        self.who.asn == TARGET_AS
    }

    fn new(number: usize, asn: u32, v6: bool) -> Player {
        let router_id = Ipv4Addr::new(10, 99, 1 + (number / 200) as u8, 1 + (number % 200) as u8);
        let address = match v6 {
            false => IpAddr::from(router_id),
            true => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 1, number as u16).into(),
        };
        let who = Identity { router_id, address, asn, remote_asn: TARGET_AS };
        Player { who, table: None, expects: 0, goes: false }
    }

    /// It sends `sets`, its own AS `times` times in front.
    fn sending(mut self, sets: &[Set], times: usize) -> Player {
        let Identity { address, asn, .. } = self.who;
        let asn = (!self.is_client()).then_some(asn);
        self.table = Some(Sender { address, asn, times }.table(sets));
        self
    }

    fn expecting(self, prefixes: usize) -> Player {
        Player { expects: prefixes, ..self }
    }

    fn prefixes(&self) -> usize {
        self.table.as_ref().map_or(0, |table| table.prefixes)
    }
}

/// What happens when the peer that goes is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// None goes.
    Loaded,
    /// Receivers lose all.
    Withdrawn,
    /// Receivers get the other feed's paths.
    Replaced,
}

/// One of them.
pub(crate) struct Scenario {
    pub(crate) title: String,
    pub(crate) players: Vec<Player>,
    pub(crate) end: End,
    /// Prefixes can come more than once.
    pub(crate) repeats: bool,
}

/// Full tables: as made up, and as recorded.
fn session(recorded: bool, percent: usize) -> Result<Vec<Set>> {
    let sets = match recorded {
        true => recorded::session(&recorded::folder()?)?,
        false => made_up(1, SESSION * percent / 100, false),
    };
    Ok(if recorded { first(sets, SESSION * percent / 100) } else { sets })
}

fn whole(recorded: bool, percent: usize) -> Result<Vec<Set>> {
    if !recorded {
        return Ok(made_up(2, WHOLE * percent / 100, true));
    }
    let folder = recorded::folder()?;
    let sets = recorded::whole_table(&folder, &recorded::session(&folder)?)?;
    // IPv6 comes last in the list: of both families the same share.
    let (v6, v4): (Vec<Set>, _) = sets.into_iter().partition(|set| set.v4.is_empty());
    let share = |sets: Vec<Set>| {
        let count = sets.iter().map(|set| set.v4.len() + set.v6.len()).sum::<usize>();
        first(sets, count * percent / 100)
    };
    Ok([share(v4), share(v6)].concat())
}

/// The first sets, up to about `prefixes` prefixes.
fn first(mut sets: Vec<Set>, prefixes: usize) -> Vec<Set> {
    let mut count = 0;
    sets.retain(|set| {
        let is_in = count < prefixes;
        count += set.v4.len() + set.v6.len();
        is_in
    });
    sets
}

fn one_table(recorded: bool, percent: usize) -> Result<Scenario> {
    let feed = Player::new(0, FEEDS[0], false).sending(&session(recorded, percent)?, 1);
    let count = feed.prefixes();
    let origin = if recorded { "recorded" } else { "made-up" };
    let title = format!("one {origin} table of {count} prefixes to one receiver");
    let receiver = Player::new(1, RECEIVER, false).expecting(count);
    Ok(Scenario { title, players: vec![feed, receiver], end: End::Loaded, repeats: false })
}

/// Two feeds of the same prefixes, both families, a session each.
fn two_tables(recorded: bool, percent: usize) -> Result<Scenario> {
    let sets = whole(recorded, percent)?;
    let mut players = Vec::new();
    let mut counts = Vec::new();
    for v6 in [false, true] {
        let at = players.len();
        let feeds = [0, 1].map(|feed| Player::new(at + feed, FEEDS[feed], v6).sending(&sets, 1));
        let count = feeds[0].prefixes();
        players.extend(feeds);
        players.push(Player::new(at + 2, RECEIVER, v6).expecting(count));
        counts.push(count);
    }
    let origin = if recorded { "recorded" } else { "made-up" };
    let title = format!(
        "two {origin} tables of the same {} IPv4 and {} IPv6 prefixes to one receiver",
        counts[0], counts[1]
    );
    Ok(Scenario { title, players, end: End::Loaded, repeats: true })
}

/// The recorded table if it is there.
fn peer_down(percent: usize, end: End) -> Result<Scenario> {
    let recorded = recorded::folder().is_ok();
    let sets = session(recorded, percent)?;
    let origin = if recorded { "recorded" } else { "made-up" };
    let gone = Player { goes: true, ..Player::new(0, FEEDS[0], false).sending(&sets, 1) };
    let count = gone.prefixes();
    let mut players = vec![gone];
    let mut title = format!("the only peer of {count} {origin} prefixes goes down: withdrawals");
    if end == End::Replaced {
        // Longer paths: none is the best before.
        players.push(Player::new(2, FEEDS[1], false).sending(&sets, 3));
        title =
            format!("the better of two peers of {count} {origin} prefixes goes down: new paths");
    }
    players.push(Player::new(1, RECEIVER, false).expecting(count));
    Ok(Scenario { title, players, end, repeats: true })
}

fn reflector(percent: usize) -> Scenario {
    let sets = made_up(3, 1000 * percent, false);
    let feed = Player::new(0, TARGET_AS, false).sending(&sets, 0);
    let count = feed.prefixes();
    let title = format!("{count} prefixes reflected to 200 clients");
    let clients = (1..=200).map(|number| Player::new(number, TARGET_AS, false).expecting(count));
    let players = std::iter::once(feed).chain(clients).collect();
    Scenario { title, players, end: End::Loaded, repeats: false }
}

fn mesh(percent: usize) -> Scenario {
    let each = (10 * percent).max(10);
    let player = |number: usize| {
        let sets = own_prefixes(number as u32, each as u32);
        Player::new(number, 65_001 + number as u32, false).sending(&sets, 1).expecting(99 * each)
    };
    let title = format!("100 peers of {each} prefixes each, all to all");
    Scenario { title, players: (0..100).map(player).collect(), end: End::Loaded, repeats: false }
}

impl Scenario {
    /// An error says what is missing for it.
    pub(crate) fn new(which: Which, percent: usize) -> Result<Scenario> {
        match which {
            Which::Recorded => one_table(true, percent),
            Which::Table => one_table(false, percent),
            Which::RecordedFeeds => two_tables(true, percent),
            Which::TwoFeeds => two_tables(false, percent),
            Which::PeerDown => peer_down(percent, End::Withdrawn),
            Which::FailOver => peer_down(percent, End::Replaced),
            Which::Reflector => Ok(reflector(percent)),
            Which::Mesh => Ok(mesh(percent)),
        }
    }
}
