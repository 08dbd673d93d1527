//! The same sessions in each daemon's language. None has a kernel protocol: routes stay in it.

use serde_json::json;
use std::fmt::Write;
use std::net::IpAddr;

use crate::daemon::Plan;
use crate::scenario::{PORT, TARGET, TARGET_AS, TARGET_V6};

/// A peer that the daemon is to have; all connect to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neighbor {
    /// Decides the family that the session carries.
    pub(crate) address: IpAddr,
    pub(crate) asn: u32,
    pub(crate) client: bool,
}

impl Neighbor {
    fn digit(self) -> char {
        if self.address.is_ipv4() { '4' } else { '6' }
    }

    /// The daemon's end of the session.
    fn local(self) -> IpAddr {
        if self.address.is_ipv4() { TARGET.into() } else { TARGET_V6.into() }
    }
}

pub(crate) fn margay(plan: &Plan) -> String {
    let one = |neighbor: &Neighbor| {
        let Neighbor { address, asn, client } = neighbor;
        json!({"address": address, "asn": asn, "client": client})
    };
    serde_json::Value::from_iter(plan.neighbors.iter().map(one)).to_string()
}

pub(crate) fn bird2(plan: &Plan) -> String {
    let mut text =
        format!("router id {TARGET};\nprotocol device {{}}\nprotocol direct {{ ipv4; ipv6; }}\n");
    for (at, neighbor) in plan.neighbors.iter().enumerate() {
        let Neighbor { address, asn, client } = neighbor;
        let (local, digit) = (neighbor.local(), neighbor.digit());
        let client = if *client { " rr client;" } else { "" };
        let _ = writeln!(
            text,
            "protocol bgp p{at} {{ local {local} port {PORT} as {TARGET_AS}; neighbor {address} \
             as {asn}; passive on; strict bind off;{client} ipv{digit} {{ import all; \
             export where source = RTS_BGP; }}; }}"
        );
    }
    text
}

pub(crate) fn bird1(plan: &Plan) -> String {
    let mut text = format!(
        "router id {TARGET};\nlisten bgp address {TARGET} port {PORT};\nprotocol device {{}}\n\
         protocol direct {{}}\n"
    );
    for (at, Neighbor { address, asn, client }) in plan.neighbors.iter().enumerate() {
        let client = if *client { " rr client;" } else { "" };
        let _ = writeln!(
            text,
            "protocol bgp p{at} {{ local {TARGET} as {TARGET_AS}; neighbor {address} as {asn}; \
             passive on;{client} import all; export where source = RTS_BGP; }}"
        );
    }
    text
}

pub(crate) fn frr(plan: &Plan) -> String {
    let mut text = format!(
        "frr defaults datacenter\nlog stdout errors\nrouter bgp {TARGET_AS}\n \
         bgp router-id {TARGET}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n \
         coalesce-time 0\n"
    );
    for neighbor in &plan.neighbors {
        let Neighbor { address, asn, client } = neighbor;
        let digit = neighbor.digit();
        let _ = write!(
            text,
            " neighbor {address} remote-as {asn}\n neighbor {address} passive\n \
             neighbor {address} timers 80 240\n \
             neighbor {address} advertisement-interval 0\n address-family ipv{digit} unicast\n  \
             neighbor {address} activate\n"
        );
        if *client {
            let _ = writeln!(text, "  neighbor {address} route-reflector-client");
        }
        text.push_str(" exit-address-family\n");
    }
    text
}

pub(crate) fn gobgpd(plan: &Plan) -> String {
    let mut text = format!(
        "[global.config]\nas = {TARGET_AS}\nrouter-id = \"{TARGET}\"\nport = {PORT}\n\
         local-address-list = [\"{TARGET}\", \"{TARGET_V6}\"]\n"
    );
    for neighbor in &plan.neighbors {
        let Neighbor { address, asn, client } = neighbor;
        let (local, digit) = (neighbor.local(), neighbor.digit());
        let _ = write!(
            text,
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {asn}\n\
             [neighbors.timers.config]\nhold-time = 240\nkeepalive-interval = 80\n\
             [neighbors.transport.config]\npassive-mode = true\nlocal-address = \"{local}\"\n"
        );
        if *client {
            let _ = write!(
                text,
                "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
                 route-reflector-cluster-id = \"{TARGET}\"\n"
            );
        }
        let _ = write!(
            text,
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\n\
             afi-safi-name = \"ipv{digit}-unicast\"\n"
        );
    }
    text
}
