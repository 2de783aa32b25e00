//! The cache's requests, written by hand.
//!
//! Numbers of fields are those of the Remote Execution API and of ByteStream. Requests are whole gRPC messages, their five
//! bytes in front included.

use cask_index::{Digest, DigestFunction};
use cask_proto::digest::is_inferred_by_length;

use super::protobuf::{put_bytes, put_length, put_message, put_number, varint_bytes};

/// Which instance and function all requests of a run name.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) instance: String,
    pub(crate) function: DigestFunction,
    /// As in HTTP's `Host`.
    pub(crate) host: String,
}

pub(crate) fn put_hash(out: &mut Vec<u8>, digest: &Digest) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend(digest.hash().iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]));
}

/// Bytes of a digest as a message.
pub(crate) fn digest_bytes(digest: &Digest) -> usize {
    let hash = digest.hash().len() * 2;
    let size = if digest.size_bytes() > 0 { 1 + varint_bytes(digest.size_bytes()) } else { 0 };
    1 + varint_bytes(hash as u64) + hash + size
}

/// A field that is a digest.
pub(crate) fn put_digest(out: &mut Vec<u8>, field: u8, digest: &Digest) {
    put_length(out, field, digest_bytes(digest));
    put_length(out, 1, digest.hash().len() * 2);
    put_hash(out, digest);
    put_number(out, 2, digest.size_bytes());
}

impl Address {
    /// The field that names the instance.
    pub(crate) fn put_instance(&self, out: &mut Vec<u8>) {
        if !self.instance.is_empty() {
            put_bytes(out, 1, self.instance.as_bytes());
        }
    }

    /// The field that names the function, for those that are not known by the length of their hashes. Servers older than the
    /// field know no others.
    pub(crate) fn put_function(&self, out: &mut Vec<u8>, field: u8) {
        if !is_inferred_by_length(self.function) {
            put_number(out, field, u64::from(self.function.wire_number()));
        }
    }

    /// `[instance/]` and `blobs/[function/]hash/size`, with `between` between them.
    pub(crate) fn resource_name(&self, between: &str, digest: &Digest) -> Vec<u8> {
        let mut name = Vec::with_capacity(128);
        if !self.instance.is_empty() {
            name.extend_from_slice(self.instance.as_bytes());
            name.push(b'/');
        }
        name.extend_from_slice(between.as_bytes());
        name.extend_from_slice(b"blobs/");
        if !is_inferred_by_length(self.function) {
            name.extend_from_slice(self.function.name().as_bytes());
            name.push(b'/');
        }
        put_hash(&mut name, digest);
        name.push(b'/');
        name.extend_from_slice(digest.size_bytes().to_string().as_bytes());
        name
    }

    /// The head of an HTTP/1.1 request for a blob.
    pub(crate) fn put_http(&self, out: &mut Vec<u8>, verb: &str, digest: &Digest, length: Option<u64>) {
        out.extend_from_slice(verb.as_bytes());
        out.extend_from_slice(b" /");
        for byte in self.instance.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                out.push(byte);
            } else {
                out.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
        }
        if !self.instance.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(b"cas/");
        put_hash(out, digest);
        out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        out.extend_from_slice(self.host.as_bytes());
        if let Some(length) = length {
            out.extend_from_slice(format!("\r\ncontent-length: {length}").as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
    }

    /// A request for one blob's bytes.
    pub(crate) fn put_read(&self, out: &mut Vec<u8>, digest: &Digest) {
        put_message(out, |out| put_bytes(out, 1, &self.resource_name("", digest)));
    }

    /// A request for which of `digests` are missing.
    pub(crate) fn put_find_missing<'d>(&self, out: &mut Vec<u8>, digests: impl Iterator<Item = &'d Digest>) {
        put_message(out, |out| {
            self.put_instance(out);
            digests.for_each(|digest| put_digest(out, 2, digest));
            self.put_function(out, 3);
        });
    }

    /// A request for several blobs' bytes.
    pub(crate) fn put_batch_read<'d>(&self, out: &mut Vec<u8>, digests: impl Iterator<Item = &'d Digest>) {
        put_message(out, |out| {
            self.put_instance(out);
            digests.for_each(|digest| put_digest(out, 2, digest));
            self.put_function(out, 4);
        });
    }

    /// A request for the result of an action.
    pub(crate) fn put_get_action(&self, out: &mut Vec<u8>, action: &Digest) {
        put_message(out, |out| {
            self.put_instance(out);
            put_digest(out, 2, action);
            self.put_function(out, 6);
        });
    }

    /// A request to store the result of an action; `result` is an `ActionResult`.
    pub(crate) fn put_update_action(&self, out: &mut Vec<u8>, action: &Digest, result: &[u8]) {
        put_message(out, |out| {
            self.put_instance(out);
            put_digest(out, 2, action);
            put_bytes(out, 3, result);
            self.put_function(out, 5);
        });
    }
}

/// An action's result with these outputs.
pub(crate) fn action_result<'d>(outputs: impl Iterator<Item = &'d Digest>) -> Vec<u8> {
    let mut result = Vec::new();
    for (number, digest) in outputs.enumerate() {
        let mut file = Vec::new();
        put_bytes(&mut file, 1, format!("bazel-out/k8-fastbuild/bin/bench/output-{number}.o").as_bytes());
        put_digest(&mut file, 2, digest);
        put_bytes(&mut result, 2, &file);
    }
    result
}
