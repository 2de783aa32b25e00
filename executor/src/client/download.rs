//! One blob through `ByteStream.Read`, resumed where it broke off, verified on the way.

use cask_index::Digest;
use cask_proto::{
    ReadName,
    bytestream::{ReadRequest, byte_stream_client::ByteStreamClient},
};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tonic::Status;

use super::{
    request_tag::TaggedChannel,
    retry::{Attempts, RetryPolicy},
    verify::Verifier,
};
use crate::ClientError;

/// Downloads into a sink. On an error the sink holds bytes that must be thrown away.
pub(crate) async fn download(
    client: &mut ByteStreamClient<TaggedChannel>,
    policy: RetryPolicy,
    name: &ReadName,
    sink: &mut (impl AsyncWrite + Unpin),
) -> Result<(), ClientError> {
    let digest = name.digest;
    let mut verifier = Verifier::new(digest);
    let mut attempts = Attempts::new(policy);
    // Nothing is asked for when nothing is left: an empty blob, or a stream that broke off right behind its last byte.
    while verifier.seen_bytes() < digest.size_bytes() {
        match read_rest(client, name, &mut verifier, &mut attempts, sink).await? {
            Ok(()) => break,
            Err(status) => attempts.pause(&status, || format!("blob {digest}")).await?,
        }
    }
    verifier.finish()?;
    sink.flush().await.map_err(|source| ClientError::Sink { digest, source })
}

/// One attempt. Outside: wrong bytes, or the sink failed. Inside: how the stream ended.
async fn read_rest(
    client: &mut ByteStreamClient<TaggedChannel>,
    name: &ReadName,
    verifier: &mut Verifier,
    attempts: &mut Attempts,
    sink: &mut (impl AsyncWrite + Unpin),
) -> Result<Result<(), Status>, ClientError> {
    let digest: Digest = name.digest;
    let read_offset = i64::try_from(verifier.seen_bytes()).expect("a blob's size fits in 63 bits");
    let request = ReadRequest { resource_name: name.to_string(), read_offset, read_limit: 0 };
    let mut stream = match client.read(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    loop {
        match stream.message().await {
            Ok(Some(response)) if response.data.is_empty() => {}
            Ok(Some(response)) => {
                verifier.update(&response.data)?;
                sink.write_all(&response.data).await.map_err(|source| ClientError::Sink { digest, source })?;
                attempts.progressed();
            }
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        }
    }
}
