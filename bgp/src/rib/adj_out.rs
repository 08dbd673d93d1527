//! What the members of a group have been told: their common Adj-RIB-Out (RFC 4271 section 3.2).
//!
//! Without ADD-PATH that is one path of each prefix. With it (RFC 7911) a path has a place from
//! when it is first told until it is withdrawn, and the place's number is its identifier. A path
//! that comes while another one goes gets the place of that one: a single message then replaces
//! the old path by the new one, and no receiver is without a route in between.

use super::attributes::AttrId;
use super::path::Source;

/// Most paths of one prefix that a peer is told of.
pub(super) const MAX_PATHS: usize = 64;

/// What the members have been told of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) attributes: AttrId,
    /// The member that has not been told, since the route is its own.
    pub(super) source: Source,
}

impl Told {
    pub(super) const NOTHING: Told = Told { attributes: AttrId::NONE, source: 0 };
}

/// A path, and what is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ToldPath {
    pub(super) told: Told,
    /// The identifier that its source has given it.
    pub(super) received_id: u32,
}

impl ToldPath {
    pub(super) const NOTHING: ToldPath = ToldPath { told: Told::NOTHING, received_id: 0 };

    fn is_there(&self) -> bool {
        self.told != Told::NOTHING
    }

    fn is_path_of(&self, other: &ToldPath) -> bool {
        let key = |one: &ToldPath| (one.told.source, one.received_id);
        self.is_there() && key(self) == key(other)
    }
}

/// The places of one prefix. None is taken away while the prefix is remembered: a member that has
/// missed messages must be told of every identifier that it may have heard.
#[derive(Debug, Clone, Default)]
pub(super) enum Places {
    #[default]
    None,
    One(ToldPath),
    /// Boxed twice, so that the common cases take 16 bytes.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<ToldPath>>),
}

const _: () = assert!(size_of::<Told>() == 8 && size_of::<Places>() == 16);

impl Places {
    fn as_slice(&self) -> &[ToldPath] {
        match self {
            Places::None => &[],
            Places::One(one) => std::slice::from_ref(one),
            Places::Many(many) => many,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [ToldPath] {
        match self {
            Places::None => &mut [],
            Places::One(one) => std::slice::from_mut(one),
            Places::Many(many) => many,
        }
    }

    fn reserve(&mut self, count: usize) {
        if count <= self.as_slice().len() {
            return;
        }
        let mut places = self.as_slice().to_vec();
        places.resize(count, ToldPath::NOTHING);
        *self = match places.as_slice() {
            [one] => Places::One(*one),
            _ => Places::Many(Box::new(places)),
        };
    }
}

/// See the head of the file. Both by number of the node.
#[derive(Debug)]
pub(super) enum AdjOut {
    Best(Vec<Told>),
    All(Vec<Places>),
}

impl AdjOut {
    pub(super) fn new(all_paths: bool) -> AdjOut {
        if all_paths { AdjOut::All(Vec::new()) } else { AdjOut::Best(Vec::new()) }
    }

    /// Nothing has been told of nodes from this number on.
    pub(super) fn nodes(&self) -> usize {
        match self {
            AdjOut::Best(told) => told.len(),
            AdjOut::All(places) => places.len(),
        }
    }

    /// How many places of a node members may have heard of.
    pub(super) fn places(&self, node: u32) -> usize {
        match self {
            AdjOut::Best(_) => 1,
            AdjOut::All(places) => places.get(node as usize).map_or(0, |one| one.as_slice().len()),
        }
    }

    pub(super) fn get(&self, node: u32, place: usize) -> Told {
        let told = match self {
            AdjOut::Best(told) => told.get(node as usize).copied(),
            AdjOut::All(places) => {
                let places = places.get(node as usize).map_or(&[][..], Places::as_slice);
                places.get(place).map(|one| one.told)
            }
        };
        told.unwrap_or(Told::NOTHING)
    }

    /// The path identifier of a place (RFC 7911 section 3); 0 where there are none.
    pub(super) fn path_id(&self, place: usize) -> u32 {
        match self {
            AdjOut::Best(_) => 0,
            AdjOut::All(_) => place as u32 + 1,
        }
    }

    /// Puts another path, or the same with other attributes, into a place. Answers what was there.
    pub(super) fn set(&mut self, node: u32, place: usize, new: ToldPath) -> Told {
        let at = node as usize;
        match self {
            AdjOut::Best(told) => {
                if at >= told.len() {
                    told.resize(at + 1, Told::NOTHING);
                }
                std::mem::replace(&mut told[at], new.told)
            }
            AdjOut::All(_) => {
                self.reserve(node, place + 1);
                let AdjOut::All(places) = self else { return Told::NOTHING };
                std::mem::replace(&mut places[at].as_mut_slice()[place], new).told
            }
        }
    }

    /// True when something has been told of a node and not withdrawn.
    pub(super) fn is_told(&self, node: u32) -> bool {
        match self {
            AdjOut::Best(_) => self.get(node, 0) != Told::NOTHING,
            AdjOut::All(places) => places
                .get(node as usize)
                .is_some_and(|one| one.as_slice().iter().any(ToldPath::is_there)),
        }
    }

    /// Members may have heard of so many places.
    pub(super) fn reserve(&mut self, node: u32, count: usize) {
        if let AdjOut::All(places) = self {
            let at = node as usize;
            if at >= places.len() {
                places.resize(at + 1, Places::None);
            }
            places[at].reserve(count);
        }
    }

    /// The number of the node is to be used for another prefix.
    pub(super) fn forget(&mut self, node: u32) {
        if let AdjOut::All(places) = self
            && let Some(one) = places.get_mut(node as usize)
        {
            *one = Places::None;
        }
    }

    /// Puts at most [`MAX_PATHS`] paths that are to be told into the order of their places: a path
    /// that is told already keeps its place.
    pub(super) fn arrange(&self, node: u32, paths: &mut Vec<ToldPath>) {
        let AdjOut::All(places) = self else { return };
        let now = places.get(node as usize).map_or(&[][..], Places::as_slice);
        if now.is_empty() || now.len() == 1 && paths.len() == 1 {
            return;
        }
        let mut arranged = vec![ToldPath::NOTHING; now.len()];
        paths.retain(|path| match now.iter().position(|one| one.is_path_of(path)) {
            Some(place) => {
                arranged[place] = *path;
                false
            }
            None => true,
        });
        for path in paths.iter() {
            let is_vacant = |place: &usize| !arranged[*place].is_there();
            let replaced = (0..now.len()).filter(is_vacant).find(|place| now[*place].is_there());
            match replaced.or_else(|| (0..arranged.len()).find(is_vacant)) {
                Some(place) => arranged[place] = *path,
                None => arranged.push(*path),
            }
        }
        *paths = arranged;
    }

    /// All that has been told; nothing is told after that.
    pub(super) fn clear(&mut self, mut each: impl FnMut(Told)) {
        match std::mem::replace(self, AdjOut::Best(Vec::new())) {
            AdjOut::Best(told) => told.into_iter().for_each(each),
            AdjOut::All(places) => {
                places.iter().flat_map(|one| one.as_slice()).for_each(|one| each(one.told))
            }
        }
    }
}
