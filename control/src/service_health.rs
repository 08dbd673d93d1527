//! What load balancers ask of a node (`healthCheckNodePort`): whether it has endpoints of a Service
//! with externalTrafficPolicy Local.
//!
//! Each such Service has a port on which this node answers by HTTP as kube-proxy does: 200 where it
//! has ready endpoints of its own, else 503, and how many they are. Ports open and close with the
//! Services, in the background; one that is taken is tried again.

use crate::http;
use crate::model::Model;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Time until a port that is taken is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A Service, and how many ready endpoints this node has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    namespace: String,
    name: String,
    endpoints: usize,
}

/// Answers by port.
pub(crate) type Wanted = BTreeMap<u16, Health>;

/// What the node must answer. Of Services with the same port the first by name has it.
pub(crate) fn wanted(model: &Model, node: &str) -> Wanted {
    let mut wanted = Wanted::new();
    for ((namespace, name), service) in &model.services {
        let Some(port) = service.health_check_node_port else { continue };
        let slices = model.endpoint_slices.iter();
        let own = slices.filter(|((of, _), slice)| of == namespace && slice.service == *name);
        let members = own.flat_map(|(_, slice)| &slice.endpoints);
        let here = members.filter(|at| at.ready && at.node.as_deref() == Some(node));
        let addresses: BTreeSet<&IpAddr> = here.filter_map(|at| at.addresses.first()).collect();
        let (namespace, name) = (namespace.clone(), name.clone());
        wanted.entry(port).or_insert(Health { namespace, name, endpoints: addresses.len() });
    }
    wanted
}

/// The ports that are open; all are closed when this is dropped.
#[derive(Debug)]
pub(crate) struct ServiceHealth {
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

impl ServiceHealth {
    /// With no port open. Called within a tokio runtime.
    pub(crate) fn start() -> ServiceHealth {
        let (wanted, told) = watch::channel(Wanted::new());
        ServiceHealth { wanted, task: tokio::spawn(keep(told)) }
    }

    /// From now on the node answers this.
    pub(crate) fn set(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|before| {
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
    }
}

impl Drop for ServiceHealth {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An open port; closed when this is dropped.
struct Open {
    health: watch::Sender<Health>,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(mut told: watch::Receiver<Wanted>) {
    let mut open: BTreeMap<u16, Open> = BTreeMap::new();
    let mut refused: BTreeSet<u16> = BTreeSet::new();
    loop {
        let wanted = told.borrow_and_update().clone();
        open.retain(|port, _| wanted.contains_key(port));
        refused.retain(|port| wanted.contains_key(port));
        for (port, health) in wanted {
            if let Some(at) = open.get(&port) {
                at.health.send_replace(health);
                continue;
            }
            let (sender, receiver) = watch::channel(health);
            match http::serve("", port, Router::new().fallback(answer).with_state(receiver)).await {
                Ok(Some(task)) => {
                    refused.remove(&port);
                    open.insert(port, Open { health: sender, task });
                }
                Ok(None) => {}
                Err(error) if refused.insert(port) => {
                    tracing::warn!("health checks of a Service: {error}");
                }
                Err(_) => {}
            }
        }
        let again = async {
            match refused.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// The words of kube-proxy's answer.
async fn answer(State(health): State<watch::Receiver<Health>>) -> Response {
    let Health { namespace, name, endpoints } = health.borrow().clone();
    let status = if endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": true,
    });
    let weight = [("X-Load-Balancing-Endpoint-Weight", endpoints.to_string())];
    (status, weight, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::service::{EndpointSlice, Service, SliceEndpoint};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    fn member(address: &str, node: &str, ready: bool) -> SliceEndpoint {
        let addresses = vec![address.parse().unwrap()];
        SliceEndpoint { addresses, node: Some(node.to_owned()), ready, ..Default::default() }
    }

    fn model(port: u16, members: Vec<SliceEndpoint>) -> Model {
        let mut model = Model::default();
        let service = Service { health_check_node_port: Some(port), ..Service::default() };
        model.services.insert(("shop".into(), "web".into()), service);
        let slice =
            EndpointSlice { service: "web".into(), endpoints: members, ..Default::default() };
        // A slice for each family or port names the same endpoints again.
        model.endpoint_slices.insert(("shop".into(), "web-1".into()), slice.clone());
        model.endpoint_slices.insert(("shop".into(), "web-2".into()), slice.clone());
        model.endpoint_slices.insert(("other".into(), "web-3".into()), slice);
        model
    }

    #[test]
    fn ready_endpoints_of_this_node_count_once() {
        let members = vec![
            member("10.1.0.1", "me", true),
            member("10.1.0.2", "me", false),
            member("10.1.0.3", "other", true),
        ];
        let wanted = wanted(&model(32_000, members), "me");
        let health = Health { namespace: "shop".into(), name: "web".into(), endpoints: 1 };
        assert_eq!(wanted, Wanted::from([(32_000, health)]));
        assert_eq!(super::wanted(&Model::default(), "me"), Wanted::new());
    }

    async fn ask(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = b"GET /healthz HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    async fn until(port: u16, what: impl Fn(Option<&str>) -> bool) {
        for _ in 0..1000 {
            if what(ask(port).await.as_deref()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", ask(port).await);
    }

    #[tokio::test]
    async fn load_balancers_are_answered_while_the_service_is_there() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let health = ServiceHealth::start();
        let here = vec![member("10.1.0.1", "me", true)];
        health.set(wanted(&model(port, here), "me"));
        let told = |status: &'static str, endpoints: usize| {
            move |text: Option<&str>| {
                let count = format!("\"localEndpoints\":{endpoints}");
                text.is_some_and(|text| text.starts_with(status) && text.contains(&count))
            }
        };
        until(port, told("HTTP/1.1 200", 1)).await;
        let weight = "x-load-balancing-endpoint-weight: 1";
        until(port, |text| text.is_some_and(|text| text.contains(weight))).await;
        health.set(wanted(&model(port, Vec::new()), "me"));
        until(port, told("HTTP/1.1 503", 0)).await;
        health.set(Wanted::new());
        until(port, |text| text.is_none()).await;
    }
}
