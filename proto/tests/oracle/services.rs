//! Services: their clients call exactly the methods that we declare, with the same stream directions.

use std::{
    collections::BTreeSet,
    future::{Ready, ready},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bazel_remote_apis::{
    build::bazel::remote::asset::v1::{fetch_client::FetchClient, push_client::PushClient},
    build::bazel::remote::execution::v2::{
        action_cache_client::ActionCacheClient, capabilities_client::CapabilitiesClient,
        content_addressable_storage_client::ContentAddressableStorageClient, execution_client::ExecutionClient,
    },
    build::bazel::remote::logstream::v1::log_stream_service_client::LogStreamServiceClient,
    google::{bytestream::byte_stream_client::ByteStreamClient, longrunning::operations_client::OperationsClient},
};
use prost::Message;
use tonic::{Response, Status, Streaming, body::Body};

use crate::pairs::{has_counterpart, pool};

/// A channel that notes the path of each call and answers none.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl tower::Service<http::Request<Body>> for Recorder {
    type Response = http::Response<Body>;
    type Error = std::io::Error;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.lock().expect("no test panics with the lock").push(request.uri().path().to_owned());
        ready(Err(std::io::Error::other("recorded")))
    }
}

/// That an answer is one message, or a stream of them, is checked by the compiler: these take only the one or the
/// other.
fn one<M: Message>(_: &Result<Response<M>, Status>) {}
fn stream<M: Message>(_: &Result<Response<Streaming<M>>, Status>) {}

#[tokio::test]
async fn their_clients_call_exactly_our_methods() {
    let recorder = Recorder::default();
    let mut directions = Vec::new();
    macro_rules! call {
        ($client:ident: $($method:ident $direction:ident),* $(,)?) => {{
            let mut client = $client::new(recorder.clone());
            $(call!(@ client $method $direction);)*
        }};
        (@ $client:ident $method:ident unary) => {
            one(&$client.$method(tonic::Request::new(Default::default())).await);
            directions.push((false, false));
        };
        (@ $client:ident $method:ident from_server) => {
            stream(&$client.$method(tonic::Request::new(Default::default())).await);
            directions.push((false, true));
        };
        (@ $client:ident $method:ident from_client) => {
            one(&$client.$method(tokio_stream::iter([Default::default()])).await);
            directions.push((true, false));
        };
    }
    call!(ExecutionClient: execute from_server, wait_execution from_server);
    call!(ActionCacheClient: get_action_result unary, update_action_result unary);
    call!(ContentAddressableStorageClient:
        find_missing_blobs unary, batch_update_blobs unary, batch_read_blobs unary, get_tree from_server,
        split_blob unary, get_chunk_mapping from_server, splice_blob unary, register_chunk_mapping from_client);
    call!(CapabilitiesClient: get_capabilities unary);
    call!(LogStreamServiceClient: create_log_stream unary);
    call!(FetchClient: fetch_blob unary, fetch_directory unary);
    call!(PushClient: push_blob unary, push_directory unary);
    call!(ByteStreamClient: read from_server, write from_client, query_write_status unary);
    call!(OperationsClient:
        list_operations unary, get_operation unary, delete_operation unary, cancel_operation unary,
        wait_operation unary);

    let paths = recorder.0.lock().expect("no test panics with the lock").clone();
    let called: BTreeSet<_> = paths.into_iter().zip(directions).collect();
    let declared: BTreeSet<_> = pool()
        .services()
        .filter(|service| has_counterpart(service.package_name()))
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            (path, (method.is_client_streaming(), method.is_server_streaming()))
        })
        .collect();
    assert_eq!(called, declared);
}
