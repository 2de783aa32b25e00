//! Section K, what needs no origin: assets that are pushed and fetched again. The others are in `remote_asset_origin`.

use std::time::{Duration, SystemTime};

use bazel_remote_apis::build::bazel::remote::asset::v1::fetch_client::FetchClient;
use bazel_remote_apis::build::bazel::remote::asset::v1::push_client::PushClient;
use bazel_remote_apis::build::bazel::remote::asset::v1::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse, PushBlobRequest,
    PushDirectoryRequest, Qualifier,
};
use bazel_remote_apis::build::bazel::remote::execution::v2::{Digest, Directory, FileNode};
use bazel_remote_apis::google::protobuf::Timestamp;
use cask_index::DigestFunction;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::find_missing::eviction_wave;
use super::get_tree::directory;
use crate::support::blob::{absent_digest, bytes, digest_of_message, digest_under};
use crate::support::grpc::{Cache, assert_code, assert_invalid};
use crate::support::process::Options;
use crate::{start, start_with};

pub(crate) const URI: &str = "https://example.com/archive.tar.gz";
const URN: &str = "urn:fdc:example.com:2020:artifact:one";

pub(crate) fn fetcher(cache: &Cache) -> FetchClient<Channel> {
    FetchClient::new(cache.channel.clone())
}

pub(crate) fn pusher(cache: &Cache) -> PushClient<Channel> {
    PushClient::new(cache.channel.clone())
}

pub(crate) fn qualifiers(pairs: &[(&str, &str)]) -> Vec<Qualifier> {
    pairs.iter().map(|(name, value)| Qualifier { name: (*name).to_owned(), value: (*value).to_owned() }).collect()
}

pub(crate) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// So many seconds from now, or before it.
pub(crate) fn from_now(seconds: i64) -> Timestamp {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
    Timestamp { seconds: now.as_secs() as i64 + seconds, nanos: 0 }
}

pub(crate) async fn fetch_blob(cache: &Cache, request: FetchBlobRequest) -> Result<FetchBlobResponse, Status> {
    let request = FetchBlobRequest { instance_name: cache.instance.clone(), ..request };
    Ok(fetcher(cache).fetch_blob(request).await?.into_inner())
}

pub(crate) fn blob_request(uris: &[&str], pairs: &[(&str, &str)]) -> FetchBlobRequest {
    FetchBlobRequest { uris: strings(uris), qualifiers: qualifiers(pairs), ..FetchBlobRequest::default() }
}

async fn fetch_directory(
    cache: &Cache,
    uris: &[&str],
    pairs: &[(&str, &str)],
) -> Result<FetchDirectoryResponse, Status> {
    let request = FetchDirectoryRequest {
        instance_name: cache.instance.clone(),
        uris: strings(uris),
        qualifiers: qualifiers(pairs),
        ..FetchDirectoryRequest::default()
    };
    Ok(fetcher(cache).fetch_directory(request).await?.into_inner())
}

async fn push_blob(cache: &Cache, request: PushBlobRequest) -> Result<(), Status> {
    let request = PushBlobRequest { instance_name: cache.instance.clone(), ..request };
    pusher(cache).push_blob(request).await.map(|_| ())
}

async fn push_directory(cache: &Cache, request: PushDirectoryRequest) -> Result<(), Status> {
    let request = PushDirectoryRequest { instance_name: cache.instance.clone(), ..request };
    pusher(cache).push_directory(request).await.map(|_| ())
}

fn push_of(digest: &Digest, uris: &[&str], pairs: &[(&str, &str)]) -> PushBlobRequest {
    PushBlobRequest {
        uris: strings(uris),
        qualifiers: qualifiers(pairs),
        blob_digest: Some(digest.clone()),
        ..PushBlobRequest::default()
    }
}

fn push_of_directory(root: &Digest, uris: &[&str]) -> PushDirectoryRequest {
    PushDirectoryRequest {
        uris: strings(uris),
        root_directory_digest: Some(root.clone()),
        ..PushDirectoryRequest::default()
    }
}

/// Fails unless the call succeeded and tells this code inside; the text that goes with it.
#[track_caller]
pub(crate) fn assert_inline(outcome: &Result<FetchBlobResponse, Status>, expected: Code, what: &str) -> String {
    let response = outcome.as_ref().unwrap_or_else(|status| panic!("{what}: the call failed with {status:?}"));
    let status = response.status.as_ref().expect("each answer has a status");
    assert_eq!(Code::from_i32(status.code), expected, "{what}: {}", status.message);
    assert_eq!(response.blob_digest.is_some(), expected == Code::Ok, "{what}");
    status.message.clone()
}

/// Fails unless it is a hit; its digest.
#[track_caller]
pub(crate) fn assert_hit(outcome: &Result<FetchBlobResponse, Status>, what: &str) -> Digest {
    assert_inline(outcome, Code::Ok, what);
    outcome.as_ref().ok().and_then(|response| response.blob_digest.clone()).expect("a digest")
}

#[tokio::test]
async fn k01_without_uris_every_method_is_refused() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"content").await;
    let root = cache.store_message(&directory(&[], &[])).await;
    for uris in [vec![], vec![""], vec![URI, ""]] {
        assert_invalid(&fetch_blob(&cache, blob_request(&uris, &[])).await, "FetchBlob");
        assert_invalid(&fetch_directory(&cache, &uris, &[]).await, "FetchDirectory");
        assert_invalid(&push_blob(&cache, push_of(&digest, &uris, &[])).await, "PushBlob");
        assert_invalid(&push_directory(&cache, push_of_directory(&root, &uris)).await, "PushDirectory");
    }
    // What BuildStream asks each server first.
    assert_invalid(&fetch_blob(&cache, FetchBlobRequest::default()).await, "FetchBlob of nothing");
    assert_invalid(&push_blob(&cache, PushBlobRequest::default()).await, "PushBlob of nothing");
}

#[tokio::test]
async fn k02_what_nobody_pushed_is_not_found() {
    let (_server, cache) = start().await;
    for uri in [URI, URN, "no URI at all"] {
        let text = assert_inline(&fetch_blob(&cache, blob_request(&[uri], &[])).await, Code::NotFound, uri);
        assert!(text.contains("nobody pushed it"), "{text}");
        let answer = fetch_directory(&cache, &[uri], &[]).await.expect("FetchDirectory");
        assert_eq!(answer.status.expect("a status").code, Code::NotFound as i32, "{uri}");
        assert_eq!((answer.uri.as_str(), answer.root_directory_digest), (uri, None));
    }
}

#[tokio::test]
async fn k03_what_was_pushed_is_found_by_any_of_its_uris_and_qualifiers_in_any_order() {
    let (mut server, mut cache) = start().await;
    let digest = cache.store(b"an archive").await;
    let pairs = [("resource_type", "application/x-git"), ("vcs.branch", "main"), ("mine", "yes")];
    push_blob(&cache, push_of(&digest, &[URI, URN], &pairs)).await.expect("PushBlob");
    for restarted in [false, true] {
        for uris in [vec![URI], vec![URN], vec!["urn:other", URN], vec![URI, URN]] {
            for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
                let pairs = order.map(|position| pairs[position]);
                let answer = fetch_blob(&cache, blob_request(&uris, &pairs)).await;
                assert_eq!(assert_hit(&answer, "a pushed asset"), digest, "{uris:?} {restarted}");
                let answer = answer.expect("an answer");
                let expected = *uris.iter().find(|uri| [URI, URN].contains(uri)).expect("one is known");
                assert_eq!(answer.uri, expected);
                assert_eq!(answer.qualifiers.len(), 3);
                assert!(answer.expires_at.is_none());
            }
        }
        if !restarted {
            server.kill_and_restart();
            cache = Cache::connect(&server).await;
        }
    }
    // The last push wins.
    let other = cache.store(b"another archive").await;
    push_blob(&cache, push_of(&other, &[URI], &pairs)).await.expect("PushBlob");
    assert_eq!(assert_hit(&fetch_blob(&cache, blob_request(&[URI], &pairs)).await, "pushed again"), other);
    assert_eq!(assert_hit(&fetch_blob(&cache, blob_request(&[URN], &pairs)).await, "not pushed again"), digest);
}

#[tokio::test]
async fn k04_other_qualifiers_are_another_asset() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"a branch").await;
    for uri in [URI, URN] {
        for pushed in [&[("vcs.branch", "main")][..], &[("mine", "1"), ("yours", "2")]] {
            push_blob(&cache, push_of(&digest, &[uri], pushed)).await.expect("PushBlob");
        }
        for asked in [
            &[("vcs.branch", "other")][..],
            &[("vcs.branch", "")],
            &[],
            &[("mine", "2"), ("yours", "1")],
            &[("mine", "1"), ("yours", "3")],
        ] {
            let answer = fetch_blob(&cache, blob_request(&[uri], asked)).await;
            assert_inline(&answer, Code::NotFound, &format!("{uri} with {asked:?}"));
        }
        assert_hit(&fetch_blob(&cache, blob_request(&[uri], &[("yours", "2"), ("mine", "1")])).await, uri);
    }
    // Instances are apart too.
    let other = cache.instance("other");
    let answer = fetch_blob(&other, blob_request(&[URI], &[("vcs.branch", "main")])).await;
    assert_inline(&answer, Code::NotFound, "another instance");
}

#[tokio::test]
async fn k05_a_qualifier_given_twice_is_refused_by_every_method() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"content").await;
    let root = cache.store_message(&directory(&[], &[])).await;
    for pairs in [[("a", "1"), ("a", "1")], [("a", "1"), ("a", "2")], [("http_header:X", "1"), ("http_header:X", "2")]]
    {
        assert_invalid(&fetch_blob(&cache, blob_request(&[URN], &pairs)).await, "FetchBlob");
        assert_invalid(&fetch_directory(&cache, &[URN], &pairs).await, "FetchDirectory");
        assert_invalid(&push_blob(&cache, push_of(&digest, &[URN], &pairs)).await, "PushBlob");
        let request = PushDirectoryRequest { qualifiers: qualifiers(&pairs), ..push_of_directory(&root, &[URN]) };
        assert_invalid(&push_directory(&cache, request).await, "PushDirectory");
    }
}

/// The qualifiers that a refusal names.
pub(crate) fn unsupported(outcome: &Result<FetchBlobResponse, Status>) -> Vec<String> {
    assert_invalid(outcome, "a qualifier that is not supported");
    let status = outcome.as_ref().expect_err("refused");
    let details = status.get_error_details();
    let bad_request = details.bad_request().expect("the refusal says what is bad");
    assert!(bad_request.field_violations.iter().all(|violation| violation.field == "qualifiers.name"));
    bad_request.field_violations.iter().map(|violation| violation.description.clone()).collect()
}

#[tokio::test]
async fn k06_a_qualifier_that_nobody_knows_is_named() {
    let (_server, cache) = start().await;
    let pairs = [("strange", "1"), ("vcs.branch", "main"), ("stranger", "2")];
    let outcome = fetch_blob(&cache, blob_request(&[URI], &pairs)).await;
    assert_eq!(unsupported(&outcome), ["\"strange\" not supported", "\"stranger\" not supported"]);
    for name in ["http_header:Host", "http_header_url:0:Content-Length"] {
        let outcome = fetch_blob(&cache, blob_request(&[URN], &[(name, "x")])).await;
        assert_eq!(unsupported(&outcome), [format!("\"{name}\" not supported")]);
    }
    for malformed in ["sha256-x", "sha512-uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek="] {
        assert_invalid(&fetch_blob(&cache, blob_request(&[URI], &[("checksum.sri", malformed)])).await, malformed);
    }
}

#[tokio::test]
async fn k09_content_older_than_the_client_accepts_is_not_found() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"content").await;
    push_blob(&cache, push_of(&digest, &[URI], &[])).await.expect("PushBlob");
    let accepting =
        |seconds| FetchBlobRequest { oldest_content_accepted: Some(from_now(seconds)), ..blob_request(&[URI], &[]) };
    assert_hit(&fetch_blob(&cache, accepting(-3600)).await, "pushed within the hour");
    assert_inline(&fetch_blob(&cache, accepting(3600)).await, Code::NotFound, "pushed before an hour from now");
}

#[tokio::test]
async fn k10_what_has_expired_is_not_found_until_it_is_pushed_again() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"content").await;
    for (seconds, expected) in [(-1, Code::NotFound), (3600, Code::Ok), (-3600, Code::NotFound)] {
        let request = PushBlobRequest { expire_at: Some(from_now(seconds)), ..push_of(&digest, &[URI], &[]) };
        push_blob(&cache, request.clone()).await.expect("PushBlob");
        let answer = fetch_blob(&cache, blob_request(&[URI], &[])).await;
        assert_inline(&answer, expected, "after a push with another end");
        if expected == Code::Ok {
            assert_eq!(answer.expect("an answer").expires_at, request.expire_at);
        }
    }
    push_blob(&cache, push_of(&digest, &[URI], &[])).await.expect("PushBlob");
    assert_hit(&fetch_blob(&cache, blob_request(&[URI], &[])).await, "without an end");
}

const STORE: &str = "64MiB";
const WAVE_BYTES: u64 = 192 * 1024 * 1024;

#[tokio::test]
async fn k11_an_asset_whose_content_is_gone_is_not_found() {
    let (_server, cache) = start_with(Options::without_leases(STORE)).await;
    // Large ones: what was touched just now and is small is worth keeping to the store.
    let inner = cache.store(&bytes(110, 3_000_000)).await;
    let file = FileNode { name: "inner".to_owned(), digest: Some(inner.clone()), ..FileNode::default() };
    let root = cache.store_message(&Directory { files: vec![file], ..Directory::default() }).await;
    let digest = cache.store(&bytes(111, 3_000_000)).await;
    push_blob(&cache, push_of(&digest, &[URI], &[])).await.expect("PushBlob");
    push_directory(&cache, push_of_directory(&root, &[URN])).await.expect("PushDirectory");
    eviction_wave(&cache, WAVE_BYTES, async || {}).await;
    assert_eq!(cache.find_missing(&[digest, inner]).await.expect("FindMissingBlobs").len(), 2);
    assert_inline(&fetch_blob(&cache, blob_request(&[URI], &[])).await, Code::NotFound, "the blob is gone");
    let answer = fetch_directory(&cache, &[URN], &[]).await.expect("FetchDirectory");
    assert_eq!(answer.status.expect("a status").code, Code::NotFound as i32);
}

#[tokio::test]
async fn k12_what_an_asset_refers_to_stays_with_it() {
    let (_server, cache) = start_with(Options::without_leases(STORE)).await;
    let digest = cache.store(&bytes(120, 3000)).await;
    // Large ones, which are evicted when nobody asks for them.
    let referenced = cache.store(&bytes(121, 3_000_000)).await;
    let deep = cache.store(&bytes(123, 3_000_000)).await;
    let file = FileNode { name: "deep".to_owned(), digest: Some(deep.clone()), ..FileNode::default() };
    let child = Directory { files: vec![file], ..Directory::default() };
    let top = cache.store(b"top").await;
    let child_digest = cache.store_message(&child).await;
    let root = cache.store_message(&directory(&[("child", &child_digest)], &["top"])).await;
    let absent = absent_digest(12);
    let request = PushBlobRequest {
        references_blobs: vec![referenced.clone(), absent],
        references_directories: vec![root.clone()],
        ..push_of(&digest, &[URI], &[])
    };
    push_blob(&cache, request).await.expect("a reference to what is not there is no reason to refuse");
    let bystander = cache.store(&bytes(122, 3_000_000)).await;
    eviction_wave(&cache, WAVE_BYTES, async || {
        assert_hit(&fetch_blob(&cache, blob_request(&[URI], &[])).await, "an asset that is asked for all the time");
    })
    .await;
    let kept = [digest, referenced, root, child_digest, top, deep];
    assert_eq!(cache.find_missing(&kept).await.expect("FindMissingBlobs"), []);
    assert!(!cache.is_present(&bystander).await, "the wave went through the whole store");
}

#[tokio::test]
async fn k12_an_asset_is_no_hit_without_what_it_refers_to() {
    // The referenced blob is of another size class than what keeps it, so that the one is evicted without the other.
    let (_server, cache) = start_with(Options::without_leases(STORE)).await;
    let digest = cache.store(&bytes(125, 3000)).await;
    let referenced = cache.store(&bytes(126, 3_000_000)).await;
    let request = PushBlobRequest { references_blobs: vec![referenced.clone()], ..push_of(&digest, &[URI], &[]) };
    push_blob(&cache, request).await.expect("PushBlob");
    eviction_wave(&cache, WAVE_BYTES, async || assert!(cache.is_present(&digest).await)).await;
    assert!(cache.is_present(&digest).await && !cache.is_present(&referenced).await);
    assert_inline(&fetch_blob(&cache, blob_request(&[URI], &[])).await, Code::NotFound, "its reference is gone");
}

#[tokio::test]
async fn k15_directories_are_pushed_and_fetched() {
    let (_server, cache) = start().await;
    let child = directory(&[], &["inner.txt"]);
    let child_digest = digest_of_message(&child);
    let root = directory(&[("child", &child_digest)], &["outer.txt"]);
    let root_digest = cache.store_message(&root).await;
    let request = push_of_directory(&root_digest, &[URN, URI]);

    // Not before all of it is there; the refusal says what is not.
    for name in ["inner.txt", "outer.txt"] {
        let outcome = push_directory(&cache, request.clone()).await;
        assert_code(&outcome, &[Code::FailedPrecondition], "an incomplete directory");
        let details = outcome.expect_err("refused").get_error_details();
        let violations = &details.precondition_failure().expect("the refusal says what is missing").violations;
        assert!(violations.iter().all(|violation| violation.r#type == "MISSING"));
        let missing = format!("blobs/{}/{}", child_digest.hash, child_digest.size_bytes);
        assert_eq!(violations.iter().any(|violation| violation.subject == missing), name == "inner.txt");
        cache.store(name.as_bytes()).await;
        cache.store_message(&child).await;
    }
    push_directory(&cache, request).await.expect("PushDirectory");
    for uri in [URI, URN] {
        let answer = fetch_directory(&cache, &[uri], &[]).await.expect("FetchDirectory");
        assert_eq!(answer.status.as_ref().expect("a status").code, 0, "{answer:?}");
        assert_eq!((answer.root_directory_digest.as_ref(), answer.uri.as_str()), (Some(&root_digest), uri));
        assert_eq!(answer.digest_function, 1);
        assert_eq!(cache.tree(&root_digest, 0).await.expect("GetTree").len(), 2);
        // A directory is no blob.
        assert_inline(&fetch_blob(&cache, blob_request(&[uri], &[])).await, Code::NotFound, "a directory as a blob");
    }
    let blob = cache.store(b"\xff\xff no directory").await;
    assert_invalid(&push_directory(&cache, push_of_directory(&blob, &[URI])).await, "what is no directory");
}

#[tokio::test]
async fn k15_a_push_names_what_is_there_and_does_not_contradict_itself() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"hello world").await;
    assert_code(
        &push_blob(&cache, push_of(&absent_digest(1), &[URI], &[])).await,
        &[Code::FailedPrecondition],
        "a blob that is not there",
    );
    let unset = PushBlobRequest { blob_digest: None, ..push_of(&digest, &[URI], &[]) };
    assert_invalid(&push_blob(&cache, unset).await, "no digest");
    let right = "sha256-uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=";
    let wrong = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    push_blob(&cache, push_of(&digest, &[URI], &[("checksum.sri", right)])).await.expect("its own checksum");
    assert_invalid(&push_blob(&cache, push_of(&digest, &[URI], &[("checksum.sri", wrong)])).await, "another checksum");
    assert_invalid(
        &push_blob(&cache, push_of(&digest, &[URI], &[("http_header:Authorization", "x")])).await,
        "a header, which would be stored",
    );
    let other_function = PushBlobRequest {
        references_blobs: vec![digest_under(DigestFunction::Sha1, b"x")],
        ..push_of(&digest, &[URI], &[])
    };
    assert_invalid(&push_blob(&cache, other_function).await, "a reference of another function");
    let nobody = blob_request(&[URI], &[("checksum.sri", wrong)]);
    assert_inline(&fetch_blob(&cache, nobody).await, Code::NotFound, "what was refused is not stored");
}

#[tokio::test]
async fn k16_the_digest_function_is_part_of_the_question_and_of_the_answer() {
    let (_server, cache) = start().await;
    let content = b"one content, many names";
    for function in DigestFunction::ALL {
        let digest = cache.under(function).store(content).await;
        let number = i32::from(function.wire_number());
        let ask = FetchBlobRequest { digest_function: number, ..blob_request(&[URI], &[]) };
        let before = fetch_blob(&cache, ask.clone()).await;
        assert_inline(&before, Code::NotFound, function.name());
        assert_eq!(before.expect("an answer").digest_function, number);
        push_blob(&cache, PushBlobRequest { digest_function: number, ..push_of(&digest, &[URI], &[]) })
            .await
            .expect("PushBlob");
        let answer = fetch_blob(&cache, ask).await;
        assert_eq!(assert_hit(&answer, function.name()), digest);
        assert_eq!(answer.expect("an answer").digest_function, number);
    }
    let unset = fetch_blob(&cache, blob_request(&[URI], &[])).await;
    assert_eq!(assert_hit(&unset, "unset is SHA-256"), digest_under(DigestFunction::Sha256, content));
    assert_eq!(unset.expect("an answer").digest_function, 1);
    for unknown in [-1, 4, 7, 99] {
        let request = FetchBlobRequest { digest_function: unknown, ..blob_request(&[URI], &[]) };
        assert_invalid(&fetch_blob(&cache, request).await, "a function nobody has");
    }
}

#[tokio::test]
async fn an_asset_of_an_isolated_instance_is_of_its_own_blobs() {
    let options =
        Options { flags: vec!["--instances", "apart,cas=isolated", "--instances", "*"], ..Options::default() };
    let (_server, shared) = start_with(options).await;
    let apart = shared.instance("apart");
    let digest = shared.store(b"known to all but one").await;
    push_blob(&shared, push_of(&digest, &[URI], &[])).await.expect("PushBlob");
    let outcome = push_blob(&apart, push_of(&digest, &[URI], &[])).await;
    assert_code(&outcome, &[Code::FailedPrecondition], "a blob of the others");
    apart.store(b"known to all but one").await;
    push_blob(&apart, push_of(&digest, &[URI], &[])).await.expect("PushBlob");
    assert_hit(&fetch_blob(&apart, blob_request(&[URI], &[])).await, "its own");
}

#[tokio::test]
async fn an_instance_whose_action_results_are_read_only_takes_no_assets() {
    let options =
        Options { flags: vec!["--instances", "readers,actions=read-only", "--instances", "*"], ..Options::default() };
    let (_server, cache) = start_with(options).await;
    let readers = cache.instance("readers");
    let digest = cache.store(b"content").await;
    let outcome = push_blob(&readers, push_of(&digest, &[URI], &[])).await;
    assert_code(&outcome, &[Code::PermissionDenied], "PushBlob");
    // What BuildStream asks each server first is about the request, not about rights.
    assert_invalid(&push_blob(&readers, PushBlobRequest::default()).await, "PushBlob of nothing");
    assert_inline(&fetch_blob(&readers, blob_request(&[URI], &[])).await, Code::NotFound, "nothing was pushed");
}
