//! [`RemoteCache`]: a client of any cache that speaks the Remote Execution API, and of a server that executes.
//!
//! Large blobs stream and resume, small ones travel in batches packed by their encoded size, what comes down is
//! verified. [`InputTree`] is a folder on its way up, [`Execution`] an action on its way, [`OutputFolder`] where results come
//! down to. Cheap to clone; clones share one connection and may be used at the same time. Keeps no blobs.
//!
//! Cancellation: every method may be dropped at any point; an upload dropped midway stores nothing.

mod batch;
mod batch_read;
mod download;
mod endpoint;
mod execution;
mod logs;
mod output_folder;
mod output_tree;
mod request_tag;
mod retry;
mod source;
mod tree_download;
mod tree_upload;
mod upload;
mod verify;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use cask_index::{Digest, DigestFunction};
use cask_proto::{
    Compressor, InstanceName, ReadName, UploadId, WriteName,
    bytestream::byte_stream_client::ByteStreamClient,
    digest::{FunctionRule, function_field, to_wire},
    reapi::{
        self, action_cache_client::ActionCacheClient, batch_update_blobs_request,
        capabilities_client::CapabilitiesClient, content_addressable_storage_client::ContentAddressableStorageClient,
    },
};
use prost::Message as _;
use tokio::{io::AsyncWrite, sync::OnceCell};
use tonic::{Code, Status, transport::Channel};

use self::{
    batch::{MESSAGE_BYTES_MAX, digest_bytes, runs, update_bytes},
    request_tag::{RequestTag, TaggedChannel},
    retry::{Attempts, unary},
};
pub use self::{
    endpoint::connect,
    execution::{ExecuteOptions, Execution, ExecutionEvent, OperationState, Stage},
    logs::LogReader,
    output_folder::OutputFolder,
    retry::RetryPolicy,
    source::{BlobSource, FileSource},
    tree_download::{OutputError, OutputPlacement},
    tree_upload::{InputTree, TreeError, Uploaded},
    verify::{digest_of, digest_of_reader},
};
use crate::ClientError;

/// Largest message we accept; servers keep below 4 MiB, some forget to.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A cache, seen through one instance name.
#[derive(Clone, Debug)]
pub struct RemoteCache {
    channel: Channel,
    instance: InstanceName,
    retry: RetryPolicy,
    tag: RequestTag,
    /// Asked for once, by the first batch.
    batch_bytes_max: Arc<OnceCell<usize>>,
}

impl RemoteCache {
    /// Connects to what [`connect`] takes.
    pub async fn connect(endpoint: &str, instance: InstanceName) -> Result<Self, ClientError> {
        Ok(Self::over(connect(endpoint).await?, instance, RetryPolicy::default()))
    }

    /// A client over a channel that exists.
    pub fn over(channel: Channel, instance: InstanceName, retry: RetryPolicy) -> Self {
        Self { channel, instance, retry, tag: RequestTag::default(), batch_bytes_max: Arc::default() }
    }

    /// The same client, whose calls say that they are made for a client's request.
    #[must_use]
    pub fn on_behalf_of(&self, metadata: &reapi::RequestMetadata) -> Self {
        Self { tag: RequestTag::of(metadata), ..self.clone() }
    }

    /// The same client, whose calls belong together as one run of a tool: a server is fair between such.
    #[must_use]
    pub fn as_invocation_of(&self, tool_name: &str, tool_version: &str) -> Self {
        self.on_behalf_of(&reapi::RequestMetadata {
            tool_details: Some(reapi::ToolDetails {
                tool_name: tool_name.to_owned(),
                tool_version: tool_version.to_owned(),
            }),
            tool_invocation_id: uuid::Uuid::new_v4().to_string(),
            ..Default::default()
        })
    }

    /// The same client with another patience.
    #[must_use]
    pub fn with_retry(&self, retry: RetryPolicy) -> Self {
        Self { retry, ..self.clone() }
    }

    /// What the cache says of itself.
    pub async fn capabilities(&self) -> Result<reapi::ServerCapabilities, ClientError> {
        let what = || format!("instance `{}`", self.instance);
        unary(self.retry, what, || {
            let mut client = CapabilitiesClient::new(self.tagged()).max_decoding_message_size(ANSWER_BYTES_MAX);
            let request = reapi::GetCapabilitiesRequest { instance_name: self.instance.to_string() };
            async move { client.get_capabilities(request).await }
        })
        .await
    }

    /// Which of the blobs the cache does not have; in as many calls as their number and functions need.
    pub async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, ClientError> {
        let mut by_function: BTreeMap<DigestFunction, Vec<reapi::Digest>> = BTreeMap::new();
        for digest in digests {
            by_function.entry(digest.function()).or_default().push(to_wire(digest));
        }
        let mut missing = Vec::new();
        for (function, digests) in by_function {
            for blob_digests in runs(digests, MESSAGE_BYTES_MAX, digest_bytes) {
                let request = reapi::FindMissingBlobsRequest {
                    instance_name: self.instance.to_string(),
                    blob_digests,
                    digest_function: function_field(function),
                };
                let what = || format!("instance `{}`", self.instance);
                let answer = unary(self.retry, what, || {
                    let (mut client, request) = (self.cas(), request.clone());
                    async move { client.find_missing_blobs(request).await }
                })
                .await?;
                for digest in &answer.missing_blob_digests {
                    missing.push(FunctionRule::Named(function).from_wire(digest)?);
                }
            }
        }
        Ok(missing)
    }

    /// Uploads one blob as a stream.
    pub async fn upload_blob(&self, digest: Digest, source: &impl BlobSource) -> Result<(), ClientError> {
        let upload_id = UploadId::parse(&uuid::Uuid::new_v4().to_string()).expect("a UUID is printable");
        let name = WriteName { instance: self.instance.clone(), upload_id, digest, compressor: Compressor::Identity };
        upload::upload(&mut self.byte_stream(), self.retry, &name, source).await
    }

    /// Uploads blobs that are in memory: those that fit together in batches, the others as streams. Stops at the first
    /// that fails for good.
    pub async fn upload_blobs(&self, blobs: Vec<(Digest, Bytes)>) -> Result<(), ClientError> {
        let batch_bytes_max = self.batch_bytes_max().await?;
        let mut by_function: BTreeMap<DigestFunction, Vec<batch_update_blobs_request::Request>> = BTreeMap::new();
        for (digest, data) in blobs {
            let request = batch_update_blobs_request::Request {
                digest: Some(to_wire(&digest)),
                data: data.clone(),
                compressor: Compressor::Identity.wire_number(),
            };
            if update_bytes(&request) > batch_bytes_max {
                self.upload_blob(digest, &data).await?;
            } else {
                by_function.entry(digest.function()).or_default().push(request);
            }
        }
        for (function, requests) in by_function {
            for batch in runs(requests, batch_bytes_max, update_bytes) {
                self.upload_batch(function, batch).await?;
            }
        }
        Ok(())
    }

    /// One batch; blobs that failed on the way are sent again, without the others.
    async fn upload_batch(
        &self,
        function: DigestFunction,
        mut requests: Vec<batch_update_blobs_request::Request>,
    ) -> Result<(), ClientError> {
        let mut attempts = Attempts::new(self.retry);
        loop {
            let sent_count = requests.len();
            let message = reapi::BatchUpdateBlobsRequest {
                instance_name: self.instance.to_string(),
                requests: requests.clone(),
                digest_function: function_field(function),
            };
            let (failed, status) = match self.cas().batch_update_blobs(message).await {
                Ok(response) => match unstored(requests, response.into_inner()) {
                    Ok(()) => return Ok(()),
                    Err((failed, status)) => (failed, status),
                },
                Err(status) => (requests, status),
            };
            // Each stored blob is progress; there are only so many.
            if failed.len() < sent_count {
                attempts.progressed();
            }
            attempts.pause(&status, || "batch upload".to_owned()).await?;
            requests = failed;
        }
    }

    /// Downloads one blob, verified. On an error the sink holds bytes that must be thrown away.
    pub async fn download_blob(&self, digest: Digest, sink: &mut (impl AsyncWrite + Unpin)) -> Result<(), ClientError> {
        let name = ReadName { instance: self.instance.clone(), digest, compressor: Compressor::Identity };
        download::download(&mut self.byte_stream(), self.retry, &name, sink).await
    }

    /// The result of an action; [`ClientError::NotFound`] when the cache has none.
    pub async fn action_result(&self, action: &Digest) -> Result<reapi::ActionResult, ClientError> {
        let what = || format!("the result of action {action}");
        unary(self.retry, what, || {
            let mut client = self.action_cache();
            let request = reapi::GetActionResultRequest {
                instance_name: self.instance.to_string(),
                action_digest: Some(to_wire(action)),
                digest_function: function_field(action.function()),
                ..Default::default()
            };
            async move { client.get_action_result(request).await }
        })
        .await
    }

    /// Stores the result of an action, whose blobs are in the cache already; returns it as the cache stored it.
    pub async fn update_action_result(
        &self,
        action: &Digest,
        result: reapi::ActionResult,
    ) -> Result<reapi::ActionResult, ClientError> {
        let what = || format!("what the result of action {action} needs");
        let request = reapi::UpdateActionResultRequest {
            instance_name: self.instance.to_string(),
            action_digest: Some(to_wire(action)),
            action_result: Some(result),
            results_cache_policy: None,
            digest_function: function_field(action.function()),
        };
        unary(self.retry, what, || {
            let (mut client, request) = (self.action_cache(), request.clone());
            async move { client.update_action_result(request).await }
        })
        .await
    }

    /// What fits in one batch: the cache's limit if it has one, and never more than a message may hold.
    async fn batch_bytes_max(&self) -> Result<usize, ClientError> {
        let limit = self.batch_bytes_max.get_or_try_init(|| async {
            let told =
                self.capabilities().await?.cache_capabilities.map_or(0, |cache| cache.max_batch_total_size_bytes);
            Ok(match usize::try_from(told) {
                Ok(told) if told > 0 => told.min(MESSAGE_BYTES_MAX),
                _ => MESSAGE_BYTES_MAX,
            })
        });
        limit.await.copied()
    }

    fn tagged(&self) -> TaggedChannel {
        TaggedChannel::new(self.channel.clone(), self.tag.clone())
    }

    fn cas(&self) -> ContentAddressableStorageClient<TaggedChannel> {
        ContentAddressableStorageClient::new(self.tagged()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn action_cache(&self) -> ActionCacheClient<TaggedChannel> {
        ActionCacheClient::new(self.tagged()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn byte_stream(&self) -> ByteStreamClient<TaggedChannel> {
        ByteStreamClient::new(self.tagged()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// The requests of a batch that were not stored, and the status of one of them: of one that failed for good if there is
/// any, so that it is reported and not repeated.
fn unstored(
    requests: Vec<batch_update_blobs_request::Request>,
    answer: reapi::BatchUpdateBlobsResponse,
) -> Result<(), (Vec<batch_update_blobs_request::Request>, Status)> {
    let mut outcomes: BTreeMap<(String, i64), Status> = BTreeMap::new();
    for response in answer.responses {
        let (Some(digest), status) = (response.digest, response.status.unwrap_or_default()) else { continue };
        let message = format!("{}/{}: {}", digest.hash, digest.size_bytes, status.message);
        // The details stay with it: advice on when to come back is in there.
        let details = Bytes::from(status.encode_to_vec());
        let status = Status::with_details(Code::from(status.code), message, details);
        outcomes.insert((digest.hash, digest.size_bytes), status);
    }
    let mut worst: Option<Status> = None;
    let mut failed = Vec::new();
    for request in requests {
        let digest = request.digest.clone().unwrap_or_default();
        let status = outcomes
            .get(&(digest.hash, digest.size_bytes))
            .cloned()
            // A blob the answer does not mention may or may not be there.
            .unwrap_or_else(|| Status::aborted("the cache did not say what became of a blob"));
        if status.code() != Code::Ok {
            failed.push(request);
            if worst.as_ref().is_none_or(|worst| retry::is_passing(worst.code())) {
                worst = Some(status);
            }
        }
    }
    worst.map_or(Ok(()), |status| Err((failed, status)))
}
