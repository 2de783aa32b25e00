//! The gRPC services, a file each, and their assembly into routes.

pub(crate) mod action_cache;
pub(crate) mod byte_stream;
pub(crate) mod capabilities;
pub(crate) mod cas;
pub(crate) mod health;
mod request;
mod tree;

use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::service::Routes;

use self::health::Readiness;
use crate::cache::Cache;

/// What reflection hands out: the packages of the cache and of health. (Reflection adds its own.)
pub(crate) const FILE_DESCRIPTOR_SETS: [&[u8]; 2] =
    [cask_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];

/// Every service this server has, and the full names of those that health and reflection list.
pub(crate) struct Services {
    pub(crate) routes: Routes,
    pub(crate) names: Vec<&'static str>,
}

impl Services {
    pub(crate) fn assemble(cache: &Cache, readiness: watch::Receiver<Readiness>) -> Self {
        let mut services = Self { routes: Routes::default(), names: Vec::new() };
        services.add(capabilities::server(cache));
        services.add(cas::server(cache.clone()));
        services.add(byte_stream::server(cache.clone()));
        services.add(action_cache::server(cache.clone()));
        services.add(health::server(readiness, services.names.clone()));

        let names = services.names.clone();
        let reflection = || {
            let mut builder = tonic_reflection::server::Builder::configure();
            for set in FILE_DESCRIPTOR_SETS {
                builder = builder.register_encoded_file_descriptor_set(set);
            }
            names.iter().fold(builder, |builder, name| builder.with_service_name(*name))
        };
        let built = "descriptor sets made by our own build are well-formed";
        services.add(reflection().with_service_name(V1_NAME).build_v1().expect(built));
        services.add(reflection().with_service_name(V1ALPHA_NAME).build_v1alpha().expect(built));
        services.routes = services.routes.prepare();
        services
    }

    fn add<S>(&mut self, server: S)
    where
        S: tower::Service<
                http::Request<tonic::body::Body>,
                Response = http::Response<tonic::body::Body>,
                Error = std::convert::Infallible,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes = std::mem::take(&mut self.routes).add_service(server);
        self.names.push(S::NAME);
    }
}

const V1_NAME: &str = "grpc.reflection.v1.ServerReflection";
const V1ALPHA_NAME: &str = "grpc.reflection.v1alpha.ServerReflection";
