//! Bazel's HTTP cache protocol: GET, HEAD and PUT of `/[instance/]{ac,cas}/[function/]<hash>`.
//!
//! The same entries as over gRPC. Blobs stream both ways; what a client may make the server hold is bounded by the cache's
//! budgets. Called by the dispatcher for every request that is neither gRPC nor a page; never sees sockets.

mod body;
mod coding;
mod json;
mod target;

use bytes::{Bytes, BytesMut};
use cask_engine::encoding::ContentSize;
use cask_index::Digest;
use cask_proto::reapi::ActionResult;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use prost::Message;
use tonic::body::Body;

use self::body::{IncomingBody, blob_body};
use self::coding::{Coding, NotASize};
use self::target::{Target, TargetError, TargetKind};
use crate::cache::{BlobStream, Cache, InlineOptions, Wire, too_slow};
use crate::observe::pages::text;
use crate::observe::requests::HttpRoute;
use crate::status::Answer;

/// How much of a refused body is read away to keep its connection. Beyond, closing is cheaper for both sides.
const REFUSED_BYTES_DRAINED_MAX: u64 = 64 << 20;

/// The protocol on top of a cache. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpCache {
    cache: Cache,
}

/// Why a request is not served, with its code and short text.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("use GET, HEAD or PUT")]
    Method,
    #[error("a blob's size must be known before its bytes: send Content-Length")]
    NoLength,
    #[error("a body in this encoding is not accepted; blobs may be sent as they are or as zstd")]
    Encoded,
    #[error("send the size of the blob itself in X-Digest-SizeBytes, as the zstd stream does not tell it")]
    NoDecodedLength,
    #[error("the body is not zstd, as its Content-Encoding says")]
    NotZstd,
    #[error("the body did not arrive in time")]
    Slow,
    #[error("the body ended early: {0}")]
    Broken(String),
    #[error("an action result of more than {limit_bytes} bytes is not accepted")]
    ResultTooLarge { limit_bytes: usize },
    #[error("the result has no JSON form: {0}")]
    NoJson(serde_json::Error),
    #[error("the body is not an ActionResult: {0}")]
    NotAResult(prost::DecodeError),
    #[error("{}", .0.message)]
    Answer(Answer),
}

impl From<cask_engine::EngineError> for Refusal {
    fn from(error: cask_engine::EngineError) -> Self {
        Self::Answer(Answer::from(&error))
    }
}

impl From<crate::cache::ActionError> for Refusal {
    fn from(error: crate::cache::ActionError) -> Self {
        Self::Answer(Answer::from(&error))
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Target(TargetError::NotACachePath) => StatusCode::NOT_FOUND,
            Self::Target(_) | Self::Broken(_) | Self::NotAResult(_) | Self::NotZstd => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoLength | Self::NoDecodedLength => StatusCode::LENGTH_REQUIRED,
            Self::NoJson(_) => StatusCode::NOT_ACCEPTABLE,
            Self::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::ResultTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Answer(answer) => answer.http,
        }
    }

    fn into_response(self) -> Response<Body> {
        let mut response = text(self.status(), format!("{self}\n"));
        match &self {
            Self::Method => {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, PUT"));
            }
            Self::Answer(Answer { retry_after: Some(delay), .. }) => {
                let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            _ => {}
        }
        response
    }
}

impl HttpCache {
    pub(crate) fn new(cache: Cache) -> Self {
        Self { cache }
    }

    /// Answers one request, and says what it was for.
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> (HttpRoute, Response<Body>)
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
        B::Error: std::fmt::Display,
    {
        let (parts, body) = request.into_parts();
        let mut body = IncomingBody::new(body, self.cache.limits().upload_idle_max);
        let target = Target::parse(parts.uri.path());
        let route = match &target {
            Ok(Target { kind: TargetKind::Blob, .. }) => HttpRoute::Cas,
            Ok(Target { kind: TargetKind::ActionResult, .. }) => HttpRoute::ActionCache,
            Err(_) => HttpRoute::Page,
        };
        let response = match target {
            Ok(target) => self.serve(&target, &parts, &mut body).await,
            Err(error) => Err(error.into()),
        }
        .unwrap_or_else(Refusal::into_response);
        // An answer to a half-sent request ends the connection on HTTP/1 and the stream on HTTP/2, and a client still
        // sending may lose the answer to the reset. One that asked first (100-continue) has sent nothing.
        if !expects_continue(&parts.headers) {
            // A blob that was there already is read to its end, as if it were stored; of what is refused only so much.
            let limit_bytes = if response.status().is_success() { u64::MAX } else { REFUSED_BYTES_DRAINED_MAX };
            body.drain(limit_bytes).await;
        }
        (route, response)
    }

    async fn serve<B>(
        &self,
        target: &Target,
        parts: &Parts,
        body: &mut IncomingBody<B>,
    ) -> Result<Response<Body>, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
        B::Error: std::fmt::Display,
    {
        let (instance, digest) = target.resolve(self.cache.instances()).map_err(Refusal::Answer)?;
        match (target.kind, &parts.method) {
            (TargetKind::Blob, &Method::GET) => self.get_blob(digest, &parts.headers, blob_body).await,
            // As a GET, which leases what is reported present, but for the body.
            (TargetKind::Blob, &Method::HEAD) => self.get_blob(digest, &parts.headers, |_| Body::empty()).await,
            (TargetKind::Blob, &Method::PUT) => self.put_blob(digest, &parts.headers, body).await,
            (TargetKind::ActionResult, &Method::GET | &Method::HEAD) => {
                let result =
                    self.cache.get_action_result(instance.name().as_str(), &digest, InlineOptions::default()).await?;
                let is_json = json::is_wanted(&parts.headers);
                // The text is a few times as long, and the message is held in a third form meanwhile.
                let room = self.cache.answer_room(result.encoded_len() * if is_json { 8 } else { 1 }).await?;
                // For HEAD hyper keeps the length and leaves the body away.
                let mut response = if is_json {
                    let mut response = bytes_response(json::of_result(result).map_err(Refusal::NoJson)?.into());
                    let json = HeaderValue::from_static("application/json");
                    response.headers_mut().insert(header::CONTENT_TYPE, json);
                    response
                } else {
                    bytes_response(result.encode_to_vec().into())
                };
                response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
                response.extensions_mut().insert(room);
                Ok(response)
            }
            (TargetKind::ActionResult, &Method::PUT) => {
                instance.require_action_writes().map_err(|refused| Refusal::Answer((&refused).into()))?;
                plain(&parts.headers)?;
                let limit_bytes = self.cache.limits().message_size_bytes_max;
                let too_large = Refusal::ResultTooLarge { limit_bytes };
                // What it announces, or the most it may come to, is paid for before it is received.
                let size_bytes = body.announced_size_bytes().unwrap_or(limit_bytes as u64);
                let size_bytes = usize::try_from(size_bytes).ok().filter(|size_bytes| *size_bytes <= limit_bytes);
                let Some(size_bytes) = size_bytes else { return Err(too_large) };
                let room = self.cache.message_room(size_bytes).await?;
                let bytes = tokio::select! {
                    bytes = body.collect(limit_bytes) => bytes?.ok_or(too_large)?,
                    () = room.asked() => return Err(too_slow().into()),
                };
                let result = ActionResult::decode(bytes).map_err(Refusal::NotAResult)?;
                self.cache.put_action_result(instance.name().as_str(), &digest, result).await?;
                Ok(Response::new(Body::empty()))
            }
            _ => Err(Refusal::Method),
        }
    }

    /// As zstd where it is stored so and the client takes it, else as it is.
    async fn get_blob(
        &self,
        unsized_digest: Digest,
        headers: &HeaderMap,
        body_of: impl FnOnce(BlobStream) -> Body,
    ) -> Result<Response<Body>, Refusal> {
        let digest = self.find(unsized_digest).await?;
        let mut blob = self.cache.read(&digest, 0, None, Wire::Zstd)?;
        let is_zstd = coding::accepts_zstd(headers) && blob.is_stored_as_zstd().await?;
        let blob = if is_zstd { blob } else { blob.plain() };
        let wire_bytes = blob.wire_bytes();
        let mut response = Response::new(body_of(blob));
        describe(response.headers_mut(), wire_bytes);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        if is_zstd {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        }
        Ok(response)
    }

    async fn put_blob<B>(
        &self,
        unsized_digest: Digest,
        headers: &HeaderMap,
        body: &mut IncomingBody<B>,
    ) -> Result<Response<Body>, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
        B::Error: std::fmt::Display,
    {
        if coding::of_body(headers).ok_or(Refusal::Encoded)? == Coding::Zstd {
            return self.put_zstd(unsized_digest, headers, body).await;
        }
        // The size is half of a blob's identity, so it must be known before the first byte is stored.
        let size_bytes = body.announced_size_bytes().ok_or(Refusal::NoLength)?;
        let Some(mut upload) = self.cache.begin_upload(unsized_digest.with_size_bytes(size_bytes)).await? else {
            return Ok(Response::new(Body::empty()));
        };
        loop {
            let next = tokio::select! {
                next = body.next() => next?,
                () = upload.asked_to_end() => return Err(too_slow().into()),
            };
            let Some(bytes) = next else { break };
            upload.write(&bytes).await?;
        }
        upload.finish().await?;
        Ok(Response::new(Body::empty()))
    }

    /// A blob that comes as a zstd stream. Its size, which bounds what is decoded, is told by a header or by the stream.
    async fn put_zstd<B>(
        &self,
        unsized_digest: Digest,
        headers: &HeaderMap,
        body: &mut IncomingBody<B>,
    ) -> Result<Response<Body>, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
        B::Error: std::fmt::Display,
    {
        let mut beginning = BytesMut::new();
        let size_bytes = match coding::told_size_bytes(headers).map_err(|NotASize| Refusal::NoDecodedLength)? {
            Some(size_bytes) => size_bytes,
            None => loop {
                match coding::size_of_stream(&beginning) {
                    ContentSize::Told(size_bytes) => break size_bytes,
                    ContentSize::Untold => return Err(Refusal::NoDecodedLength),
                    ContentSize::NoFrame => return Err(Refusal::NotZstd),
                    ContentSize::NeedsMore => match body.next().await? {
                        Some(bytes) => beginning.extend_from_slice(&bytes),
                        None => return Err(Refusal::NotZstd),
                    },
                }
            },
        };
        let digest = unsized_digest.with_size_bytes(size_bytes);
        let Some(mut upload) = self.cache.begin_compressed_upload(digest).await? else {
            return Ok(Response::new(Body::empty()));
        };
        upload.write(&beginning).await?;
        drop(beginning);
        loop {
            let next = tokio::select! {
                next = body.next() => next?,
                () = upload.asked_to_end() => return Err(too_slow().into()),
            };
            let Some(bytes) = next else { break };
            upload.write(&bytes).await?;
        }
        upload.finish().await?;
        Ok(Response::new(Body::empty()))
    }

    /// The blob with this hash, whatever its size. The record on disk knows the size, so a disk may be waited for.
    async fn find(&self, wanted: Digest) -> Result<Digest, Refusal> {
        let engine = self.cache.engine().clone();
        let found = tokio::task::spawn_blocking(move || {
            engine.find_by_hash(wanted.namespace(), wanted.function(), wanted.hash())
        })
        .await;
        let found = found.unwrap_or(Err(cask_engine::EngineError::Closed))?;
        found.ok_or(Refusal::from(cask_engine::EngineError::NotFound))
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Refuses a body in any coding.
fn plain(headers: &HeaderMap) -> Result<(), Refusal> {
    match coding::of_body(headers) {
        Some(Coding::Identity) => Ok(()),
        _ => Err(Refusal::Encoded),
    }
}

fn describe(headers: &mut HeaderMap, wire_bytes: Option<u64>) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Some(wire_bytes) = wire_bytes {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(wire_bytes));
    }
}

fn bytes_response(bytes: Bytes) -> Response<Body> {
    let size_bytes = bytes.len() as u64;
    let mut response = Response::new(Body::new(http_body_util::Full::new(bytes)));
    describe(response.headers_mut(), Some(size_bytes));
    response
}
