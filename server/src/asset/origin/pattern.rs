//! Which hosts may be asked: a list of `example.com`, `*.example.com` (its subdomains), `*` (all), each perhaps with a port.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// One host, or a family of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginPattern {
    host: HostPattern,
    /// `None`: any.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Any,
    /// The host itself, in lower case; an IPv6 address without its brackets.
    Exact(String),
    /// What ends with this, a dot at its beginning, in lower case.
    Below(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no origin; write example.com, *.example.com or *, perhaps with a port: example.com:8443")]
pub(crate) struct OriginPatternError(String);

impl OriginPattern {
    /// `host` as in a URI, without brackets.
    pub(super) fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_host = match &self.host {
            HostPattern::Any => true,
            HostPattern::Exact(exact) => host == *exact,
            HostPattern::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        };
        is_host && self.port.is_none_or(|only| only == port)
    }
}

impl FromStr for OriginPattern {
    type Err = OriginPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || OriginPatternError(text.to_owned());
        let text = text.trim();
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(error)?)),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(|port| port.parse().map_err(|_| error())).transpose()?;
        let is_plain = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
        };
        let host = match host {
            "*" => HostPattern::Any,
            _ => match host.strip_prefix("*.") {
                Some(domain) if is_plain(domain) => HostPattern::Below(format!(".{}", domain.to_ascii_lowercase())),
                None if is_plain(host) => HostPattern::Exact(host.trim_end_matches('.').to_ascii_lowercase()),
                _ => return Err(error()),
            },
        };
        Ok(OriginPattern { host, port })
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Any => f.write_str("*")?,
            HostPattern::Exact(host) if host.contains(':') => write!(f, "[{host}]")?,
            HostPattern::Exact(host) => f.write_str(host)?,
            HostPattern::Below(suffix) => write!(f, "*{suffix}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl<'de> Deserialize<'de> for OriginPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_what_it_says_and_nothing_that_looks_like_it() {
        for (pattern, host, port, expected) in [
            ("*", "anything.example", 1, true),
            ("*:443", "anything.example", 443, true),
            ("*:443", "anything.example", 80, false),
            ("Example.com", "example.COM", 443, true),
            ("example.com", "example.com.", 443, true),
            ("example.com", "www.example.com", 443, false),
            ("example.com", "badexample.com", 443, false),
            ("example.com", "example.com.evil.org", 443, false),
            ("*.example.com", "www.example.com", 443, true),
            ("*.example.com", "a.b.example.com", 443, true),
            ("*.example.com", "example.com", 443, false),
            ("*.example.com", ".example.com", 443, false),
            ("*.example.com", "badexample.com", 443, false),
            ("example.com:8443", "example.com", 8443, true),
            ("example.com:8443", "example.com", 443, false),
            ("127.0.0.1", "127.0.0.1", 9, true),
            ("[::1]:80", "::1", 80, true),
            ("[::1]", "::1", 81, true),
            ("[::1]:80", "::1", 81, false),
        ] {
            let parsed: OriginPattern = pattern.parse().expect("a pattern");
            assert_eq!(parsed.matches(host, port), expected, "{pattern} and {host}:{port}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed), "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in
            ["", "https://example.com", "example.com/path", "a*.com", "*example.com", "*.", "x:port", "[::1", "a b"]
        {
            assert!(text.parse::<OriginPattern>().is_err(), "{text}");
        }
    }
}
