//! `show nat`: what packets are translated to, and how much of it is in use.

use crate::status::Status;
use margay_fastpath::nat::Class;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Translation of the whole node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NatAnswer {
    /// Something is translated.
    pub enabled: bool,
    /// Traffic of pods that leaves their pools is.
    pub nat_outgoing: bool,
    /// Addresses and ports of services that are served, by protocol.
    pub frontends: usize,
    /// What packets look like outside.
    pub outside: Vec<OutsideAnswer>,
    /// Flows now, translated or not.
    pub flows: usize,
    /// Flows at most.
    pub flows_max: usize,
    /// Bytes of memory that flows take.
    pub bytes: usize,
    /// Flows made since the start.
    pub made: u64,
    /// Flows that have ended by their timeout.
    pub expired: u64,
    /// Unanswered flows that gave way to new ones when the table was full.
    pub gave_way: u64,
    /// Flows refused: a full table, a source's limit, or no port.
    pub refused: u64,
    /// Packets of new flows dropped because no port was left.
    pub ports_exhausted: u64,
    /// Fragments that wait for their first one.
    pub fragments_waiting: usize,
}

/// An outside address.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutsideAnswer {
    /// It.
    pub address: IpAddr,
    /// The host has it too, and other ports of it are the host's.
    pub is_host: bool,
    /// First and last port for translation.
    pub ports: [u16; 2],
    /// Ports in use, by protocol.
    pub used: BTreeMap<String, u32>,
}

pub(crate) fn answer(status: &Status) -> NatAnswer {
    let tables = status.dataplane().tables();
    let Some(rules) = &tables.nat else { return NatAnswer::default() };
    let v4 = rules.outside_v4.iter().map(|address| IpAddr::V4(*address));
    let v6 = rules.outside_v6.iter().map(|address| IpAddr::V6(*address));
    let outside = v4.chain(v6).map(|address| {
        let range = rules.ports_of(address.into());
        let class = rules.ranges.class(address.into());
        OutsideAnswer {
            address,
            is_host: class.has(Class::LOCAL),
            ports: [range.first, range.last],
            used: BTreeMap::new(),
        }
    });
    let mut answer = NatAnswer {
        enabled: true,
        nat_outgoing: rules.ranges.has_any(Class::INSIDE),
        frontends: rules.services.as_ref().map_or(0, |services| services.frontends().count()),
        outside: outside.collect(),
        ..NatAnswer::default()
    };
    for report in status.dataplane().nat().into_iter().flatten() {
        answer.flows += report.sessions;
        answer.flows_max += report.sessions_max;
        answer.bytes += report.bytes;
        answer.made += report.counters.made;
        answer.expired += report.counters.expired;
        answer.gave_way += report.counters.gave_way;
        answer.refused += report.counters.refused + report.exhausted;
        answer.ports_exhausted += report.exhausted;
        answer.fragments_waiting += report.fragments;
        for ports in report.ports {
            let address = IpAddr::from(ports.address);
            let known = answer.outside.iter_mut().find(|outside| outside.address == address);
            if let Some(outside) = known {
                let name = super::flows::protocol_name(ports.protocol);
                *outside.used.entry(name).or_default() += ports.used;
            }
        }
    }
    answer
}
