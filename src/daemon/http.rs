//! `/healthz`, `/readyz` and `/metrics`. They answer from a thread of their own, whatever a pass does to the others.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use chrono::Utc;

use super::status::Status;
use crate::config::Http;

/// Where it listens unless the config says otherwise: for this machine alone.
pub const DEFAULT: &str = "127.0.0.1:9464";

/// Source: OpenMetrics specification, "Protocol Negotiation".
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Opens the address of the config. None where HTTP is off, or nothing is configured and the usual port is taken.
pub fn listen(config: &Http) -> anyhow::Result<Option<TcpListener>> {
    let address = match config.listen.as_deref() {
        Some(Http::OFF) => return Ok(None),
        address => address.unwrap_or(DEFAULT),
    };
    let address: SocketAddr = address.parse()?;
    match TcpListener::bind(address) {
        Ok(listener) => {
            listener.set_nonblocking(true)?;
            tracing::info!("health and metrics at http://{}", listener.local_addr()?);
            Ok(Some(listener))
        }
        Err(error) if config.listen.is_none() => {
            tracing::warn!(
                "no health and no metrics: {address} cannot be listened at ({error}); name another in [http] listen"
            );
            Ok(None)
        }
        Err(error) => Err(anyhow::anyhow!("[http] listen: {address} cannot be listened at: {error}")),
    }
}

/// Answers until the process ends.
pub fn serve(listener: TcpListener, status: Arc<Status>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        axum::serve(listener, router(status)).await
    };
    let thread = std::thread::Builder::new().name("http".to_owned());
    thread.spawn(move || {
        if let Err(error) = runtime.block_on(serve) {
            tracing::error!("no health and no metrics any more: {error}");
        }
    })?;
    Ok(())
}

fn router(status: Arc<Status>) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(status)
}

async fn ready(State(status): State<Arc<Status>>) -> impl IntoResponse {
    match status.readiness(Utc::now()) {
        Ok(why) => (StatusCode::OK, format!("ready: {why}\n")),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

async fn metrics(State(status): State<Arc<Status>>) -> impl IntoResponse {
    match status.metrics.text(Utc::now(), status.start()) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], format!("{error}\n")),
    }
}
