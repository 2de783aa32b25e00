//! Counts of requests by method and code, and of connections. Written on every request, so: atomics found by index, no locks,
//! no allocation, and a fixed set of rows that no client can grow.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cask_proto::GRPC_CODES;
use http::{Method, StatusCode};
use prost::Message;
use tonic::Code;

/// What the HTTP side answers with; the last stands for any other.
const HTTP_CODES: [&str; 13] =
    ["200", "400", "403", "404", "405", "408", "411", "413", "415", "500", "503", "507", "other"];

const HTTP_METHODS: [&str; 4] = ["GET", "HEAD", "PUT", "other"];

/// What part of the HTTP side a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpRoute {
    Cas,
    ActionCache,
    Page,
}

const HTTP_ROUTES: [(HttpRoute, &str); 3] =
    [(HttpRoute::Cas, "cas"), (HttpRoute::ActionCache, "ac"), (HttpRoute::Page, "page")];

/// All counters of the edge.
pub(crate) struct RequestCounts {
    grpc_methods: Vec<GrpcMethod>,
    /// Request path -> position in `grpc_methods`.
    grpc_by_path: HashMap<String, usize>,
    http: [[[AtomicU64; HTTP_CODES.len()]; HTTP_METHODS.len()]; HTTP_ROUTES.len()],
    in_flight: AtomicU64,
    connections_open: AtomicU64,
    connections_total: AtomicU64,
}

struct GrpcMethod {
    service: String,
    method: String,
    codes: [AtomicU64; GRPC_CODES.len()],
}

impl RequestCounts {
    /// With a row for each method of the services described, and one, the last, for all that is called but unknown.
    pub(crate) fn new(file_descriptor_sets: &[&[u8]]) -> Self {
        let mut grpc_methods = Vec::new();
        let mut grpc_by_path = HashMap::new();
        for set in file_descriptor_sets {
            let set = prost_types::FileDescriptorSet::decode(*set).unwrap_or_default();
            for file in &set.file {
                for service in &file.service {
                    let service_name = format!("{}.{}", file.package(), service.name());
                    for method in &service.method {
                        grpc_by_path.insert(format!("/{service_name}/{}", method.name()), grpc_methods.len());
                        grpc_methods.push(GrpcMethod::new(service_name.clone(), method.name().to_owned()));
                    }
                }
            }
        }
        grpc_methods.push(GrpcMethod::new("unknown".to_owned(), "unknown".to_owned()));
        Self {
            grpc_methods,
            grpc_by_path,
            http: Default::default(),
            in_flight: AtomicU64::new(0),
            connections_open: AtomicU64::new(0),
            connections_total: AtomicU64::new(0),
        }
    }

    /// Begins counting a call; the guard ends it.
    pub(crate) fn begin_grpc(self: &Arc<Self>, path: &str) -> GrpcCall {
        self.in_flight.fetch_add(1, Relaxed);
        let method = self.grpc_by_path.get(path).copied().unwrap_or(self.grpc_methods.len() - 1);
        GrpcCall { counts: Arc::clone(self), method, code: Code::Cancelled }
    }

    /// Begins counting an HTTP request; the guard ends it.
    pub(crate) fn begin_http(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight { counts: Arc::clone(self) }
    }

    pub(crate) fn count_http(&self, route: HttpRoute, method: &Method, status: StatusCode) {
        let route = HTTP_ROUTES.iter().position(|(candidate, _)| *candidate == route);
        let method = HTTP_METHODS.iter().position(|name| *name == method.as_str());
        let code = HTTP_CODES.iter().position(|code| *code == status.as_str());
        let route = route.expect("every route has a row");
        self.http[route][method.unwrap_or(HTTP_METHODS.len() - 1)][code.unwrap_or(HTTP_CODES.len() - 1)]
            .fetch_add(1, Relaxed);
    }

    /// Counts a connection as open until the guard is dropped.
    pub(crate) fn open_connection(self: &Arc<Self>) -> OpenConnection {
        self.connections_total.fetch_add(1, Relaxed);
        self.connections_open.fetch_add(1, Relaxed);
        OpenConnection { counts: Arc::clone(self) }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    pub(crate) fn connections_open(&self) -> u64 {
        self.connections_open.load(Relaxed)
    }

    pub(crate) fn connections_total(&self) -> u64 {
        self.connections_total.load(Relaxed)
    }

    /// (service, method, code, count) of what has happened at all.
    pub(crate) fn grpc(&self) -> impl Iterator<Item = (&str, &str, &'static str, u64)> {
        self.grpc_methods.iter().flat_map(|row| {
            GRPC_CODES.iter().zip(&row.codes).filter_map(|(code, count)| {
                let count = count.load(Relaxed);
                (count > 0).then_some((row.service.as_str(), row.method.as_str(), *code, count))
            })
        })
    }

    /// (route, method, code, count) of what has happened at all.
    pub(crate) fn http(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, u64)> {
        HTTP_ROUTES.iter().zip(&self.http).flat_map(|((_, route), methods)| {
            HTTP_METHODS.iter().zip(methods).flat_map(move |(method, codes)| {
                HTTP_CODES.iter().zip(codes).filter_map(move |(code, count)| {
                    let count = count.load(Relaxed);
                    (count > 0).then_some((*route, *method, *code, count))
                })
            })
        })
    }
}

impl GrpcMethod {
    fn new(service: String, method: String) -> Self {
        Self { service, method, codes: Default::default() }
    }
}

/// A call being counted. One that is dropped without a code was given up by its client.
pub(crate) struct GrpcCall {
    counts: Arc<RequestCounts>,
    method: usize,
    code: Code,
}

impl GrpcCall {
    /// The code the call will be counted with.
    pub(crate) fn set_code(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for GrpcCall {
    fn drop(&mut self) {
        self.counts.in_flight.fetch_sub(1, Relaxed);
        self.counts.grpc_methods[self.method].codes[self.code as usize].fetch_add(1, Relaxed);
    }
}

/// Counts as in flight until dropped.
pub(crate) struct InFlight {
    counts: Arc<RequestCounts>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.counts.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Counts as open until dropped.
pub(crate) struct OpenConnection {
    counts: Arc<RequestCounts>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.counts.connections_open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_method_and_code_and_strangers_together() {
        let counts = Arc::new(RequestCounts::new(&[cask_proto::FILE_DESCRIPTOR_SET]));
        let find_missing = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
        for (path, code) in [
            (find_missing, Some(Code::Ok)),
            (find_missing, None),
            ("/a/b", Some(Code::Unimplemented)),
            ("/c/d", Some(Code::Unimplemented)),
        ] {
            let mut call = counts.begin_grpc(path);
            assert_eq!(counts.in_flight(), 1);
            if let Some(code) = code {
                call.set_code(code);
            }
        }
        assert_eq!(counts.in_flight(), 0);
        let cas = "build.bazel.remote.execution.v2.ContentAddressableStorage";
        assert_eq!(
            counts.grpc().collect::<Vec<_>>(),
            [
                (cas, "FindMissingBlobs", "OK", 1),
                (cas, "FindMissingBlobs", "CANCELLED", 1),
                ("unknown", "unknown", "UNIMPLEMENTED", 2),
            ]
        );
    }

    #[test]
    fn http_requests_are_counted_and_unusual_ones_together() {
        let counts = Arc::new(RequestCounts::new(&[]));
        counts.count_http(HttpRoute::Cas, &Method::PUT, StatusCode::OK);
        counts.count_http(HttpRoute::Page, &Method::TRACE, StatusCode::IM_A_TEAPOT);
        counts.count_http(HttpRoute::Page, &Method::PATCH, StatusCode::BAD_GATEWAY);
        assert_eq!(counts.http().collect::<Vec<_>>(), [("cas", "PUT", "200", 1), ("page", "other", "other", 2)]);
    }
}
