//! Consistent choice by look-up table: Eisenbud et al., "Maglev: A Fast and Reliable Software
//! Network Load Balancer" (NSDI '16), section 3.4.
//!
//! Every member fills places of the table in the order of a permutation of its own, one place a
//! turn, so that all have nearly the same share, and a member that comes or goes moves little else.

/// Sizes of tables: primes, the smallest that gives each member a hundred places is taken.
const SIZES: [usize; 5] = [251, 1021, 4093, 16_381, 65_521];
/// Places for each member, for shares that differ by one per cent.
const PLACES: usize = 100;

/// The table of one set of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maglev {
    /// The member's number by place; empty without members.
    places: Box<[u16]>,
}

impl Maglev {
    /// For members with these names (hashes of what they are). At most 65,535 members count.
    pub fn new(names: &[u64]) -> Maglev {
        let names = &names[..names.len().min(usize::from(u16::MAX))];
        if names.is_empty() {
            return Maglev { places: Box::new([]) };
        }
        let fits = |size: &&usize| **size >= names.len() * PLACES;
        let size = SIZES.iter().find(fits).copied().unwrap_or(SIZES[SIZES.len() - 1]);
        const FREE: u16 = u16::MAX;
        let mut places = vec![FREE; size].into_boxed_slice();
        // The permutation of a member is offset + turn * skip (mod size).
        let size = size as u64;
        let mut at: Vec<u64> = names.iter().map(|name| (name >> 32) % size).collect();
        let skips: Vec<u64> =
            names.iter().map(|name| (name & 0xffff_ffff) % (size - 1) + 1).collect();
        let mut left = places.len();
        for member in (0..names.len()).cycle() {
            if left == 0 {
                break;
            }
            while places[at[member] as usize] != FREE {
                at[member] = (at[member] + skips[member]) % size;
            }
            places[at[member] as usize] = member as u16;
            left -= 1;
        }
        Maglev { places }
    }

    /// The number of the member for a hash.
    #[inline]
    pub fn choose(&self, hash: u64) -> Option<usize> {
        let at = hash % (self.places.len() as u64).max(1);
        self.places.get(at as usize).map(|member| usize::from(*member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(members: impl IntoIterator<Item = u32>) -> Vec<u64> {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        members.into_iter().map(|member| hasher.hash_one(member)).collect()
    }

    fn shares(table: &Maglev, members: usize) -> Vec<usize> {
        let mut shares = vec![0; members];
        table.places.iter().for_each(|member| shares[usize::from(*member)] += 1);
        shares
    }

    /// The table of section 3.4 told literally: whole permutations, then turn by turn.
    fn literal(names: &[u64], size: u64) -> Vec<u16> {
        let permutation = |name: &u64| -> Vec<u64> {
            let (offset, skip) = ((name >> 32) % size, (name & 0xffff_ffff) % (size - 1) + 1);
            (0..size).map(|turn| (offset + turn * skip) % size).collect()
        };
        let permutations: Vec<Vec<u64>> = names.iter().map(permutation).collect();
        let (mut next, mut entry) = (vec![0; names.len()], vec![None; size as usize]);
        let mut filled = 0;
        loop {
            for member in 0..names.len() {
                let mut place = permutations[member][next[member]];
                while entry[place as usize].is_some() {
                    next[member] += 1;
                    place = permutations[member][next[member]];
                }
                entry[place as usize] = Some(member as u16);
                next[member] += 1;
                filled += 1;
                if filled == size {
                    return entry.into_iter().flatten().collect();
                }
            }
        }
    }

    #[test]
    fn it_is_the_table_of_the_paper() {
        for members in [1, 2, 3, 7, 40, 100] {
            let names = names(0..members);
            let table = Maglev::new(&names);
            assert_eq!(*table.places, literal(&names, table.places.len() as u64));
        }
    }

    #[test]
    fn members_have_nearly_the_same_share() {
        for members in [1, 2, 3, 10, 100, 600] {
            let shares = shares(&Maglev::new(&names(0..members as u32)), members);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{members}: {least} to {most}");
        }
    }

    #[test]
    fn a_member_that_goes_moves_few_of_the_others() {
        let before = Maglev::new(&names(0..20));
        let after = Maglev::new(&names((0..20).filter(|member| *member != 7)));
        let renumbered = |member: u16| if member > 7 { member - 1 } else { member };
        let pairs = before.places.iter().zip(&after.places).filter(|(member, _)| **member != 7);
        let moved = pairs.clone().filter(|(old, new)| renumbered(**old) != **new).count();
        assert!(moved * 10 < pairs.count(), "{moved} of {}", before.places.len());
    }

    #[test]
    fn nobody_is_chosen_from_nobody() {
        assert_eq!(Maglev::new(&[]).choose(77), None);
    }
}
