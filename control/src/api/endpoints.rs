//! `show endpoints`.

use crate::status::Status;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// An endpoint of this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAnswer {
    /// Its namespace.
    pub namespace: String,
    /// Its name in the datastore.
    pub name: String,
    /// Its pod.
    pub pod: String,
    /// Its interface, which is also the name of its port.
    pub interface: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `veth`, `tc` or `tap`.
    pub attachment: String,
    /// `up`, or why not.
    pub state: String,
}

pub(crate) fn answer(status: &Status) -> Vec<EndpointAnswer> {
    let snapshot = status.snapshot();
    let endpoints = snapshot.endpoints.iter().map(|((namespace, name), endpoint)| {
        let port = snapshot.ports.get(endpoint.interface.as_str());
        let state = match port {
            Some(port) if port.open.as_ref().is_some_and(|(_, entry)| entry.up) => "up",
            Some(port) if port.open.is_some() => "the link is down",
            Some(port) => &port.why,
            None => "no port",
        };
        EndpointAnswer {
            namespace: namespace.clone(),
            name: name.clone(),
            pod: endpoint.pod.clone(),
            interface: endpoint.interface.clone(),
            addresses: endpoint.addresses.clone(),
            attachment: endpoint.attachment.name().to_owned(),
            state: state.to_owned(),
        }
    });
    endpoints.collect()
}
