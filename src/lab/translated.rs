//! What translation shows: with `natOutgoing` pods look like their node outside, and without it
//! like themselves; a service leads to endpoints on both nodes, also through tunnels.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::greeter::{Greeter, ask};
use super::network::{NODE_ADDRESSES, Network};
use super::process::wait_for;
use super::tor::HOST;

/// Where the outside host tells who asks.
const OUTSIDE_PORT: u16 = 7000;
/// The service's addresses and the ranges that they are from.
const SERVICE: [(&str, &str); 2] = [("10.96.0.0/24", "10.96.0.80"), ("fd96::/112", "fd96::80")];
/// Its port, and that of the endpoints.
const PORTS: (u16, u16) = (80, 8080);
/// Questions until every endpoint should have answered: of 24, one misses 1 in 10^7 times.
const QUESTIONS: usize = 24;
/// Longest time until a change counts everywhere.
const LIMIT: Duration = Duration::from_secs(15);

/// Waits until all nodes translate what leaves the pools, or no longer do.
fn set_nat(network: &mut Network, on: bool) -> Result<()> {
    network.put_pools(on)?;
    wait_for("the nodes to follow natOutgoing", LIMIT, || {
        for node in &mut network.nodes {
            if node.daemon()?.show("nat")?["natOutgoing"] != on {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

/// TCP from a pod on each node, as an outside host sees it.
pub fn outgoing(network: &mut Network) -> Result<String> {
    let mut servers = Vec::new();
    for host in HOST {
        let at = SocketAddr::new(host.parse()?, OUTSIDE_PORT);
        servers.push((at, Greeter::start(&network.outside, at, "outside")?));
    }
    for on in [true, false] {
        set_nat(network, on)?;
        for (node, name) in [(0, "veth-a"), (0, "tap-a"), (1, "veth-b")] {
            let pod = network.nodes[node].pod(name)?;
            for (family, (at, _)) in servers.iter().enumerate() {
                let (_, seen) = ask(pod.namespace(), *at)?;
                let own = pod.addresses()[family];
                let expected = if on { NODE_ADDRESSES[node][family].parse()? } else { own };
                ensure!(seen == expected, "{name} looks like {seen}, not like {expected}");
            }
        }
    }
    Ok("outside sees the nodes' addresses with it, the pods' without".to_owned())
}

/// TCP to a service from outside, which learns the way by BGP, and from pods.
pub fn service(network: &mut Network) -> Result<String> {
    let pods = [network.nodes[0].pod("veth-a")?.clone(), network.nodes[1].pod("tap-b")?.clone()];
    let mut servers = Vec::new();
    for pod in &pods {
        for address in pod.addresses() {
            let at = SocketAddr::new(address, PORTS.1);
            servers.push(Greeter::start(pod.namespace(), at, pod.name())?);
        }
    }
    let parse = |text: &str| text.parse::<IpAddr>().with_context(|| text.to_owned());
    let addresses = [parse(SERVICE[0].1)?, parse(SERVICE[1].1)?];
    let nodes = network.nodes.iter().map(|node| node.name());
    let endpoints: Vec<_> = nodes.zip(&pods).collect();
    network.store()?.put_service("web", addresses, PORTS, &endpoints)?;
    let ranges = SERVICE.iter().map(|(range, _)| Ok(range.parse()?)).collect::<Result<Vec<_>>>()?;
    network.store()?.put_service_ranges(&ranges)?;
    let wanted: BTreeSet<String> = pods.iter().map(|pod| pod.name().to_owned()).collect();
    let inside = [network.nodes[0].pod("tap-a")?, network.nodes[1].pod("veth-b")?];
    let clients: Vec<_> =
        inside.iter().map(|pod| pod.namespace()).chain([&network.outside]).collect();
    for address in addresses {
        let at = SocketAddr::new(address, PORTS.0);
        wait_for("the service to answer", LIMIT, || Ok(ask(&network.outside, at).ok()))?;
        for client in &clients {
            let mut seen = BTreeSet::new();
            for _ in 0..QUESTIONS {
                seen.insert(ask(client, at)?.0);
            }
            ensure!(seen == wanted, "{} reaches {seen:?} at {at}", client.name());
        }
    }
    let [v4, v6] = addresses;
    Ok(format!("{v4} and {v6} lead to pods on both nodes, from outside and from pods"))
}
