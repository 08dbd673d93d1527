//! The endpoint of a service that a traced flow gets: the same choice as the packet path makes.

use super::Case;
use super::answer::{Answer, Rewrite, StageAnswer};
use super::names::{Names, Place};
use margay_acl::packet::Transport;
use margay_fastpath::flow::Tuple;
use margay_fastpath::service::{Asker, Choice, Clients, Endpoint, Services};
use std::net::IpAddr;

/// Translates the destination if it is that of a service; then the endpoint is where it goes.
pub(super) fn translate(
    (services, clients): (&Services, &Clients),
    names: &Names,
    case: Case,
    answer: &mut Answer,
) -> Result<Case, &'static str> {
    let Some((src_port, dst_port)) = case.packet.ports() else { return Ok(case) };
    let (source, destination) = (case.packet.source, case.packet.destination);
    let tuple = Tuple {
        src: source.into(),
        dst: destination.into(),
        src_port,
        dst_port,
        protocol: case.packet.protocol,
    };
    let frontend = format!("{destination} port {dst_port}");
    let asker = Asker {
        is_pod: case.from.endpoint.as_ref().is_some_and(|from| !from.is_host),
        clients,
        now_s: 0,
    };
    match services.choose(&tuple, asker) {
        None => Ok(case),
        Some(Choice::NoEndpoint) => {
            let detail = format!("{frontend}: the service has no endpoint");
            answer.stages.push(StageAnswer::plain("dnat", "drop", detail));
            Err("service-no-endpoint")
        }
        Some(Choice::Endpoint { endpoint: Endpoint { address, port, .. }, .. }) => {
            let address = IpAddr::from(address);
            let detail = format!("{frontend} is {address} port {port}");
            answer.stages.push(StageAnswer::plain("dnat", "rewrite", detail));
            let rewrite = answer.rewrite.get_or_insert_with(Rewrite::default);
            (rewrite.dst_ip, rewrite.dst_port) = (Some(address.to_string()), Some(port));
            let transport = Transport::Ports { source: src_port, destination: port };
            let packet =
                margay_acl::packet::Packet { destination: address, transport, ..case.packet };
            let to = Place { address: Some(address), endpoint: names.at(address) };
            Ok(Case { packet, to, ..case })
        }
    }
}
