//! A TCP listener with an HTTP service on it, or a clear error.

use axum::Router;
use std::io;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Serves `router` on `host` (every address when empty) and `port`; nothing on port 0.
pub(crate) async fn serve(
    host: &str,
    port: u16,
    router: Router,
) -> io::Result<Option<JoinHandle<()>>> {
    if port == 0 {
        return Ok(None);
    }
    let listener = match host {
        "" => match TcpListener::bind(("::", port)).await {
            // A kernel without IPv6.
            Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
            bound => bound,
        },
        host => TcpListener::bind((host, port)).await,
    };
    let listener = listener.map_err(|error| {
        let hint = "choose another port in the configuration, or 0 for none";
        io::Error::new(error.kind(), format!("port {port}: {error}\nhint: {hint}"))
    })?;
    let serve = async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("HTTP: {error}");
        }
    };
    Ok(Some(tokio::spawn(serve)))
}
