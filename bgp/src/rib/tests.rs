//! The RIB against a naive twin: all routes in one map, everything chosen from scratch. Peers come
//! and go, restart, announce, withdraw and refresh at random; what each of them has heard in the
//! end must be what the twin says.

use super::*;
use crate::session::{ConnId, Up};
use crate::wire::as_path::AsPath;
use crate::wire::attribute::Origin;
use crate::wire::nlri::{Nlri, Prefix, prefixes};
use crate::wire::pack::{encode_end_of_rib, encode_update, encode_withdrawal};
use crate::wire::route_refresh::{RouteRefresh, Subtype};
use crate::wire::update::split;
use crate::wire::{HEADER_LEN, Negotiated, Open};
use std::collections::BTreeMap;

mod add_path;
mod model;
mod rules;
mod twin;

pub(super) const OUR_AS: u32 = 64512;
pub(super) const ROUTER_ID: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

pub(super) fn options() -> RibOptions {
    RibOptions { router_id: ROUTER_ID, cluster_id: None, max_ecmp: 16, track_next_hops: false }
}

pub(super) fn peer_options(number: u8, remote_asn: u32, client: bool) -> PeerOptions {
    PeerOptions {
        name: format!("peer{number}").into(),
        address: IpAddr::from([10, 0, 0, number]),
        local_asn: OUR_AS,
        remote_asn,
        client_of: client.then_some(ROUTER_ID),
        next_hop: NextHopMode::Auto,
        allowed_own_as: 0,
        import: Arc::new(Policy::accept_all()),
        export: Arc::new(Policy::accept_all()),
        max_prefixes: None,
    }
}

pub(super) fn agreed(remote_asn: u32) -> Negotiated {
    Negotiated {
        ibgp: remote_asn == OUR_AS,
        families: FamilySet::EMPTY.with(Family::Ipv4Unicast),
        route_refresh: true,
        enhanced_refresh: true,
        ..Negotiated::default()
    }
}

/// The same with path identifiers both ways.
pub(super) fn agreed_paths(remote_asn: u32) -> Negotiated {
    let families = FamilySet::EMPTY.with(Family::Ipv4Unicast);
    Negotiated { add_path_rx: families, add_path_tx: families, ..agreed(remote_asn) }
}

/// The far end of a session: what it has heard.
#[derive(Debug, Default)]
pub(super) struct Far {
    pub(super) heard: BTreeMap<IpNet, Attributes>,
    /// The same with path identifiers.
    pub(super) paths: BTreeMap<(IpNet, u32), Attributes>,
    pub(super) end_of_rib: bool,
    pub(super) updates: usize,
    in_refresh: Option<Vec<(IpNet, u32)>>,
}

pub(super) fn up(rib: &mut Rib, id: PeerId, number: u8, remote_asn: u32, stale: FamilySet) {
    up_as(rib, id, number, (remote_asn, agreed(remote_asn)), stale);
}

pub(super) fn up_as(
    rib: &mut Rib,
    id: PeerId,
    number: u8,
    (asn, agreed): (u32, Negotiated),
    stale: FamilySet,
) {
    let router_id = Ipv4Addr::new(10, 0, 0, number);
    let peer = Open { asn, hold_time_s: 90, router_id, capabilities: Vec::new() };
    let up = Up { conn: ConnId(0), agreed, peer, stale };
    rib.up(id, &up, IpAddr::from(ROUTER_ID));
}

pub(super) fn announce(
    rib: &mut Rib,
    id: PeerId,
    attributes: &Attributes,
    nets: &[Ipv4Net],
    agreed: &Negotiated,
) {
    announce_path(rib, id, (attributes, 0), nets, agreed);
}

pub(super) fn announce_path(
    rib: &mut Rib,
    id: PeerId,
    (attributes, path_id): (&Attributes, u32),
    nets: &[Ipv4Net],
    agreed: &Negotiated,
) {
    let mut out = Vec::new();
    let hop = attributes.next_hop.unwrap();
    let routes = nets.iter().map(|net| Nlri { path_id, prefix: *net });
    encode_update(attributes, hop, routes, agreed, &mut out).unwrap();
    deliver(rib, id, &out);
}

pub(super) fn withdraw(rib: &mut Rib, id: PeerId, nets: &[Ipv4Net], agreed: &Negotiated) {
    withdraw_path(rib, id, 0, nets, agreed);
}

pub(super) fn withdraw_path(
    rib: &mut Rib,
    id: PeerId,
    path_id: u32,
    nets: &[Ipv4Net],
    agreed: &Negotiated,
) {
    let mut out = Vec::new();
    let routes = nets.iter().map(|net| Nlri { path_id, prefix: *net });
    encode_withdrawal(routes, agreed, &mut out).unwrap();
    deliver(rib, id, &out);
}

pub(super) fn end_of_rib(rib: &mut Rib, id: PeerId) {
    let mut out = Vec::new();
    encode_end_of_rib(Family::Ipv4Unicast, &mut out);
    deliver(rib, id, &out);
}

fn deliver(rib: &mut Rib, id: PeerId, mut bytes: &[u8]) {
    while let Some(length) = bytes.get(16..18) {
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        rib.update(id, &bytes[HEADER_LEN..length]).unwrap();
        bytes = &bytes[length..];
    }
}

pub(super) fn settle(rib: &mut Rib) {
    while rib.work(37) {}
}

impl Far {
    /// Reads all that the RIB has for this peer, in portions.
    pub(super) fn read(&mut self, rib: &mut Rib, id: PeerId, agreed: &Negotiated) {
        loop {
            let had = rib.has_output(id);
            let mut out = Vec::new();
            rib.fill(id, 300, &mut out);
            assert!(had || out.is_empty(), "output that was not told of");
            if out.is_empty() {
                return;
            }
            self.take(&out, agreed);
        }
    }

    fn take(&mut self, mut bytes: &[u8], agreed: &Negotiated) {
        while let Some(length) = bytes.get(16..18) {
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            assert!(length <= agreed.max_tx);
            let body = &bytes[HEADER_LEN..length];
            match bytes[18] {
                2 => self.update(body, agreed),
                5 => self.mark(RouteRefresh::decode(body).unwrap().unwrap().subtype),
                other => panic!("message {other}"),
            }
            bytes = &bytes[length..];
        }
    }

    fn mark(&mut self, subtype: Subtype) {
        match subtype {
            Subtype::Begin => self.in_refresh = Some(Vec::new()),
            Subtype::End => {
                let seen = self.in_refresh.take().unwrap();
                self.heard.retain(|net, _| seen.contains(&(*net, 0)));
                self.paths.retain(|path, _| seen.contains(path));
            }
            Subtype::Request => panic!("a request"),
        }
    }

    fn update(&mut self, body: &[u8], agreed: &Negotiated) {
        self.updates += 1;
        let sections = split(body, agreed).unwrap();
        if sections.is_end_of_rib().is_some() {
            self.end_of_rib = true;
            return;
        }
        for (family, section) in sections.withdrawals() {
            for nlri in prefixes(family, section, agreed.add_path_tx.contains(family)) {
                let (id, net) = nlri.unwrap();
                self.heard.remove(&net);
                self.paths.remove(&(net, id));
            }
        }
        for (family, section, block) in sections.announced() {
            let decoded = Attributes::decode(&block, agreed);
            assert!(decoded.errors.is_empty(), "{:?}", decoded.errors);
            let add_path = agreed.add_path_tx.contains(family);
            for nlri in prefixes(family, section, add_path) {
                let (id, net) = nlri.unwrap();
                self.in_refresh.iter_mut().for_each(|seen| seen.push((net, id)));
                if add_path {
                    self.paths.insert((net, id), decoded.attributes.clone());
                } else {
                    self.heard.insert(net, decoded.attributes.clone());
                }
            }
        }
    }
}

pub(super) fn attributes(path: &[u32], next_hop: [u8; 4], local_pref: Option<u32>) -> Attributes {
    Attributes {
        origin: Origin::Igp,
        as_path: AsPath::from_sequence(path),
        next_hop: Some(NextHop::V4(next_hop.into())),
        local_pref,
        ..Attributes::default()
    }
}

pub(super) fn net(number: u32) -> Ipv4Net {
    <Ipv4Net as Prefix>::read(24, &(0x1400_0000u32 + (number << 8)).to_be_bytes()).unwrap()
}
