//! What every handler does first: the instance's name, the digest function and the digests of a request become typed, or the
//! request is refused with `INVALID_ARGUMENT`. The request metadata header is never looked at here, so it never fails a call.

use cask_engine::EngineError;
use cask_index::{Digest, DigestFunction};
use cask_proto::digest::FunctionRule;
use cask_proto::{Compressor, InstanceName, ReadName, WriteName, reapi};

use crate::cache::DIGEST_FUNCTIONS;
use crate::status::{Answer, answer_of};

/// A request's `instance_name`.
pub(super) fn instance(name: &str) -> Result<InstanceName, Answer> {
    InstanceName::parse(name).map_err(answer_of)
}

/// A request's `digest_function`: refused at once when it names one that is not served, so that even a request without digests is.
pub(super) fn function_rule(digest_function: i32) -> Result<FunctionRule, Answer> {
    let rule = FunctionRule::of_request(digest_function, None).map_err(answer_of)?;
    if let FunctionRule::Named(function) = rule {
        served(function)?;
    }
    Ok(rule)
}

/// One digest of a request.
pub(super) fn digest(rule: FunctionRule, digest: &reapi::Digest) -> Result<Digest, Answer> {
    let digest = rule.from_wire(digest).map_err(answer_of)?;
    served(digest.function())?;
    Ok(digest)
}

/// A digest that has to be set; `field` names it in the refusal.
pub(super) fn digest_field(
    rule: FunctionRule,
    field: &'static str,
    wire: Option<&reapi::Digest>,
) -> Result<Digest, Answer> {
    let parsed = rule.from_wire_field(field, wire).map_err(answer_of)?;
    served(parsed.function())?;
    Ok(parsed)
}

/// The name of a blob to read.
pub(super) fn read_name(name: &str) -> Result<ReadName, Answer> {
    let name = ReadName::parse(name).map_err(answer_of)?;
    served(name.digest.function())?;
    uncompressed(name.compressor)?;
    Ok(name)
}

/// The name of an upload.
pub(super) fn write_name(name: &str) -> Result<WriteName, Answer> {
    let name = WriteName::parse(name).map_err(answer_of)?;
    served(name.digest.function())?;
    uncompressed(name.compressor)?;
    Ok(name)
}

fn served(function: DigestFunction) -> Result<(), Answer> {
    if DIGEST_FUNCTIONS.contains(&function) {
        Ok(())
    } else {
        Err(answer_of(EngineError::UnsupportedFunction(function)))
    }
}

/// Compressed transfers are refused, like everything the capabilities do not list.
pub(super) fn uncompressed(compressor: Compressor) -> Result<(), Answer> {
    if compressor == Compressor::Identity {
        Ok(())
    } else {
        Err(Answer::invalid(format!(
            "compressor {} is not supported; the capabilities list those that are",
            compressor.name()
        )))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn wire(hash: &str, size_bytes: i64) -> reapi::Digest {
        reapi::Digest { hash: hash.to_owned(), size_bytes }
    }

    #[test]
    fn digests_are_of_the_functions_that_are_served() {
        for digest_function in [0, 1] {
            let rule = function_rule(digest_function).unwrap();
            assert_eq!(digest(rule, &wire(HASH, 3)).unwrap().function(), DigestFunction::Sha256);
            for bad in [wire(&HASH[..40], 3), wire(&HASH.to_uppercase(), 3), wire(HASH, -1), wire("", 0)] {
                assert_eq!(digest(rule, &bad).unwrap_err().grpc, Code::InvalidArgument, "{bad:?}");
            }
        }
        for digest_function in [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -1] {
            assert_eq!(function_rule(digest_function).unwrap_err().grpc, Code::InvalidArgument);
        }
    }

    #[test]
    fn names_are_of_uncompressed_blobs_under_functions_that_are_served() {
        for name in ["blobs/HASH/3", "some/instance/blobs/HASH/3"] {
            read_name(&name.replace("HASH", HASH)).unwrap();
            write_name(&name.replace("HASH", HASH).replace("blobs", "uploads/u/blobs")).unwrap();
        }
        for name in ["compressed-blobs/zstd/HASH/3", "blobs/blake3/HASH/3", "blobs/HASH", "blobs/HASH/abc", "", "x"] {
            let read = read_name(&name.replace("HASH", HASH)).unwrap_err();
            let write = write_name(&format!("uploads/u/{name}").replace("HASH", HASH)).unwrap_err();
            assert_eq!((read.grpc, write.grpc), (Code::InvalidArgument, Code::InvalidArgument), "{name}");
        }
    }
}
