//! What every handler does first: instance, digest function and digests of a request become typed, or the request is refused
//! with `INVALID_ARGUMENT`. The request metadata header is never looked at here, so it never fails a call.

use cask_index::Digest;
use cask_proto::digest::DigestRule;
use cask_proto::{Compressor, ReadName, WriteName, reapi};

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::access::instances::Instance;
use crate::cache::{COMPRESSORS, Cache};
use crate::status::{Answer, answer_of};

/// The header in which a client may repeat a `ByteStream` name, so that a proxy can route by it without reading the body.
pub(crate) const RESOURCE_NAME_HEADER: &str = "build.bazel.remote.execution.v2.resource-name";

/// The name in that header. Whoever routed by it must not have routed something else here.
pub(super) struct AnnouncedName(Option<MetadataValue<Ascii>>);

impl AnnouncedName {
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        Self(metadata.get(RESOURCE_NAME_HEADER).cloned())
    }

    /// Refuses a request whose header names another resource than its message.
    pub(crate) fn check(&self, name: &str) -> Result<(), Answer> {
        check_announced(self.0.as_ref().map(MetadataValue::as_bytes), name)
    }
}

/// Refuses a request whose header, if it has one, names another resource than its message.
pub(crate) fn check_announced(announced: Option<&[u8]>, name: &str) -> Result<(), Answer> {
    match announced {
        Some(announced) if announced != name.as_bytes() => {
            Err(Answer::invalid(format!("the header {RESOURCE_NAME_HEADER} names another resource than the request")))
        }
        _ => Ok(()),
    }
}

/// A request's `instance_name`.
pub(crate) fn instance(cache: &Cache, name: &str) -> Result<Instance, Answer> {
    cache.instances().resolve(name).map_err(answer_of)
}

/// A request's `instance_name` and `digest_function`: how its digests are read.
pub(crate) fn digest_rule(cache: &Cache, name: &str, digest_function: i32) -> Result<DigestRule, Answer> {
    instance(cache, name)?.digest_rule(digest_function).map_err(answer_of)
}

/// One digest of a request.
pub(crate) fn digest(rule: DigestRule, digest: &reapi::Digest) -> Result<Digest, Answer> {
    rule.from_wire(digest).map_err(answer_of)
}

/// A digest that has to be set; `field` names it in the refusal.
pub(crate) fn digest_field(
    rule: DigestRule,
    field: &'static str,
    wire: Option<&reapi::Digest>,
) -> Result<Digest, Answer> {
    rule.from_wire_field(field, wire).map_err(answer_of)
}

/// The name of a blob to read.
pub(crate) fn read_name(cache: &Cache, name: &str) -> Result<ReadName, Answer> {
    let (_, name) = cache.instances().read_name(name).map_err(answer_of)?;
    served_compressor(name.compressor)?;
    Ok(name)
}

/// The name of an upload.
pub(crate) fn write_name(cache: &Cache, name: &str) -> Result<WriteName, Answer> {
    let (_, name) = cache.instances().write_name(name).map_err(answer_of)?;
    served_compressor(name.compressor)?;
    Ok(name)
}

/// Refuses compressors that the capabilities do not list.
pub(crate) fn served_compressor(compressor: Compressor) -> Result<(), Answer> {
    if compressor == Compressor::Identity || COMPRESSORS.contains(&compressor) {
        Ok(())
    } else {
        Err(unserved(compressor))
    }
}

/// What is said to who uses another.
pub(crate) fn unserved(compressor: Compressor) -> Answer {
    Answer::invalid(format!("compressor {} is not supported; the capabilities list those that are", compressor.name()))
}
