//! Origins: the web servers that assets are fetched from when nobody pushed them.
//!
//! A client tells this server where to connect to, so everything about that is bounded by the operator: which hosts (`pattern`),
//! which addresses (`address`), how many redirects, each of which is checked as the first URI was. What a client gave as
//! headers goes to the origin it was meant for and not along with a redirect to another.

mod address;
mod connection;
mod pattern;
mod target;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};

use self::connection::{Answer, Connection, Connector};
pub(crate) use self::pattern::OriginPattern;
use self::target::Target;

/// Browsers follow twenty; a download that needs more than this is going in circles.
const REDIRECTS_MAX: usize = 10;

const USER_AGENT: &str = concat!("cask/", env!("CARGO_PKG_VERSION"));

/// Why an origin did not give what was asked for. Outside this server's control, so it is told inside the answer of a fetch, whose
/// call succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    /// What happened, to be read after the name of the origin. Nothing of what a client sent is in it.
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FaultKind {
    NotFound,
    /// The origin refuses the client, or this server the origin.
    Denied,
    /// Not what the client described.
    Mismatch,
    TimedOut,
    /// The origin is overloaded, or this server's room for fetches is used up. Later it may work.
    Exhausted,
    /// Anything else that may be otherwise the next time.
    Failed,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, reason: impl Into<String>) -> Fault {
        Fault { kind, reason: reason.into() }
    }
}

/// What may be fetched, and how.
pub(crate) struct Origins {
    allowed: Vec<OriginPattern>,
    connector: Connector,
}

/// A URI that was checked and is ready to be fetched.
pub(crate) struct Origin {
    target: Target,
}

/// The bytes of an answer, as the origin sent them: no content coding is undone.
pub(crate) struct OriginBody {
    answer: Answer,
    received_bytes: u64,
}

impl Origins {
    /// Of these hosts; private addresses only when they are allowed as such. May wait for the disk.
    pub(crate) fn new(allowed: Vec<OriginPattern>, allow_private: bool) -> Origins {
        Origins { allowed, connector: Connector::new(allow_private) }
    }

    /// `None` when `uri` is none of a web server: nothing that could be fetched.
    pub(crate) fn check(&self, uri: &str) -> Result<Option<Origin>, Fault> {
        let Some(target) = Target::parse(uri)? else { return Ok(None) };
        self.permit(&target)?;
        Ok(Some(Origin { target }))
    }

    /// Asks for it and follows redirects, until there is an answer with a body. Cancel-safe.
    pub(crate) async fn get(&self, origin: &Origin, mut headers: HeaderMap) -> Result<OriginBody, Fault> {
        let mut target = origin.target.clone();
        for _ in 0..=REDIRECTS_MAX {
            let Connection { mut sender, driver } = self.connector.connect(&target).await?;
            let response = sender.send_request(request(&target, &headers)?).await.map_err(|error| broken(&error))?;
            let location = response.headers().get(header::LOCATION);
            match (response.status(), location) {
                (StatusCode::OK, _) => {
                    let length_bytes = http_body::Body::size_hint(response.body()).exact();
                    let answer = Answer { body: response.into_body(), length_bytes, _driver: driver };
                    return Ok(OriginBody { answer, received_bytes: 0 });
                }
                (
                    StatusCode::MOVED_PERMANENTLY
                    | StatusCode::FOUND
                    | StatusCode::SEE_OTHER
                    | StatusCode::TEMPORARY_REDIRECT
                    | StatusCode::PERMANENT_REDIRECT,
                    Some(location),
                ) => {
                    let next = target.follow(location)?;
                    self.permit(&next)?;
                    if !next.is_same_origin(&target) {
                        headers.clear();
                    }
                    target = next;
                }
                (status, _) => return Err(refusal(status)),
            }
        }
        Err(Fault::new(FaultKind::Denied, format!("it redirects more than {REDIRECTS_MAX} times")))
    }

    fn permit(&self, target: &Target) -> Result<(), Fault> {
        if self.allowed.iter().any(|pattern| pattern.matches(target.host(), target.port())) {
            return Ok(());
        }
        Err(Fault::new(FaultKind::Denied, format!("{target} is not among the origins this server fetches from")))
    }
}

/// True for what could be fetched if everything were allowed.
pub(crate) fn is_of_web_server(uri: &str) -> bool {
    !matches!(Target::parse(uri), Ok(None))
}

/// Why nobody may fetch it, whatever an operator allows by default: what a server tells that fetches nothing at all.
pub(crate) fn never_fetched(uri: &str) -> Option<Fault> {
    match Target::parse(uri) {
        Err(fault) => Some(fault),
        Ok(Some(target)) if target.is_private_by_name() => {
            Some(Fault::new(FaultKind::Denied, "its host is not on the public internet"))
        }
        Ok(_) => None,
    }
}

impl Origin {
    /// Scheme and host, for the log.
    pub(crate) fn name(&self) -> String {
        self.target.to_string()
    }
}

impl OriginBody {
    /// The length the origin announced.
    pub(crate) fn length_bytes(&self) -> Option<u64> {
        self.answer.length_bytes
    }

    /// The next bytes, never empty; `None` at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        while let Some(frame) = self.answer.body.frame().await {
            match frame.map_err(|error| broken(&error))?.into_data() {
                Ok(data) if !data.is_empty() => {
                    self.received_bytes += data.len() as u64;
                    return Ok(Some(data));
                }
                _trailers_or_nothing => {}
            }
        }
        Ok(None)
    }

    /// How much has come.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }
}

fn request(target: &Target, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, Fault> {
    let host = HeaderValue::try_from(target.authority())
        .map_err(|_| Fault::new(FaultKind::NotFound, "its host is not well-formed"))?;
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = target.path().clone().into();
    let all = request.headers_mut();
    all.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    all.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    // A content coding would be stored as it comes, and no checksum would match.
    all.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for (name, value) in headers {
        all.insert(name.clone(), value.clone());
    }
    all.insert(header::HOST, host);
    all.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// What an answer other than the asset says.
fn refusal(status: StatusCode) -> Fault {
    let kind = match status.as_u16() {
        401 | 402 | 403 | 407 | 451 => FaultKind::Denied,
        408 | 504 => FaultKind::TimedOut,
        429 | 503 => FaultKind::Exhausted,
        500..600 => FaultKind::Failed,
        _ => FaultKind::NotFound,
    };
    Fault::new(kind, format!("the origin answered {status}"))
}

fn broken(error: &hyper::Error) -> Fault {
    Fault::new(FaultKind::Failed, format!("the answer broke off: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_by_what_a_client_can_do_about_them() {
        for (status, kind) in [
            (204, FaultKind::NotFound),
            (304, FaultKind::NotFound),
            (400, FaultKind::NotFound),
            (401, FaultKind::Denied),
            (403, FaultKind::Denied),
            (404, FaultKind::NotFound),
            (408, FaultKind::TimedOut),
            (410, FaultKind::NotFound),
            (429, FaultKind::Exhausted),
            (500, FaultKind::Failed),
            (502, FaultKind::Failed),
            (503, FaultKind::Exhausted),
            (504, FaultKind::TimedOut),
        ] {
            assert_eq!(refusal(StatusCode::from_u16(status).unwrap()).kind, kind, "{status}");
        }
    }

    #[test]
    fn only_listed_hosts_are_asked() {
        let origins = Origins::new(vec!["example.com".parse().unwrap()], false);
        assert!(matches!(origins.check("https://example.com/x"), Ok(Some(_))));
        assert!(matches!(origins.check("urn:x"), Ok(None)));
        for uri in ["https://example.org/x", "file:///etc/passwd"] {
            assert_eq!(origins.check(uri).err().map(|fault| fault.kind), Some(FaultKind::Denied), "{uri}");
        }
        assert!(Origins::new(Vec::new(), true).check("https://example.com/x").is_err());
    }
}
