//! Action results: put with the closure of everything they need, got only while all of it is there.
//!
//! A put checks the result, moves what the client inlined into the store, opens the result's trees and stores the entry with its
//! closure, in this order: an entry never precedes what it refers to. The engine probes the closure on each get.
//!
//! A result may be put before one of its trees (clients should not, but some upload in parallel). Its closure cannot be told then, so
//! the entry is marked and the closure is worked out on each get until the result is put again: a miss while the tree is absent,
//! a miss while a file of the tree is absent, a hit when all is there. Refusing the put would be as safe and less kind; storing only the
//! tree's digest would serve a result whose files are missing as soon as the tree arrives.

use std::collections::HashSet;

use bytes::{BufMut, Bytes, BytesMut};
use cask_engine::EngineError;
use cask_index::{Digest, Hasher};
use cask_proto::WireError;
use cask_proto::digest::{DigestRule, to_wire};
use cask_proto::reapi::{self, ActionResult, ExecutedActionMetadata};
use prost::Message;
use tokio::sync::oneshot;

use super::closure::{Closure, closure, is_flat};
use super::{Cache, blocking};

/// The first byte of a stored entry; the encoded result follows. Numbers are never reused.
const ENTRY_WITH_CLOSURE: u8 = 1;
/// As above, but the stored closure lacks what an absent tree refers to.
const ENTRY_WITHOUT_CLOSURE: u8 = 2;

const ENTRY_KIND_BYTES: usize = 1;

/// Who a result is from when the client did not say: never empty, because an empty `ActionResult` encodes to nothing and some
/// clients take nothing for a miss.
const WORKER_UNKNOWN: &str = "unknown";

/// Bytes beside its content that an inlined field takes, at most.
const FIELD_OVERHEAD_BYTES: usize = 8;

/// What a reader wants inside the result, beside the digests. A wish: what would not fit one message is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InlineOptions {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// Output paths, matched exactly.
    pub(crate) output_files: Vec<String>,
}

/// A result that was checked, with nothing inlined in it.
#[derive(Debug)]
pub(crate) struct PreparedResult {
    pub(crate) result: ActionResult,
    closure: Closure,
}

/// Why an action result was not stored or not served.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ActionError {
    /// The result contradicts the API. Permanent.
    #[error("action result refused: {0}")]
    Invalid(String),
    /// The result is well-formed, and its directories are beyond the server's limits. Permanent.
    #[error("action result refused: {0}")]
    BeyondLimits(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<WireError> for ActionError {
    fn from(error: WireError) -> ActionError {
        ActionError::Invalid(error.to_string())
    }
}

impl Cache {
    /// Stores `result` under (instance, action), last writer wins, and returns it as stored: what was inlined is moved to the
    /// store and replaced by its digest, and `execution_metadata` is always set. Blobs it refers to may be absent; it is a
    /// miss until they come.
    pub(crate) async fn put_action_result(
        &self,
        instance: &str,
        action: &Digest,
        result: ActionResult,
    ) -> Result<ActionResult, ActionError> {
        let prepared = self.prepare_result(action, result, ResultOrigin::Client).await?;
        self.put_prepared(instance, action, &prepared).await?;
        Ok(prepared.result)
    }

    /// Checks a result and moves what was inlined in it to the store.
    pub(crate) async fn prepare_result(
        &self,
        action: &Digest,
        mut result: ActionResult,
        origin: ResultOrigin,
    ) -> Result<PreparedResult, ActionError> {
        let rule = DigestRule::like(action);
        validate(rule, &result, origin)?;
        self.store_inlined(action, &mut result).await?;
        result
            .execution_metadata
            .get_or_insert_with(|| ExecutedActionMetadata { worker: WORKER_UNKNOWN.to_owned(), ..Default::default() });
        let (closure, result) = self.closure_of(rule, result).await?;
        // One that stock gRPC clients cannot receive is no use to them: each get would fail instead of being a miss.
        let limit_bytes = self.engine().action_value_size_bytes_max().min(self.limits().response_size_bytes_max);
        let size_bytes = ENTRY_KIND_BYTES + result.encoded_len();
        if size_bytes > limit_bytes {
            let (size_bytes, limit_bytes) = (size_bytes as u64, limit_bytes as u64);
            return Err(EngineError::TooLarge { size_bytes, limit_bytes }.into());
        }
        Ok(PreparedResult { result, closure })
    }

    /// Stores a result that was prepared; see `put_action_result`.
    pub(crate) async fn put_prepared(
        &self,
        instance: &str,
        action: &Digest,
        prepared: &PreparedResult,
    ) -> Result<(), EngineError> {
        let value = encode_entry(&prepared.result, prepared.closure.is_complete);
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |outcome| {
            // Nobody listens any more when the request was cancelled.
            let _ = tell.send(outcome);
        });
        self.engine().put_action(instance, &key(action), &value, &prepared.closure.digests, done);
        told.await.unwrap_or(Err(EngineError::Closed))
    }

    /// What a prepared result needs and the store has not.
    pub(crate) fn absent_of(&self, prepared: &PreparedResult) -> Result<Vec<Digest>, EngineError> {
        let mut absent = Vec::new();
        self.engine().find_missing(&prepared.closure.digests, &mut absent)?;
        Ok(absent.into_iter().map(|position| prepared.closure.digests[position]).collect())
    }

    /// The result, if it and everything it needs can be read; else `NotFound`. A hit leases all of it.
    pub(crate) async fn get_action_result(
        &self,
        instance: &str,
        action: &Digest,
        inline: InlineOptions,
    ) -> Result<ActionResult, ActionError> {
        let entry = self.action_entry(instance, action).await?;
        self.decoded(instance, action, entry, inline).await
    }

    /// The encoded result, if it is in memory and nothing has to be added to it; `None`: ask `get_action_result`.
    pub(crate) fn action_result_in_memory(
        &self,
        instance: &str,
        action: &Digest,
    ) -> Result<Option<Bytes>, EngineError> {
        let entry = self.engine().get_action_in_memory(instance, &key(action))?;
        Ok(entry.filter(|entry| entry.first() == Some(&ENTRY_WITH_CLOSURE)).map(|mut entry| entry.split_off(1)))
    }

    async fn action_entry(&self, instance: &str, action: &Digest) -> Result<Bytes, EngineError> {
        let key = key(action);
        if let Some(entry) = self.engine().get_action_in_memory(instance, &key)? {
            return Ok(entry);
        }
        let (engine, instance) = (self.engine().clone(), instance.to_owned());
        blocking(move || engine.get_action(&instance, &key)).await
    }

    async fn decoded(
        &self,
        instance: &str,
        action: &Digest,
        entry: Bytes,
        inline: InlineOptions,
    ) -> Result<ActionResult, ActionError> {
        let Some((mut result, has_closure)) = decode_entry(entry) else {
            tracing::warn!(%action, instance, "action_entry_unreadable");
            return Err(EngineError::NotFound.into());
        };
        if !has_closure {
            let (closure, same_result) = match self.closure_of(DigestRule::like(action), result).await {
                // The tree has come meanwhile and is none, or is beyond the limits: nobody can use this result.
                Err(ActionError::Invalid(_) | ActionError::BeyondLimits(_)) => Err(EngineError::NotFound.into()),
                other => other,
            }?;
            let mut absent = Vec::new();
            self.engine().find_missing(&closure.digests, &mut absent)?;
            if !closure.is_complete || !absent.is_empty() {
                return Err(EngineError::NotFound.into());
            }
            result = same_result;
        }
        self.inline(DigestRule::like(action), &mut result, &inline, self.limits().response_size_bytes_max).await?;
        Ok(result)
    }

    /// The closure of `result`, and `result` again.
    pub(super) async fn closure_of(
        &self,
        rule: DigestRule,
        result: ActionResult,
    ) -> Result<(Closure, ActionResult), ActionError> {
        if is_flat(&result) {
            let closure = closure(rule, &result, self.limits(), |_, _| {
                unreachable!("a result without output directories has no trees to read")
            })?;
            return Ok((closure, result));
        }
        let slot = self.tree_slot().await?;
        let cache = self.clone();
        let outcome = blocking(move || {
            let _slot = slot;
            let closure = closure(rule, &result, cache.limits(), |digest, limit_bytes| {
                cache.engine().read_all(digest, limit_bytes)
            });
            Ok(closure.map(|closure| (closure, result)))
        });
        outcome.await?
    }

    /// Moves bytes that the client put into the result to the store.
    async fn store_inlined(&self, action: &Digest, result: &mut ActionResult) -> Result<(), ActionError> {
        let streams = [
            ("stdout", &mut result.stdout_raw, &mut result.stdout_digest),
            ("stderr", &mut result.stderr_raw, &mut result.stderr_digest),
        ];
        let files =
            result.output_files.iter_mut().map(|file| (file.path.as_str(), &mut file.contents, &mut file.digest));
        for (name, bytes, digest_field) in streams.into_iter().chain(files) {
            let bytes = std::mem::take(bytes);
            if bytes.is_empty() {
                continue;
            }
            let digest = Hasher::digest(action.function(), &bytes).within(action.namespace());
            if let Some(claimed) = digest_field
                && DigestRule::like(action).from_wire(claimed)? != digest
            {
                return Err(ActionError::Invalid(format!("the bytes of `{name}` are not those of its digest")));
            }
            *digest_field = Some(to_wire(&digest));
            self.put(digest, bytes).await?;
        }
        Ok(())
    }

    /// Puts into the result what the reader wishes for and a message has room for that is to have at most `message_bytes_max`.
    pub(crate) async fn inline(
        &self,
        rule: DigestRule,
        result: &mut ActionResult,
        inline: &InlineOptions,
        message_bytes_max: usize,
    ) -> Result<(), ActionError> {
        let mut room_bytes = message_bytes_max.saturating_sub(result.encoded_len());
        if inline.stdout {
            self.inline_one(rule, result.stdout_digest.as_ref(), &mut result.stdout_raw, &mut room_bytes).await?;
        }
        if inline.stderr {
            self.inline_one(rule, result.stderr_digest.as_ref(), &mut result.stderr_raw, &mut room_bytes).await?;
        }
        let wanted: HashSet<&str> = inline.output_files.iter().map(String::as_str).collect();
        for file in &mut result.output_files {
            if wanted.contains(file.path.as_str()) {
                self.inline_one(rule, file.digest.as_ref(), &mut file.contents, &mut room_bytes).await?;
            }
        }
        Ok(())
    }

    async fn inline_one(
        &self,
        rule: DigestRule,
        digest: Option<&reapi::Digest>,
        field: &mut Bytes,
        room_bytes: &mut usize,
    ) -> Result<(), ActionError> {
        let Some(digest) = digest else { return Ok(()) };
        let digest = rule.from_wire(digest)?;
        let content_room_bytes = room_bytes.saturating_sub(FIELD_OVERHEAD_BYTES) as u64;
        if digest.is_empty_blob() || digest.size_bytes() > content_room_bytes {
            return Ok(());
        }
        // Just probed, so absent means found corrupt: the result is not complete any more, which is a miss.
        let bytes = match self.read_whole(&digest, content_room_bytes).await {
            Err(EngineError::DataLoss(_)) => Err(EngineError::NotFound),
            other => other,
        }?;
        *room_bytes -= bytes.len() + FIELD_OVERHEAD_BYTES;
        *field = bytes;
        Ok(())
    }
}

/// What an entry is stored under: the action's function and hash. Not its size, because over HTTP nobody knows it, and an entry
/// put by one protocol is found by the other.
fn key(action: &Digest) -> Digest {
    action.with_size_bytes(0)
}

/// What a stored entry is: one byte for its kind, then the encoded result.
fn encode_entry(result: &ActionResult, has_closure: bool) -> Bytes {
    let mut value = BytesMut::with_capacity(1 + result.encoded_len());
    value.put_u8(if has_closure { ENTRY_WITH_CLOSURE } else { ENTRY_WITHOUT_CLOSURE });
    result.encode_raw(&mut value);
    value.freeze()
}

/// The result, and whether its closure is stored; `None` for what this version cannot read.
fn decode_entry(mut value: Bytes) -> Option<(ActionResult, bool)> {
    if value.is_empty() {
        return None;
    }
    let has_closure = match value.split_to(1)[0] {
        ENTRY_WITH_CLOSURE => true,
        ENTRY_WITHOUT_CLOSURE => false,
        _ => return None,
    };
    Some((ActionResult::decode(value).ok()?, has_closure))
}

/// What can be said against a result without looking at the store.
fn validate(rule: DigestRule, result: &ActionResult, origin: ResultOrigin) -> Result<(), ActionError> {
    for file in &result.output_files {
        check_path("output file", &file.path, PathMayBeEmpty::No, origin)?;
        // Contents without a digest get theirs; see `store_inlined`.
        if file.contents.is_empty() || file.digest.is_some() {
            rule.from_wire_field("output_files.digest", file.digest.as_ref())?;
        }
    }
    for directory in &result.output_directories {
        // The working directory itself may be an output.
        check_path("output directory", &directory.path, PathMayBeEmpty::Yes, origin)?;
        if directory.tree_digest.is_none() && directory.root_directory_digest.is_none() {
            return Err(ActionError::Invalid(format!("output directory `{}` has no digest", directory.path)));
        }
        for digest in [&directory.tree_digest, &directory.root_directory_digest].into_iter().flatten() {
            rule.from_wire(digest)?;
        }
    }
    let symlinks = [&result.output_symlinks, &result.output_file_symlinks, &result.output_directory_symlinks];
    for symlink in symlinks.into_iter().flatten() {
        check_path("output symlink", &symlink.path, PathMayBeEmpty::No, origin)?;
    }
    for digest in [&result.stdout_digest, &result.stderr_digest].into_iter().flatten() {
        rule.from_wire(digest)?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PathMayBeEmpty {
    Yes,
    No,
}

/// Who made a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResultOrigin {
    /// A client, of which nothing is known.
    Client,
    /// A run of an action whose command was checked: outputs are called what the client called them, and it may have asked for
    /// one beside its working directory. None is outside of the input root.
    Run,
}

/// Output paths are relative, and of a client's own result below the working directory: others join them to their output folders.
fn check_path(
    kind: &'static str,
    path: &str,
    may_be_empty: PathMayBeEmpty,
    origin: ResultOrigin,
) -> Result<(), ActionError> {
    let fault = if path.is_empty() && may_be_empty == PathMayBeEmpty::No {
        "is empty"
    } else if path.starts_with('/') {
        "is absolute"
    } else if origin == ResultOrigin::Client && path.split('/').any(|segment| segment == "..") {
        "contains `..`"
    } else if path.contains('\0') {
        "contains a NUL"
    } else {
        return Ok(());
    };
    Err(ActionError::Invalid(format!("the path of {kind} `{}` {fault}", path.escape_default())))
}

#[cfg(test)]
mod tests {
    use cask_index::DigestFunction;
    use cask_proto::reapi::{OutputDirectory, OutputFile, OutputSymlink};

    use super::*;

    fn rule() -> DigestRule {
        DigestRule::like(&DigestFunction::Sha256.empty_blob())
    }

    #[expect(clippy::unnecessary_wraps, reason = "digest fields are optional")]
    fn wire(byte: u8) -> Option<reapi::Digest> {
        Some(reapi::Digest { hash: format!("{byte:02x}").repeat(32), size_bytes: 5 })
    }

    fn file(path: &str, digest: Option<reapi::Digest>) -> ActionResult {
        let file = OutputFile { path: path.to_owned(), digest, ..OutputFile::default() };
        ActionResult { output_files: vec![file], ..ActionResult::default() }
    }

    fn directory(path: &str, tree_digest: Option<reapi::Digest>) -> ActionResult {
        let directory = OutputDirectory { path: path.to_owned(), tree_digest, ..OutputDirectory::default() };
        ActionResult { output_directories: vec![directory], ..ActionResult::default() }
    }

    fn symlink(path: &str, target: &str) -> OutputSymlink {
        OutputSymlink { path: path.to_owned(), target: target.to_owned(), ..OutputSymlink::default() }
    }

    #[test]
    fn results_that_follow_the_api_pass() {
        let symlinks = ActionResult {
            output_symlinks: vec![symlink("a/b", "/absolute/target"), symlink("c", "../up")],
            ..ActionResult::default()
        };
        let inlined = OutputFile { path: "f".to_owned(), contents: Bytes::from_static(b"x"), ..OutputFile::default() };
        let inlined = ActionResult { output_files: vec![inlined], ..ActionResult::default() };
        for result in [
            ActionResult::default(),
            file("a/b.txt", wire(1)),
            file("..a/b..", wire(1)),
            directory("", wire(1)),
            symlinks,
            inlined,
        ] {
            validate(rule(), &result, ResultOrigin::Client).unwrap_or_else(|error| panic!("{result:?}: {error}"));
        }
    }

    #[test]
    fn results_that_do_not_are_refused_with_the_reason() {
        let bad_hash = Some(reapi::Digest { hash: "AB".repeat(32), size_bytes: 5 });
        let negative = Some(reapi::Digest { hash: "ab".repeat(32), size_bytes: -1 });
        let deprecated = ActionResult { output_file_symlinks: vec![symlink("/a", "b")], ..ActionResult::default() };
        for (result, text) in [
            (file("", wire(1)), "is empty"),
            (file("/a", wire(1)), "is absolute"),
            (file("a/../b", wire(1)), "contains `..`"),
            (file("..", wire(1)), "contains `..`"),
            (file("a\0b", wire(1)), "contains a NUL"),
            (file("a", None), "not set"),
            (file("a", bad_hash.clone()), "hexadecimal"),
            (file("a", negative), "negative"),
            (directory("/a", wire(1)), "is absolute"),
            (directory("a", None), "has no digest"),
            (directory("a", bad_hash.clone()), "hexadecimal"),
            (deprecated, "is absolute"),
            (ActionResult { stdout_digest: bad_hash, ..ActionResult::default() }, "hexadecimal"),
        ] {
            let error = validate(rule(), &result, ResultOrigin::Client).unwrap_err().to_string();
            assert!(error.contains(text), "{result:?}: {error}");
            // What a run made may lie beside its working directory; the rest is wrong of it too.
            let of_a_run = validate(rule(), &result, ResultOrigin::Run);
            assert_eq!(of_a_run.is_ok(), text == "contains `..`", "{result:?}");
        }
    }

    #[test]
    fn entries_survive_storage_and_unknown_kinds_are_misses() {
        let result = file("a", wire(1));
        for has_closure in [true, false] {
            let value = encode_entry(&result, has_closure);
            assert_eq!(decode_entry(value), Some((result.clone(), has_closure)));
        }
        assert_eq!(decode_entry(encode_entry(&ActionResult::default(), true)), Some((ActionResult::default(), true)));
        for unreadable in [&b""[..], b"\x00", b"\x03", b"\x01\xff"] {
            assert_eq!(decode_entry(Bytes::copy_from_slice(unreadable)), None);
        }
    }
}
