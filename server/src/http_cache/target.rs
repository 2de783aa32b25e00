//! What a cache URL names: `/[instance/]ac/<hash>` or `/[instance/]cas/<hash>`.

use cask_proto::InstanceName;

/// The SHA-256 a URL ends in.
pub(crate) type Sha256Hash = [u8; 32];

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A blob. Blobs are shared by all instances, so a well-formed instance is accepted and forgotten.
    Blob(Sha256Hash),
    /// An action's result in an instance.
    ActionResult(InstanceName, Sha256Hash),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    /// Not a cache path at all.
    #[error("nothing here; the cache is at /[instance/]ac/<hash> and /[instance/]cas/<hash>")]
    NotACachePath,
    #[error("the hash in the path must be a SHA-256: 64 lowercase hexadecimal digits")]
    Hash,
    #[error("malformed instance name: {0}")]
    Instance(String),
}

impl Target {
    /// Parses a request's path, still percent-encoded.
    pub(crate) fn parse(path: &str) -> Result<Self, TargetError> {
        let path = path.strip_prefix('/').ok_or(TargetError::NotACachePath)?;
        let (rest, hash) = path.rsplit_once('/').ok_or(TargetError::NotACachePath)?;
        let (instance, kind) = match rest.rsplit_once('/') {
            // A slash with nothing before it is an instance of one empty segment, not the absent instance.
            Some(("", _)) => return Err(TargetError::Instance("it begins with a slash".to_owned())),
            Some((instance, kind)) => (instance, kind),
            None => ("", rest),
        };
        if kind != "ac" && kind != "cas" {
            return Err(TargetError::NotACachePath);
        }
        let hash = parse_hash(hash).ok_or(TargetError::Hash)?;
        let instance = percent_encoding::percent_decode_str(instance)
            .decode_utf8()
            .map_err(|_| TargetError::Instance("it is not UTF-8".to_owned()))?;
        let instance = InstanceName::parse(&instance).map_err(|error| TargetError::Instance(error.to_string()))?;
        Ok(if kind == "ac" { Self::ActionResult(instance, hash) } else { Self::Blob(hash) })
    }
}

fn parse_hash(text: &str) -> Option<Sha256Hash> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "00ff0000000000000000000000000000000000000000000000000000000000a5";

    fn hash() -> Sha256Hash {
        let mut hash = [0; 32];
        (hash[1], hash[31]) = (0xff, 0xa5);
        hash
    }

    #[test]
    fn cache_paths_name_blobs_and_action_results() {
        let instance = |name: &str| InstanceName::parse(name).expect("an instance name");
        for (path, target) in [
            ("/cas/{}", Target::Blob(hash())),
            ("/team/linux/cas/{}", Target::Blob(hash())),
            ("/ac/{}", Target::ActionResult(instance(""), hash())),
            ("/team/ac/{}", Target::ActionResult(instance("team"), hash())),
            ("/a/b/c/ac/{}", Target::ActionResult(instance("a/b/c"), hash())),
            ("/cas/ac/{}", Target::ActionResult(instance("cas"), hash())),
            ("/my%20team/ac/{}", Target::ActionResult(instance("my team"), hash())),
        ] {
            assert_eq!(Target::parse(&path.replace("{}", HEX)), Ok(target), "{path}");
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
