//! [`Fault`]: why a request failed, as it is counted in a report.

use cask_proto::GRPC_CODES;

use crate::wire::frame::code_name;

/// gRPC's codes.
pub(crate) mod code {
    pub(crate) const NOT_FOUND: u32 = 5;
}

/// The name of a gRPC status code.
fn grpc_name(code: u32) -> &'static str {
    GRPC_CODES.get(code as usize).copied().unwrap_or("a code that does not exist")
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server answered with a gRPC status; its message.
    Grpc(u32, String),
    /// It answered so for a blob of a batch.
    Item(u32, String),
    /// It answered with this HTTP status, and no gRPC status; what it said beside.
    Http(u16, String),
    /// It reset the stream.
    Reset(u32),
    /// It closed the connection without having looked at the request.
    Refused(u32),
    /// The connection was lost; how.
    Lost(String),
    /// Nothing came for too long.
    Silence,
    /// The answer is not what was asked for.
    Wrong(&'static str),
}

impl Fault {
    /// A gRPC status with its message as it was sent.
    pub(crate) fn grpc(code: u32, message: &[u8]) -> Self {
        Self::Grpc(code, percent_decoded(message))
    }

    /// A status of one blob.
    pub(crate) fn item(code: u32, message: &[u8]) -> Self {
        Self::Item(code, String::from_utf8_lossy(message).into_owned())
    }

    /// An HTTP status with the beginning of its body: the first line of it is kept, where it is text.
    pub(crate) fn http(status: u16, body: &[u8]) -> Self {
        let text = std::str::from_utf8(body).unwrap_or("").lines().next().unwrap_or("");
        Self::Http(status, text.chars().filter(|character| !character.is_control()).collect())
    }

    /// What faults are counted by.
    pub(crate) fn code(&self) -> String {
        match self {
            Self::Grpc(code, _) => grpc_name(*code).to_owned(),
            Self::Item(code, _) => format!("{} for a blob", grpc_name(*code)),
            Self::Http(0, _) => "no status".to_owned(),
            Self::Http(200, _) => "no grpc-status".to_owned(),
            Self::Http(status, _) => format!("HTTP {status}"),
            Self::Reset(code) => format!("RST_STREAM {}", code_name(*code)),
            Self::Refused(code) => format!("GOAWAY {}", code_name(*code)),
            Self::Lost(_) => "connection lost".to_owned(),
            Self::Silence => "no answer".to_owned(),
            Self::Wrong(_) => "wrong answer".to_owned(),
        }
    }

    /// More about it, for the first of its code.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Grpc(_, text) | Self::Item(_, text) | Self::Http(_, text) | Self::Lost(text) => text.clone(),
            Self::Wrong(what) => (*what).to_owned(),
            Self::Silence => "nothing came for 30 seconds".to_owned(),
            Self::Reset(_) | Self::Refused(_) => String::new(),
        }
    }
}

/// gRPC's messages are percent-encoded. What is not well encoded is kept as it is.
fn percent_decoded(message: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(message.len());
    let mut rest = message;
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = (byte == b'%')
            .then(|| after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_decoded_as_far_as_they_go() {
        for (sent, read) in
            [("plain", "plain"), ("a%20b", "a b"), ("%C3%A9", "é"), ("100%", "100%"), ("%zz%2", "%zz%2")]
        {
            assert_eq!(percent_decoded(sent.as_bytes()), read);
        }
    }
}
