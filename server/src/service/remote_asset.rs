//! `Fetch` and `Push` of the Remote Asset API: blobs and directories by URI and qualifiers.
//!
//! What went wrong at an origin, a miss included, is told inside the answer of a fetch, whose call succeeds; what is wrong with the
//! request or with this server is the status of the call.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cask_index::{Digest, DigestFunction};
use cask_proto::asset::fetch_server::{Fetch, FetchServer};
use cask_proto::asset::push_server::{Push, PushServer};
use cask_proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse, PushBlobRequest,
    PushBlobResponse, PushDirectoryRequest, PushDirectoryResponse, Qualifier,
};
use cask_proto::digest::{function_field, to_wire};
use cask_proto::{Compressor, InstanceName, ReadName, reapi, rpc};
use prost_types::Timestamp;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};

use super::request;
use crate::access::instances::Instance;
use crate::asset::{self, AssetKind, Assets, FaultKind, FetchError, Found, PushError, QualifierError, Qualifiers};
use crate::cache::Cache;
use crate::status::{self, Answer, answer_of};

/// More is no request but an attack.
const URIS_MAX: usize = 64;
const URI_BYTES_MAX: usize = 16 * 1024;
/// Absent blobs that a refusal lists.
const VIOLATIONS_MAX: usize = 100;

/// Both services, with their message limits set.
pub(crate) fn servers(
    cache: &Cache,
    assets: &Assets,
) -> (FetchServer<RemoteAssetService>, PushServer<RemoteAssetService>) {
    let message_size_bytes_max = cache.limits().message_size_bytes_max;
    let service = RemoteAssetService { cache: cache.clone(), assets: assets.clone() };
    (
        FetchServer::new(service.clone()).max_decoding_message_size(message_size_bytes_max),
        PushServer::new(service).max_decoding_message_size(message_size_bytes_max),
    )
}

#[derive(Clone)]
pub(crate) struct RemoteAssetService {
    cache: Cache,
    assets: Assets,
}

/// What both kinds of fetch ask for.
struct FetchFields {
    instance_name: String,
    timeout: Option<prost_types::Duration>,
    oldest_content_accepted: Option<Timestamp>,
    uris: Vec<String>,
    qualifiers: Vec<Qualifier>,
    digest_function: i32,
}

/// What both kinds of fetch answer.
struct FetchAnswer {
    status: rpc::Status,
    uri: String,
    qualifiers: Vec<Qualifier>,
    expires_at: Option<Timestamp>,
    digest: Option<reapi::Digest>,
    digest_function: i32,
}

/// What both kinds of push bring.
struct PushFields {
    instance_name: String,
    uris: Vec<String>,
    qualifiers: Vec<Qualifier>,
    expire_at: Option<Timestamp>,
    digest: Option<reapi::Digest>,
    digest_field: &'static str,
    references_blobs: Vec<reapi::Digest>,
    references_directories: Vec<reapi::Digest>,
    digest_function: i32,
}

impl RemoteAssetService {
    async fn fetch(&self, kind: AssetKind, fields: FetchFields) -> Result<FetchAnswer, Status> {
        let instance = request::instance(&self.cache, &fields.instance_name)?;
        check_uris(&fields.uris)?;
        let function = function_of(&instance, fields.digest_function)?;
        let qualifiers = Qualifiers::parse(fields.qualifiers, fields.uris.len()).map_err(qualifier_refusal)?;
        // What identifies the asset is known to have been so; headers are nobody's to be told again.
        let echoed =
            qualifiers.identity().iter().map(|(name, value)| Qualifier { name: name.clone(), value: value.clone() });
        let (echoed, uris) = (echoed.collect(), fields.uris);
        let query = asset::Query {
            kind,
            instance,
            function,
            uris,
            qualifiers,
            oldest_accepted_ms: unix_ms("oldest_content_accepted", fields.oldest_content_accepted)?,
            timeout: timeout_of(fields.timeout)?,
        };
        let answer = |status: rpc::Status, uri| FetchAnswer {
            status,
            uri,
            qualifiers: Vec::new(),
            expires_at: None,
            digest: None,
            digest_function: function_field(function),
        };
        match self.assets.fetch(query).await {
            Ok(Found { uri, digest, expires_ms }) => Ok(FetchAnswer {
                qualifiers: echoed,
                expires_at: expires_ms.map(timestamp),
                digest: Some(to_wire(&digest)),
                ..answer(rpc::Status::default(), uri)
            }),
            Err(FetchError::Fault { uri, fault }) => {
                let code = match fault.kind {
                    FaultKind::NotFound => Code::NotFound,
                    FaultKind::Denied => Code::PermissionDenied,
                    FaultKind::Mismatch | FaultKind::Failed => Code::Aborted,
                    FaultKind::TimedOut => Code::DeadlineExceeded,
                    FaultKind::Exhausted => Code::ResourceExhausted,
                };
                let status = rpc::Status { code: code as i32, message: fault.reason, details: Vec::new() };
                Ok(answer(status, uri))
            }
            Err(FetchError::Unsupported(names)) => Err(unsupported(&names)),
            Err(FetchError::Store(error)) => Err(status::grpc(error)),
        }
    }

    async fn push(&self, kind: AssetKind, fields: PushFields) -> Result<(), Status> {
        let instance = request::instance(&self.cache, &fields.instance_name)?;
        check_uris(&fields.uris)?;
        // Who may not say what an action results in may not say what a name stands for either.
        instance.require_action_writes().map_err(status::grpc)?;
        let rule = instance.digest_rule(fields.digest_function).map_err(answer_of)?;
        let digest = request::digest_field(rule, fields.digest_field, fields.digest.as_ref())?;
        let references = |list: &[reapi::Digest]| {
            let digests: Result<Vec<_>, Answer> = list.iter().map(|wire| request::digest(rule, wire)).collect();
            match digests? {
                digests if digests.iter().all(|other| other.function() == digest.function()) => Ok(digests),
                _ => Err(Answer::invalid("references are of another digest function than the asset")),
            }
        };
        let push = asset::Push {
            kind,
            digest,
            qualifiers: Qualifiers::parse(fields.qualifiers, fields.uris.len()).map_err(qualifier_refusal)?,
            expires_ms: unix_ms("expire_at", fields.expire_at)?,
            referenced_blobs: references(&fields.references_blobs)?,
            referenced_directories: references(&fields.references_directories)?,
            instance,
            uris: fields.uris,
        };
        self.assets.push(push).await.map_err(|error| match error {
            PushError::Invalid(reason) => Status::invalid_argument(reason),
            PushError::Absent(digests) => absent(&digests),
            PushError::Action(error) => status::grpc(error),
        })
    }
}

#[tonic::async_trait]
impl Fetch for RemoteAssetService {
    async fn fetch_blob(&self, request: Request<FetchBlobRequest>) -> Result<Response<FetchBlobResponse>, Status> {
        let FetchBlobRequest { instance_name, timeout, oldest_content_accepted, uris, qualifiers, digest_function } =
            request.into_inner();
        let fields = FetchFields { instance_name, timeout, oldest_content_accepted, uris, qualifiers, digest_function };
        let FetchAnswer { status, uri, qualifiers, expires_at, digest, digest_function } =
            self.fetch(AssetKind::Blob, fields).await?;
        Ok(Response::new(FetchBlobResponse {
            status: Some(status),
            uri,
            qualifiers,
            expires_at,
            blob_digest: digest,
            digest_function,
        }))
    }

    async fn fetch_directory(
        &self,
        request: Request<FetchDirectoryRequest>,
    ) -> Result<Response<FetchDirectoryResponse>, Status> {
        let FetchDirectoryRequest {
            instance_name,
            timeout,
            oldest_content_accepted,
            uris,
            qualifiers,
            digest_function,
        } = request.into_inner();
        let fields = FetchFields { instance_name, timeout, oldest_content_accepted, uris, qualifiers, digest_function };
        let FetchAnswer { status, uri, qualifiers, expires_at, digest, digest_function } =
            self.fetch(AssetKind::Directory, fields).await?;
        Ok(Response::new(FetchDirectoryResponse {
            status: Some(status),
            uri,
            qualifiers,
            expires_at,
            root_directory_digest: digest,
            digest_function,
        }))
    }
}

#[tonic::async_trait]
impl Push for RemoteAssetService {
    async fn push_blob(&self, request: Request<PushBlobRequest>) -> Result<Response<PushBlobResponse>, Status> {
        let request = request.into_inner();
        let fields = PushFields {
            instance_name: request.instance_name,
            uris: request.uris,
            qualifiers: request.qualifiers,
            expire_at: request.expire_at,
            digest: request.blob_digest,
            digest_field: "blob_digest",
            references_blobs: request.references_blobs,
            references_directories: request.references_directories,
            digest_function: request.digest_function,
        };
        self.push(AssetKind::Blob, fields).await?;
        Ok(Response::new(PushBlobResponse {}))
    }

    async fn push_directory(
        &self,
        request: Request<PushDirectoryRequest>,
    ) -> Result<Response<PushDirectoryResponse>, Status> {
        let request = request.into_inner();
        let fields = PushFields {
            instance_name: request.instance_name,
            uris: request.uris,
            qualifiers: request.qualifiers,
            expire_at: request.expire_at,
            digest: request.root_directory_digest,
            digest_field: "root_directory_digest",
            references_blobs: request.references_blobs,
            references_directories: request.references_directories,
            digest_function: request.digest_function,
        };
        self.push(AssetKind::Directory, fields).await?;
        Ok(Response::new(PushDirectoryResponse {}))
    }
}

fn check_uris(uris: &[String]) -> Result<(), Answer> {
    if uris.is_empty() {
        return Err(Answer::invalid("`uris` is empty"));
    }
    if uris.len() > URIS_MAX {
        return Err(Answer::invalid(format!("more than {URIS_MAX} URIs")));
    }
    if uris.iter().any(|uri| uri.is_empty() || uri.len() > URI_BYTES_MAX) {
        return Err(Answer::invalid(format!("a URI is empty or longer than {URI_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The function that a fetched asset's digest is to be of; SHA-256, says the API, for those who do not say.
fn function_of(instance: &Instance, digest_function: i32) -> Result<DigestFunction, Answer> {
    instance.digest_rule(digest_function).map_err(answer_of)?;
    let named = DigestFunction::from_wire_number(digest_function);
    Ok(named.or(instance.preferred_function()).unwrap_or(DigestFunction::Sha256))
}

/// Before 1970 is as good as 1970: older than any asset.
fn unix_ms(field: &str, time: Option<Timestamp>) -> Result<Option<u64>, Answer> {
    let Some(time) = time else { return Ok(None) };
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(Answer::invalid(format!("`{field}` is no time")));
    }
    let ms = i128::from(time.seconds) * 1000 + i128::from(time.nanos) / 1_000_000;
    // 0 would be no time at all, and the least there is comes to the same.
    Ok(Some(u64::try_from(ms.max(1)).unwrap_or(u64::MAX)))
}

fn timestamp(unix_ms: u64) -> Timestamp {
    UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)).map_or(Timestamp::default(), |time: SystemTime| time.into())
}

/// None and nothing are both "as the server likes".
fn timeout_of(timeout: Option<prost_types::Duration>) -> Result<Option<Duration>, Answer> {
    let Some(timeout) = timeout else { return Ok(None) };
    let timeout = Duration::try_from(timeout).map_err(|_| Answer::invalid("`timeout` is negative"))?;
    Ok(Some(timeout).filter(|timeout| !timeout.is_zero()))
}

fn qualifier_refusal(error: QualifierError) -> Status {
    match error {
        QualifierError::Unsupported(name) => unsupported(&[name]),
        other => Status::invalid_argument(other.to_string()),
    }
}

fn unsupported(names: &[String]) -> Status {
    let violation = |name: &String| FieldViolation::new("qualifiers.name", format!("\"{name}\" not supported"));
    let message = format!("qualifiers not supported: {}", names.join(", "));
    let details = ErrorDetails::with_bad_request(names.iter().map(violation).collect::<Vec<_>>());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// In the form that clients know from execution: upload these and try again.
fn absent(digests: &[Digest]) -> Status {
    let violation = |digest: &Digest| {
        let name = ReadName { instance: InstanceName::EMPTY, digest: *digest, compressor: Compressor::Identity };
        PreconditionViolation::new("MISSING", name.to_string(), "")
    };
    let violations: Vec<_> = digests.iter().take(VIOLATIONS_MAX).map(violation).collect();
    let message = format!("{} blobs of the asset are not in the store", digests.len());
    Status::with_error_details(Code::FailedPrecondition, message, ErrorDetails::with_precondition_failure(violations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_requests_become_unix_time() {
        let time = |seconds, nanos| Some(Timestamp { seconds, nanos });
        assert_eq!(unix_ms("t", None), Ok(None));
        assert_eq!(unix_ms("t", time(1, 5_999_999)), Ok(Some(1005)));
        assert_eq!(unix_ms("t", time(-5, 0)), Ok(Some(1)));
        assert_eq!(unix_ms("t", time(i64::MAX, 0)), Ok(Some(u64::MAX)));
        assert!(unix_ms("t", time(1, -1)).is_err() && unix_ms("t", time(1, 1_000_000_000)).is_err());
        assert_eq!(timestamp(1005), Timestamp { seconds: 1, nanos: 5_000_000 });
        assert_eq!(timestamp(u64::MAX).nanos / 1_000_000, 615);
    }

    #[test]
    fn no_timeout_is_any_and_a_negative_one_is_none() {
        let duration = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        assert_eq!(timeout_of(None), Ok(None));
        assert_eq!(timeout_of(duration(0, 0)), Ok(None));
        assert_eq!(timeout_of(duration(2, 500_000_000)), Ok(Some(Duration::from_millis(2500))));
        assert!(timeout_of(duration(-1, 0)).is_err());
    }
}
