//! What clients send: names and digests.

use cask_index::DigestFunction;
use cask_proto::{
    InstanceName, ReadName, WireError, WriteName,
    digest::{FunctionRule, function_field, to_wire},
    reapi,
};
use prost::Message as _;

/// Longest error text: they are sent to clients and logged.
const ERROR_BYTES_MAX: usize = 600;

/// Resource names and instance names. True when one of the parsers accepted the input.
pub fn resource_name(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let read = ReadName::parse(text);
    let write = WriteName::parse(text);
    let instance = InstanceName::parse(text);
    assert!(read.is_err() || write.is_err(), "a name is either of a blob or of an upload");
    match &read {
        Ok(name) => {
            assert_eq!(name.to_string(), text, "a read name has one spelling");
            assert_eq!(ReadName::parse(&name.to_string()).as_ref(), Ok(name));
        }
        Err(error) => check_error(error),
    }
    match &write {
        Ok(name) => {
            let printed = name.to_string();
            let ignored = text.strip_prefix(&printed).expect("a write name has one spelling up to what is ignored");
            assert!(ignored.is_empty() || ignored.starts_with('/'), "{ignored:?}");
            assert_eq!(WriteName::parse(&printed).as_ref(), Ok(name));
        }
        Err(error) => check_error(error),
    }
    match &instance {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            assert!(read.is_err() && write.is_err(), "an instance name contains no reserved word");
            let digest = DigestFunction::Sha256.empty_blob();
            let blob = ReadName { instance: name.clone(), digest, compressor: cask_proto::Compressor::Identity };
            assert_eq!(ReadName::parse(&blob.to_string()), Ok(blob), "the instance can be cut off again");
        }
        Err(error) => check_error(error),
    }
    read.is_ok() || write.is_ok() || instance.is_ok()
}

/// Digests and the function field, as they come in a request that lists digests. True when every digest was accepted.
pub fn proto_digest(data: &[u8]) -> bool {
    let Ok(request) = reapi::FindMissingBlobsRequest::decode(data) else { return false };
    let mut all_accepted = !request.blob_digests.is_empty();
    for preferred in [None, Some(DigestFunction::Blake3), Some(DigestFunction::GitSha1)] {
        let rule = match FunctionRule::of_request(request.digest_function, preferred) {
            Ok(rule) => rule,
            Err(error) => {
                check_error(&error);
                return false;
            }
        };
        for wire in &request.blob_digests {
            match rule.from_wire(wire) {
                Ok(digest) => {
                    assert_eq!(to_wire(&digest), *wire, "a digest has one spelling");
                    let named = FunctionRule::of_request(function_field(digest.function()), None);
                    assert_eq!(named.and_then(|rule| rule.from_wire(wire)), Ok(digest));
                }
                Err(error) => {
                    check_error(&error);
                    all_accepted = false;
                }
            }
        }
    }
    all_accepted
}

fn check_error(error: &WireError) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() <= ERROR_BYTES_MAX, "{} bytes: {text}", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
}
