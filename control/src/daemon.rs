//! The daemon: starts everything, turns the control loop, stops cleanly.
//!
//! ```text
//! store -> watch --\                    /-> ports, tables, FIB (packet path)
//! kernel -> watch --> control loop: step --> routes (kernel)
//! workers -> events/                    \-> snapshot -> API, metrics, health
//! ```
//!
//! The only place with an async runtime. Its threads, and those of the packet path, work in the
//! network namespace of the thread that calls [`run`].

use crate::config::Config;
use crate::kernel::{self, sysctl, watch};
use crate::router::Router;
use crate::startup::Startup;
use crate::status::Status;
use crate::store::Store;
use crate::store::datastore::Datastore;
use crate::store::gate::Gate;
use crate::tunnel_addresses::TunnelAddresses;
use crate::{api, bird, cores, flow_log, health, metrics, store};
use margay_fastpath::dataplane::{Dataplane, DataplaneConfig, Event};
use margay_fastpath::fib::FibWriter;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Quiet time after an input before a step is taken, so that inputs that belong together are one.
pub const SETTLE: Duration = Duration::from_millis(2);
/// Longest time that inputs in a row put a step off, unless steps take longer themselves.
pub const SETTLE_MAX: Duration = Duration::from_millis(20);
/// Time between two looks at what has no event.
pub const TICK: Duration = Duration::from_secs(1);
/// Time between two confirmations of the neighbours in use.
pub const KEEP_NEIGHBORS: Duration = Duration::from_secs(15);
/// Events of workers that may wait for the control loop.
const EVENTS: usize = 1024;
/// Threads of the runtime.
const RUNTIME_THREADS: usize = 2;

/// Why the daemon could not start, or ended.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct DaemonError {
    /// What failed.
    pub what: &'static str,
    /// Why, with a hint.
    pub why: String,
}

impl DaemonError {
    fn of(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> DaemonError {
        move |why| DaemonError { what, why: why.to_string() }
    }
}

/// Runs the daemon until `shutdown` is done; blocks.
pub fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), DaemonError> {
    if let Err(error) = cores::leave(&config.worker_cores()) {
        tracing::warn!("control threads may run on the workers' cores: {error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| DaemonError::of("runtime")(&error))?;
    let outcome = runtime.block_on(serve(config, shutdown));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Done when the process is asked to end by SIGTERM or SIGINT.
pub async fn termination() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(error) => {
            tracing::error!("signals: {error}");
            std::future::pending().await
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

async fn serve(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), DaemonError> {
    for fault in sysctl::enable_forwarding().into_iter().chain(sysctl::make_room_for_neighbors()) {
        tracing::warn!("kernel setting: {fault}");
    }
    let (writer, fib) = FibWriter::new();
    let layout = DataplaneConfig {
        worker_cores: config.worker_cores(),
        frames: config.frames,
        large_frames: config.large_frames,
    };
    let (dataplane, events) =
        Dataplane::start(&layout, fib).map_err(|error| DaemonError::of("packet path")(&error))?;
    let dataplane = Arc::new(dataplane);
    let status = Arc::new(Status::new(&config, dataplane.clone()));
    let api = api::server::start(&config.socket, status.clone())
        .map_err(|error| DaemonError::of("socket")(&error))?;
    let bird = bird::start(config.bgp.bird_sockets.as_deref(), &status);
    let flow_logs = flow_log::start(&config.flow_logs, &status)
        .map_err(|error| DaemonError::of("flow log")(&error))?;
    let services = [
        metrics::start(&config.metrics, status.clone())
            .await
            .map_err(|error| DaemonError::of("metrics")(&error))?,
        health::start(&config.health, status.clone())
            .await
            .map_err(|error| DaemonError::of("health")(&error))?,
    ];
    let handle = kernel::connect().map_err(|error| DaemonError::of("kernel")(&error))?;
    let mut place = config.store.clone();
    if let Some(namespace) = &config.bgp.secret_namespace {
        place.secret_namespaces = vec![namespace.clone()];
    }
    let store = Store::open(&place).map_err(|error| DaemonError::of("datastore")(&error))?;
    let startup = Startup::start(&config, &store, status.clone());
    let inputs = Inputs {
        kernel: watch::start(watch::RECEIVE_BUFFER)
            .map_err(|error| DaemonError::of("kernel")(&error))?,
        store: store.watch(),
        gate: Gate::default(),
        tunnel_addresses: TunnelAddresses::start(&store, &config.node_name, status.clone()),
        events: forward(events).map_err(|error| DaemonError::of("thread")(&error))?,
    };
    let mut router = Router::new(config, (dataplane, writer), handle, status.clone())
        .map_err(|error| DaemonError::of("AF_XDP")(&error))?;
    let outcome = turn(&mut router, inputs, &status, shutdown).await;
    services.iter().flatten().for_each(tokio::task::JoinHandle::abort);
    router.stop().await;
    drop((api, bird, startup, flow_logs));
    outcome
}

struct Inputs {
    kernel: watch::Watch,
    store: mpsc::Receiver<store::watch::Batch>,
    gate: Gate,
    tunnel_addresses: TunnelAddresses,
    events: mpsc::Receiver<Event>,
}

/// Brings the workers' events to the runtime. Ends with the packet path.
fn forward(events: crossbeam::channel::Receiver<Event>) -> std::io::Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(EVENTS);
    let body = move || {
        for event in events {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("events".to_owned()).spawn(body)?;
    Ok(receiver)
}

async fn turn(
    router: &mut Router,
    mut inputs: Inputs,
    status: &Status,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    let mut shutdown = std::pin::pin!(shutdown);
    let (mut kept, mut looked) = (Instant::now(), Instant::now());
    loop {
        status.turned();
        let retry =
            router.next_step().map_or(TICK, |at| at.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            outcome = take(router, &mut inputs) => outcome?,
            () = tokio::time::sleep(retry.min(TICK)) => {}
        }
        let end = Instant::now() + router.step_time().clamp(SETTLE_MAX, TICK);
        while Instant::now() < end {
            match tokio::time::timeout(SETTLE, take(router, &mut inputs)).await {
                Ok(outcome) => outcome?,
                Err(_) => break,
            }
        }
        router.step(Instant::now()).await;
        if looked.elapsed() > TICK {
            looked = Instant::now();
            router.look_at_devices();
        }
        if kept.elapsed() > KEEP_NEIGHBORS {
            kept = Instant::now();
            router.keep_neighbors();
        }
    }
}

/// Takes one input in.
async fn take(router: &mut Router, inputs: &mut Inputs) -> Result<(), DaemonError> {
    let lost = |what| DaemonError { what, why: "its watch has ended".to_owned() };
    tokio::select! {
        told = inputs.kernel.told.recv() => {
            if router.take_kernel(told.ok_or_else(|| lost("kernel"))?) {
                inputs.kernel.resync();
            }
        }
        batch = inputs.store.recv() => {
            let batch = batch.ok_or_else(|| lost("store"))?;
            inputs.tunnel_addresses.changed(&batch.events);
            router.take_store(inputs.gate.pass(batch));
        }
        Some(event) = inputs.events.recv() => router.take_event(event, Instant::now()),
        output = router.next_bgp() => router.take_bgp(output),
    }
    Ok(())
}
