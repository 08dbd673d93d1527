//! A full table as a router really sent it, from the folder that `MARGAY_DATA` names: the sets of
//! attributes of a recorded session (`mrt/bgpdump-updates.et-header.2015.gz`, one UPDATE a set),
//! with its own prefixes or spread over those of `prefixes.txt.gz`.

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use margay_bgp::Family;
use margay_bgp::wire::attribute::Attributes;
use margay_bgp::wire::nlri::{Nlri, Prefixes};
use margay_bgp::wire::treatment::Treatment;
use margay_bgp::wire::update::split;
use margay_bgp::wire::{HEADER_LEN, Negotiated};
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::feed::{Set, is_loopback};
use crate::scenario::ASNS;

#[path = "../../bgp/tests/updates/mrt.rs"]
#[allow(dead_code)]
mod mrt;

const CAPTURE: &str = "mrt/bgpdump-updates.et-header.2015.gz";
const PREFIXES: &str = "prefixes.txt.gz";
/// The type code of an UPDATE, behind the marker and the length.
const UPDATE: (usize, u8) = (18, 2);

/// The folder; an error when there is none.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = std::env::var_os("MARGAY_DATA").context("MARGAY_DATA is not set")?;
    let folder = PathBuf::from(folder);
    for file in [CAPTURE, PREFIXES] {
        ensure!(folder.join(file).exists(), "no {file} in {}", folder.display());
    }
    Ok(folder)
}

/// The recorded session, of which these are left out: what it says twice or withdraws, and what a
/// speaker here must refuse (loopback prefixes, paths with AS 0 or an AS of the bench).
pub(crate) fn session(folder: &Path) -> Result<Vec<Set>> {
    let (entries, bad) = mrt::entries(&folder.join(CAPTURE));
    ensure!(bad == 0, "{bad} bad records in {CAPTURE}");
    let agreed = Negotiated { ibgp: true, ..Negotiated::default() };
    let (mut sets, mut seen) = (Vec::new(), HashSet::new());
    for entry in entries {
        let mrt::Entry::Message { bytes, asn4: true, .. } = entry else { continue };
        if bytes.get(UPDATE.0) == Some(&UPDATE.1) {
            sets.extend(set(&bytes[HEADER_LEN..], &agreed, &mut seen)?);
        }
    }
    Ok(sets)
}

fn set(body: &[u8], agreed: &Negotiated, seen: &mut HashSet<IpNet>) -> Result<Option<Set>> {
    let sections = split(body, agreed)?;
    let Some((_, nlri, block)) =
        sections.announced().find(|(family, ..)| *family == Family::Ipv4Unicast)
    else {
        return Ok(None);
    };
    let decoded = Attributes::decode(&block, agreed);
    let attributes = decoded.attributes;
    let is_loop = attributes.as_path.asns().any(|asn| ASNS.contains(&asn));
    if is_loop || decoded.treatment != Treatment::Accept {
        return Ok(None);
    }
    let mut v4 = Prefixes::new(nlri, false).collect::<Result<Vec<_>, _>>()?;
    v4.retain(|nlri| !is_loopback(&nlri.prefix) && seen.insert(nlri.prefix.into()));
    Ok((!v4.is_empty()).then_some(Set { attributes, v4, v6: Vec::new() }))
}

/// The whole list of prefixes, each with the attributes of the recorded session: as many prefixes a
/// set as it had there, and from its beginning again when it is at its end.
pub(crate) fn whole_table(folder: &Path, sets: &[Set]) -> Result<Vec<Set>> {
    let file = std::fs::File::open(folder.join(PREFIXES)).context(PREFIXES)?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).context(PREFIXES)?;
    let mut sets = sets.iter().cycle();
    let mut table = Vec::new();
    let mut left = 0;
    for line in text.lines() {
        if left == 0 {
            let model = sets.next().context("no set")?;
            left = model.v4.len();
            table.push(Set { attributes: model.attributes.clone(), ..Set::default() });
        }
        left -= 1;
        let set = table.last_mut().context("no set")?;
        match line.parse().with_context(|| format!("{PREFIXES}: {line}"))? {
            IpNet::V4(net) => set.v4.push(Nlri::new(net)),
            IpNet::V6(net) => set.v6.push(Nlri::new(net)),
        }
    }
    Ok(table)
}
