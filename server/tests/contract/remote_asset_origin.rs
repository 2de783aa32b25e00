//! Section K, what a real origin is needed for: fetches over HTTP and HTTPS, and what must not be fetched.

use bazel_remote_apis::build::bazel::remote::asset::v1::{FetchBlobRequest, FetchBlobResponse, PushBlobRequest};
use bazel_remote_apis::google::protobuf::Duration as WireDuration;
use cask_index::DigestFunction;
use tonic::{Code, Status};

use super::remote_asset::{
    assert_hit, assert_inline, blob_request, fetch_blob, from_now, pusher, qualifiers, strings, unsupported,
};
use crate::support::blob::{bytes, digest_of, digest_under};
use crate::support::damage;
use crate::support::grpc::Cache;
use crate::support::metrics::Metrics;
use crate::support::origin::{Asked, Identity, Origin, Reply};
use crate::support::process::{Options, Server};
use crate::support::within;
use crate::{start, start_with};

const HELLO: &[u8] = b"hello world";
const SHA1: &str = "sha1-Kq5sNclPz7QV2+lfQIuc6R7oRu0=";
const SHA256: &str = "sha256-uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=";
const SHA384: &str = "sha384-/b2OdaZ/KfcBpOBAOF4uI5hjA+oQI5IRr5B/y7g1eLPkF8txzmRu/QgZ3YwIjeG9";
const SHA512: &str = "sha512-MJ7MSJwS1utMxA9QyQLytNDtd+5RGnx6m808qG1M2G+YndNbxf9JlnDaNCVbRbDP2DDoH2Bdz33FVC6TrpzXbw==";
const OTHER_SHA256: &str = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A server that fetches from this machine.
fn fetching() -> Options {
    Options { flags: vec!["--asset-origins", "127.0.0.1", "--asset-allow-private-origins"], ..Options::default() }
}

async fn start_fetching() -> (Server, Cache) {
    start_with(fetching()).await
}

async fn fetch(cache: &Cache, uri: &str, pairs: &[(&str, &str)]) -> Result<FetchBlobResponse, Status> {
    fetch_blob(cache, blob_request(&[uri], pairs)).await
}

/// In the background, as one of several clients at once.
fn fetch_beside(
    cache: &Cache,
    request: &FetchBlobRequest,
) -> tokio::task::JoinHandle<Result<FetchBlobResponse, Status>> {
    let (cache, request) = (cache.clone(), request.clone());
    tokio::spawn(async move { fetch_blob(&cache, request).await })
}

/// Waits until the server says so of itself.
async fn until(server: &Server, holds: impl Fn(&Metrics) -> bool) {
    let wait = async {
        while !holds(&Metrics::of(server).await) {
            tokio::task::yield_now().await;
        }
    };
    within("what the metrics are to show", wait).await;
}

#[tokio::test]
async fn what_was_fetched_is_stored_and_remembered() {
    let (mut server, mut cache) = start_fetching().await;
    // In one piece and in many, of a known and of an unknown length, empty, with and without a checksum.
    for (name, content) in [("empty", Vec::new()), ("small", HELLO.to_vec()), ("large", bytes(1, 3_000_000))] {
        let origin = {
            let content = content.clone();
            Origin::start(move |asked| match asked.target.as_str() {
                "/whole" => Reply::ok(&content),
                _ => Reply::chunked(&content),
            })
            .await
        };
        for path in ["/whole", "/chunked"] {
            let uri = origin.uri(path);
            let answer = fetch(&cache, &uri, &[]).await;
            let digest = assert_hit(&answer, name);
            assert_eq!(digest, digest_of(&content), "{name}{path}");
            assert_eq!(answer.expect("an answer").uri, uri);
            assert!(cache.read(&digest).await.expect("Read") == content, "{name}{path}");
            assert_eq!(assert_hit(&fetch(&cache, &uri, &[]).await, "again"), digest);
        }
        assert_eq!(origin.asked().len(), 2, "{name}: once each");
        server.kill_and_restart();
        cache = Cache::connect(&server).await;
        assert_hit(&fetch(&cache, &origin.uri("/whole"), &[]).await, "after a restart");
        assert_eq!(origin.asked().len(), 2, "{name}: not again");
    }
    let left: Vec<_> =
        std::fs::read_dir(server.store()).expect("a folder").map(|entry| entry.unwrap().file_name()).collect();
    let expected = ["lock", "segments", "superblock"];
    assert!(left.iter().all(|name| expected.contains(&name.to_str().unwrap())), "{left:?}");
}

#[tokio::test]
async fn k06_no_origin_honours_a_qualifier_about_a_repository() {
    let (_server, cache) = start_fetching().await;
    let origin = Origin::of(HELLO.to_vec()).await;
    let pairs = [("vcs.branch", "main"), ("bazel.canonical_id", "x"), ("strange", "y"), ("checksum.sri", SHA256)];
    let outcome = fetch(&cache, &origin.uri("/"), &pairs).await;
    assert_eq!(unsupported(&outcome), ["\"strange\" not supported", "\"vcs.branch\" not supported"]);
    let unverifiable = fetch(&cache, &origin.uri("/"), &[("checksum.sri", "blake3-abc")]).await;
    assert_eq!(unsupported(&unverifiable), ["\"checksum.sri\" not supported"]);
    assert_eq!(origin.asked().len(), 0);
}

#[tokio::test]
async fn k07_what_has_not_the_checksum_asked_for_is_aborted_and_not_stored() {
    let (server, cache) = start_fetching().await;
    let content = bytes(7, 1_000_000);
    let origin = {
        let content = content.clone();
        Origin::start(move |asked| match asked.target.as_str() {
            "/whole" => Reply::ok(&content),
            _ => Reply::chunked(&content),
        })
        .await
    };
    // Straight into the store, and by way of a spool: without a length, of another function than the digest, by a list.
    for (path, checksum) in [
        ("/whole", OTHER_SHA256.to_owned()),
        ("/chunked", OTHER_SHA256.to_owned()),
        ("/whole", SHA512.to_owned()),
        ("/whole", format!("{OTHER_SHA256} {SHA256}")),
    ] {
        let text =
            assert_inline(&fetch(&cache, &origin.uri(path), &[("checksum.sri", &checksum)]).await, Code::Aborted, path);
        assert!(text.contains("checksum"), "{text}");
    }
    assert!(!cache.is_present(&digest_of(&content)).await, "stored all the same");
    assert_eq!(origin.asked().len(), 4, "a failure is not remembered");
    let metrics = Metrics::of(&server).await;
    assert_eq!(metrics.count("cask_asset_fetches_total{outcome=\"mismatch\"}"), 4);
    assert_eq!((metrics.count("cask_asset_fetches_under_way"), metrics.count("cask_asset_spooled_bytes")), (0, 0));
}

#[tokio::test]
async fn k08_every_algorithm_and_lists_of_them_are_verified() {
    let (_server, cache) = start_fetching().await;
    let origin = Origin::of(HELLO.to_vec()).await;
    for (checksum, expected) in [
        (SHA1.to_owned(), Code::Ok),
        (SHA256.to_owned(), Code::Ok),
        (SHA384.to_owned(), Code::Ok),
        (SHA512.to_owned(), Code::Ok),
        (format!("{OTHER_SHA256} {SHA256}"), Code::Ok),
        (format!("{SHA1} {SHA256} {SHA512}"), Code::Ok),
        (format!("{OTHER_SHA256} {SHA512}"), Code::Ok),
        (format!("{SHA512} {OTHER_SHA256}"), Code::Ok),
        (format!("{SHA1} {OTHER_SHA256}"), Code::Aborted),
        (format!("unknown-abc {SHA384}"), Code::Ok),
    ] {
        assert_inline(&fetch(&cache, &origin.uri("/"), &[("checksum.sri", &checksum)]).await, expected, &checksum);
    }
}

#[tokio::test]
async fn k09_what_is_older_than_the_client_accepts_is_fetched_again() {
    let (server, cache) = start_fetching().await;
    let origin = Origin::of(HELLO.to_vec()).await;
    let accepting = |seconds| FetchBlobRequest {
        oldest_content_accepted: Some(from_now(seconds)),
        ..blob_request(&[&origin.uri("/")], &[])
    };
    assert_hit(&fetch_blob(&cache, accepting(-3600)).await, "nothing known");
    assert_hit(&fetch_blob(&cache, accepting(-3600)).await, "fetched within the hour");
    assert_eq!(origin.asked().len(), 1);
    // What Bazel sends when it knows no checksum: a time that nothing can be as new as.
    for times in 2..4 {
        assert_hit(&fetch_blob(&cache, accepting(3600)).await, "an hour from now");
        assert_eq!(origin.asked().len(), times);
    }
    let pushed = cache.store(b"pushed").await;
    let request = PushBlobRequest {
        uris: vec![origin.uri("/")],
        blob_digest: Some(pushed.clone()),
        ..PushBlobRequest::default()
    };
    pusher(&cache).push_blob(request).await.expect("PushBlob");
    assert_eq!(assert_hit(&fetch_blob(&cache, accepting(-3600)).await, "pushed over what was fetched"), pushed);
    assert_eq!(assert_hit(&fetch_blob(&cache, accepting(3600)).await, "fetched over it"), digest_of(HELLO));
    let metrics = Metrics::of(&server).await;
    assert_eq!(metrics.count("cask_asset_lookups_total{result=\"stale\"}"), 3);
    assert_eq!(metrics.count("cask_asset_fetches_total{outcome=\"ok\"}"), 4);
    assert_eq!(metrics.count("cask_asset_received_bytes_total"), 4 * HELLO.len() as u64);
}

const SECRET: &str = "Bearer c2VjcmV0LXRva2Vu";

#[tokio::test]
async fn k13_headers_reach_the_origin_they_are_for_and_nothing_else() {
    let options = Options { environment: vec![("CASK_LOG", "trace".to_owned())], ..fetching() };
    let (mut server, cache) = start_with(options).await;
    let elsewhere = Origin::of(HELLO.to_vec()).await;
    let away = elsewhere.uri("/moved");
    let origin = Origin::start(move |asked| match asked.target.as_str() {
        "/here" => Reply::redirect("/landed"),
        "/away" => Reply::redirect(&away),
        _ => Reply::ok(HELLO),
    })
    .await;
    let of = |asked: &Asked| ["authorization", "x-key"].map(|name| asked.header(name).map(str::to_owned));
    let (bearer, key) = (Some(SECRET.to_owned()), Some("k-9f2c".to_owned()));

    let uris = [origin.uri("/here"), origin.uri("/away")];
    let auth = format!(r#"{{"{}": {{"X-Key": "k-9f2c"}}}}"#, uris[1]);
    for (uri, pairs) in [
        (&uris[0], [("http_header:Authorization", SECRET), ("http_header_url:0:X-Key", "k-9f2c")]),
        (&uris[1], [("http_header:Authorization", SECRET), ("bazel.auth_headers", auth.as_str())]),
    ] {
        assert_hit(&fetch(&cache, uri, &pairs).await, uri);
    }
    let asked = origin.asked();
    assert_eq!(asked.iter().map(|asked| asked.target.as_str()).collect::<Vec<_>>(), ["/here", "/landed", "/away"]);
    assert!(asked.iter().all(|asked| of(asked) == [bearer.clone(), key.clone()]), "{asked:?}");
    let [moved] = elsewhere.asked().try_into().expect("one request");
    assert_eq!(of(&moved), [None, None], "another origin is no business of this header");
    assert_eq!(moved.header("host"), Some(elsewhere.address.to_string().as_str()));

    // Not in the log, whatever is logged, and not in the store.
    let log = server.log_text();
    assert!(log.contains("asset.fetched"), "{log}");
    server.kill();
    for secret in [SECRET, "c2VjcmV0LXRva2Vu", "k-9f2c"] {
        assert!(!log.contains(secret), "{log}");
        for path in server.segment_files() {
            let content = std::fs::read(path).expect("a readable segment");
            assert!(!content.windows(secret.len()).any(|window| window == secret.as_bytes()), "stored: {secret}");
        }
    }
    assert!(!damage::places_of(&server, HELLO).is_empty(), "the content is found where the secret is not");
}

#[tokio::test]
async fn k13_what_one_clients_credentials_got_is_for_others_only_by_its_checksum() {
    let (_server, cache) = start_fetching().await;
    let origin = Origin::start(|asked| match asked.header("authorization") {
        Some(SECRET) => Reply::ok(HELLO),
        _ => Reply::status("401 Unauthorized"),
    })
    .await;
    let uri = origin.uri("/private");
    let authorized = ("http_header:Authorization", SECRET);
    // Without a checksum each client is let in or not by the origin.
    assert_hit(&fetch(&cache, &uri, &[authorized]).await, "with credentials");
    assert_inline(&fetch(&cache, &uri, &[]).await, Code::PermissionDenied, "without");
    let other = ("http_header:Authorization", "Bearer stolen");
    assert_inline(&fetch(&cache, &uri, &[other]).await, Code::PermissionDenied, "with others");
    assert_hit(&fetch(&cache, &uri, &[authorized]).await, "with credentials again");
    assert_eq!(origin.asked().len(), 4, "nothing of it was remembered");
    // Whoever knows the checksum can say what the content is, and may have it.
    assert_hit(&fetch(&cache, &uri, &[("checksum.sri", SHA256), authorized]).await, "with credentials and checksum");
    assert_eq!(origin.asked().len(), 5);
    assert_hit(&fetch(&cache, &uri, &[("checksum.sri", SHA256)]).await, "with the checksum");
    assert_eq!(origin.asked().len(), 5);
}

#[tokio::test]
async fn k13_what_was_fetched_without_headers_does_not_answer_a_request_with_them() {
    let (_server, cache) = start_fetching().await;
    let origin = Origin::start(|asked| match asked.header("x-flavour") {
        Some(_) => Reply::ok(b"special"),
        None => Reply::ok(b"plain"),
    })
    .await;
    let uri = origin.uri("/");
    for _ in 0..2 {
        assert_eq!(assert_hit(&fetch(&cache, &uri, &[]).await, "plain"), digest_of(b"plain"));
        let special = fetch(&cache, &uri, &[("http_header:X-Flavour", "x")]).await;
        assert_eq!(assert_hit(&special, "special"), digest_of(b"special"));
    }
    assert_eq!(origin.asked().len(), 3, "the plain one once");
}

#[tokio::test]
async fn k14_nothing_is_fetched_unless_the_operator_says_so() {
    let (_server, cache) = start().await;
    let origin = Origin::of(HELLO.to_vec()).await;
    for (uri, expected) in [
        (origin.uri("/"), Code::PermissionDenied),
        ("file:///etc/passwd".to_owned(), Code::PermissionDenied),
        ("http://localhost/".to_owned(), Code::PermissionDenied),
        ("http://[::1]/".to_owned(), Code::PermissionDenied),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), Code::PermissionDenied),
        ("https://example.com/x".to_owned(), Code::NotFound),
    ] {
        assert_inline(&fetch(&cache, &uri, &[]).await, expected, &uri);
    }
    assert_eq!(origin.asked().len(), 0);
}

#[tokio::test]
async fn k14_private_addresses_are_refused_however_they_are_written() {
    let (_server, cache) = start_with(Options { flags: vec!["--asset-origins", "*"], ..Options::default() }).await;
    let origin = Origin::of(HELLO.to_vec()).await;
    let port = origin.address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
        "10.0.0.1",
        "169.254.169.254",
        "192.168.0.1",
        "[fe80::1]",
        "[fd00::1]",
        "user:password@127.0.0.1",
    ] {
        let outcome = fetch(&cache, &format!("http://{host}:{port}/"), &[]).await;
        let status = outcome.expect("FetchBlob").status.expect("a status");
        // What no resolver takes for an address is refused for that.
        let allowed = [Code::PermissionDenied as i32, Code::Aborted as i32];
        assert!(allowed.contains(&status.code), "{host}: {status:?}");
    }
    assert_inline(&fetch(&cache, "file:///etc/passwd", &[]).await, Code::PermissionDenied, "a file");
    assert_eq!(origin.asked().len(), 0, "somebody got through");
}

#[tokio::test]
async fn k14_redirects_lead_nowhere_that_could_not_be_asked_for() {
    let (_server, cache) = start_fetching().await;
    let elsewhere = Origin::of(HELLO.to_vec()).await;
    let port = elsewhere.address.port();
    let origin = Origin::start(move |asked| match asked.target.as_str() {
        "/name" => Reply::redirect(&format!("http://localhost:{port}/")),
        "/file" => Reply::redirect("file:///etc/passwd"),
        "/user" => Reply::redirect(&format!("http://user:password@127.0.0.1:{port}/")),
        "/nowhere" => Reply::status("302 Found"),
        "/circle" => Reply::redirect("/circle"),
        path => match path.strip_prefix("/hop/").map(|count| count.parse::<u32>().expect("a number")) {
            Some(0) => Reply::ok(HELLO),
            Some(count) => Reply::redirect(&format!("{}", count - 1)),
            None => Reply::status("404 Not Found"),
        },
    })
    .await;
    for (path, expected) in [
        ("/name", Code::PermissionDenied),
        ("/file", Code::PermissionDenied),
        ("/user", Code::PermissionDenied),
        ("/nowhere", Code::NotFound),
        ("/circle", Code::PermissionDenied),
        ("/hop/11", Code::PermissionDenied),
        ("/hop/10", Code::Ok),
    ] {
        assert_inline(&fetch(&cache, &origin.uri(path), &[]).await, expected, path);
    }
    assert_eq!(elsewhere.asked().len(), 0);
}

#[tokio::test]
async fn k16_a_fetched_blob_is_of_the_function_asked_for() {
    let (_server, cache) = start_fetching().await;
    let content = bytes(16, 700_000);
    let origin = {
        let content = content.clone();
        Origin::start(
            move |asked| if asked.target == "/whole" { Reply::ok(&content) } else { Reply::chunked(&content) },
        )
        .await
    };
    for function in DigestFunction::ALL {
        for path in ["/whole", "/chunked"] {
            let number = i32::from(function.wire_number());
            let request = FetchBlobRequest { digest_function: number, ..blob_request(&[&origin.uri(path)], &[]) };
            let answer = fetch_blob(&cache, request).await;
            let digest = assert_hit(&answer, function.name());
            assert_eq!(digest, digest_under(function, &content), "{}{path}", function.name());
            assert_eq!(answer.expect("an answer").digest_function, number);
            assert!(cache.under(function).read(&digest).await.expect("Read") == content, "{}", function.name());
        }
    }
}

#[tokio::test]
async fn k17_what_an_origin_refuses_is_told_inside_the_answer() {
    let (_server, cache) = start_fetching().await;
    let origin = Origin::start(|asked| match &asked.target[1..] {
        "broken" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"),
        "broken_chunk" => Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\nhalf"),
        "nothing" => Reply::raw(""),
        "nonsense" => Reply::raw("220 mail.example.com ESMTP\r\n\r\n"),
        status => Reply::status(&format!("{status} Some Words")),
    })
    .await;
    for (path, expected) in [
        ("404", Code::NotFound),
        ("410", Code::NotFound),
        ("204", Code::NotFound),
        ("206", Code::NotFound),
        ("401", Code::PermissionDenied),
        ("403", Code::PermissionDenied),
        ("429", Code::ResourceExhausted),
        ("503", Code::ResourceExhausted),
        ("500", Code::Aborted),
        ("502", Code::Aborted),
        ("504", Code::DeadlineExceeded),
        ("broken", Code::Aborted),
        ("broken_chunk", Code::Aborted),
        ("nothing", Code::Aborted),
        ("nonsense", Code::Aborted),
    ] {
        let uri = origin.uri(&format!("/{path}"));
        let answer = fetch(&cache, &uri, &[]).await;
        assert_inline(&answer, expected, path);
        assert_eq!(answer.expect("an answer").uri, uri);
    }
    assert!(!cache.is_present(&digest_of(b"half")).await);
    let nobody_listens = {
        let origin = Origin::of(Vec::new()).await;
        origin.uri("/")
    };
    assert_inline(&fetch(&cache, &nobody_listens, &[]).await, Code::Aborted, "nobody listens");
}

#[tokio::test]
async fn k17_a_slow_origin_is_waited_for_as_long_as_the_client_says() {
    let (server, cache) = start_fetching().await;
    let origin =
        Origin::start(|asked| Reply::ok(HELLO).held_after(if asked.target == "/silent" { 0 } else { 45 })).await;
    for path in ["/silent", "/midway"] {
        let timeout = Some(WireDuration { seconds: 0, nanos: 100_000_000 });
        let request = FetchBlobRequest { timeout, ..blob_request(&[&origin.uri(path)], &[]) };
        assert_inline(&fetch_blob(&cache, request).await, Code::DeadlineExceeded, path);
    }
    // Nobody waits any longer, so nothing is under way soon.
    until(&server, |metrics| {
        metrics.count("cask_asset_fetches_total{outcome=\"timed_out\"}") == 2
            && metrics.count("cask_asset_fetches_under_way") == 0
            && metrics.budgets_in_use().is_empty()
    })
    .await;
    let negative = Some(WireDuration { seconds: -1, nanos: 0 });
    let outcome =
        fetch_blob(&cache, FetchBlobRequest { timeout: negative, ..blob_request(&[&origin.uri("/")], &[]) }).await;
    assert_eq!(outcome.expect_err("refused").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn those_who_ask_for_the_same_at_the_same_time_share_one_fetch() {
    let (server, cache) = start_fetching().await;
    let origin = Origin::start(|_| Reply::ok(HELLO).held_after(0)).await;
    let request = blob_request(&[&origin.uri("/")], &[]);
    let leader = fetch_beside(&cache, &request);
    origin.asked_times(1).await;
    let followers: Vec<_> = (0..5).map(|_| fetch_beside(&cache, &request)).collect();
    // Asks with other headers, so it may get something else.
    let other = fetch_beside(&cache, &blob_request(&[&origin.uri("/")], &[("http_header:X", "y")]));
    origin.asked_times(2).await;
    until(&server, |metrics| metrics.count("cask_asset_fetches_joined_total") == 5).await;
    // Who began it goes; the others do not notice.
    leader.abort();
    assert!(leader.await.expect_err("aborted").is_cancelled());
    origin.release();
    for follower in followers {
        assert_hit(&within("a shared fetch", follower).await.expect("no panic"), "a follower");
    }
    assert_hit(&within("its own fetch", other).await.expect("no panic"), "other headers");
    assert_eq!(origin.asked().len(), 2);
    assert_eq!(Metrics::of(&server).await.count("cask_asset_fetches_total{outcome=\"ok\"}"), 2);
}

#[tokio::test]
async fn a_fetch_goes_on_when_its_client_has_gone() {
    let (server, cache) = start_fetching().await;
    let origin = Origin::start(|_| Reply::ok(HELLO).held_after(0)).await;
    let request = blob_request(&[&origin.uri("/")], &[]);
    let client = fetch_beside(&cache, &request);
    origin.asked_times(1).await;
    client.abort();
    assert!(client.await.is_err());
    origin.release();
    until(&server, |metrics| metrics.count("cask_asset_fetches_total{outcome=\"ok\"}") == 1).await;
    assert_hit(&fetch_blob(&cache, request).await, "the next who asks");
    assert_eq!(origin.asked().len(), 1);
}

#[tokio::test]
async fn one_who_wants_newer_content_does_not_join_an_older_fetch() {
    let (_server, cache) = start_fetching().await;
    let origin = Origin::start(|_| Reply::ok(HELLO).held_after(0)).await;
    let request = blob_request(&[&origin.uri("/")], &[]);
    let early = fetch_beside(&cache, &request);
    origin.asked_times(1).await;
    let late =
        fetch_beside(&cache, &FetchBlobRequest { oldest_content_accepted: Some(from_now(3600)), ..request.clone() });
    origin.asked_times(2).await;
    origin.release();
    assert_hit(&within("the early fetch", early).await.expect("no panic"), "early");
    assert_hit(&within("the late fetch", late).await.expect("no panic"), "late");
}

#[tokio::test]
async fn mirrors_are_asked_in_their_order_until_one_has_it() {
    let (_server, cache) = start_fetching().await;
    let missing = Origin::start(|_| Reply::status("404 Not Found")).await;
    let denied = Origin::start(|_| Reply::status("403 Forbidden")).await;
    let (good, unused) = (Origin::of(HELLO.to_vec()).await, Origin::of(HELLO.to_vec()).await);
    let uris = ["urn:x".to_owned(), missing.uri("/"), denied.uri("/"), good.uri("/"), unused.uri("/")];
    let uris = uris.each_ref().map(String::as_str);
    let answer = fetch_blob(&cache, blob_request(&uris, &[])).await;
    assert_hit(&answer, "the third mirror");
    assert_eq!(answer.expect("an answer").uri, uris[3]);
    assert_hit(&fetch_blob(&cache, blob_request(&uris, &[])).await, "by what is known");
    assert_eq!([&missing, &denied, &good, &unused].map(|origin| origin.asked().len()), [1, 1, 1, 0]);
    // A failure is told by the first one's code, with all reasons.
    let answer = fetch_blob(&cache, blob_request(&uris[..3], &[("bazel.canonical_id", "other")])).await;
    let text = assert_inline(&answer, Code::NotFound, "no mirror has it");
    assert!(text.contains("404") && text.contains("403"), "{text}");
    assert_eq!(answer.expect("an answer").uri, uris[1]);
}

#[tokio::test]
async fn a_mirror_that_hangs_leaves_the_others_time() {
    let (_server, cache) = start_fetching().await;
    let hanging = Origin::start(|_| Reply::ok(HELLO).held_after(0)).await;
    let good = Origin::of(HELLO.to_vec()).await;
    let timeout = Some(WireDuration { seconds: 1, nanos: 0 });
    let request = FetchBlobRequest { timeout, ..blob_request(&[&hanging.uri("/"), &good.uri("/")], &[]) };
    assert_hit(&fetch_blob(&cache, request).await, "the second mirror");
}

#[tokio::test]
async fn what_is_too_large_is_not_fetched() {
    let options =
        Options { flags: [&fetching().flags[..], &["--asset-max-size", "100KiB"]].concat(), ..Options::default() };
    let (server, cache) = start_with(options).await;
    let origin = Origin::start(|asked| match asked.target.as_str() {
        "/fits" => Reply::ok(&bytes(1, 102_400)),
        "/fits_in_chunks" => Reply::chunked(&bytes(2, 102_400)),
        "/announced" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 102401\r\n\r\n"),
        _ => Reply::chunked(&bytes(3, 102_401)),
    })
    .await;
    for path in ["/fits", "/fits_in_chunks"] {
        assert_hit(&fetch(&cache, &origin.uri(path), &[]).await, path);
    }
    for path in ["/announced", "/in_chunks"] {
        // Permanent, so it has none of the codes that are tried again.
        let text = assert_inline(&fetch(&cache, &origin.uri(path), &[]).await, Code::PermissionDenied, path);
        assert!(text.contains("asset_max_size"), "{text}");
    }
    let announced = fetch(&cache, &origin.uri("/announced"), &[("checksum.sri", SHA256)]).await;
    assert_inline(&announced, Code::PermissionDenied, "known by its checksum");
    assert_eq!(Metrics::of(&server).await.count("cask_asset_spooled_bytes"), 0);
}

#[tokio::test]
async fn a_content_coding_is_not_undone() {
    let (_server, cache) = start_fetching().await;
    let origin = Origin::start(|_| Reply::ok_with(b"\x1f\x8b no real gzip", "content-encoding: gzip\r\n")).await;
    let digest = assert_hit(&fetch(&cache, &origin.uri("/archive.tar.gz"), &[]).await, "as it came");
    assert_eq!(cache.read(&digest).await.expect("Read"), b"\x1f\x8b no real gzip");
    assert_eq!(origin.asked()[0].header("accept-encoding"), Some("identity"));
}

/// The checksum is the digest, so whoever has the blob needs no byte of the origin's.
#[tokio::test]
async fn a_blob_that_is_there_already_is_not_transferred() {
    let (_server, cache) = start_fetching().await;
    let digest = cache.store(HELLO).await;
    let origin = Origin::start(|_| {
        let whole = Reply::ok(HELLO);
        whole.held_after("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n".len())
    })
    .await;
    let answer = within("an answer", fetch(&cache, &origin.uri("/"), &[("checksum.sri", SHA256)])).await;
    assert_eq!(assert_hit(&answer, "without its body"), digest);
}

#[tokio::test]
async fn an_unlisted_origin_is_refused_by_name_and_a_pushed_asset_of_it_is_not() {
    let (_server, cache) = start_fetching().await;
    let uri = "https://example.org/x";
    let text = assert_inline(&fetch(&cache, uri, &[]).await, Code::PermissionDenied, uri);
    assert!(text.contains("example.org"), "{text}");
    let digest = cache.store(HELLO).await;
    let request = PushBlobRequest {
        uris: strings(&[uri, "file:///x"]),
        qualifiers: qualifiers(&[]),
        blob_digest: Some(digest),
        ..PushBlobRequest::default()
    };
    pusher(&cache).push_blob(request).await.expect("PushBlob");
    for uri in [uri, "file:///x"] {
        assert_hit(&fetch(&cache, uri, &[]).await, uri);
        assert_hit(&fetch(&cache, uri, &[("http_header:X", "y")]).await, "pushed, so headers change nothing");
    }
}

#[tokio::test]
async fn an_https_origin_is_asked_only_when_its_certificate_is_trusted_and_for_its_name() {
    let (trusted, stranger) = (Identity::of(&["127.0.0.1"]), Identity::of(&["127.0.0.1"]));
    let misnamed = Identity::of(&["example.com"]);
    let folder = tempfile::tempdir().expect("a folder");
    let certificates = folder.path().join("certificates.pem");
    std::fs::write(&certificates, trusted.pem() + &misnamed.pem()).expect("a file");
    let environment = vec![("SSL_CERT_FILE", certificates.display().to_string())];
    let (_server, cache) = start_with(Options { environment, ..fetching() }).await;

    let plain = Origin::of(HELLO.to_vec()).await;
    let down = plain.uri("/");
    let origin = Origin::start_tls(&trusted, move |asked| match asked.target.as_str() {
        "/down" => Reply::redirect(&down),
        _ => Reply::ok(HELLO),
    })
    .await;
    let https = |origin: &Origin, path: &str| origin.uri(path).replace("http:", "https:");
    let digest = assert_hit(&fetch(&cache, &https(&origin, "/"), &[]).await, "a trusted origin");
    assert_eq!(cache.read(&digest).await.expect("Read"), HELLO);
    // For good, so it has none of the codes that are tried again.
    for identity in [stranger, misnamed] {
        let origin = Origin::start_tls(&identity, |_| Reply::ok(HELLO)).await;
        let text =
            assert_inline(&fetch(&cache, &https(&origin, "/"), &[]).await, Code::PermissionDenied, "not trusted");
        assert!(text.contains("trusted"), "{text}");
        assert_eq!(origin.asked().len(), 0);
    }
    assert_inline(&fetch(&cache, &https(&origin, "/down"), &[]).await, Code::PermissionDenied, "down to http");
    assert_eq!(plain.asked().len(), 0);
}
