//! A URI that can be fetched: http or https, a host, no user in it.

use std::fmt;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};

use super::address::is_public;
use super::{Fault, FaultKind};

/// Where a request goes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Target {
    scheme: Scheme,
    authority: Authority,
    path: PathAndQuery,
}

impl Target {
    /// `None` when it is the URI of something else than a web server, `Err` when it must not be fetched.
    pub(super) fn parse(text: &str) -> Result<Option<Target>, Fault> {
        let Some((scheme, _)) = text.split_once(':') else { return Ok(None) };
        if scheme.eq_ignore_ascii_case("file") {
            return Err(Fault::new(FaultKind::Denied, "files of the server are not fetched"));
        }
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Ok(None);
        }
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        Self::of(uri).map(Some)
    }

    fn of(uri: Uri) -> Result<Target, Fault> {
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(malformed()) };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(elsewhere());
        }
        if authority.as_str().contains('@') {
            return Err(Fault::new(
                FaultKind::Denied,
                "it has a user in it; credentials belong into a qualifier, http_header:Authorization",
            ));
        }
        if authority.host().is_empty() {
            return Err(malformed());
        }
        Ok(Target { scheme, authority, path: parts.path_and_query.unwrap_or(PathAndQuery::from_static("/")) })
    }

    /// Where an answer's `location` leads from here.
    pub(super) fn follow(&self, location: &HeaderValue) -> Result<Target, Fault> {
        let text = location.to_str().map_err(|_| malformed())?;
        let text = text.split_once('#').map_or(text, |(text, _fragment)| text);
        let is_absolute = text.split_once(':').is_some_and(|(scheme, _)| {
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        });
        let absolute = if is_absolute {
            if Self::parse(text)?.is_none() {
                return Err(elsewhere());
            }
            text.to_owned()
        } else if let Some(rest) = text.strip_prefix("//") {
            format!("{}://{rest}", self.scheme)
        } else if text.starts_with('/') {
            format!("{}://{}{text}", self.scheme, self.authority)
        } else if text.starts_with('?') {
            format!("{}://{}{}{text}", self.scheme, self.authority, self.path.path())
        } else {
            let folder = self.path.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{}://{}{folder}/{text}", self.scheme, self.authority)
        };
        let next = Self::of(absolute.parse().map_err(|_| malformed())?)?;
        if self.is_https() && !next.is_https() {
            return Err(Fault::new(FaultKind::Denied, "it redirects from https to http"));
        }
        Ok(next)
    }

    pub(super) fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Without the brackets of an IPv6 address.
    pub(super) fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// True when the name alone says that it is on this machine or in its networks. Others may turn out to be.
    pub(super) fn is_private_by_name(&self) -> bool {
        if let Ok(address) = self.host().parse() {
            return !is_public(address);
        }
        let host = self.host().trim_end_matches('.').to_ascii_lowercase();
        host == "localhost" || host.ends_with(".localhost")
    }

    pub(super) fn authority(&self) -> &str {
        self.authority.as_str()
    }

    pub(super) fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// Who may see what was sent to this one.
    pub(super) fn is_same_origin(&self, other: &Target) -> bool {
        self.scheme == other.scheme && self.port() == other.port() && self.host().eq_ignore_ascii_case(other.host())
    }
}

/// Scheme and host: paths and queries carry secrets (signed URLs), so no text and no log line gets more.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

fn elsewhere() -> Fault {
    Fault::new(FaultKind::Denied, "it leads to something else than a web server")
}

fn malformed() -> Fault {
    Fault::new(FaultKind::NotFound, "it is no well-formed URI of a web server")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        Target::parse(text).ok().flatten().unwrap_or_else(|| panic!("{text} is a target"))
    }

    fn shown(target: &Target) -> String {
        format!("{target}{}", target.path())
    }

    #[test]
    fn web_servers_are_told_from_names_and_from_what_is_forbidden() {
        for (text, host, port) in [
            ("http://example.com", "example.com", 80),
            ("HTTPS://Example.com/a?b#c", "Example.com", 443),
            ("https://[::1]:8443/", "::1", 8443),
            ("http://127.0.0.1:9/x", "127.0.0.1", 9),
        ] {
            let target = target(text);
            assert_eq!((target.host(), target.port()), (host, port));
        }
        for text in ["urn:uuid:1", "git+ssh://host/x", "nonsense", "", "ftp://host/x"] {
            assert!(matches!(Target::parse(text), Ok(None)), "{text}");
        }
        for text in ["file:///etc/passwd", "FILE:/etc/passwd", "https://user:pass@example.com/", "https://user@h/"] {
            assert_eq!(Target::parse(text).err().map(|fault| fault.kind), Some(FaultKind::Denied), "{text}");
        }
        for text in ["http://", "http:x", "https://a b/", "http:///path"] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn redirects_lead_where_a_browser_would_go_but_never_down_to_http() {
        let from = target("https://example.com:444/a/b?c=d");
        for (location, to) in [
            ("https://other.org/x", "https://other.org/x"),
            ("//other.org/x?y", "https://other.org/x?y"),
            ("/x", "https://example.com:444/x"),
            ("x/y", "https://example.com:444/a/x/y"),
            ("?x=1", "https://example.com:444/a/b?x=1"),
            ("/at:1#fragment", "https://example.com:444/at:1"),
        ] {
            let next = from.follow(&HeaderValue::from_static(location)).ok().map(|next| shown(&next));
            assert_eq!(next.as_deref(), Some(to), "{location}");
        }
        for location in
            ["http://example.com:444/x", "file:///etc/passwd", "ftp://x/y", "https://u:p@other.org/", "https://"]
        {
            assert!(from.follow(&HeaderValue::from_static(location)).is_err(), "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let one = target("https://example.com/a");
        assert!(one.is_same_origin(&target("https://EXAMPLE.com:443/b")));
        for other in ["http://example.com/a", "https://example.com:444/a", "https://www.example.com/a"] {
            assert!(!one.is_same_origin(&target(other)), "{other}");
        }
    }
}
