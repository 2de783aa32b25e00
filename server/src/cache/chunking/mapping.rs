//! What is remembered of a blob's chunks: an action record of the engine, whose closure is the blob and all its chunks.
//!
//! So finding a mapping leases all that it speaks of, and one of which anything is gone is not found: nobody is ever given a list
//! with a hole. The records stand under instance names that no client can have, because they begin with a reserved segment; the
//! parameters of a function are in its name, so that nothing cut by others is taken for its. The value is one byte for its form and
//! then the packed list. A list too long for a record is not remembered: the blob is split anew each time.

use cask_engine::EngineError;
use cask_index::Digest;
use tokio::sync::oneshot;

use super::{
    ChunkList, ChunkMapping, ChunkingFunction, FAST_CDC_AVERAGE_BYTES, REP_MAX_CDC_HORIZON_BYTES, REP_MAX_CDC_MIN_BYTES,
};
use crate::cache::{Cache, blocking};

/// The first byte of a stored mapping. Numbers are never reused.
const PACKED_LIST: u8 = 1;

/// Bytes of a record that each blob of its closure takes.
const CLOSURE_ENTRY_BYTES: usize = 16;

impl Cache {
    /// The mapping of `blob` by `function` (`None`: a client's own), if all of it is there; all of it is leased then.
    pub(super) async fn mapping(
        &self,
        blob: Digest,
        function: Option<ChunkingFunction>,
    ) -> Result<Option<ChunkMapping>, EngineError> {
        let engine = self.engine().clone();
        // The record may have to come from the disk, and its list is long.
        let found = blocking(move || {
            let value = engine.get_action(&instance(function), &blob)?;
            let chunks = match &value[..] {
                [PACKED_LIST, packed @ ..] => ChunkList::unpack(blob, packed),
                _ => None,
            };
            Ok(chunks.map(|chunks| ChunkMapping { chunks, function }))
        });
        match found.await {
            Err(EngineError::NotFound) => Ok(None),
            outcome => outcome,
        }
    }

    /// Remembers a mapping, all of which is stored. Where that fails it is forgotten, which costs time and no more.
    pub(super) async fn remember(&self, mapping: &ChunkMapping) {
        let ChunkMapping { chunks, function } = mapping;
        let value_bytes = 1 + chunks.packed().len();
        let record_bytes = value_bytes + (chunks.len() + 1) * CLOSURE_ENTRY_BYTES;
        if record_bytes > self.engine().action_value_size_bytes_max() {
            tracing::debug!(event = "chunk_mapping_too_long", blob = %chunks.blob(), chunks = chunks.len());
            return;
        }
        let mut value = Vec::with_capacity(value_bytes);
        value.push(PACKED_LIST);
        value.extend_from_slice(chunks.packed());
        let closure: Vec<Digest> = chunks.iter().chain([chunks.blob()]).collect();
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |outcome| {
            let _ = tell.send(outcome);
        });
        self.engine().put_action(&instance(*function), &chunks.blob(), &value, &closure, done);
        if let Err(error) = told.await.unwrap_or(Err(EngineError::Closed)) {
            tracing::debug!(event = "chunk_mapping_not_stored", blob = %chunks.blob(), %error);
        }
    }
}

/// Where the mappings of a function are kept.
fn instance(function: Option<ChunkingFunction>) -> String {
    match function {
        Some(ChunkingFunction::FastCdc2020) => format!("blobs/chunks/fast-cdc-2020/{FAST_CDC_AVERAGE_BYTES}"),
        Some(ChunkingFunction::RepMaxCdc) => {
            format!("blobs/chunks/rep-max-cdc/{REP_MAX_CDC_MIN_BYTES}/{REP_MAX_CDC_HORIZON_BYTES}")
        }
        None => "blobs/chunks/own".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use cask_proto::InstanceName;

    use super::*;

    #[test]
    fn no_client_can_name_where_mappings_are_kept() {
        let functions = ChunkingFunction::ALL.map(Some).into_iter().chain([None]);
        let names: Vec<String> = functions.map(instance).collect();
        for name in &names {
            assert!(InstanceName::parse(name).is_err(), "{name}");
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1);
        }
    }
}
