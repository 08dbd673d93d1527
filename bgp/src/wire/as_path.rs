//! AS_PATH (RFC 4271 section 4.3 b, RFC 5065, RFC 6793), kept as the bytes of its four-octet form:
//! segments of type, count and AS numbers. Two-octet speakers are met at the border only: what
//! they send is widened and merged with AS4_PATH, what they get is narrowed.

use super::attribute::AS_TRANS;
use std::fmt;

/// Most AS numbers of one segment.
pub const MAX_SEGMENT: usize = 255;

/// What the numbers of a segment mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// 1: unordered, from aggregation.
    Set,
    /// 2: in order, the nearest first.
    Sequence,
    /// 3: in order, within a confederation.
    ConfedSequence,
    /// 4: unordered, within a confederation.
    ConfedSet,
}

impl SegmentKind {
    const fn from_value(value: u8) -> Option<SegmentKind> {
        match value {
            1 => Some(SegmentKind::Set),
            2 => Some(SegmentKind::Sequence),
            3 => Some(SegmentKind::ConfedSequence),
            4 => Some(SegmentKind::ConfedSet),
            _ => None,
        }
    }

    const fn value(self) -> u8 {
        match self {
            SegmentKind::Set => 1,
            SegmentKind::Sequence => 2,
            SegmentKind::ConfedSequence => 3,
            SegmentKind::ConfedSet => 4,
        }
    }

    const fn is_confed(self) -> bool {
        matches!(self, SegmentKind::ConfedSequence | SegmentKind::ConfedSet)
    }
}

/// A path that cannot be read (RFC 7606 section 7.2, RFC 7607).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AsPathError {
    /// No such segment type.
    #[error("AS path segment type {0}")]
    SegmentType(u8),
    /// A segment of no AS.
    #[error("empty AS path segment")]
    EmptySegment,
    /// A segment ends behind the attribute, or the attribute within a segment's head.
    #[error("AS path segment cut off")]
    Truncated,
    /// AS 0.
    #[error("AS 0 in the AS path")]
    Zero,
}

/// A path of ASes.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct AsPath {
    bytes: Vec<u8>,
}

/// One segment of a path.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// What its numbers mean.
    pub kind: SegmentKind,
    numbers: &'a [[u8; 4]],
}

impl<'a> Segment<'a> {
    /// Its AS numbers; there is at least one.
    pub fn asns(self) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator + 'a {
        self.numbers.iter().map(|number| u32::from_be_bytes(*number))
    }

    /// What it adds to the length of a path (RFC 4271 section 9.1.2.2 a, RFC 5065 section 5.3).
    fn length(self) -> usize {
        match self.kind {
            SegmentKind::Sequence => self.numbers.len(),
            SegmentKind::Set => 1,
            SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
        }
    }
}

impl AsPath {
    /// Reads the value of the attribute, with numbers of four octets or of two.
    pub fn from_wire(value: &[u8], asn4: bool) -> Result<AsPath, AsPathError> {
        let width = if asn4 { 4 } else { 2 };
        let mut bytes = Vec::with_capacity(value.len() * 4 / width);
        let mut rest = value;
        while !rest.is_empty() {
            let (&[kind, count], behind) =
                rest.split_first_chunk().ok_or(AsPathError::Truncated)?;
            SegmentKind::from_value(kind).ok_or(AsPathError::SegmentType(kind))?;
            if count == 0 {
                return Err(AsPathError::EmptySegment);
            }
            let numbers = behind.split_at_checked(usize::from(count) * width);
            let (numbers, behind) = numbers.ok_or(AsPathError::Truncated)?;
            bytes.extend_from_slice(&[kind, count]);
            for number in numbers.chunks_exact(width) {
                if number.iter().all(|octet| *octet == 0) {
                    return Err(AsPathError::Zero);
                }
                bytes.extend_from_slice(&[0; 4][width..]);
                bytes.extend_from_slice(number);
            }
            rest = behind;
        }
        Ok(AsPath { bytes })
    }

    /// A path of these ASes in order, the nearest first.
    pub fn from_sequence(asns: &[u32]) -> AsPath {
        let mut path = AsPath::default();
        for chunk in asns.chunks(MAX_SEGMENT) {
            path.push(SegmentKind::Sequence, chunk.iter().copied());
        }
        path
    }

    /// Adds a segment behind the others; more than 255 numbers make more than one.
    pub fn push(&mut self, kind: SegmentKind, asns: impl IntoIterator<Item = u32>) {
        let mut asns = asns.into_iter().peekable();
        while asns.peek().is_some() {
            let head = self.bytes.len();
            self.bytes.extend_from_slice(&[kind.value(), 0]);
            for asn in asns.by_ref().take(MAX_SEGMENT) {
                self.bytes.extend_from_slice(&asn.to_be_bytes());
                self.bytes[head + 1] += 1;
            }
        }
    }

    /// The path's four-octet form, as [`AsPath::from_wire`] reads it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// True for a route that began in this AS.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The segments in order.
    pub fn segments(&self) -> Segments<'_> {
        Segments { rest: &self.bytes }
    }

    /// All AS numbers in order, those of sets too.
    pub fn asns(&self) -> impl Iterator<Item = u32> + '_ {
        self.segments().flat_map(Segment::asns)
    }

    /// The length that counts in the decision: a set is one, a confederation's segments nothing.
    pub fn length(&self) -> usize {
        self.segments().map(Segment::length).sum()
    }

    /// How often `asn` is in it.
    pub fn count(&self, asn: u32) -> usize {
        self.asns().filter(|found| *found == asn).count()
    }

    /// The leftmost AS, if the path begins with a sequence: the peer that sent the route.
    pub fn first_as(&self) -> Option<u32> {
        let first = self.segments().next()?;
        if first.kind == SegmentKind::Sequence { first.asns().next() } else { None }
    }

    /// The neighboring AS that the route came from (RFC 4271 section 9.1.2.2 c): the first one
    /// outside the confederation.
    pub fn neighbor_as(&self) -> Option<u32> {
        let first = self.segments().find(|segment| !segment.kind.is_confed())?;
        if first.kind == SegmentKind::Sequence { first.asns().next() } else { None }
    }

    /// The AS in which the route began; `None` when an aggregate hides it.
    pub fn origin_as(&self) -> Option<u32> {
        let last = self.segments().last()?;
        if last.kind == SegmentKind::Sequence { last.asns().next_back() } else { None }
    }

    /// Puts `asn` in front, `times` times (RFC 4271 section 5.1.2 b).
    pub fn prepend(&mut self, asn: u32, times: usize) {
        let mut path = AsPath { bytes: Vec::with_capacity(self.bytes.len() + 4 * times + 2) };
        let joins = |segment: &Segment<'_>| segment.kind == SegmentKind::Sequence;
        let first = self.segments().next().filter(joins);
        let room = first.map_or(0, |first| MAX_SEGMENT - first.numbers.len());
        let joined = times.min(room);
        path.push(SegmentKind::Sequence, std::iter::repeat_n(asn, times - joined));
        match first {
            Some(first) => {
                let front = std::iter::repeat_n(asn, joined).chain(first.asns());
                path.push(SegmentKind::Sequence, front);
                path.bytes.extend_from_slice(&self.bytes[2 + 4 * first.numbers.len()..]);
            }
            None => path.bytes.extend_from_slice(&self.bytes),
        }
        *self = path;
    }

    /// True when two octets hold every number.
    pub fn fits_two_octets(&self) -> bool {
        self.asns().all(|asn| asn <= u32::from(u16::MAX))
    }

    /// Length of the attribute's value.
    pub fn wire_len(&self, asn4: bool) -> usize {
        if asn4 {
            return self.bytes.len();
        }
        self.segments().map(|segment| 2 + 2 * segment.numbers.len()).sum()
    }

    /// Writes the attribute's value; with two octets, AS_TRANS for what they cannot hold.
    pub fn write(&self, asn4: bool, out: &mut Vec<u8>) {
        if asn4 {
            out.extend_from_slice(&self.bytes);
            return;
        }
        for segment in self.segments() {
            out.extend_from_slice(&[segment.kind.value(), segment.numbers.len() as u8]);
            for asn in segment.asns() {
                let asn = u16::try_from(asn).unwrap_or(AS_TRANS);
                out.extend_from_slice(&asn.to_be_bytes());
            }
        }
    }

    /// The path without a confederation's segments, which AS4_PATH may not have (RFC 6793
    /// section 3).
    #[must_use]
    pub fn without_confed(&self) -> AsPath {
        let mut path = AsPath::default();
        for segment in self.segments().filter(|segment| !segment.kind.is_confed()) {
            path.push(segment.kind, segment.asns());
        }
        path
    }

    /// The true path, when this is AS_PATH of a two-octet speaker and `as4` its AS4_PATH: that
    /// one, behind as many of the leading ASes as it lacks (RFC 6793 section 4.2.3). An AS4_PATH
    /// longer than AS_PATH says nothing.
    #[must_use]
    pub fn merged(&self, as4: &AsPath) -> AsPath {
        let as4 = as4.without_confed();
        let Some(mut missing) = self.length().checked_sub(as4.length()) else {
            return self.clone();
        };
        let mut path = AsPath::default();
        for segment in self.segments() {
            match segment.kind {
                SegmentKind::Sequence if missing > 0 => {
                    let taken = missing.min(segment.numbers.len());
                    path.push(segment.kind, segment.asns().take(taken));
                    missing -= taken;
                }
                SegmentKind::Set if missing > 0 => {
                    path.push(segment.kind, segment.asns());
                    missing -= 1;
                }
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => {
                    path.push(segment.kind, segment.asns());
                }
                SegmentKind::Sequence | SegmentKind::Set => break,
            }
        }
        path.append(&as4);
        path
    }

    /// Adds the segments of `other`; a sequence goes on in the one before it where it has room.
    fn append(&mut self, other: &AsPath) {
        let mut rest = other.segments();
        let (last, first) = (self.segments().last(), rest.clone().next());
        if let (Some(last), Some(first)) = (last, first)
            && last.kind == SegmentKind::Sequence
            && first.kind == SegmentKind::Sequence
            && last.numbers.len() + first.numbers.len() <= MAX_SEGMENT
        {
            let count = self.bytes.len() - 4 * last.numbers.len() - 1;
            self.bytes[count] += first.numbers.len() as u8;
            self.bytes.extend_from_slice(first.numbers.as_flattened());
            rest.next();
        }
        self.bytes.extend_from_slice(rest.rest);
    }
}

/// The segments of a path.
#[derive(Debug, Clone)]
pub struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        let (&[kind, count], behind) = self.rest.split_first_chunk()?;
        let (numbers, rest) = behind.split_at_checked(4 * usize::from(count))?;
        self.rest = rest;
        Some(Segment { kind: SegmentKind::from_value(kind)?, numbers: numbers.as_chunks().0 })
    }
}

impl fmt::Display for AsPath {
    /// Sequences bare, `{sets}`, `(confederation sequences)`, `[confederation sets]`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.segments().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            let (open, between, close) = match segment.kind {
                SegmentKind::Sequence => ("", " ", ""),
                SegmentKind::Set => ("{", ",", "}"),
                SegmentKind::ConfedSequence => ("(", " ", ")"),
                SegmentKind::ConfedSet => ("[", ",", "]"),
            };
            write!(out, "{gap}{open}")?;
            for (at, asn) in segment.asns().enumerate() {
                write!(out, "{}{asn}", if at == 0 { "" } else { between })?;
            }
            out.write_str(close)?;
        }
        Ok(())
    }
}

impl fmt::Debug for AsPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "AsPath({self})")
    }
}

#[cfg(test)]
mod tests;
