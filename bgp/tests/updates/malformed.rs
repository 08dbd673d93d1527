//! Messages that are known to be malformed.

use super::{data, session};
use margay_bgp::Family;
use margay_bgp::wire::HEADER_LEN;
use margay_bgp::wire::attribute::Attributes;
use margay_bgp::wire::nlri::prefixes;
use margay_bgp::wire::treatment::Treatment;
use margay_bgp::wire::update::split;

/// The strongest thing that one of the parts of the message asks for.
fn treatment(body: &[u8], asn4: bool) -> Treatment {
    let negotiated = session(asn4);
    let Ok(sections) = split(body, &negotiated) else { return Treatment::SessionReset };
    let mut treatment = sections.treatment();
    let read =
        |family: Family, nlri: &[u8]| prefixes(family, nlri, false).any(|nlri| nlri.is_err());
    let mut bad_prefix = sections.withdrawals().any(|(family, nlri)| read(family, nlri));
    for (family, nlri, block) in sections.announced() {
        bad_prefix |= read(family, nlri);
        treatment = treatment.max(Attributes::decode(&block, &negotiated).treatment);
    }
    if let Some(block) = sections.orphans() {
        treatment = treatment.max(Attributes::decode(&block, &negotiated).treatment);
    }
    if bad_prefix { Treatment::SessionReset } else { treatment }
}

#[test]
fn wrong_lengths_are_errors() {
    let Some(data) = data("wrong_lengths_are_errors") else { return };
    let mut files = 0;
    for file in std::fs::read_dir(data.join("gobgp-bad-len")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        files += 1;
        // Whatever they claim to be, and with or without the header that they may have.
        let says = bytes.get(16..18).map_or(0, |length| u16::from_be_bytes([length[0], length[1]]));
        println!("type {:?}, {says} of {} bytes", bytes.get(18), bytes.len());
        for asn4 in [false, true] {
            let behind = treatment(bytes.get(HEADER_LEN..).unwrap_or_default(), asn4);
            let whole = treatment(&bytes, asn4);
            assert_ne!((behind, whole), (Treatment::Accept, Treatment::Accept));
        }
    }
    assert_eq!(files, 11);
}
