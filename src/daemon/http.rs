//! `/healthz`, `/readyz` and `/metrics`. They answer from a thread of their own, whatever a pass does to the others.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

use super::status::Status;
use crate::config::Http;

/// Where it listens unless the config says otherwise: for this machine alone.
pub const DEFAULT: &str = "127.0.0.1:9464";

/// Connections at once, and how long each may take.
const CONNECTIONS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);

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
    let listener = {
        let _in_runtime = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let thread = std::thread::Builder::new().name("http".to_owned());
    thread.spawn(move || runtime.block_on(accept(listener, router(status))))?;
    Ok(())
}

/// Answers one request a connection, to so many at once: whoever holds connections open takes nothing from the passes.
async fn accept(listener: tokio::net::TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&room).acquire_owned().await.expect("it is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a connection for health or metrics was lost: {error}");
                tokio::time::sleep(PATIENCE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
            // What becomes of it is the other side's business.
            let _ = tokio::time::timeout(PATIENCE, connection).await;
            drop(place);
        });
    }
}

fn router(status: Arc<Status>) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(status)
}

async fn ready(State(status): State<Arc<Status>>) -> impl IntoResponse {
    match status.readiness(status.now()) {
        Ok(why) => (StatusCode::OK, format!("ready: {why}\n")),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

async fn metrics(State(status): State<Arc<Status>>) -> impl IntoResponse {
    match status.metrics.text(status.now(), status.start()) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], format!("{error}\n")),
    }
}
