//! What a receiver counts: prefixes that have come and gone, in both families.

use anyhow::{Context, Result, bail};
use ipnet::{Ipv4Net, Ipv6Net};
use margay_bgp::wire::nlri::{Prefix, Prefixes};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// Prefixes as address and length.
type Seen = HashSet<(u128, u8), BuildHasherDefault<Mix>>;

/// Quicker than the usual one: the receiver is to keep up with the daemon.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0.rotate_left(23) ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u128(&mut self, number: u128) {
        let folded = number as u64 ^ (number >> 64) as u64;
        self.0 = (self.0 ^ folded).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

/// Announced and withdrawn prefixes.
#[derive(Default)]
pub(crate) struct Count {
    pub(crate) announced: usize,
    pub(crate) withdrawn: usize,
    /// Which have come, where some come more than once.
    seen: Option<Seen>,
}

impl Count {
    /// With `unique`, a prefix that comes again counts once.
    pub(crate) fn new(unique: bool) -> Count {
        Count { seen: unique.then(Seen::default), ..Count::default() }
    }

    /// Prefixes that it has.
    pub(crate) fn has(&self) -> usize {
        match &self.seen {
            Some(seen) => seen.len(),
            None => self.announced - self.withdrawn.min(self.announced),
        }
    }

    /// The body of an UPDATE.
    pub(crate) fn update(&mut self, body: &[u8]) -> Result<()> {
        let (withdrawn, rest) = field(body)?;
        let (attributes, nlri) = field(rest)?;
        self.gone::<Ipv4Net>(withdrawn)?;
        self.multiprotocol(attributes)?;
        self.come::<Ipv4Net>(nlri)
    }

    fn come<P: Prefix + Key>(&mut self, section: &[u8]) -> Result<()> {
        for nlri in Prefixes::<P>::new(section, false) {
            let prefix = nlri?.prefix;
            self.announced += 1;
            if let Some(seen) = &mut self.seen {
                seen.insert(prefix.key());
            }
        }
        Ok(())
    }

    fn gone<P: Prefix + Key>(&mut self, section: &[u8]) -> Result<()> {
        for nlri in Prefixes::<P>::new(section, false) {
            let prefix = nlri?.prefix;
            self.withdrawn += 1;
            if let Some(seen) = &mut self.seen {
                seen.remove(&prefix.key());
            }
        }
        Ok(())
    }

    /// The IPv6 prefixes among attributes (RFC 4760).
    fn multiprotocol(&mut self, mut block: &[u8]) -> Result<()> {
        while let [flags, code, rest @ ..] = block {
            let is_long = flags & 0x10 != 0;
            let (length, rest) = match rest {
                [high, low, rest @ ..] if is_long => (u16::from_be_bytes([*high, *low]), rest),
                [low, rest @ ..] if !is_long => (u16::from(*low), rest),
                _ => bail!("half an attribute"),
            };
            let (value, rest) =
                rest.split_at_checked(length.into()).context("an attribute too long")?;
            match (code, value) {
                // AFI, SAFI, next hop with its length, a reserved octet.
                (14, [0, 2, 1, hop, nlri @ ..]) => {
                    self.come::<Ipv6Net>(nlri.get(usize::from(*hop) + 1..).unwrap_or_default())?;
                }
                (15, [0, 2, 1, nlri @ ..]) => self.gone::<Ipv6Net>(nlri)?,
                _ => (),
            }
            block = rest;
        }
        Ok(())
    }
}

/// A field with its length in two octets, and what is behind it.
fn field(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk().context("half an UPDATE")?;
    rest.split_at_checked(u16::from_be_bytes(*length).into()).context("half an UPDATE")
}

trait Key {
    fn key(self) -> (u128, u8);
}

impl Key for Ipv4Net {
    fn key(self) -> (u128, u8) {
        (self.addr().to_bits().into(), self.prefix_len())
    }
}

impl Key for Ipv6Net {
    fn key(self) -> (u128, u8) {
        (self.addr().to_bits(), self.prefix_len())
    }
}
