//! As much of MRT (RFC 6396, RFC 8050) as it takes to get at messages and table entries.

use margay_bgp::Family;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a record holds.
pub(crate) enum Entry {
    /// A whole message, and whether AS numbers have four octets and prefixes path identifiers.
    Message { bytes: Vec<u8>, asn4: bool, add_path: bool },
    /// The body of an UPDATE.
    Update { body: Vec<u8>, asn4: bool },
    /// The attributes of one route in a table.
    Route { attributes: Vec<u8>, asn4: bool, family: Family, is_short_mp: bool },
}

/// A cursor over big-endian fields; `None` at the end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, octets: usize) -> Option<usize> {
        Some(self.take(octets)?.iter().fold(0, |number, octet| number << 8 | usize::from(*octet)))
    }
}

/// All files of the captures' folder and the one below it.
pub(crate) fn files(data: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in [data.join("mrt"), data.join("mrt/small")] {
        let listing = std::fs::read_dir(&folder).expect("a folder of captures");
        files.extend(listing.map(|file| file.expect("a readable folder").path()));
    }
    let is_capture = |file: &PathBuf| {
        matches!(file.extension().and_then(|name| name.to_str()), Some("gz" | "mrt"))
    };
    files.retain(is_capture);
    files.sort();
    files
}

/// The entries of a file, and how many records could not be read.
pub(crate) fn entries(file: &Path) -> (Vec<Entry>, usize) {
    let raw = std::fs::read(file).expect("a readable capture");
    let mut bytes = Vec::new();
    match raw.starts_with(&[0x1f, 0x8b]) {
        true => drop(
            flate2::read::MultiGzDecoder::new(&raw[..])
                .read_to_end(&mut bytes)
                .expect("a readable capture"),
        ),
        false => bytes = raw,
    }
    let (mut entries, mut bad) = (Vec::new(), 0);
    let mut fields = Fields(&bytes);
    while !fields.0.is_empty() {
        let head = (|| Some((fields.take(4)?, fields.number(2)?, fields.number(2)?)))();
        let body = fields.number(4).and_then(|length| {
            // A file of the year 2000 counts its records four octets short.
            let is_short = |rest: &[u8]| rest.get(4..6) != Some(&[0, 12]);
            let next = fields.0.get(length..).filter(|next| !next.is_empty() && is_short(next));
            let counts_short = next.is_some_and(|next| next.get(8..10) == Some(&[0, 12]));
            let is_table = head.is_some_and(|(_, kind, _)| kind == 12);
            fields.take(length + if is_table && counts_short { 4 } else { 0 })
        });
        let (Some((_, kind, subtype)), Some(body)) = (head, body) else {
            bad += 1;
            break;
        };
        bad += usize::from(record(kind, subtype, Fields(body), &mut entries).is_none());
    }
    (entries, bad)
}

fn record(kind: usize, subtype: usize, mut fields: Fields<'_>, out: &mut Vec<Entry>) -> Option<()> {
    match (kind, subtype) {
        (5, 1) => {
            // Both speakers' AS and address.
            fields.take(12)?;
            out.push(Entry::Update { body: fields.0.to_vec(), asn4: false });
        }
        (12, 1 | 2) => table_dump(subtype, fields, out)?,
        (13, 2 | 4 | 8 | 10) => table_dump_v2(subtype, fields, out)?,
        (16, 1 | 4 | 6 | 7 | 8 | 9) => message(subtype, fields, out)?,
        (17, 1 | 4 | 6 | 7 | 8 | 9) => {
            fields.take(4)?;
            message(subtype, fields, out)?;
        }
        _ => (),
    }
    Some(())
}

fn message(subtype: usize, mut fields: Fields<'_>, out: &mut Vec<Entry>) -> Option<()> {
    let (asn4, add_path) = (matches!(subtype, 4 | 7 | 9), matches!(subtype, 8 | 9));
    fields.take(if asn4 { 8 } else { 4 })?;
    fields.take(2)?;
    let address = if fields.number(2)? == 1 { 4 } else { 16 };
    fields.take(2 * address)?;
    out.push(Entry::Message { bytes: fields.0.to_vec(), asn4, add_path });
    Some(())
}

fn table_dump(afi: usize, mut fields: Fields<'_>, out: &mut Vec<Entry>) -> Option<()> {
    let (family, address) =
        if afi == 1 { (Family::Ipv4Unicast, 4) } else { (Family::Ipv6Unicast, 16) };
    fields.take(4)?;
    // Old files have many routes in one record.
    while !fields.0.is_empty() {
        fields.take(address + 1 + 1 + 4 + address + 2)?;
        let length = fields.number(2)?;
        let attributes = fields.take(length)?.to_vec();
        out.push(Entry::Route { attributes, asn4: false, family, is_short_mp: false });
    }
    Some(())
}

fn table_dump_v2(subtype: usize, mut fields: Fields<'_>, out: &mut Vec<Entry>) -> Option<()> {
    let is_v4 = matches!(subtype, 2 | 8);
    let family = if is_v4 { Family::Ipv4Unicast } else { Family::Ipv6Unicast };
    fields.take(4)?;
    let bits = fields.number(1)?;
    fields.take(bits.div_ceil(8))?;
    for _ in 0..fields.number(2)? {
        fields.take(6 + if subtype >= 8 { 4 } else { 0 })?;
        let length = fields.number(2)?;
        let attributes = fields.take(length)?.to_vec();
        out.push(Entry::Route { attributes, asn4: true, family, is_short_mp: true });
    }
    Some(())
}
