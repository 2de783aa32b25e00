//! The independent clients, and the calls the tests make through them.
//!
//! Receive limits stay at the 4 MiB that gRPC clients come with: an answer above it fails the test that asked for it.

use std::net::SocketAddr;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2::action_cache_client::ActionCacheClient;
use bazel_remote_apis::build::bazel::remote::execution::v2::capabilities_client::CapabilitiesClient;
use bazel_remote_apis::build::bazel::remote::execution::v2::content_addressable_storage_client::ContentAddressableStorageClient;
use bazel_remote_apis::build::bazel::remote::execution::v2::{
    ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsRequest, Digest, Directory, FindMissingBlobsRequest,
    GetActionResultRequest, GetCapabilitiesRequest, GetTreeRequest, GetTreeResponse, ServerCapabilities,
    UpdateActionResultRequest, batch_read_blobs_response, batch_update_blobs_request, compressor,
};
use bazel_remote_apis::google::bytestream::byte_stream_client::ByteStreamClient;
use bazel_remote_apis::google::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest,
};
use cask_index::DigestFunction;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::blob::{digest_under, uuid};
use super::process::Server;
use super::{HANG_GUARD, within};

/// The size of the pieces in which `Cache::upload` sends a blob.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// A client of one server under one instance name. Cheap to clone; clones share a connection.
#[derive(Clone)]
pub(crate) struct Cache {
    pub(crate) channel: Channel,
    pub(crate) instance: String,
    /// Named in requests and, where it must be, in resource names; `None`: left to the hash's length.
    function: Option<DigestFunction>,
}

impl Cache {
    /// Connects under the empty instance name.
    pub(crate) async fn connect(server: &Server) -> Self {
        Self::connect_with_window(server, 1024 * 1024).await
    }

    /// As `connect`, with another flow-control window for each stream: what may be under way unread.
    pub(crate) async fn connect_with_window(server: &Server, stream_window_bytes: u32) -> Self {
        Self { channel: connect(server.address(), stream_window_bytes).await, instance: String::new(), function: None }
    }

    /// As `connect`, with a deadline for each call.
    pub(crate) async fn connect_with_deadline(server: &Server, deadline: Duration) -> Self {
        let endpoint = endpoint(server.address(), 1024 * 1024).timeout(deadline);
        let channel = endpoint.connect().await.expect("the server takes a connection");
        Self { channel, instance: String::new(), function: None }
    }

    /// The same connection under another instance name.
    pub(crate) fn instance(&self, instance: &str) -> Self {
        Self { instance: instance.to_owned(), ..self.clone() }
    }

    /// The same with requests that name a digest function; `store` and `upload` take digests of it.
    pub(crate) fn under(&self, function: DigestFunction) -> Self {
        Self { function: Some(function), ..self.clone() }
    }

    fn function_field(&self) -> i32 {
        self.function.map_or(0, |function| i32::from(function.wire_number()))
    }

    /// Functions that a hash's length does not tell have a segment of their own.
    fn function_segment(&self) -> String {
        use DigestFunction::{Blake3, GitSha1, Sha256Tree};
        match self.function {
            Some(function @ (Blake3 | GitSha1 | Sha256Tree)) => format!("{}/", function.name()),
            _ => String::new(),
        }
    }

    pub(crate) fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone())
    }

    pub(crate) fn byte_stream(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel.clone())
    }

    pub(crate) fn action_cache(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.channel.clone())
    }

    pub(crate) async fn capabilities(&self) -> Result<ServerCapabilities, Status> {
        let request = GetCapabilitiesRequest { instance_name: self.instance.clone() };
        Ok(CapabilitiesClient::new(self.channel.clone()).get_capabilities(request).await?.into_inner())
    }

    /// The advertised limit of a batch, which the contract wants to be there.
    pub(crate) async fn batch_limit_bytes(&self) -> usize {
        let capabilities = self.capabilities().await.expect("capabilities");
        let cache = capabilities.cache_capabilities.expect("cache capabilities");
        assert!(cache.max_batch_total_size_bytes > 0, "a batch limit is advertised");
        cache.max_batch_total_size_bytes as usize
    }

    // FindMissingBlobs

    pub(crate) async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Status> {
        self.find_missing_under(self.function_field(), digests).await
    }

    pub(crate) async fn find_missing_under(&self, function: i32, digests: &[Digest]) -> Result<Vec<Digest>, Status> {
        let request = FindMissingBlobsRequest {
            instance_name: self.instance.clone(),
            blob_digests: digests.to_vec(),
            digest_function: function,
        };
        Ok(self.cas().find_missing_blobs(request).await?.into_inner().missing_blob_digests)
    }

    pub(crate) async fn is_present(&self, digest: &Digest) -> bool {
        self.find_missing(std::slice::from_ref(digest)).await.expect("FindMissingBlobs").is_empty()
    }

    // Batches

    /// The status code of each item, in the order of the answer, beside the digest the answer names.
    pub(crate) async fn batch_update(&self, blobs: Vec<(Digest, Vec<u8>)>) -> Result<Vec<(Digest, Code)>, Status> {
        let items = blobs.into_iter().map(|(digest, data)| update_item(digest, data)).collect();
        self.batch_update_items(items).await
    }

    pub(crate) async fn batch_update_items(
        &self,
        items: Vec<batch_update_blobs_request::Request>,
    ) -> Result<Vec<(Digest, Code)>, Status> {
        let request = BatchUpdateBlobsRequest {
            instance_name: self.instance.clone(),
            requests: items,
            digest_function: self.function_field(),
        };
        let answer = self.cas().batch_update_blobs(request).await?.into_inner();
        Ok(answer
            .responses
            .into_iter()
            .map(|item| {
                let status = item.status.expect("each item of the answer has a status");
                (item.digest.expect("each item of the answer has a digest"), Code::from_i32(status.code))
            })
            .collect())
    }

    /// Stores `data` by a batch of one; anything but OK fails the test.
    pub(crate) async fn store(&self, data: &[u8]) -> Digest {
        let digest = digest_under(self.function.unwrap_or(DigestFunction::Sha256), data);
        let answer = self.batch_update(vec![(digest.clone(), data.to_vec())]).await.expect("BatchUpdateBlobs");
        assert_eq!(answer, [(digest.clone(), Code::Ok)]);
        digest
    }

    /// Stores a message's canonical encoding.
    pub(crate) async fn store_message(&self, message: &impl Message) -> Digest {
        self.store(&message.encode_to_vec()).await
    }

    pub(crate) async fn batch_read(
        &self,
        digests: &[Digest],
    ) -> Result<Vec<batch_read_blobs_response::Response>, Status> {
        self.batch_read_accepting(digests, &[]).await
    }

    pub(crate) async fn batch_read_accepting(
        &self,
        digests: &[Digest],
        compressors: &[compressor::Value],
    ) -> Result<Vec<batch_read_blobs_response::Response>, Status> {
        let request = BatchReadBlobsRequest {
            instance_name: self.instance.clone(),
            digests: digests.to_vec(),
            acceptable_compressors: compressors.iter().map(|&value| value as i32).collect(),
            digest_function: self.function_field(),
        };
        Ok(self.cas().batch_read_blobs(request).await?.into_inner().responses)
    }

    // GetTree

    /// The pages of one listing, from the first to the end of the stream.
    pub(crate) async fn tree_pages(
        &self,
        root: &Digest,
        page_size: i32,
        page_token: &str,
    ) -> Result<Vec<GetTreeResponse>, Status> {
        let request = GetTreeRequest {
            instance_name: self.instance.clone(),
            root_digest: Some(root.clone()),
            page_size,
            page_token: page_token.to_owned(),
            digest_function: self.function_field(),
        };
        let mut stream = self.cas().get_tree(request).await?.into_inner();
        let mut pages = Vec::new();
        while let Some(page) = within("the next page of a tree", stream.message()).await? {
            pages.push(page);
        }
        Ok(pages)
    }

    /// All directories below `root`, tokens followed to the end as a client does.
    pub(crate) async fn tree(&self, root: &Digest, page_size: i32) -> Result<Vec<Directory>, Status> {
        let mut directories = Vec::new();
        let mut token = String::new();
        loop {
            let pages = self.tree_pages(root, page_size, &token).await?;
            let next = pages.last().map(|page| page.next_page_token.clone()).unwrap_or_default();
            directories.extend(pages.into_iter().flat_map(|page| page.directories));
            if next.is_empty() {
                return Ok(directories);
            }
            assert_ne!(next, token, "a token leads on");
            token = next;
        }
    }

    // ByteStream

    /// `[instance/]blobs/<hash>/<size>`
    pub(crate) fn read_name(&self, digest: &Digest) -> String {
        self.name(&format!("blobs/{}{}/{}", self.function_segment(), digest.hash, digest.size_bytes))
    }

    /// `[instance/]uploads/<a fresh uuid>/blobs/<hash>/<size>`
    pub(crate) fn write_name(&self, digest: &Digest) -> String {
        self.name(&format!("uploads/{}/blobs/{}{}/{}", uuid(), self.function_segment(), digest.hash, digest.size_bytes))
    }

    pub(crate) fn name(&self, rest: &str) -> String {
        if self.instance.is_empty() { rest.to_owned() } else { format!("{}/{rest}", self.instance) }
    }

    /// The whole blob.
    pub(crate) async fn read(&self, digest: &Digest) -> Result<Vec<u8>, Status> {
        self.read_range(&self.read_name(digest), 0, 0).await
    }

    pub(crate) async fn read_range(&self, name: &str, offset: i64, limit: i64) -> Result<Vec<u8>, Status> {
        let mut stream = self.read_stream(name, offset, limit).await?;
        let mut data = Vec::new();
        while let Some(message) = within("the next piece of a blob", stream.message()).await? {
            data.extend_from_slice(&message.data);
        }
        Ok(data)
    }

    pub(crate) async fn read_stream(
        &self,
        name: &str,
        offset: i64,
        limit: i64,
    ) -> Result<Streaming<ReadResponse>, Status> {
        let request = ReadRequest { resource_name: name.to_owned(), read_offset: offset, read_limit: limit };
        Ok(self.byte_stream().read(request).await?.into_inner())
    }

    /// Sends these messages as one Write call; the committed size.
    pub(crate) async fn write(&self, messages: Vec<WriteRequest>) -> Result<i64, Status> {
        let call =
            async { Ok(self.byte_stream().write(tokio_stream::iter(messages)).await?.into_inner().committed_size) };
        within("the answer to a Write", call).await
    }

    /// Uploads `data` under a fresh name in pieces of `PIECE_BYTES`; the committed size.
    pub(crate) async fn upload(&self, digest: &Digest, data: &[u8]) -> Result<i64, Status> {
        self.write(write_messages(&self.write_name(digest), data, PIECE_BYTES)).await
    }

    /// Opens a Write whose messages the test sends one by one.
    pub(crate) fn open_write(&self) -> OpenWrite {
        let (sender, receiver) = mpsc::channel(4);
        let mut client = self.byte_stream();
        let answer =
            tokio::spawn(
                async move { Ok(client.write(ReceiverStream::new(receiver)).await?.into_inner().committed_size) },
            );
        OpenWrite { sender: Some(sender), answer }
    }

    pub(crate) async fn write_status(&self, name: &str) -> Result<QueryWriteStatusResponse, Status> {
        let request = QueryWriteStatusRequest { resource_name: name.to_owned() };
        Ok(self.byte_stream().query_write_status(request).await?.into_inner())
    }

    // ActionCache

    pub(crate) async fn get_action(&self, action: &Digest) -> Result<ActionResult, Status> {
        self.get_action_with(GetActionResultRequest { action_digest: Some(action.clone()), ..Default::default() }).await
    }

    /// `request` under this client's instance name.
    pub(crate) async fn get_action_with(&self, request: GetActionResultRequest) -> Result<ActionResult, Status> {
        let digest_function =
            if request.digest_function == 0 { self.function_field() } else { request.digest_function };
        let request = GetActionResultRequest { instance_name: self.instance.clone(), digest_function, ..request };
        Ok(self.action_cache().get_action_result(request).await?.into_inner())
    }

    pub(crate) async fn update_action(&self, action: &Digest, result: ActionResult) -> Result<ActionResult, Status> {
        let request = UpdateActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action.clone()),
            action_result: Some(result),
            digest_function: self.function_field(),
            ..Default::default()
        };
        Ok(self.action_cache().update_action_result(request).await?.into_inner())
    }
}

/// A Write call in flight, fed by hand. Dropping it breaks the call off, as a client that dies does.
pub(crate) struct OpenWrite {
    sender: Option<mpsc::Sender<WriteRequest>>,
    answer: JoinHandle<Result<i64, Status>>,
}

impl OpenWrite {
    /// Queues one message; false where the call has ended already.
    pub(crate) async fn send(&mut self, message: WriteRequest) -> bool {
        let sender = self.sender.as_ref().expect("the call is not half-closed");
        within("room for the next piece of a Write", sender.send(message)).await.is_ok()
    }

    /// Half-closes.
    pub(crate) fn close(&mut self) {
        self.sender = None;
    }

    /// The answer, whether or not the call was half-closed before.
    pub(crate) async fn answer(mut self) -> Result<i64, Status> {
        within("the answer to an open Write", &mut self.answer).await.expect("the call's task does not panic")
    }
}

impl Drop for OpenWrite {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

async fn connect(address: SocketAddr, stream_window_bytes: u32) -> Channel {
    endpoint(address, stream_window_bytes).connect().await.expect("the server takes a connection")
}

fn endpoint(address: SocketAddr, stream_window_bytes: u32) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address makes an endpoint")
        .timeout(HANG_GUARD)
        .initial_stream_window_size(stream_window_bytes)
        .initial_connection_window_size(4 * 1024 * 1024)
}

pub(crate) fn update_item(digest: Digest, data: Vec<u8>) -> batch_update_blobs_request::Request {
    batch_update_blobs_request::Request { digest: Some(digest), data, compressor: compressor::Value::Identity as i32 }
}

/// A Write message in full.
pub(crate) fn piece(name: &str, offset: usize, data: &[u8], finish: bool) -> WriteRequest {
    WriteRequest {
        resource_name: name.to_owned(),
        write_offset: offset as i64,
        finish_write: finish,
        data: data.to_vec(),
    }
}

/// `data` as the messages of one Write: the name on the first only, the last one finishing.
pub(crate) fn write_messages(name: &str, data: &[u8], piece_bytes: usize) -> Vec<WriteRequest> {
    write_messages_from(name, data, 0, piece_bytes)
}

/// As `write_messages`, from `offset` on: the second half of a resumed upload.
pub(crate) fn write_messages_from(name: &str, data: &[u8], offset: usize, piece_bytes: usize) -> Vec<WriteRequest> {
    if offset == data.len() {
        return vec![piece(name, offset, &[], true)];
    }
    let mut messages = Vec::new();
    let mut at = offset;
    for part in data[offset..].chunks(piece_bytes) {
        let name = if at == offset { name } else { "" };
        messages.push(piece(name, at, part, at + part.len() == data.len()));
        at += part.len();
    }
    messages
}

/// The code of an outcome, OK included.
pub(crate) fn code<T>(outcome: &Result<T, Status>) -> Code {
    outcome.as_ref().err().map_or(Code::Ok, Status::code)
}

/// Fails unless the outcome's code is one of `allowed`; `what` says which case it was.
#[track_caller]
pub(crate) fn assert_code<T>(outcome: &Result<T, Status>, allowed: &[Code], what: &str) {
    let found = code(outcome);
    let message = outcome.as_ref().err().map_or("", Status::message);
    assert!(allowed.contains(&found), "{what}: answered {found:?} ({message:?}), the contract has {allowed:?}");
}

#[track_caller]
pub(crate) fn assert_invalid<T>(outcome: &Result<T, Status>, what: &str) {
    assert_code(outcome, &[Code::InvalidArgument], what);
}

/// A read that must not give one wrong byte: the blob, or an error that says it is gone.
#[track_caller]
pub(crate) fn assert_right_or_gone(outcome: &Result<Vec<u8>, Status>, expected: &[u8], what: &str) {
    match outcome {
        Ok(data) => assert!(data == expected, "{what}: {} wrong bytes were served", data.len()),
        Err(status) => assert!(
            matches!(status.code(), Code::NotFound | Code::DataLoss),
            "{what}: answered {:?} ({})",
            status.code(),
            status.message()
        ),
    }
}
