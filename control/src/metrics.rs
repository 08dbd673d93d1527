//! Prometheus metrics: Felix's names where they mean the same, `margay_*` for the rest.
//!
//! Values are read when somebody asks; nothing is counted twice and nothing in the packet path.

use crate::api::{self, limits, ports, tunnels, workers};
use crate::config::MetricsConfig;
use crate::http;
use crate::status::Status;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::io;
use std::sync::Arc;
use tokio::task::JoinHandle;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `/metrics` until the task is ended.
pub(crate) async fn start(
    config: &MetricsConfig,
    status: Arc<Status>,
) -> io::Result<Option<JoinHandle<()>>> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Reader(status)));
    let router = axum::Router::new().route("/metrics", get(scrape)).with_state(Arc::new(registry));
    http::serve(&config.host, config.port, router).await
}

async fn scrape(State(registry): State<Arc<Registry>>) -> Response {
    let encoded = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        text::encode(&mut text, &registry).map(|()| text)
    });
    match encoded.await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Debug)]
struct Reader(Arc<Status>);

impl Collector for Reader {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut writer = Writer(encoder);
        self.node(&mut writer)?;
        self.bgp(&mut writer)?;
        self.ports(&mut writer)?;
        self.tunnels(&mut writer)?;
        self.limits(&mut writer)?;
        self.workers(&mut writer)
    }
}

type Labels<'a> = &'a [(&'a str, String)];

/// Writes families of metrics.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: i64) -> std::fmt::Result {
        let gauge = ConstGauge::new(value);
        let encoder = self.0.encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(encoder)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        rows: &[(Vec<(&str, String)>, u64)],
    ) -> std::fmt::Result {
        let gauge = |value| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        self.family((name, help), rows, gauge)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        rows: &[(Vec<(&str, String)>, u64)],
    ) -> std::fmt::Result {
        self.family((name, help), rows, ConstCounter::new)
    }

    fn family<M: EncodeMetric>(
        &mut self,
        (name, help): (&str, &str),
        rows: &[(Vec<(&str, String)>, u64)],
        metric: impl Fn(u64) -> M,
    ) -> std::fmt::Result {
        let kind = metric(0).metric_type();
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            let labels: Labels = labels;
            metric(*value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Reader {
    fn node(&self, writer: &mut Writer) -> std::fmt::Result {
        let snapshot = self.0.snapshot();
        let report = self.0.dataplane().report();
        let count = |kind: &str| snapshot.store.resources.get(kind).copied().unwrap_or(0) as i64;
        let gauges = [
            (
                "felix_active_local_endpoints",
                "Endpoints of this node",
                snapshot.endpoints.len() as i64,
            ),
            ("felix_cluster_num_hosts", "Nodes of the cluster", count("Node")),
            (
                "felix_cluster_num_workload_endpoints",
                "Endpoints of the cluster",
                count("WorkloadEndpoint"),
            ),
            (
                "felix_route_table_num_routes",
                "Routes of margay in the kernel",
                snapshot.kernel_routes as i64,
            ),
            (
                "felix_int_dataplane_failures",
                "Errors of the last step",
                snapshot.errors.len() as i64,
            ),
            ("margay_ready", "1 when the node forwards", i64::from(snapshot.not_ready.is_empty())),
            ("margay_routes", "Routes of the packet path", snapshot.routes.len() as i64),
            (
                "margay_store_faults",
                "Files or resources that cannot be used",
                snapshot.store.faults.len() as i64,
            ),
            ("margay_frames", "Frames of packet memory", report.frames as i64),
            ("margay_frames_free", "Frames that nobody holds", report.frames_free as i64),
            ("margay_frames_lost", "Frames lost to a defect", report.frames_lost as i64),
            (
                "margay_step_microseconds",
                "Duration of the last control step",
                snapshot.step_time.as_micros() as i64,
            ),
            (
                "margay_store_latency_microseconds",
                "Time from the last change of the store until all workers had it",
                snapshot.store_latency.as_micros() as i64,
            ),
        ];
        gauges.into_iter().try_for_each(|(name, help, value)| writer.gauge(name, help, value))
    }

    fn bgp(&self, writer: &mut Writer) -> std::fmt::Result {
        let Some(bgp) = api::status::bgp(&self.0) else { return Ok(()) };
        let gauges = [
            ("margay_bgp_peers", "Sessions that are wanted", bgp.peers),
            ("margay_bgp_peers_up", "Sessions that are established", bgp.peers_up),
            ("margay_bgp_routes_v4", "IPv4 prefixes that peers have told", bgp.routes_v4),
            ("margay_bgp_routes_v6", "IPv6 prefixes that peers have told", bgp.routes_v6),
            ("margay_bgp_kernel_routes", "Those in the kernel", bgp.kernel_routes),
            ("margay_bgp_kernel_waiting", "Those not written there yet", bgp.kernel_waiting),
        ];
        for (name, help, value) in gauges {
            writer.gauge(name, help, value as i64)?;
        }
        let peers = api::bgp::peers(&self.0);
        let rows = |value: fn(&api::bgp::PeerAnswer) -> u64| -> Vec<_> {
            peers.iter().map(|peer| (vec![("peer", peer.name.clone())], value(peer))).collect()
        };
        writer.counters(
            "margay_bgp_peer_updates_received",
            "UPDATE messages received",
            &rows(|peer| peer.updates_received),
        )?;
        writer.counters(
            "margay_bgp_peer_established",
            "Sessions that have come up",
            &rows(|peer| peer.established_count),
        )
    }

    fn ports(&self, writer: &mut Writer) -> std::fmt::Result {
        let ports = ports::answer(&self.0);
        let open = ports.iter().filter(|port| port.state == "open");
        let rows = |value: fn(&ports::PortAnswer) -> u64| -> Vec<_> {
            let row = |port: &ports::PortAnswer| (vec![("port", port.name.clone())], value(port));
            open.clone().map(row).collect()
        };
        writer.counters(
            "margay_port_rx_packets",
            "Packets received",
            &rows(|port| port.rx_packets),
        )?;
        writer.counters("margay_port_rx_bytes", "Bytes received", &rows(|port| port.rx_bytes))?;
        writer.counters("margay_port_tx_packets", "Packets sent", &rows(|port| port.tx_packets))?;
        writer.counters("margay_port_tx_bytes", "Bytes sent", &rows(|port| port.tx_bytes))?;
        writer.counters(
            "margay_port_offloaded_rx_packets",
            "Packets received that the XDP program carried on",
            &rows(|port| port.offloaded_rx_packets),
        )?;
        writer.counters(
            "margay_port_offloaded_tx_packets",
            "Packets sent that the XDP program of another port brought",
            &rows(|port| port.offloaded_tx_packets),
        )?;
        let waiting = "Packets from a port that wait for ports that take no more";
        writer.gauges("margay_port_waiting_packets", waiting, &rows(|port| port.waiting))?;
        let dropped = open.clone().flat_map(|port| {
            port.dropped_waiting.iter().map(|(reason, count)| {
                let labels = vec![("port", port.name.clone()), ("reason", reason.clone())];
                (labels, *count)
            })
        });
        writer.counters(
            "margay_port_waiting_dropped",
            "Packets from a port that were dropped while they waited so",
            &dropped.collect::<Vec<_>>(),
        )?;
        writer.gauge("margay_ports_open", "Open ports", open.clone().count() as i64)?;
        writer.gauge(
            "margay_ports_waiting",
            "Ports without a device",
            (ports.len() - open.count()) as i64,
        )
    }

    fn tunnels(&self, writer: &mut Writer) -> std::fmt::Result {
        let tunnels = tunnels::answer(&self.0);
        let rows = |value: fn(&tunnels::TunnelAnswer) -> u64| -> Vec<_> {
            let labels = |one: &tunnels::TunnelAnswer| {
                let remote = ("remote", one.remote.to_string());
                vec![("node", one.node.clone()), ("kind", one.kind.clone()), remote]
            };
            tunnels.iter().map(|one| (labels(one), value(one))).collect()
        };
        type Value = fn(&tunnels::TunnelAnswer) -> u64;
        let families: [(&str, &str, Value); 6] = [
            ("rx_packets", "Packets out of tunnels", |it| it.rx_packets),
            ("rx_bytes", "Bytes of packets out of tunnels", |it| it.rx_bytes),
            ("rx_dropped", "Packets of tunnels dropped before they came out", |it| it.rx_drops),
            ("tx_packets", "Packets into tunnels", |it| it.tx_packets),
            ("tx_bytes", "Bytes of packets into tunnels", |it| it.tx_bytes),
            ("tx_dropped", "Packets that did not fit into tunnels", |it| it.tx_drops),
        ];
        for (name, help, value) in families {
            writer.counters(&format!("margay_tunnel_{name}"), help, &rows(value))?;
        }
        Ok(())
    }

    fn limits(&self, writer: &mut Writer) -> std::fmt::Result {
        let limited = limits::answer(&self.0);
        let ways: Vec<_> = limited
            .iter()
            .flat_map(|one| [(one, "ingress", &one.ingress), (one, "egress", &one.egress)])
            .collect();
        let labels = |one: &limits::LimitAnswer, direction: &str| {
            let endpoint = ("endpoint", one.name.clone());
            let direction = ("direction", direction.to_owned());
            vec![("namespace", one.namespace.clone()), endpoint, direction]
        };
        type Value = fn(&limits::WayAnswer) -> u64;
        let families: [(&str, &str, Value); 3] = [
            ("packets", "Packets that an endpoint's limits let pass", |way| way.packets),
            ("bytes", "Bytes of frames that an endpoint's limits let pass", |way| way.bytes),
            ("delayed_packets", "Packets that had to wait", |way| way.delayed),
        ];
        for (name, help, value) in families {
            let rows = ways.iter().map(|(one, way, of)| (labels(one, way), value(of)));
            writer.counters(&format!("margay_limit_{name}"), help, &rows.collect::<Vec<_>>())?;
        }
        type Level = fn(&limits::WayAnswer) -> Option<u64>;
        let levels: [(&str, &str, Level); 5] = [
            ("bandwidth_bits_per_second", "Bits a second that it may have", |way| way.bandwidth),
            ("packet_rate", "Packets a second that it may have", |way| way.packet_rate),
            ("measured_bits_per_second", "Bits a second that passed lately", |way| {
                Some(way.bits_per_second)
            }),
            ("queued_packets", "Packets that wait now", |way| Some(way.queued)),
            ("connections", "Connections that count for their limit", |way| {
                way.max_connections.map(|_| way.connections.into())
            }),
        ];
        for (name, help, value) in levels {
            let rows =
                ways.iter().filter_map(|(one, way, of)| Some((labels(one, way), value(of)?)));
            writer.gauges(&format!("margay_limit_{name}"), help, &rows.collect::<Vec<_>>())?;
        }
        let mut dropped = Vec::new();
        for (one, direction, way) in ways {
            for (reason, count) in &way.dropped {
                let mut labels = labels(one, direction);
                labels.push(("reason", reason.clone()));
                dropped.push((labels, *count));
            }
        }
        let help = "Packets and connections that an endpoint's limits refused";
        writer.counters("margay_limit_dropped", help, &dropped)
    }

    fn workers(&self, writer: &mut Writer) -> std::fmt::Result {
        let workers = workers::answer(&self.0);
        let rows = |value: fn(&workers::WorkerAnswer) -> u64| -> Vec<_> {
            let row = |worker: &workers::WorkerAnswer| {
                (vec![("worker", worker.index.to_string())], value(worker))
            };
            workers.iter().map(row).collect()
        };
        writer.counters(
            "margay_forwarded_packets",
            "Packets sent on",
            &rows(|worker| worker.forwarded),
        )?;
        writer.counters(
            "margay_offloaded_packets",
            "Packets sent on that the XDP program carried",
            &rows(|worker| worker.offloaded),
        )?;
        writer.counters(
            "margay_punted_packets",
            "Packets given to the host",
            &rows(|worker| worker.punted),
        )?;
        writer.counters(
            "margay_icmp_errors",
            "ICMP errors made",
            &rows(|worker| worker.icmp_errors),
        )?;
        let (mut drops, mut cycles) = (Vec::new(), Vec::new());
        for worker in &workers {
            let index = worker.index.to_string();
            for (reason, count) in &worker.drops {
                drops.push((vec![("worker", index.clone()), ("reason", reason.clone())], *count));
            }
            for stage in &worker.stages {
                let labels = vec![("worker", index.clone()), ("stage", stage.name.clone())];
                cycles.push((labels, stage.cycles));
            }
        }
        writer.counters("margay_dropped_packets", "Packets dropped", &drops)?;
        writer.counters("margay_stage_cycles", "Cycles spent in a stage", &cycles)
    }
}
