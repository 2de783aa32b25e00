//! The gRPC services, a file each, and their assembly into routes. Methods that builds call all the time are answered in `hot`,
//! before they could come here.

pub(crate) mod action_cache;
mod bots;
pub(crate) mod byte_stream;
pub(crate) mod capabilities;
pub(crate) mod cas;
mod execution;
pub(crate) mod health;
pub(crate) mod log_stream;
mod operations;
pub(crate) mod remote_asset;
pub(crate) mod request;
mod tree;
mod workers;

use std::convert::Infallible;

use http::{Request, Response};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

use self::health::Readiness;
use crate::access::limits::Limits;
use crate::asset::Assets;
use crate::cache::Cache;
use crate::execution::Execution;

/// What reflection hands out: the packages of the cache and of health. (Reflection adds its own.)
pub(crate) const FILE_DESCRIPTOR_SETS: [&[u8]; 2] =
    [cask_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];

/// Why a service has no answer of its own.
const ANSWERED_HOT: &str = "the dispatcher answers this method itself";

/// The largest request message of the method at a path.
pub(crate) fn message_size_bytes_max(path: &str, limits: &Limits) -> usize {
    match path {
        "/google.bytestream.ByteStream/QueryWriteStatus" => limits.name_message_size_bytes_max,
        // Names, and headers for origins.
        _ if path.starts_with("/build.bazel.remote.asset.v1.Fetch/") => limits.name_message_size_bytes_max,
        _ if path.starts_with("/build.bazel.remote.execution.v2.")
            || path.starts_with("/build.bazel.remote.asset.v1.") =>
        {
            limits.message_size_bytes_max
        }
        // What a worker finished has a whole result in it.
        WORKER_SESSION => limits.message_size_bytes_max,
        _ if path.starts_with(BOTS) => limits.message_size_bytes_max,
        // Health, reflection and operations.
        _ => limits.name_message_size_bytes_max,
    }
}

const BOTS: &str = "/google.devtools.remoteworkers.v1test2.Bots/";
const WORKER_SESSION: &str = "/cask.worker.v1.Workers/Session";

/// Whether the call at a path is one that both sides keep open, to say something now and then.
pub(crate) fn is_conversation(path: &str) -> bool {
    path == WORKER_SESSION
}

/// Every service this server has, by path.
pub(crate) fn routes(
    cache: &Cache,
    assets: &Assets,
    execution: Option<&Execution>,
    readiness: watch::Receiver<Readiness>,
) -> Routes {
    let mut assembly = Assembly::default();
    assembly.add(capabilities::server(cache, execution.is_some()));
    assembly.add(cas::server(cache.clone()));
    assembly.add(byte_stream::server(cache.clone()));
    assembly.add(action_cache::server(cache.clone()));
    assembly.add(log_stream::server(cache.clone()));
    let (fetch, push) = remote_asset::servers(cache, assets);
    assembly.add(fetch);
    assembly.add(push);
    if let Some(execution) = execution {
        assembly.add(execution::server(execution.clone()));
        assembly.add(operations::server(execution.clone()));
        assembly.add(workers::server(execution.clone()));
        assembly.add(bots::server(execution.clone()));
    }
    assembly.add(health::server(readiness, assembly.names.clone()));

    // Only what is served is listed: the descriptor sets know more services than this server has.
    let mut reflection =
        (tonic_reflection::server::Builder::configure(), tonic_reflection::server::Builder::configure());
    for set in FILE_DESCRIPTOR_SETS {
        reflection.0 = reflection.0.register_encoded_file_descriptor_set(set);
        reflection.1 = reflection.1.register_encoded_file_descriptor_set(set);
    }
    for name in assembly.names.iter().copied().chain(REFLECTION_NAMES) {
        reflection.0 = reflection.0.with_service_name(name);
        reflection.1 = reflection.1.with_service_name(name);
    }
    let well_formed = "descriptor sets from our own build are well-formed";
    assembly.add(reflection.0.build_v1().expect(well_formed));
    assembly.add(reflection.1.build_v1alpha().expect(well_formed));
    assembly.routes.prepare()
}

const REFLECTION_NAMES: [&str; 2] = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// Routes and the full names of the services behind them.
#[derive(Default)]
struct Assembly {
    routes: Routes,
    names: Vec<&'static str>,
}

impl Assembly {
    fn add<S>(&mut self, server: S)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.routes = std::mem::take(&mut self.routes).add_service(server);
        self.names.push(S::NAME);
    }
}
