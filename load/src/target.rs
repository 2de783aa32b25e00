//! [`Target`]: where the server under load is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::wire::headers::AUTHORITY_BYTES_MAX;

/// The address of an endpoint: `grpc://HOST:PORT`, `http://HOST[:PORT]`, `unix:/PATH`. Both schemes are clear text; which
/// protocol is spoken depends on the workload alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: String,
    pub(crate) place: Place,
    /// As in `:authority` and `Host`.
    pub(crate) authority: String,
}

/// What is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Why a text is no [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It begins with no scheme that is known.
    #[error("the address \"{0}\" begins with none of grpc://, http:// and unix:")]
    Scheme(String),
    /// It asks for TLS.
    #[error("the address \"{0}\" asks for TLS, which is not spoken here; measure the port that is clear text")]
    Tls(String),
    /// Host or port are not there, or no such thing.
    #[error("the address \"{0}\" names no host and port; write grpc://HOST:PORT")]
    Authority(String),
    /// There is no path behind `unix:`.
    #[error("the address \"{0}\" names no socket; write unix:/PATH")]
    Path(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let owned = || text.to_owned();
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///path` is `unix:/path`.
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(TargetError::Path(owned()));
            }
            let place = Place::Unix(PathBuf::from(path));
            return Ok(Self { text: owned(), place, authority: "localhost".to_owned() });
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| TargetError::Scheme(owned()))?;
        let port = match scheme {
            "grpc" => None,
            "http" => Some(80),
            "grpcs" | "https" => return Err(TargetError::Tls(owned())),
            _ => return Err(TargetError::Scheme(owned())),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let is_plain = |host: &str| {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte))
        };
        // The colons of an IPv6 address stand in brackets.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
            _ => (authority, port),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = bare.map_or(!host.contains(':') && is_plain(host), is_plain);
        match port {
            Some(port) if is_host && authority.len() <= AUTHORITY_BYTES_MAX => Ok(Self {
                text: owned(),
                place: Place::Tcp { host: bare.unwrap_or(host).to_owned(), port },
                authority: authority.to_owned(),
            }),
            _ => Err(TargetError::Authority(owned())),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (text, host, port) in [
            ("grpc://127.0.0.1:8980", "127.0.0.1", 8980),
            ("grpc://cache.example.org:443/", "cache.example.org", 443),
            ("http://[::1]:8080", "::1", 8080),
            ("http://cache", "cache", 80),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.place, Place::Tcp { host: host.to_owned(), port }, "{text}");
            assert_eq!(target.to_string(), text);
        }
        for text in ["unix:/run/cask.sock", "unix:///run/cask.sock"] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.place, Place::Unix("/run/cask.sock".into()));
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, says) in [
            ("127.0.0.1:8980", "begins with none of"),
            ("ftp://a:1", "begins with none of"),
            ("grpcs://a:1", "TLS"),
            ("grpc://a", "names no host and port"),
            ("grpc://:1", "names no host and port"),
            ("grpc://a:70000", "names no host and port"),
            ("grpc://a b:1", "names no host and port"),
            ("grpc://::1:1", "names no host and port"),
            ("grpc://a:1/instance", "names no host and port"),
            ("unix:relative", "names no socket"),
            ("", "begins with none of"),
        ] {
            let error = text.parse::<Target>().expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
