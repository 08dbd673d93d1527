//! From [`Attributes`] to the block of an UPDATE: by type code, extended lengths only where one
//! octet is too little, and nothing that the peer may not get.

use super::{AS_TRANS, Attributes, EXTENDED_LENGTH, NextHop, PARTIAL, code};
use crate::wire::Negotiated;

impl Attributes {
    /// Appends all attributes but MP_REACH_NLRI to `out`; NEXT_HOP when it is an IPv4 address.
    ///
    /// What only internal peers may get (LOCAL_PREF by RFC 4271 section 5.1.5, ORIGINATOR_ID and
    /// CLUSTER_LIST by RFC 4456) is left out towards others.
    pub fn encode(&self, negotiated: &Negotiated, out: &mut Vec<u8>) {
        self.encode_with(self.next_hop, negotiated, out);
    }

    /// The same with this next hop.
    pub(crate) fn encode_with(
        &self,
        next_hop: Option<NextHop>,
        negotiated: &Negotiated,
        out: &mut Vec<u8>,
    ) {
        attribute(code::ORIGIN, out, |out| out.push(self.origin.value()));
        attribute(code::AS_PATH, out, |out| self.as_path.write(negotiated.asn4, out));
        if let Some(NextHop::V4(address)) = next_hop {
            attribute(code::NEXT_HOP, out, |out| out.extend_from_slice(&address.octets()));
        }
        if let Some(med) = self.med {
            attribute(code::MULTI_EXIT_DISC, out, |out| out.extend_from_slice(&med.to_be_bytes()));
        }
        if let Some(value) = self.local_pref.filter(|_| negotiated.ibgp) {
            attribute(code::LOCAL_PREF, out, |out| out.extend_from_slice(&value.to_be_bytes()));
        }
        if self.atomic_aggregate {
            attribute(code::ATOMIC_AGGREGATE, out, |_| ());
        }
        self.encode_aggregator(negotiated, out);
        list(code::COMMUNITIES, &self.communities, out, |community| community.0.to_be_bytes());
        if negotiated.ibgp {
            if let Some(id) = self.originator_id {
                attribute(code::ORIGINATOR_ID, out, |out| out.extend_from_slice(&id.octets()));
            }
            list(code::CLUSTER_LIST, &self.cluster_list, out, |id| id.octets());
        }
        list(code::EXTENDED_COMMUNITIES, &self.extended_communities, out, |community| community.0);
        if !negotiated.asn4 {
            self.encode_as4(out);
        }
        self.encode_rest(out);
    }

    fn encode_aggregator(&self, negotiated: &Negotiated, out: &mut Vec<u8>) {
        let Some(aggregator) = self.aggregator else { return };
        attribute(code::AGGREGATOR, out, |out| {
            if negotiated.asn4 {
                out.extend_from_slice(&aggregator.asn.to_be_bytes());
            } else {
                let asn = u16::try_from(aggregator.asn).unwrap_or(AS_TRANS);
                out.extend_from_slice(&asn.to_be_bytes());
            }
            out.extend_from_slice(&aggregator.router_id.octets());
        });
    }

    /// RFC 6793 section 4.2.2: only when something did not fit into two octets.
    fn encode_as4(&self, out: &mut Vec<u8>) {
        if !self.as_path.fits_two_octets() {
            let path = self.as_path.without_confed();
            if !path.is_empty() {
                attribute(code::AS4_PATH, out, |out| path.write(true, out));
            }
        }
        if let Some(aggregator) = self.aggregator.filter(|by| by.asn > u32::from(u16::MAX)) {
            attribute(code::AS4_AGGREGATOR, out, |out| {
                out.extend_from_slice(&aggregator.asn.to_be_bytes());
                out.extend_from_slice(&aggregator.router_id.octets());
            });
        }
    }

    /// LARGE_COMMUNITIES in its place among the unknown attributes.
    fn encode_rest(&self, out: &mut Vec<u8>) {
        let is_before = |code: u8| code < code::LARGE_COMMUNITIES;
        let middle = self.unknown.partition_point(|unknown| is_before(unknown.code));
        let (before, behind) = self.unknown.split_at(middle);
        for unknown in before {
            // RFC 4271 section 5: who passes it on without knowing it says so.
            put(unknown.flags | PARTIAL, unknown.code, &unknown.value, out);
        }
        let large = &self.large_communities;
        list(code::LARGE_COMMUNITIES, large, out, |community| community.to_bytes());
        for unknown in behind {
            put(unknown.flags | PARTIAL, unknown.code, &unknown.value, out);
        }
    }
}

/// Writes a known attribute, whose value `write` appends.
fn attribute(code: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let flags = code::flags(code).unwrap_or_default();
    let head = out.len();
    out.extend_from_slice(&[flags, code, 0]);
    write(out);
    let length = out.len() - head - 3;
    match u8::try_from(length) {
        Ok(length) => out[head + 2] = length,
        Err(_) => {
            out[head] |= EXTENDED_LENGTH;
            let [high, low] = (length as u16).to_be_bytes();
            out[head + 2] = high;
            out.insert(head + 3, low);
        }
    }
}

fn list<T, const N: usize>(
    code: u8,
    elements: &[T],
    out: &mut Vec<u8>,
    bytes: impl Fn(&T) -> [u8; N],
) {
    if elements.is_empty() {
        return;
    }
    attribute(code, out, |out| {
        for element in elements {
            out.extend_from_slice(&bytes(element));
        }
    });
}

fn put(flags: u8, code: u8, value: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(value.len()) {
        Ok(length) => out.extend_from_slice(&[flags & !EXTENDED_LENGTH, code, length]),
        Err(_) => {
            let [high, low] = (value.len() as u16).to_be_bytes();
            out.extend_from_slice(&[flags | EXTENDED_LENGTH, code, high, low]);
        }
    }
    out.extend_from_slice(value);
}
