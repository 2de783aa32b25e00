//! Content codings: what a client says of the body it sends and takes (RFC 9110, 8.4 and 12.5.3; zstd: RFC 8878, 7).
//!
//! Knows headers only. A hash in a URL is always of the bytes without any coding.

use cask_engine::encoding::{ContentSize, content_size};
use http::{HeaderMap, header};

/// How a body is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Zstd,
}

/// The size of a blob without its coding, which is half of its name and no part of the URL.
const SIZE_HEADER: &str = "x-digest-sizebytes";

/// The coding of a request's body; `None` when it is none that is taken here.
pub(super) fn of_body(headers: &HeaderMap) -> Option<Coding> {
    let Some(coding) = headers.get(header::CONTENT_ENCODING) else { return Some(Coding::Identity) };
    let is = |name: &str| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(name.as_bytes());
    if is("identity") {
        Some(Coding::Identity)
    } else if is("zstd") {
        Some(Coding::Zstd)
    } else {
        None
    }
}

/// Whether an answer may be zstd: only where the client names it and does not refuse it with a weight of zero.
pub(super) fn accepts_zstd(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(header::ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    let mut offers = offers.flat_map(|value| value.split(','));
    offers.any(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        let is_zstd = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("zstd"));
        let is_refused = parts.any(|parameter| {
            let weight = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.trim().parse().is_ok_and(|weight: f32| weight <= 0.0))
        });
        is_zstd && !is_refused
    })
}

/// A size that is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotASize;

/// The size that a header tells, if there is one.
pub(super) fn told_size_bytes(headers: &HeaderMap) -> Result<Option<u64>, NotASize> {
    let Some(value) = headers.get(SIZE_HEADER) else { return Ok(None) };
    let size_bytes = value.to_str().ok().and_then(|value| value.trim().parse().ok());
    size_bytes.map(Some).ok_or(NotASize)
}

/// The size that the beginning of a zstd stream tells: of its first frame, which is all there is where somebody compressed
/// in one go.
pub(super) fn size_of_stream(beginning: &[u8]) -> ContentSize {
    content_size(beginning)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn zstd_is_for_those_who_name_it() {
        for (values, accepted) in [
            (&[][..], false),
            (&["zstd"][..], true),
            (&["gzip, deflate, br, zstd"][..], true),
            (&["gzip", "ZSTD"][..], true),
            (&["zstd;q=0.5, identity"][..], true),
            (&["zstd ; q=0"][..], false),
            (&["zstd;q=0.000"][..], false),
            (&["*"][..], false),
            (&["gzip, zstd-custom, xzstd"][..], false),
            (&["identity"][..], false),
        ] {
            assert_eq!(accepts_zstd(&headers(&header::ACCEPT_ENCODING, values)), accepted, "{values:?}");
        }
    }

    #[test]
    fn bodies_are_plain_or_zstd() {
        for (values, coding) in [
            (&[][..], Some(Coding::Identity)),
            (&["identity"][..], Some(Coding::Identity)),
            (&["zstd"][..], Some(Coding::Zstd)),
            (&["ZStd"][..], Some(Coding::Zstd)),
            (&["gzip"][..], None),
            (&["zstd, zstd"][..], None),
            (&[""][..], None),
        ] {
            assert_eq!(of_body(&headers(&header::CONTENT_ENCODING, values)), coding, "{values:?}");
        }
    }

    #[test]
    fn a_told_size_is_a_number() {
        let name = header::HeaderName::from_static(SIZE_HEADER);
        for (values, told) in [
            (&[][..], Ok(None)),
            (&["12"][..], Ok(Some(12))),
            (&["-1"][..], Err(NotASize)),
            (&["many"][..], Err(NotASize)),
            (&[""][..], Err(NotASize)),
        ] {
            assert_eq!(told_size_bytes(&headers(&name, values)), told, "{values:?}");
        }
    }
}
