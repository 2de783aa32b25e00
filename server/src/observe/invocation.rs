//! Who is asking: the request metadata that build tools send along. For the log only; malformed or absent, it fails no call.

use base64::Engine as _;
use cask_proto::reapi::RequestMetadata;
use http::HeaderMap;
use prost::Message;

/// The API's header, and the one of its first version that some clients still send.
const HEADERS: [&str; 2] = [
    "build.bazel.remote.execution.v2.requestmetadata-bin",
    "google.devtools.remoteexecution.v1test.requestmetadata-bin",
];

/// gRPC's binary headers come with or without padding.
const BASE64: base64::engine::GeneralPurpose = base64::engine::GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// The metadata of a request, if it has any that can be read.
pub(crate) fn metadata(headers: &HeaderMap) -> Option<RequestMetadata> {
    let value = HEADERS.iter().find_map(|name| headers.get(*name))?;
    RequestMetadata::decode(&BASE64.decode(value.as_bytes()).ok()?[..]).ok()
}

/// Logs a call with what is known of its sender, where calls are logged at all.
pub(crate) fn log_call(path: &str, headers: &HeaderMap) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let metadata = metadata(headers).unwrap_or_default();
    let tool = metadata.tool_details.unwrap_or_default();
    tracing::debug!(
        event = "grpc.call",
        method = path,
        tool = tool.tool_name,
        tool_version = tool.tool_version,
        invocation = metadata.tool_invocation_id,
        correlated = metadata.correlated_invocations_id,
        action = metadata.action_id,
        mnemonic = metadata.action_mnemonic,
        target = metadata.target_id,
        "called"
    );
}

#[cfg(test)]
mod tests {
    use cask_proto::reapi::ToolDetails;
    use http::HeaderValue;

    use super::*;

    #[test]
    fn both_headers_are_read_and_rubbish_is_nothing() {
        let tool_details = Some(ToolDetails { tool_name: "bazel".to_owned(), tool_version: "9.1".to_owned() });
        let sent = RequestMetadata { tool_details, target_id: "//app:all".to_owned(), ..Default::default() };
        let encoded = sent.encode_to_vec();
        let padded = base64::engine::general_purpose::STANDARD.encode(&encoded);
        let bare = padded.trim_end_matches('=');
        for name in HEADERS {
            for value in [padded.as_str(), bare] {
                let headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())]);
                assert_eq!(metadata(&headers), Some(sent.clone()), "{name} {value}");
            }
            for rubbish in ["", "!", "////", "A"] {
                let headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(rubbish).unwrap())]);
                assert_eq!(metadata(&headers).unwrap_or_default(), RequestMetadata::default(), "{rubbish}");
            }
        }
        assert_eq!(metadata(&HeaderMap::new()), None);
    }
}
