//! Bytes as the body of an UPDATE, through splitting, decoding and encoding, and what must hold
//! whatever they were.

use ipnet::{Ipv4Net, Ipv6Net};
use margay_bgp::wire::attribute::{Attributes, PARTIAL};
use margay_bgp::wire::nlri::{Nlri, Prefix, Prefixes};
use margay_bgp::wire::pack::{EncodeError, encode_update, encode_withdrawal};
use margay_bgp::wire::treatment::Treatment;
use margay_bgp::wire::update::{Block, Sections, split};
use margay_bgp::wire::{HEADER_LEN, MAX_EXTENDED_LEN, Negotiated};
use margay_bgp::{Family, FamilySet};

/// The first byte chooses the session, the rest is the body.
pub fn update(input: &[u8]) {
    let Some((choice, body)) = input.split_first() else { return };
    let all = FamilySet::from_iter(Family::ALL);
    let add_path = if choice & 4 == 0 { FamilySet::EMPTY } else { all };
    let session = Negotiated {
        asn4: choice & 1 == 0,
        ibgp: choice & 2 == 0,
        families: all,
        add_path_rx: add_path,
        add_path_tx: add_path,
        extended_next_hop: choice & 8 == 0,
        max_rx: MAX_EXTENDED_LEN,
        max_tx: MAX_EXTENDED_LEN,
        ..Negotiated::default()
    };
    let body = &body[..body.len().min(MAX_EXTENDED_LEN - HEADER_LEN)];
    let sections = match split(body, &session) {
        Ok(sections) => sections,
        Err(error) => return assert_eq!(error.notification().code, 3),
    };
    if sections.is_end_of_rib().is_some() {
        assert_eq!(sections.announced().count() + sections.withdrawals().count(), 0);
    }
    for (family, nlri) in sections.withdrawals() {
        match family {
            Family::Ipv4Unicast => withdrawn::<Ipv4Net>(nlri, &session),
            Family::Ipv6Unicast => withdrawn::<Ipv6Net>(nlri, &session),
        }
    }
    for (family, nlri, block) in sections.announced() {
        match family {
            Family::Ipv4Unicast => announced::<Ipv4Net>(nlri, &block, &session),
            Family::Ipv6Unicast => announced::<Ipv6Net>(nlri, &block, &session),
        }
    }
    if let Some(block) = sections.orphans() {
        let treatment = Attributes::decode(&block, &session).treatment;
        assert_ne!(treatment, Treatment::TreatAsWithdraw, "there is nothing to withdraw");
    }
}

fn read<P: Prefix>(nlri: &[u8], session: &Negotiated) -> Option<Vec<Nlri<P>>> {
    Prefixes::new(nlri, session.add_path_rx.contains(P::FAMILY)).collect::<Result<_, _>>().ok()
}

fn withdrawn<P: Prefix>(nlri: &[u8], session: &Negotiated) {
    let Some(prefixes) = read::<P>(nlri, session) else { return };
    let mut out = Vec::new();
    encode_withdrawal(prefixes.iter().copied(), session, &mut out).expect("room for a prefix");
    let mut again = Vec::new();
    each(&out, session, |sections| {
        for (_, nlri) in sections.withdrawals() {
            again.extend(read::<P>(nlri, session).expect("what was written"));
        }
    });
    assert_eq!(again, prefixes);
}

fn announced<P: Prefix>(nlri: &[u8], block: &Block<'_>, session: &Negotiated) {
    let decoded = Attributes::decode(block, session);
    let worst = decoded.errors.iter().map(|error| error.treatment).max();
    assert_eq!(decoded.treatment, worst.unwrap_or(Treatment::Accept));
    if decoded.treatment > Treatment::AttributeDiscard {
        return;
    }
    let mut attributes = decoded.attributes;
    let canonical = attributes.to_canonical();
    assert_eq!(Attributes::from_canonical(&canonical).as_ref(), Ok(&attributes));
    let Some(prefixes) = read::<P>(nlri, session) else { return };
    let (mut out, mut again) = (Vec::new(), Vec::new());
    let next_hop = attributes.next_hop.expect("a next hop in what is announced");
    match encode_update(&attributes, next_hop, prefixes.iter().copied(), session, &mut out) {
        Ok(_) => (),
        Err(EncodeError::TooLong { .. }) => return,
        Err(error) => panic!("{error}"),
    }
    attributes.unknown.iter_mut().for_each(|unknown| unknown.flags |= PARTIAL);
    each(&out, session, |sections| {
        for (_, nlri, block) in sections.announced() {
            same(&attributes, &block, session);
            again.extend(read::<P>(nlri, session).expect("what was written"));
        }
    });
    assert_eq!(again, prefixes);
}

/// The attributes have come over once more.
fn same(sent: &Attributes, block: &Block<'_>, session: &Negotiated) {
    let decoded = Attributes::decode(block, session);
    assert_eq!(decoded.errors, []);
    let (mut sent, mut got) = (sent.clone(), decoded.attributes);
    // AS4_PATH has no place for a confederation's segments between others, and joins sequences.
    let is_exact = session.asn4 || sent.as_path == sent.as_path.without_confed();
    if is_exact {
        assert_eq!(got.as_path.to_string(), sent.as_path.to_string());
    }
    (sent.as_path, got.as_path) = Default::default();
    assert_eq!(got, sent);
}

/// Walks over whole messages.
fn each(mut messages: &[u8], session: &Negotiated, mut look: impl FnMut(&Sections<'_>)) {
    while !messages.is_empty() {
        let length = usize::from(u16::from_be_bytes([messages[16], messages[17]]));
        let (message, rest) = messages.split_at(length);
        messages = rest;
        look(&split(&message[HEADER_LEN..], session).expect("a sound message"));
    }
}
