//! The fork behind every connection: gRPC to the hot handlers and the services, the rest to the pages and the HTTP cache. Counts
//! all of it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Body as _;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service as _;

use super::request_body::{Paid, RequestBody};
use super::sent_body::{Held, SentBody};
use crate::cache::{AnswerPermit, Cache};
use crate::hot::{Answered, Frames, Hot, Method, Reply};
use crate::http_cache::HttpCache;
use crate::observe::pages::{Page, Pages};
use crate::observe::requests::{GrpcCall, HttpRoute, RequestCounts};
use crate::service::request::RESOURCE_NAME_HEADER;
use crate::status::Answer;

/// All that can be asked of this server.
pub(crate) struct Dispatch {
    pub(crate) cache: Cache,
    pub(crate) hot: Hot,
    pub(crate) routes: Routes,
    pub(crate) http_cache: HttpCache,
    pub(crate) pages: Pages,
    pub(crate) requests: Arc<RequestCounts>,
}

impl Dispatch {
    /// Answers one request.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<SentBody>, Infallible> {
        let path = request.uri().path();
        if !is_grpc(request.headers()) {
            return Ok(Box::pin(self.answer_http(request)).await);
        }
        crate::observe::invocation::log_call(path, request.headers());
        let call = self.requests.begin_grpc(path);
        match Method::of_path(path) {
            Some(method) => Ok(self.answer_hot(method, request, call).await),
            None => Box::pin(self.answer_service(request, call)).await,
        }
    }

    async fn answer_hot(&self, method: Method, request: Request<Incoming>, mut call: GrpcCall) -> Response<SentBody> {
        let (head, body) = request.into_parts();
        let announced = head.headers.get(RESOURCE_NAME_HEADER).map(HeaderValue::as_bytes);
        let body = match self.hot.answer(method, announced, IncomingFrames(body)).await {
            Ok(Answered::Message(Reply { message, paid, room })) => {
                let held = Held { holding: paid, room, paid: None };
                SentBody::of_message(message.into_frame(), call, held)
            }
            Ok(Answered::Stream(stream)) => SentBody::of_read(stream, call, Held::default()),
            Err(answer) => {
                let status = Status::from(answer);
                call.set_code(status.code());
                return status.into_http::<Body>().map(|body| SentBody::of_body(body, None, Held::default()));
            }
        };
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }

    async fn answer_service(
        self: Arc<Self>,
        request: Request<Incoming>,
        mut call: GrpcCall,
    ) -> Result<Response<SentBody>, Infallible> {
        let message_size_bytes_max = crate::service::message_size_bytes_max(request.uri().path(), self.cache.limits());
        let paid = Paid::default();
        let is_conversation = crate::service::is_conversation(request.uri().path());
        let request = request.map(|body| {
            let body = RequestBody::new(body, self.cache.clone(), message_size_bytes_max, Arc::clone(&paid));
            if is_conversation { body.of_conversation() } else { body }
        });
        let mut response = self.routes.clone().call(request).await?;
        let held = Held { paid: Some(paid), room: response.extensions_mut().remove::<AnswerPermit>(), holding: None };
        let call = match code_of(response.headers()) {
            // Trailers only: the status came at once.
            Some(code) => {
                call.set_code(code);
                None
            }
            None => Some(call),
        };
        Ok(response.map(|body| SentBody::of_body(body, call, held)))
    }

    async fn answer_http(self: Arc<Self>, request: Request<Incoming>) -> Response<SentBody> {
        let _in_flight = self.requests.begin_http();
        let method = request.method().clone();
        let (route, mut response) = match Page::at(request.uri().path()) {
            Some(page) => (HttpRoute::Page, self.pages.answer(page, &method)),
            None => self.http_cache.clone().answer(request).await,
        };
        self.requests.count_http(route, &method, response.status());
        let held = Held { room: response.extensions_mut().remove::<AnswerPermit>(), ..Held::default() };
        response.map(|body| SentBody::of_body(body, None, held))
    }
}

/// A request's body as the handlers want it.
struct IncomingFrames(Incoming);

impl Frames for IncomingFrames {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Answer>>> {
        loop {
            match ready!(Pin::new(&mut self.0).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers of a request say nothing.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(Answer::cancelled(error.to_string())))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn is_at_end(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// By content type, as the gRPC protocol says; paths cannot tell, for an instance may be named like a service.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The code that headers or trailers end a call with.
pub(super) fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

#[cfg(test)]
mod tests {
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
