//! `grpc.health.v1.Health`: SERVING for the whole server ("") and each service, `NOT_SERVING` while the index is being filled
//! after a start, and while draining.
//!
//! All services live and die together, so there is one state. A watcher's stream ends with the drain: a stream held open
//! would hold up the drain it announces.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Whether this server wants new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Reads of what is known already are answered, questions about what is missing are not.
    Starting,
    Serving,
    Draining,
}

impl From<Readiness> for HealthCheckResponse {
    fn from(readiness: Readiness) -> Self {
        let status = match readiness {
            Readiness::Serving => ServingStatus::Serving,
            Readiness::Starting | Readiness::Draining => ServingStatus::NotServing,
        };
        HealthCheckResponse { status: status.into() }
    }
}

/// The service for the named services and the whole.
pub(crate) fn server(
    readiness: watch::Receiver<Readiness>,
    services: Vec<&'static str>,
) -> HealthServer<HealthService> {
    HealthServer::new(HealthService { readiness, services })
}

pub(crate) struct HealthService {
    readiness: watch::Receiver<Readiness>,
    services: Vec<&'static str>,
}

impl HealthService {
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if self.knows(&request.get_ref().service) {
            let readiness = *self.readiness.borrow();
            Ok(Response::new(readiness.into()))
        } else {
            Err(Status::not_found("no such service here"))
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.knows(&request.get_ref().service);
        let answers = stream::unfold(Some((self.readiness.clone(), Told::Nothing)), move |state| async move {
            let (mut readiness, told) = state?;
            if told == Told::State {
                readiness.changed().await.ok()?;
            }
            let now = *readiness.borrow_and_update();
            // The protocol wants a watcher of an unknown service told so and kept, since the service may yet appear.
            let answer =
                if known { now.into() } else { HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() } };
            Some((Ok(answer), (now != Readiness::Draining).then_some((readiness, Told::State))))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// What a watcher has heard so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    State,
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn service() -> (watch::Sender<Readiness>, HealthService) {
        let (sender, readiness) = watch::channel(Readiness::Serving);
        (sender, HealthService { readiness, services: vec!["a.Service"] })
    }

    fn about(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    #[tokio::test]
    async fn the_whole_and_each_service_are_known_and_others_are_not() {
        let (_sender, health) = service();
        for name in ["", "a.Service"] {
            let answer = health.check(about(name)).await.expect("an answer");
            assert_eq!(answer.get_ref().status(), ServingStatus::Serving);
        }
        let error = health.check(about("b.Service")).await.expect_err("an error");
        assert_eq!(error.code(), tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn a_watcher_hears_when_the_start_is_over() {
        let (sender, health) = service();
        sender.send_replace(Readiness::Starting);
        let answer = health.check(about("")).await.expect("an answer");
        assert_eq!(answer.get_ref().status(), ServingStatus::NotServing);
        let mut watcher = health.watch(about("")).await.expect("a stream").into_inner();
        let mut told = Vec::new();
        for next in [Readiness::Serving, Readiness::Draining] {
            told.push(watcher.next().await.expect("not over").expect("an answer").status());
            sender.send_replace(next);
        }
        told.push(watcher.next().await.expect("not over").expect("an answer").status());
        assert_eq!(told, [ServingStatus::NotServing, ServingStatus::Serving, ServingStatus::NotServing]);
        assert!(watcher.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watcher_hears_of_the_drain_and_is_let_go() {
        let (sender, health) = service();
        let mut known = health.watch(about("a.Service")).await.expect("a stream").into_inner();
        let mut unknown = health.watch(about("b.Service")).await.expect("a stream").into_inner();
        let status =
            |answer: Option<Result<HealthCheckResponse, Status>>| answer.map(|it| it.expect("an answer").status());
        assert_eq!(status(known.next().await), Some(ServingStatus::Serving));
        assert_eq!(status(unknown.next().await), Some(ServingStatus::ServiceUnknown));
        sender.send_replace(Readiness::Draining);
        assert_eq!(status(known.next().await), Some(ServingStatus::NotServing));
        assert_eq!(status(known.next().await), None);
        assert_eq!(status(unknown.next().await), Some(ServingStatus::ServiceUnknown));
        assert_eq!(status(unknown.next().await), None);
    }
}
