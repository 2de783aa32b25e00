//! Qualifiers of a request: what of them identifies the asset, what its bytes must hash to, what headers its origin is sent.
//!
//! Headers may carry credentials. They are no part of what an asset is known by, and have no `Debug`, so that no log line can
//! show one by accident.

use std::collections::HashMap;

use cask_proto::asset::Qualifier;
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::integrity::{Integrity, MalformedHash};

const CHECKSUM: &str = "checksum.sri";
/// Tells contents apart for which a client does not want to be given the other's, whatever the checksum: identity only.
const CANONICAL_ID: &str = "bazel.canonical_id";
/// Of Bazel before 8: a JSON object from URI to an object from header to value.
const AUTH_HEADERS: &str = "bazel.auth_headers";
const HEADER_PREFIX: &str = "http_header:";
/// Followed by the position of a URI and a colon.
const URI_HEADER_PREFIX: &str = "http_header_url:";

/// Standard names that only a push gives a meaning here.
const FOR_PUSHES_ONLY: [&str; 4] = ["resource_type", "directory", "vcs.branch", "vcs.commit"];

/// Headers that belong to the connection or would change whom is asked and how much is answered.
const HEADERS_REFUSED: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "if-range",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// More is no request but an attack; Bazel sends a handful.
const COUNT_MAX: usize = 64;

/// The qualifiers of one request.
#[derive(Clone)]
pub(crate) struct Qualifiers {
    /// Name and value, sorted; no headers among them.
    identity: Vec<(String, String)>,
    integrity: Option<Integrity>,
    headers: Headers,
}

#[derive(Clone, Default)]
struct Headers {
    for_all: Vec<(HeaderName, HeaderValue)>,
    by_position: Vec<(usize, HeaderName, HeaderValue)>,
    by_uri: HashMap<String, Vec<(HeaderName, HeaderValue)>>,
}

/// Why a list of qualifiers is refused. Permanent. The texts repeat names, and values only where they are no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QualifierError {
    #[error("more than {COUNT_MAX} qualifiers")]
    TooMany,
    #[error("a qualifier has no name")]
    Nameless,
    #[error("qualifier `{0}` is given twice")]
    Duplicate(String),
    #[error("qualifier `{CHECKSUM}`: {0}")]
    Checksum(#[from] MalformedHash),
    #[error("qualifier `{name}`: {reason}")]
    Malformed { name: String, reason: &'static str },
    /// Not to be had of any origin, whatever was pushed.
    #[error("\"{0}\" not supported")]
    Unsupported(String),
}

impl Qualifiers {
    /// Parses the list of a request for `uri_count` URIs.
    pub(crate) fn parse(list: Vec<Qualifier>, uri_count: usize) -> Result<Qualifiers, QualifierError> {
        if list.len() > COUNT_MAX {
            return Err(QualifierError::TooMany);
        }
        let mut seen = std::collections::HashSet::new();
        for Qualifier { name, .. } in &list {
            if name.is_empty() {
                return Err(QualifierError::Nameless);
            }
            if !seen.insert(name.as_str()) {
                return Err(QualifierError::Duplicate(name.clone()));
            }
        }
        let mut qualifiers = Qualifiers { identity: Vec::new(), integrity: None, headers: Headers::default() };
        for Qualifier { name, value } in list {
            let malformed = |reason| QualifierError::Malformed { name: name.clone(), reason };
            if let Some(header) = name.strip_prefix(HEADER_PREFIX) {
                let (header, value) = header_of(&name, header, &value)?;
                qualifiers.headers.for_all.push((header, value));
            } else if let Some(rest) = name.strip_prefix(URI_HEADER_PREFIX) {
                let (position, header) =
                    rest.split_once(':').ok_or_else(|| malformed("no header after the position"))?;
                let position: usize = position.parse().map_err(|_| malformed("the position is no number"))?;
                if position >= uri_count {
                    return Err(malformed("there is no URI at this position"));
                }
                let (header, value) = header_of(&name, header, &value)?;
                qualifiers.headers.by_position.push((position, header, value));
            } else if name == AUTH_HEADERS {
                let by_uri: HashMap<String, HashMap<String, String>> = serde_json::from_str(&value)
                    .map_err(|_| malformed("not a JSON object from URIs to objects from headers to values"))?;
                for (uri, headers) in by_uri {
                    for (header, value) in headers {
                        let header = header_of(&name, &header, &value)?;
                        qualifiers.headers.by_uri.entry(uri.clone()).or_default().push(header);
                    }
                }
            } else {
                if name == CHECKSUM {
                    qualifiers.integrity = Integrity::parse(&value)?;
                }
                qualifiers.identity.push((name, value));
            }
        }
        qualifiers.identity.sort_unstable();
        Ok(qualifiers)
    }

    /// Names and values that the asset is known by beside its URI, sorted.
    pub(crate) fn identity(&self) -> &[(String, String)] {
        &self.identity
    }

    /// What the bytes must match, if that can be verified.
    pub(crate) fn integrity(&self) -> Option<&Integrity> {
        self.integrity.as_ref()
    }

    /// True when any origin would be sent a header.
    pub(crate) fn has_headers(&self) -> bool {
        let Headers { for_all, by_position, by_uri } = &self.headers;
        !(for_all.is_empty() && by_position.is_empty() && by_uri.is_empty())
    }

    /// What the origin of the URI at `position` is sent. A header for that URI beats one for all.
    pub(crate) fn headers_for(&self, position: usize, uri: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers.for_all {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in self.headers.by_uri.get(uri).into_iter().flatten() {
            headers.insert(name.clone(), value.clone());
        }
        for (_, name, value) in self.headers.by_position.iter().filter(|(at, _, _)| *at == position) {
            headers.insert(name.clone(), value.clone());
        }
        headers
    }

    /// Names of those that a fetch from an origin cannot honour.
    pub(crate) fn unsupported_by_origins(&self) -> Vec<&str> {
        let is_supported = |name: &str| name == CANONICAL_ID || (name == CHECKSUM && self.integrity.is_some());
        self.names().filter(|name| !is_supported(name)).collect()
    }

    /// Names of those that are no standard ones either.
    pub(crate) fn unknown(&self) -> Vec<&str> {
        self.unsupported_by_origins()
            .into_iter()
            .filter(|name| *name != CHECKSUM && !FOR_PUSHES_ONLY.contains(name))
            .collect()
    }

    /// Sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.identity.iter().map(|(name, _)| name.as_str())
    }
}

/// Tells requests with other headers apart while they are under way; never stored.
pub(crate) fn fingerprint(headers: &HeaderMap) -> [u8; 32] {
    let mut pairs: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    pairs.sort_unstable();
    let mut hasher = Sha256::new();
    for (name, value) in pairs {
        for part in [name.as_bytes(), value] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    hasher.finalize().into()
}

fn header_of(qualifier: &str, name: &str, value: &str) -> Result<(HeaderName, HeaderValue), QualifierError> {
    let malformed = |reason| QualifierError::Malformed { name: qualifier.to_owned(), reason };
    let name = HeaderName::try_from(name).map_err(|_| malformed("not the name of a header"))?;
    if HEADERS_REFUSED.contains(&name.as_str()) {
        return Err(QualifierError::Unsupported(qualifier.to_owned()));
    }
    let mut value = HeaderValue::try_from(value).map_err(|_| malformed("not the value of a header"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pairs: &[(&str, &str)]) -> Vec<Qualifier> {
        pairs.iter().map(|(name, value)| Qualifier { name: (*name).to_owned(), value: (*value).to_owned() }).collect()
    }

    fn parse(pairs: &[(&str, &str)]) -> Result<Qualifiers, QualifierError> {
        Qualifiers::parse(list(pairs), 2)
    }

    fn error(pairs: &[(&str, &str)]) -> QualifierError {
        parse(pairs).err().expect("an error")
    }

    const SRI: (&str, &str) = ("checksum.sri", "sha256-uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=");

    #[test]
    fn identity_is_sorted_and_without_headers() {
        let one = parse(&[("b", "2"), ("http_header:Accept", "x"), ("a", "1"), SRI]).unwrap();
        let other = parse(&[SRI, ("a", "1"), ("b", "2"), ("http_header_url:1:Authorization", "secret")]).unwrap();
        assert_eq!(one.identity(), other.identity());
        assert_eq!(one.names().collect::<Vec<_>>(), ["a", "b", "checksum.sri"]);
        assert!(one.has_headers() && other.has_headers() && one.integrity().is_some());
    }

    #[test]
    fn the_header_for_one_uri_beats_the_one_for_all() {
        let qualifiers = parse(&[
            ("http_header:Authorization", "all"),
            ("http_header_url:1:authorization", "second"),
            ("bazel.auth_headers", r#"{"https://a/": {"Authorization": "of a"}, "https://b/": {"X-Key": "of b"}}"#),
        ])
        .unwrap();
        let shown = |position, uri| {
            let headers = qualifiers.headers_for(position, uri);
            let mut shown: Vec<_> =
                headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
            shown.sort();
            shown.join(", ")
        };
        assert_eq!(shown(0, "https://x/"), "authorization: all");
        assert_eq!(shown(0, "https://a/"), "authorization: of a");
        assert_eq!(shown(1, "https://b/"), "authorization: second, x-key: of b");
        assert_eq!(format!("{:?}", qualifiers.headers_for(0, "").get("authorization").unwrap()), "Sensitive");
    }

    #[test]
    fn what_no_origin_honours_is_told_by_name() {
        let all = parse(&[
            SRI,
            ("bazel.canonical_id", "x"),
            ("resource_type", "t"),
            ("vcs.branch", "b"),
            ("mine", "m"),
            ("http_header:A", "b"),
        ])
        .unwrap();
        assert_eq!(all.unsupported_by_origins(), ["mine", "resource_type", "vcs.branch"]);
        assert_eq!(all.unknown(), ["mine"]);
        assert_eq!(parse(&[("checksum.sri", "blake3-abc")]).unwrap().unsupported_by_origins(), ["checksum.sri"]);
    }

    #[test]
    fn what_is_malformed_is_refused_without_repeating_values() {
        let malformed = |name: &str, reason| QualifierError::Malformed { name: name.to_owned(), reason };
        assert_eq!(error(&[("a", "1"), ("a", "2")]), QualifierError::Duplicate("a".to_owned()));
        assert_eq!(error(&[("", "1")]), QualifierError::Nameless);
        assert!(matches!(error(&[("checksum.sri", "sha256-x")]), QualifierError::Checksum(_)));
        for (name, reason) in [
            ("http_header:not a name", "not the name of a header"),
            ("http_header:", "not the name of a header"),
            ("http_header_url:2:Accept", "there is no URI at this position"),
            ("http_header_url:x:Accept", "the position is no number"),
            ("http_header_url:0", "no header after the position"),
            ("bazel.auth_headers", "not a JSON object from URIs to objects from headers to values"),
        ] {
            assert_eq!(error(&[(name, "a secret")]), malformed(name, reason));
        }
        assert_eq!(error(&[("http_header:X", "a\r\nb")]), malformed("http_header:X", "not the value of a header"));
        for name in ["http_header:Host", "http_header:TRANSFER-ENCODING", "http_header_url:0:range"] {
            assert_eq!(error(&[(name, "x")]), QualifierError::Unsupported(name.to_owned()));
        }
        let many = vec![("a", "b"); 65];
        assert_eq!(error(&many), QualifierError::TooMany);
    }

    #[test]
    fn a_fingerprint_follows_names_and_values_and_not_their_order() {
        let of = |pairs: &[(&str, &str)]| fingerprint(&parse(pairs).unwrap().headers_for(0, ""));
        let both = of(&[("http_header:A", "1"), ("http_header:B", "2")]);
        assert_eq!(both, of(&[("http_header:B", "2"), ("http_header:A", "1")]));
        assert_ne!(both, of(&[("http_header:A", "2"), ("http_header:B", "1")]));
        assert_ne!(both, of(&[("http_header:A", "1")]));
    }
}
