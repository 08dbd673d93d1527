//! Address families (RFC 4760): which ones exist here, and sets of them.

/// An address family that a session can carry (RFC 4760).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
}

/// Subsequent address family identifier of unicast forwarding.
pub const SAFI_UNICAST: u8 = 1;

impl Family {
    /// Both, in the order of their AFI.
    pub const ALL: [Family; 2] = [Family::Ipv4Unicast, Family::Ipv6Unicast];

    /// The address family identifier of the IANA registry.
    pub const fn afi(self) -> u16 {
        match self {
            Family::Ipv4Unicast => 1,
            Family::Ipv6Unicast => 2,
        }
    }

    /// The subsequent address family identifier.
    pub const fn safi(self) -> u8 {
        SAFI_UNICAST
    }

    /// The family of these two numbers; `None` for one that margay does not carry.
    pub const fn from_afi_safi(afi: u16, safi: u8) -> Option<Family> {
        match (afi, safi) {
            (1, SAFI_UNICAST) => Some(Family::Ipv4Unicast),
            (2, SAFI_UNICAST) => Some(Family::Ipv6Unicast),
            _ => None,
        }
    }
}

/// A set of families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FamilySet {
    bits: u8,
}

impl FamilySet {
    /// No family.
    pub const EMPTY: FamilySet = FamilySet { bits: 0 };

    /// The same set with `family` in it.
    #[must_use]
    pub const fn with(self, family: Family) -> FamilySet {
        FamilySet { bits: self.bits | 1 << family as u8 }
    }

    /// The same set without `family`.
    #[must_use]
    pub const fn without(self, family: Family) -> FamilySet {
        FamilySet { bits: self.bits & !(1 << family as u8) }
    }

    /// True when `family` is in it.
    pub const fn contains(self, family: Family) -> bool {
        self.bits & 1 << family as u8 != 0
    }

    /// The families that both sets have.
    #[must_use]
    pub const fn intersection(self, other: FamilySet) -> FamilySet {
        FamilySet { bits: self.bits & other.bits }
    }

    /// True when there is none.
    pub const fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// The families, in the order of their AFI.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<T: IntoIterator<Item = Family>>(families: T) -> FamilySet {
        families.into_iter().fold(FamilySet::EMPTY, FamilySet::with)
    }
}
