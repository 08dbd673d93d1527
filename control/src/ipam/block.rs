//! A block: which of its addresses are whose. Pure; time and sequence are arguments.
//!
//! The JSON is Calico's, with fields that are not known here kept. What holds of every block is
//! [`Block::check`]: each ordinal is either free and once in `unallocated`, or points at an
//! attribute; each attribute is pointed at. Free ordinals are a queue: what was released last is
//! given out last.

use super::reservation::Reservations;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Most addresses of a block: /20 of IPv4, /116 of IPv6.
pub const ADDRESSES_MAX: usize = 4096;

/// A block's content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// Its range.
    pub cidr: IpNet,
    /// Whose it is: `host:NODE`, `virtual:load-balancer`; none of a block that is borrowed from
    /// only.
    #[serde(default)]
    pub affinity: Option<String>,
    /// When it became theirs, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    allocations: Vec<Option<usize>>,
    unallocated: Vec<usize>,
    attributes: Vec<Attribute>,
    #[serde(default)]
    sequence_number: u64,
    #[serde(default)]
    sequence_number_for_allocation: BTreeMap<String, u64>,
    #[serde(default)]
    deleted: bool,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Who has an address, and what for. Addresses with equal attributes share them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Attribute {
    /// By which it can be released.
    #[serde(default)]
    pub handle_id: Option<String>,
    /// `node`, `type`, `pod`, `namespace` and the like.
    #[serde(default)]
    pub secondary: Option<BTreeMap<String, String>>,
    /// Seconds since 1970, as RFC 3339, of an address that is released and cools down.
    #[serde(default, rename = "releasedAt", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// An address to be released; what is said of it must be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The address.
    pub address: IpAddr,
    /// Whose it must be.
    pub handle: Option<String>,
    /// When it must have been given out.
    pub sequence: Option<u64>,
}

/// When an address that is released may be given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cooldown {
    /// Seconds after the release; 0 is at once.
    pub seconds: u64,
    /// Now, in seconds since 1970.
    pub now: u64,
}

impl Attribute {
    /// Of a handle.
    pub fn new(handle: &str, secondary: BTreeMap<String, String>) -> Attribute {
        Attribute {
            handle_id: Some(handle.to_owned()),
            secondary: Some(secondary),
            ..Attribute::default()
        }
    }

    /// Of who had the address before, or is to have it: while a virtual machine moves.
    pub fn alternate(&self) -> BTreeMap<String, String> {
        let others = self.rest.get("alternateOwnerAttrs").and_then(Value::as_object);
        let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.into()));
        others.into_iter().flatten().filter_map(text).collect()
    }

    /// The handle, without what very old versions put behind it.
    pub fn handle(&self) -> Option<&str> {
        self.handle_id.as_deref().and_then(|handle| handle.split('\r').next())
    }
}

impl Block {
    /// An empty block. `sequence` is the time in nanoseconds since 1970, so that a block that is
    /// deleted and made again counts on.
    pub fn new(cidr: IpNet, owner: Option<&str>, claimed: &str, sequence: u64) -> Block {
        let size = size_of(cidr);
        Block {
            cidr,
            affinity: owner.map(str::to_owned),
            affinity_claim_time: owner.map(|_| claimed.to_owned()),
            allocations: vec![None; size],
            unallocated: (0..size).collect(),
            attributes: Vec::new(),
            sequence_number: sequence,
            sequence_number_for_allocation: BTreeMap::new(),
            deleted: false,
            rest: Map::new(),
        }
    }

    /// What does not hold that must.
    pub fn check(&self) -> Result<(), String> {
        let size = size_of(self.cidr);
        if self.allocations.len() != size {
            let what = format!("{} entries for {size} addresses", self.allocations.len());
            return Err(what);
        }
        let mut free = BTreeSet::new();
        for ordinal in &self.unallocated {
            if !free.insert(*ordinal) {
                return Err(format!("ordinal {ordinal} is free twice"));
            }
            if !matches!(self.allocations.get(*ordinal), Some(None)) {
                return Err(format!("ordinal {ordinal} is free and allocated, or none of its"));
            }
        }
        let used: BTreeSet<usize> = self.allocations.iter().flatten().copied().collect();
        let taken = self.allocations.iter().flatten().count();
        if free.len() + taken != size {
            return Err(format!("{} free and {taken} allocated of {size}", free.len()));
        }
        match used.iter().copied().eq(0..self.attributes.len()) {
            true => Ok(()),
            false => Err(format!("attributes {used:?} of {} are used", self.attributes.len())),
        }
    }

    /// The host that it belongs to.
    pub fn host(&self) -> Option<&str> {
        let legacy = self.rest.get("hostAffinity").and_then(Value::as_str);
        let host = self.affinity.as_deref().and_then(|owner| owner.strip_prefix("host:"));
        host.or(legacy.filter(|_| self.affinity.is_none()))
    }

    /// Takes the owner away.
    pub fn disown(&mut self) {
        (self.affinity, self.affinity_claim_time) = (None, None);
        self.rest.remove("hostAffinity");
    }

    /// No address is given out; those that cool down are.
    pub fn is_empty(&self) -> bool {
        self.allocations.iter().all(Option::is_none)
    }

    /// Addresses that are given out or cool down.
    pub fn allocated(&self) -> usize {
        self.allocations.iter().flatten().count()
    }

    /// Addresses that can be given out.
    pub fn free(&self) -> usize {
        self.unallocated.len()
    }

    /// All addresses.
    pub fn size(&self) -> usize {
        self.allocations.len()
    }

    /// State of the block for compare-and-swap's sake.
    pub fn sequence(&self) -> u64 {
        self.sequence_number
    }

    /// Counts a write. To be called once before each.
    pub fn count_write(&mut self) {
        self.sequence_number += 1;
    }

    /// Gives out up to `count` addresses, first those that have been free longest.
    pub fn assign(
        &mut self,
        count: usize,
        attribute: &Attribute,
        reserved: &Reservations,
    ) -> Vec<IpAddr> {
        let mut given = Vec::new();
        let mut left = Vec::with_capacity(self.unallocated.len());
        for ordinal in std::mem::take(&mut self.unallocated) {
            let address = self.address(ordinal);
            if given.len() == count || reserved.has(address) {
                left.push(ordinal);
                continue;
            }
            self.allocate(ordinal, attribute);
            given.push(address);
        }
        self.unallocated = left;
        given
    }

    /// Gives out this address; false when it is not free.
    pub fn assign_this(&mut self, address: IpAddr, attribute: &Attribute) -> bool {
        let ordinal = self.ordinal(address);
        let free = self.unallocated.iter().position(|free| Some(*free) == ordinal);
        let Some(at) = free else { return false };
        let ordinal = self.unallocated.remove(at);
        self.allocate(ordinal, attribute);
        true
    }

    fn allocate(&mut self, ordinal: usize, attribute: &Attribute) {
        let known = self.attributes.iter().position(|known| known == attribute);
        let at = known.unwrap_or_else(|| {
            self.attributes.push(attribute.clone());
            self.attributes.len() - 1
        });
        self.allocations[ordinal] = Some(at);
        self.sequence_number_for_allocation.insert(ordinal.to_string(), self.sequence_number);
    }

    /// Releases an address. `Ok` has its handle, `None` where it was free already; an error says
    /// what was not as expected.
    pub fn release(
        &mut self,
        release: &Release,
        cooldown: Cooldown,
    ) -> Result<Option<Attribute>, String> {
        let Some(ordinal) = self.ordinal(release.address) else { return Ok(None) };
        let Some(attribute) = self.attribute(ordinal).cloned() else { return Ok(None) };
        if attribute.released_at.is_some() {
            return Ok(None);
        }
        if let Some(wanted) = &release.handle
            && attribute.handle() != Some(wanted)
        {
            let now = attribute.handle().unwrap_or("nobody");
            return Err(format!("{} is {now}'s, not {wanted}'s", release.address));
        }
        let sequence = self.sequence_number_for_allocation.get(&ordinal.to_string());
        let sequence = sequence.copied().unwrap_or_default();
        if release.sequence.is_some_and(|wanted| sequence != wanted) {
            return Err(format!("{} has been given out anew", release.address));
        }
        self.free_ordinals(&[ordinal], cooldown);
        Ok(Some(attribute))
    }

    /// Releases all addresses of a handle, and answers how many.
    pub fn release_handle(&mut self, handle: &str, cooldown: Cooldown) -> usize {
        let is_its = |ordinal: &usize| {
            let attribute = self.attribute(*ordinal);
            attribute.is_some_and(|attribute| attribute.handle() == Some(handle))
        };
        let ordinals: Vec<usize> = (0..self.allocations.len()).filter(is_its).collect();
        self.free_ordinals(&ordinals, cooldown);
        ordinals.len()
    }

    /// Frees what has cooled down; true when that changed something.
    pub fn collect(&mut self, cooldown: Cooldown) -> bool {
        let is_cool = |ordinal: &usize| {
            let released = self.attribute(*ordinal).and_then(|one| one.released_at.as_deref());
            let released = released.map(|text| super::time::parse(text).unwrap_or(0));
            released.is_some_and(|at| at + cooldown.seconds <= cooldown.now)
        };
        let ordinals: Vec<usize> = (0..self.allocations.len()).filter(is_cool).collect();
        self.free_ordinals(&ordinals, Cooldown { seconds: 0, ..cooldown });
        !ordinals.is_empty()
    }

    fn free_ordinals(&mut self, ordinals: &[usize], cooldown: Cooldown) {
        for ordinal in ordinals {
            self.sequence_number_for_allocation.remove(&ordinal.to_string());
            self.allocations[*ordinal] = None;
            if cooldown.seconds == 0 {
                self.unallocated.push(*ordinal);
                continue;
            }
            let released_at = Some(super::time::format(cooldown.now));
            self.allocate(*ordinal, &Attribute { released_at, ..Attribute::default() });
            self.sequence_number_for_allocation.remove(&ordinal.to_string());
        }
        self.prune();
    }

    /// Drops attributes that nothing points at.
    fn prune(&mut self) {
        let used: BTreeSet<usize> = self.allocations.iter().flatten().copied().collect();
        if used.len() == self.attributes.len() {
            return;
        }
        let moved: BTreeMap<usize, usize> =
            used.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let mut at = 0;
        self.attributes.retain(|_| {
            at += 1;
            used.contains(&(at - 1))
        });
        for index in self.allocations.iter_mut().flatten() {
            *index = moved.get(index).copied().unwrap_or(*index);
        }
    }

    /// What is said of an address that is given out, and when it was.
    pub fn find(&self, address: IpAddr) -> Option<(&Attribute, Option<u64>)> {
        let ordinal = self.ordinal(address)?;
        let attribute = self.attribute(ordinal).filter(|one| one.released_at.is_none())?;
        let sequence = self.sequence_number_for_allocation.get(&ordinal.to_string());
        Some((attribute, sequence.copied()))
    }

    /// All addresses that are given out or cool down, with what is said of each and when it was
    /// given out.
    pub fn entries(&self) -> impl Iterator<Item = (IpAddr, &Attribute, Option<u64>)> {
        (0..self.allocations.len()).filter_map(|ordinal| {
            let sequence = self.sequence_number_for_allocation.get(&ordinal.to_string());
            Some((self.address(ordinal), self.attribute(ordinal)?, sequence.copied()))
        })
    }

    /// Addresses that can be given out to whoever asks for any.
    pub fn free_of(&self, reserved: &Reservations) -> usize {
        let free = self.unallocated.iter().map(|ordinal| self.address(*ordinal));
        free.filter(|address| !reserved.has(*address)).count()
    }

    /// All addresses that are given out.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, &Attribute)> {
        (0..self.allocations.len()).filter_map(|ordinal| {
            let attribute = self.attribute(ordinal).filter(|one| one.released_at.is_none())?;
            Some((self.address(ordinal), attribute))
        })
    }

    fn attribute(&self, ordinal: usize) -> Option<&Attribute> {
        self.attributes.get((*self.allocations.get(ordinal)?)?)
    }

    fn ordinal(&self, address: IpAddr) -> Option<usize> {
        let offset = number(address).checked_sub(number(self.cidr.network()))?;
        (self.cidr.contains(&address)).then_some(offset as usize)
    }

    fn address(&self, ordinal: usize) -> IpAddr {
        offset(self.cidr.network(), ordinal as u128)
    }
}

/// Addresses of a block; those of a range larger than a block may be are cut.
fn size_of(cidr: IpNet) -> usize {
    let bits = cidr.max_prefix_len() - cidr.prefix_len();
    (1usize << bits.min(31)).min(ADDRESSES_MAX)
}

/// An address as a number.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address so far behind another.
pub(super) fn offset(address: IpAddr, by: u128) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(address.to_bits().wrapping_add(by as u32).into()),
        IpAddr::V6(address) => IpAddr::V6(address.to_bits().wrapping_add(by).into()),
    }
}
