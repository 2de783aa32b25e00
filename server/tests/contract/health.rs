//! Section L, its gRPC half: health and reflection.
//!
//! Left out: L1 to L5 (`log_stream`), L6 to L11 and L14, L15 (bots and build events: services of later steps).

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::blob::blob;
use crate::support::grpc::{Cache, assert_code, piece};
use crate::support::process::Options;
use crate::support::within;
use crate::{start, start_with};

const SERVICES: [&str; 5] = [
    "build.bazel.remote.execution.v2.Capabilities",
    "build.bazel.remote.execution.v2.ContentAddressableStorage",
    "build.bazel.remote.execution.v2.ActionCache",
    "build.bazel.remote.logstream.v1.LogStreamService",
    "google.bytestream.ByteStream",
];

fn check(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn l12_the_server_and_its_services_are_serving() {
    let (_server, cache) = start().await;
    let mut client = HealthClient::new(cache.channel.clone());
    for service in [""].into_iter().chain(SERVICES) {
        let answer = client.check(check(service)).await.unwrap_or_else(|status| panic!("{service:?}: {status}"));
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
}

#[tokio::test]
async fn l12_an_unknown_service_is_not_found() {
    let (_server, cache) = start().await;
    let mut client = HealthClient::new(cache.channel.clone());
    assert_code(&client.check(check("no.such.Service")).await, &[Code::NotFound], "Check");
    let mut watch = client.watch(check("no.such.Service")).await.expect("Watch").into_inner();
    let first = within("the first state", watch.message()).await.expect("Watch").expect("a state");
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
}

#[tokio::test]
async fn l12_draining_is_not_serving() {
    let (server, cache) = start().await;
    let mut watch = HealthClient::new(cache.channel.clone()).watch(check("")).await.expect("Watch").into_inner();
    let first = within("the first state", watch.message()).await.expect("Watch").expect("a state");
    assert_eq!(first.status(), ServingStatus::Serving);

    // A write in flight keeps the server from ending before the watcher is told.
    let other = Cache::connect(&server).await;
    let (digest, data) = blob(12, 2000);
    let name = other.write_name(&digest);
    let mut call = other.open_write();
    call.send(piece(&name, 0, &data[..1000], false)).await;
    other.write_status(&name).await.expect("QueryWriteStatus");
    server.terminate();

    let next = within("the next state", watch.message()).await;
    match next {
        Ok(Some(state)) => assert_eq!(state.status(), ServingStatus::NotServing),
        // The watcher's stream may be ended instead: it serves no longer either way.
        Ok(None) => {}
        Err(status) => {
            assert!(matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown), "{status}");
        }
    }
    // The write in flight is let through, or is told plainly.
    call.send(piece("", 1000, &data[1000..], true)).await;
    let outcome = call.answer().await;
    assert_code(
        &outcome,
        &[Code::Ok, Code::Unavailable, Code::Cancelled, Code::Unknown, Code::Internal],
        "a write while draining",
    );
    drop(watch);
    drop(cache);
    drop(other);
    let (status, mut server) = server.ended().await;
    assert!(status.success(), "after SIGTERM the server ended with {status}");

    server.start_again();
    let cache = Cache::connect(&server).await;
    if outcome.is_ok() {
        assert_eq!(cache.read(&digest).await.expect("a blob acknowledged while draining"), data);
    } else {
        assert!(!cache.is_present(&digest).await);
    }
}

/// SIGTERM ends a server that holds nothing but an idle connection and a write that never goes on.
#[tokio::test]
async fn l12_draining_ends_whatever_clients_do() {
    let options = Options { drain_timeout: Some("1s".to_owned()), ..Options::default() };
    let (server, cache) = start_with(options).await;
    let (digest, data) = blob(13, 2000);
    let mut call = cache.open_write();
    let name = cache.write_name(&digest);
    call.send(piece(&name, 0, &data[..1000], false)).await;
    cache.write_status(&name).await.expect("QueryWriteStatus");
    server.terminate();
    let (status, _server) = server.ended().await;
    assert!(status.success(), "after SIGTERM the server ended with {status}");
    drop(call);
}

#[tokio::test]
async fn l13_reflection_v1_lists_every_service() {
    let (_server, cache) = start().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(cache.channel.clone());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut stream =
        client.server_reflection_info(tokio_stream::iter([request])).await.expect("reflection").into_inner();
    let answer = within("a list of services", stream.message()).await.expect("reflection").expect("an answer");
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer.message_response
    else {
        panic!("not a list of services: {answer:?}");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
        assert!(names.contains(&service), "{service} is not in {names:?}");
    }

    // What is listed can be looked up.
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::FileContainingSymbol(
            "build.bazel.remote.execution.v2.ContentAddressableStorage".to_owned(),
        )),
    };
    let mut stream =
        client.server_reflection_info(tokio_stream::iter([request])).await.expect("reflection").into_inner();
    let answer = within("a file", stream.message()).await.expect("reflection").expect("an answer");
    let Some(v1::server_reflection_response::MessageResponse::FileDescriptorResponse(files)) = answer.message_response
    else {
        panic!("not a file: {answer:?}");
    };
    assert!(!files.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn l13_reflection_v1alpha_lists_every_service() {
    let (_server, cache) = start().await;
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(cache.channel.clone());
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut stream =
        client.server_reflection_info(tokio_stream::iter([request])).await.expect("reflection").into_inner();
    let answer = within("a list of services", stream.message()).await.expect("reflection").expect("an answer");
    let Some(v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("not a list of services: {answer:?}");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
        assert!(names.contains(&service), "{service} is not in {names:?}");
    }
}
