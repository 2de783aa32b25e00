//! `ByteStream` resource names and instance names <-> typed values.
//!
//! ```text
//! read    [instance/]blobs/[function/]hash/size
//!         [instance/]compressed-blobs/compressor/[function/]hash/size
//! write   [instance/]uploads/upload id/(one of the above)[/anything, ignored]
//! ```
//!
//! Strict on purpose: one blob of one instance has one name, so `parse(print(x)) == x`, and `print(parse(s)) == s` for
//! every read name and every write name without ignored text. The first reserved word ends the instance name; that is
//! why instance names must not contain one. Called at the edge, before anything else looks at a request.

use std::fmt;

use cask_index::{Digest, DigestFunction};

use crate::{
    compressor::Compressor,
    digest::{FunctionRule, is_inferred_by_length},
    error::{WireError, excerpt},
};

/// Words that cannot be segments of an instance name.
const RESERVED_SEGMENTS: [&str; 7] =
    ["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"];

fn reserved(segment: &str) -> Option<&'static str> {
    RESERVED_SEGMENTS.into_iter().find(|word| *word == segment)
}

/// Name of an instance: empty, or segments joined by single slashes, none of them reserved, `.` or `..`, none with
/// control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceName(String);

impl InstanceName {
    /// Longest name.
    pub const LENGTH_BYTES_MAX: usize = 256;

    /// The instance without a name, which most clients use.
    pub const EMPTY: InstanceName = InstanceName(String::new());

    /// Parses a request's `instance_name`.
    pub fn parse(name: &str) -> Result<Self, WireError> {
        if name.is_empty() {
            return Ok(Self::EMPTY);
        }
        if name.len() > Self::LENGTH_BYTES_MAX {
            return Err(WireError::InstanceTooLong { found_bytes: name.len(), limit_bytes: Self::LENGTH_BYTES_MAX });
        }
        for segment in name.split('/') {
            if segment.is_empty() {
                return Err(WireError::InstanceSegmentEmpty(excerpt(name)));
            }
            if let Some(word) = reserved(segment) {
                return Err(WireError::InstanceReserved(word));
            }
            if segment == "." || segment == ".." || segment.chars().any(char::is_control) {
                return Err(WireError::InstanceSegmentForbidden(excerpt(name)));
            }
        }
        Ok(Self(name.to_owned()))
    }

    /// As it is written in requests; no leading or trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client calls one upload. Normally a UUID, never interpreted, and not unique: clients reuse one for several
/// blobs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(String);

impl UploadId {
    /// Longest id.
    pub const LENGTH_BYTES_MAX: usize = 128;

    /// Parses one segment: printable ASCII without slash, no reserved word (then the id itself was left out).
    pub fn parse(id: &str) -> Result<Self, WireError> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
        if id.is_empty() || id.len() > Self::LENGTH_BYTES_MAX || !id.bytes().all(is_plain) || reserved(id).is_some() {
            return Err(WireError::UploadIdMalformed(excerpt(id)));
        }
        Ok(Self(id.to_owned()))
    }

    /// As the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A blob to be read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadName {
    /// Where it is looked up.
    pub instance: InstanceName,
    /// Of the uncompressed bytes.
    pub digest: Digest,
    /// How the answer is to be wrapped.
    pub compressor: Compressor,
}

impl ReadName {
    /// Parses a name whose digest function, when not named, follows from the hash's length.
    pub fn parse(name: &str) -> Result<Self, WireError> {
        Self::parse_with(name, |_| FunctionRule::INFERRED)
    }

    /// As [`ReadName::parse`], for instances that may prefer a function: `rule` is asked when the name does not name
    /// one.
    pub fn parse_with(name: &str, rule: impl FnOnce(&InstanceName) -> FunctionRule) -> Result<Self, WireError> {
        let malformed = || WireError::NotAReadName(excerpt(name));
        let (instance, mut segments) = split_instance(name)?.ok_or_else(malformed)?;
        let (digest, compressor) = parse_blob(&mut segments, || rule(&instance))?.ok_or_else(malformed)?;
        if segments.next().is_some() {
            return Err(malformed());
        }
        Ok(Self { instance, digest, compressor })
    }
}

impl fmt::Display for ReadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_instance(f, &self.instance)?;
        print_blob(f, &self.digest, self.compressor)
    }
}

/// An upload in progress. The whole of it is the upload's identity: the id alone is not unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WriteName {
    /// Where the blob goes.
    pub instance: InstanceName,
    /// Tells apart uploads of one blob.
    pub upload_id: UploadId,
    /// Of the uncompressed bytes.
    pub digest: Digest,
    /// How the bytes that arrive are wrapped.
    pub compressor: Compressor,
}

impl WriteName {
    /// Parses a name whose digest function, when not named, follows from the hash's length. What follows the size is
    /// ignored.
    pub fn parse(name: &str) -> Result<Self, WireError> {
        Self::parse_with(name, |_| FunctionRule::INFERRED)
    }

    /// As [`WriteName::parse`], for instances that may prefer a function: `rule` is asked when the name does not name
    /// one.
    pub fn parse_with(name: &str, rule: impl FnOnce(&InstanceName) -> FunctionRule) -> Result<Self, WireError> {
        let malformed = || WireError::NotAWriteName(excerpt(name));
        let (instance, mut segments) = split_instance(name)?.ok_or_else(malformed)?;
        if segments.next() != Some("uploads") {
            return Err(malformed());
        }
        let upload_id = UploadId::parse(segments.next().ok_or_else(malformed)?)?;
        let (digest, compressor) = parse_blob(&mut segments, || rule(&instance))?.ok_or_else(malformed)?;
        Ok(Self { instance, upload_id, digest, compressor })
    }
}

impl fmt::Display for WriteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_instance(f, &self.instance)?;
        write!(f, "uploads/{}/", self.upload_id.as_str())?;
        print_blob(f, &self.digest, self.compressor)
    }
}

type Segments<'a> = std::str::Split<'a, char>;

/// Parts the instance name from the segments that begin with the first reserved word; `None` when there is no such
/// word.
fn split_instance(name: &str) -> Result<Option<(InstanceName, Segments<'_>)>, WireError> {
    let mut start = 0;
    for segment in name.split('/') {
        if reserved(segment).is_some() {
            let instance = match start {
                0 => InstanceName::EMPTY,
                // "/blobs/...": the segment before the slash is there, and empty.
                1 => return Err(WireError::InstanceSegmentEmpty(excerpt(name))),
                _ => InstanceName::parse(&name[..start - 1])?,
            };
            return Ok(Some((instance, name[start..].split('/'))));
        }
        start += segment.len() + 1;
    }
    Ok(None)
}

/// Parses `blobs/...` or `compressed-blobs/...` up to the size; `None` when segments are missing or are others.
fn parse_blob(
    segments: &mut Segments<'_>,
    rule: impl FnOnce() -> FunctionRule,
) -> Result<Option<(Digest, Compressor)>, WireError> {
    let compressor = match segments.next() {
        Some("blobs") => Compressor::Identity,
        Some("compressed-blobs") => match segments.next() {
            Some(name) => Compressor::from_segment(name)?,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let Some(function_or_hash) = segments.next() else { return Ok(None) };
    let (rule, hash) = match function_segment(function_or_hash)? {
        Some(function) => (FunctionRule::Named(function), segments.next()),
        None => (rule(), Some(function_or_hash)),
    };
    let (Some(hash), Some(size)) = (hash, segments.next()) else { return Ok(None) };
    // The hash first: of a name that is all wrong, the first wrong segment is reported.
    let rule = FunctionRule::Named(rule.function(hash.len())?);
    Ok(Some((rule.digest(hash, parse_size(size)?)?, compressor)))
}

/// The function that a segment names; `None` when it names none and so is a hash.
fn function_segment(segment: &str) -> Result<Option<DigestFunction>, WireError> {
    match segment {
        "murmur3" => return Err(WireError::FunctionUnsupported("MURMUR3")),
        "vso" => return Err(WireError::FunctionUnsupported("VSO")),
        _ => {}
    }
    match DigestFunction::from_name(segment) {
        Some(function) if is_inferred_by_length(function) => Err(WireError::FunctionMustBeOmitted(function)),
        found => Ok(found),
    }
}

/// Decimal, no sign, no leading zero: one number has one spelling.
fn parse_size(text: &str) -> Result<i64, WireError> {
    let is_canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    match text.parse() {
        Ok(size) if is_canonical => Ok(size),
        _ => Err(WireError::SizeMalformed(excerpt(text))),
    }
}

fn print_instance(f: &mut fmt::Formatter<'_>, instance: &InstanceName) -> fmt::Result {
    if instance.as_str().is_empty() { Ok(()) } else { write!(f, "{instance}/") }
}

fn print_blob(f: &mut fmt::Formatter<'_>, digest: &Digest, compressor: Compressor) -> fmt::Result {
    match compressor {
        Compressor::Identity => f.write_str("blobs/")?,
        _ => write!(f, "compressed-blobs/{}/", compressor.name())?,
    }
    if !is_inferred_by_length(digest.function()) {
        write!(f, "{}/", digest.function().name())?;
    }
    write!(f, "{digest}")
}
