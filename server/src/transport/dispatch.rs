//! The fork behind every connection: gRPC to the services, the rest to the pages and the HTTP cache. Counts both.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service as _;

use super::request_body::{Paid, RequestBody};
use super::sent_body::SentBody;
use crate::cache::{AnswerPermit, Cache};
use crate::http_cache::HttpCache;
use crate::observe::pages::{Page, Pages};
use crate::observe::requests::{GrpcCall, HttpRoute, RequestCounts};

/// All that can be asked of this server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatch {
    pub(crate) cache: Cache,
    pub(crate) routes: Routes,
    pub(crate) http_cache: HttpCache,
    pub(crate) pages: Arc<Pages>,
    pub(crate) requests: Arc<RequestCounts>,
}

impl Dispatch {
    /// Answers one request.
    pub(crate) async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if is_grpc(request.headers()) {
            self.answer_grpc(request).await
        } else {
            Ok(sent(self.answer_http(request).await, None))
        }
    }

    async fn answer_grpc(mut self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let path = request.uri().path();
        crate::observe::invocation::log_call(path, request.headers());
        let mut call = self.requests.begin_grpc(path);
        let message_size_bytes_max = crate::service::message_size_bytes_max(path, self.cache.limits());
        let paid = Paid::default();
        let request =
            request.map(|body| RequestBody::new(body, self.cache.clone(), message_size_bytes_max, Arc::clone(&paid)));
        let response = self.routes.call(request).await?;
        if let Some(code) = code_of(response.headers()) {
            // Trailers only: the status came at once.
            call.set_code(code);
            return Ok(response);
        }
        Ok(sent(response.map(|body| Body::new(CountedBody { body, call })), Some(paid)))
    }

    async fn answer_http(self, request: Request<Incoming>) -> Response<Body> {
        let _in_flight = self.requests.begin_http();
        let method = request.method().clone();
        let (route, response) = match Page::at(request.uri().path()) {
            Some(page) => (HttpRoute::Page, self.pages.answer(page, &method)),
            None => self.http_cache.answer(request).await,
        };
        self.requests.count_http(route, &method, response.status());
        response
    }
}

/// The answer, with all that it holds until the client has taken it.
fn sent(mut response: Response<Body>, paid: Option<Paid>) -> Response<Body> {
    let room = response.extensions_mut().remove::<AnswerPermit>();
    response.map(|body| Body::new(SentBody::new(body, paid, room)))
}

/// By content type, as the gRPC protocol says; paths cannot tell, for an instance may be named like a service.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// Passes a call's frames on and learns its code from the trailers. Dropped before them, the call counts as cancelled.
struct CountedBody {
    body: Body,
    call: GrpcCall,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code_of) {
                    self.call.set_code(code);
                }
            }
            Some(Err(status)) => {
                let code = status.code();
                self.call.set_code(code);
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn grpc_is_told_by_content_type() {
        for (content_type, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/octet-stream", false),
            ("text/plain", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            assert_eq!(is_grpc(&headers), grpc, "{content_type}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
