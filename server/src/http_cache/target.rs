//! What a cache URL names: `/[instance/]{ac,cas}/[function/]<hash>`.
//!
//! The digest function follows from the hash's length, or is the one the instance prefers; those that share their length with
//! another may be named by a segment of their own, as in a resource name.

use cask_index::{Digest, DigestFunction};
use cask_proto::InstanceName;
use cask_proto::digest::is_inferred_by_length;

use crate::access::instances::{Instance, Instances};
use crate::status::{Answer, answer_of};

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) instance: InstanceName,
    pub(crate) kind: TargetKind,
    /// Where the path names one.
    function: Option<DigestFunction>,
    /// Lowercase hexadecimal digits, as many as a function's hashes have.
    hash: String,
}

/// What it is that a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetKind {
    Blob,
    ActionResult,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    /// Not a cache path at all.
    #[error("nothing here; the cache is at /[instance/]ac/<hash> and /[instance/]cas/<hash>")]
    NotACachePath,
    #[error("the path must end in a hash: lowercase hexadecimal digits, 64 of them for SHA-256")]
    Hash,
    #[error("malformed instance name: {0}")]
    Instance(String),
}

impl Target {
    /// Parses a request's path, still percent-encoded.
    pub(crate) fn parse(path: &str) -> Result<Self, TargetError> {
        let path = path.strip_prefix('/').ok_or(TargetError::NotACachePath)?;
        let (mut rest, hash) = path.rsplit_once('/').ok_or(TargetError::NotACachePath)?;
        let mut function = None;
        if let Some((before, segment)) = rest.rsplit_once('/')
            && let Some(named) = DigestFunction::from_name(segment).filter(|named| !is_inferred_by_length(*named))
        {
            (rest, function) = (before, Some(named));
        }
        let (instance, kind) = match rest.rsplit_once('/') {
            // A slash with nothing before it is an instance of one empty segment, not the absent instance.
            Some(("", _)) => return Err(TargetError::Instance("it begins with a slash".to_owned())),
            Some((instance, kind)) => (instance, kind),
            None => ("", rest),
        };
        let kind = match kind {
            "ac" => TargetKind::ActionResult,
            "cas" => TargetKind::Blob,
            _ => return Err(TargetError::NotACachePath),
        };
        let is_hash_length = match function {
            Some(function) => hash.len() == 2 * function.hash_length_bytes(),
            None => DigestFunction::ALL.iter().any(|function| hash.len() == 2 * function.hash_length_bytes()),
        };
        if !is_hash_length || !hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(TargetError::Hash);
        }
        let instance = percent_encoding::percent_decode_str(instance)
            .decode_utf8()
            .map_err(|_| TargetError::Instance("it is not UTF-8".to_owned()))?;
        let instance = InstanceName::parse(&instance).map_err(|error| TargetError::Instance(error.to_string()))?;
        Ok(Self { instance, kind, function, hash: hash.to_owned() })
    }

    /// The instance, and the digest as far as a path tells it: its size is 0. Refused when the instance is not served.
    pub(crate) fn resolve(&self, instances: &Instances) -> Result<(Instance, Digest), Answer> {
        let instance = instances.of_name(self.instance.clone()).map_err(answer_of)?;
        let function = match self.function {
            Some(function) => function,
            None => instance.function_of_hash(self.hash.len()).map_err(answer_of)?,
        };
        let digest = Digest::parse_hex(function, self.hash.as_bytes(), 0).expect("checked when it was parsed");
        let digest = instance.within(digest);
        Ok((instance, digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "00ff0000000000000000000000000000000000000000000000000000000000a5";

    #[test]
    fn cache_paths_name_blobs_and_action_results() {
        use TargetKind::{ActionResult, Blob};
        for (path, instance, kind, function) in [
            ("/cas/{}", "", Blob, None),
            ("/team/linux/cas/{}", "team/linux", Blob, None),
            ("/ac/{}", "", ActionResult, None),
            ("/team/ac/{}", "team", ActionResult, None),
            ("/a/b/c/ac/{}", "a/b/c", ActionResult, None),
            ("/cas/ac/{}", "cas", ActionResult, None),
            ("/my%20team/ac/{}", "my team", ActionResult, None),
            ("/cas/blake3/{}", "", Blob, Some(DigestFunction::Blake3)),
            ("/blake3/cas/{}", "blake3", Blob, None),
            ("/team/ac/sha256tree/{}", "team", ActionResult, Some(DigestFunction::Sha256Tree)),
        ] {
            let instance = InstanceName::parse(instance).expect("an instance name");
            let target = Target { instance, kind, function, hash: HEX.to_owned() };
            assert_eq!(Target::parse(&path.replace("{}", HEX)), Ok(target), "{path}");
        }
    }

    #[test]
    fn the_function_is_named_or_follows_from_the_length() {
        for (path, function) in [
            (format!("/cas/{HEX}"), DigestFunction::Sha256),
            (format!("/cas/blake3/{HEX}"), DigestFunction::Blake3),
            (format!("/cas/{}", &HEX[..40]), DigestFunction::Sha1),
            (format!("/ac/gitsha1/{}", &HEX[..40]), DigestFunction::GitSha1),
            (format!("/cas/{HEX}{HEX}"), DigestFunction::Sha512),
        ] {
            let (_, digest) = Target::parse(&path).unwrap().resolve(&Instances::default()).unwrap();
            assert_eq!((digest.function(), digest.size_bytes()), (function, 0), "{path}");
        }
    }

    #[test]
    fn other_paths_are_told_apart_by_what_is_wrong_with_them() {
        let not_a_cache_path = Some(TargetError::NotACachePath);
        for (path, error) in [
            ("", not_a_cache_path.clone()),
            ("/", not_a_cache_path.clone()),
            ("/favicon.ico", not_a_cache_path.clone()),
            ("/cas", not_a_cache_path.clone()),
            ("/blobs/{}", not_a_cache_path.clone()),
            ("/AC/{}", not_a_cache_path.clone()),
            ("/cas/{}/1", not_a_cache_path),
            ("/cas/", Some(TargetError::Hash)),
            ("/cas/abc", Some(TargetError::Hash)),
            ("/cas/{}00", Some(TargetError::Hash)),
            ("/cas/gitsha1/{}", Some(TargetError::Hash)),
            ("/cas/sha256/{}", Some(TargetError::NotACachePath)),
            ("/ac/00FF0000000000000000000000000000000000000000000000000000000000A5", Some(TargetError::Hash)),
            ("/cas/zzff0000000000000000000000000000000000000000000000000000000000a5", Some(TargetError::Hash)),
            // Malformed instances; their texts are the instance name's own.
            ("//ac/{}", None),
            ("/a//ac/{}", None),
            ("/uploads/ac/{}", None),
            ("/%ff/ac/{}", None),
        ] {
            let found = Target::parse(&path.replace("{}", HEX)).expect_err(path);
            match error {
                Some(error) => assert_eq!(found, error, "{path}"),
                None => assert!(matches!(found, TargetError::Instance(_)), "{path}: {found}"),
            }
        }
    }
}
