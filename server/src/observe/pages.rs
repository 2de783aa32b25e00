//! The plain pages beside the cache: `/` for people, `/status` and `/metrics` for programs, `/healthz` for load balancers.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Method, Response, StatusCode, header};
use tokio::sync::watch;
use tonic::body::Body;

use super::metrics::{self, EdgeGauges};
use super::requests::RequestCounts;
use crate::asset::Assets;
use crate::cache::Cache;
use crate::execution::Execution;
use crate::service::health::Readiness;

/// What the pages show.
pub(crate) struct Pages {
    cache: Cache,
    assets: Assets,
    execution: Option<Execution>,
    requests: Arc<RequestCounts>,
    readiness: watch::Receiver<Readiness>,
    started: Instant,
    started_unix_seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Home,
    Status,
    Health,
    Metrics,
}

impl Page {
    /// The page at a path, if there is one.
    pub(crate) fn at(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Home),
            "/status" => Some(Self::Status),
            "/healthz" => Some(Self::Health),
            "/metrics" => Some(Self::Metrics),
            _ => None,
        }
    }
}

const HOME: &str = concat!(
    "Cask ",
    env!("CARGO_PKG_VERSION"),
    ": a shared remote cache for builds.

This address speaks the Remote Execution API over gRPC and Bazel's HTTP cache protocol.
Paste one of these into .bazelrc, with the host and port you reached this page by:

  build --remote_cache=grpc://HOST:PORT
  build --remote_cache=http://HOST:PORT

  /status   this server's state, as JSON
  /metrics  for Prometheus
  /healthz  200 while serving, 503 while starting or shutting down
"
);

impl Pages {
    pub(crate) fn new(
        cache: Cache,
        assets: Assets,
        execution: Option<Execution>,
        requests: Arc<RequestCounts>,
        readiness: watch::Receiver<Readiness>,
    ) -> Self {
        let started_unix_seconds =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        Self { cache, assets, execution, requests, readiness, started: Instant::now(), started_unix_seconds }
    }

    /// Answers GET and HEAD; hyper leaves the body away for HEAD.
    pub(crate) fn answer(&self, page: Page, method: &Method) -> Response<Body> {
        if method != Method::GET && method != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "this page can only be read\n".to_owned());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match page {
            Page::Home => text(StatusCode::OK, HOME.to_owned()),
            Page::Health => match *self.readiness.borrow() {
                Readiness::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
                Readiness::Serving => text(StatusCode::OK, "serving\n".to_owned()),
                Readiness::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
            },
            Page::Metrics => typed(
                metrics::exposition(
                    &self.cache.engine().stats(),
                    &EdgeGauges::of(&self.cache, &self.assets, self.execution.as_ref()),
                    &self.requests,
                    self.started_unix_seconds,
                ),
                metrics::CONTENT_TYPE,
            ),
            Page::Status => typed(self.status(), "application/json"),
        }
    }

    fn status(&self) -> String {
        let engine: serde_json::Map<String, serde_json::Value> = metrics::engine_values(&self.cache.engine().stats())
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let state = match *self.readiness.borrow() {
            Readiness::Starting => "starting",
            Readiness::Serving => "serving",
            Readiness::Draining => "draining",
        };
        let mut status = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "state": state,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "connections": self.requests.connections_open(),
            "requests_in_flight": self.requests.in_flight(),
            "disk": self.cache.engine().way_of_writing(),
            "engine": engine,
        })
        .to_string();
        status.push('\n');
        status
    }
}

fn typed(content: String, content_type: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::OK, content);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A short plain answer.
pub(crate) fn text(status: StatusCode, content: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::<bytes::Bytes>::from(content)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
