//! One peer's path to a prefix, and the paths of a prefix together.

use super::attributes::AttrId;

/// Whose path it is: the number of a peer, or [`OURS`].
pub(super) type Source = u16;

/// The source of what this node originates.
pub(super) const OURS: Source = u16::MAX;

/// One path: 16 bytes, since there are millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    /// As received; kept so that a new import policy needs no word of the peer.
    pub(super) received: AttrId,
    /// As the import policy left it; [`AttrId::NONE`] when it took it not.
    pub(super) taken: AttrId,
    /// The peer's identifier (RFC 7911).
    pub(super) path_id: u32,
    pub(super) source: Source,
    /// When it was last announced: see [`super::peer::Generation`].
    pub(super) generation: u8,
    /// The policy prefers it to routes of this node.
    pub(super) elevated: bool,
}

const _: () = assert!(size_of::<Path>() == 16 && size_of::<Paths>() == 16);

/// The paths of a prefix. Most have one; the best comes first once it has been chosen.
#[derive(Debug, Default)]
pub(super) enum Paths {
    #[default]
    None,
    One(Path),
    /// Boxed twice, so that the common cases take 16 bytes.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<Path>>),
}

impl Paths {
    #[inline]
    pub(super) fn as_slice(&self) -> &[Path] {
        match self {
            Paths::None => &[],
            Paths::One(path) => std::slice::from_ref(path),
            Paths::Many(paths) => paths,
        }
    }

    #[inline]
    pub(super) fn as_mut_slice(&mut self) -> &mut [Path] {
        match self {
            Paths::None => &mut [],
            Paths::One(path) => std::slice::from_mut(path),
            Paths::Many(paths) => paths,
        }
    }

    /// Puts a path in the place of the same source and identifier, or adds it. Answers the one
    /// that was there.
    #[inline]
    pub(super) fn put(&mut self, new: Path) -> Option<Path> {
        let same = |path: &&mut Path| (path.source, path.path_id) == (new.source, new.path_id);
        if let Some(old) = self.as_mut_slice().iter_mut().find(same) {
            return Some(std::mem::replace(old, new));
        }
        *self = match std::mem::take(self) {
            Paths::None => Paths::One(new),
            Paths::One(first) => Paths::Many(Box::new(vec![first, new])),
            Paths::Many(mut paths) => {
                paths.push(new);
                Paths::Many(paths)
            }
        };
        None
    }

    /// Takes those out for which `gone` holds, and gives them to `each`.
    pub(super) fn remove(
        &mut self,
        mut gone: impl FnMut(&Path) -> bool,
        mut each: impl FnMut(Path),
    ) {
        match self {
            Paths::None => {}
            Paths::One(path) if gone(path) => {
                each(*path);
                *self = Paths::None;
            }
            Paths::One(_) => {}
            Paths::Many(paths) => {
                paths.retain(|path| {
                    let goes = gone(path);
                    if goes {
                        each(*path);
                    }
                    !goes
                });
                match paths.as_slice() {
                    [] => *self = Paths::None,
                    [one] => *self = Paths::One(*one),
                    _ => {}
                }
            }
        }
    }
}
