//! An action result for people: the protobuf JSON of it, for whoever asks with `Accept: application/json`.

use std::sync::LazyLock;

use cask_proto::reapi::ActionResult;
use http::{HeaderMap, header};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

/// Made when the first one asks.
static DESCRIPTOR: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    DescriptorPool::decode(cask_proto::FILE_DESCRIPTOR_SET)
        .expect("descriptor sets from our own build are well-formed")
        .get_message_by_name(&ActionResult::full_name())
        .expect("the set describes ActionResult")
});

/// True when JSON is among what the client takes by name: `*/*` means the wire form.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| range.split(';').next().is_some_and(|range| range.trim() == "application/json"))
}

/// The JSON text. Protobuf allows what JSON cannot say, such as times beyond the year 9999: that is the error. What worker and tools attached under types of their own is left out: JSON needs their declarations.
pub(super) fn of_result(mut result: ActionResult) -> Result<Vec<u8>, serde_json::Error> {
    if let Some(metadata) = &mut result.execution_metadata {
        metadata.auxiliary_metadata.clear();
    }
    let message = DynamicMessage::decode(DESCRIPTOR.clone(), &result.encode_to_vec()[..])
        .expect("what one generated type encodes its own descriptor decodes");
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::pretty(&mut text);
    message.serialize_with_options(&mut serializer, &SerializeOptions::new())?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use cask_proto::reapi::{Digest, ExecutedActionMetadata, OutputFile};
    use http::HeaderValue;

    use super::*;

    #[test]
    fn json_has_the_fields_by_their_json_names() {
        let digest = Some(Digest { hash: "ab".repeat(32), size_bytes: 1 << 40 });
        let file = OutputFile { path: "out/a".to_owned(), digest, is_executable: true, ..Default::default() };
        let any = prost_types::Any { type_url: "type.example/Unknown".to_owned(), value: vec![0xff] };
        let metadata = ExecutedActionMetadata {
            worker: "w".to_owned(),
            auxiliary_metadata: vec![any],
            worker_start_timestamp: Some(prost_types::Timestamp { seconds: -1, nanos: 500_000_000 }),
            ..Default::default()
        };
        let result = ActionResult {
            output_files: vec![file],
            exit_code: 3,
            stdout_raw: vec![0, 255].into(),
            execution_metadata: Some(metadata),
            ..Default::default()
        };
        let json: serde_json::Value = serde_json::from_slice(&of_result(result).expect("JSON")).expect("JSON");
        assert_eq!(json["outputFiles"][0]["path"], "out/a");
        assert_eq!(json["outputFiles"][0]["digest"]["sizeBytes"], "1099511627776");
        assert_eq!((&json["exitCode"], &json["stdoutRaw"]), (&3.into(), &"AP8=".into()));
        assert_eq!(json["executionMetadata"]["workerStartTimestamp"], "1969-12-31T23:59:59.500Z");
        assert_eq!(of_result(ActionResult::default()).expect("JSON"), b"{}\n");
    }

    #[test]
    fn a_time_that_json_has_no_word_for_is_an_error() {
        let beyond = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 });
        let metadata = ExecutedActionMetadata { queued_timestamp: beyond, ..Default::default() };
        assert!(of_result(ActionResult { execution_metadata: Some(metadata), ..Default::default() }).is_err());
    }

    #[test]
    fn only_who_names_json_gets_it() {
        for (accept, wanted) in [
            ("application/json", true),
            ("text/html, application/json;q=0.9", true),
            ("*/*", false),
            ("application/*", false),
            ("text/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(is_wanted(&headers), wanted, "{accept}");
        }
        assert!(!is_wanted(&HeaderMap::new()));
    }
}
