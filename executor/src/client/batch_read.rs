//! Many small blobs at once, in memory, verified.

use std::collections::HashMap;

use bytes::Bytes;
use cask_index::{Digest, Hasher};
use cask_proto::{
    Compressor,
    digest::{function_field, to_wire},
    reapi,
};
use tonic::{Code, Status};

use super::{
    RemoteCache,
    retry::{Attempts, is_passing},
};
use crate::ClientError;

/// What an answer holds beside a blob's bytes: its digest, its status, tags and lengths, with room for the longest hash.
const BLOB_OVERHEAD_BYTES: usize = 256;

impl RemoteCache {
    /// Sorts blobs by how they are best read: into batches for [`RemoteCache::read_batch`], and those that are too large for one.
    /// All digests are of one function.
    pub async fn plan_reads(&self, digests: &[Digest]) -> Result<(Vec<Vec<Digest>>, Vec<Digest>), ClientError> {
        let batch_bytes_max = self.batch_bytes_max().await?;
        let mut large = Vec::new();
        let mut small = Vec::with_capacity(digests.len());
        for digest in digests {
            match answer_bytes(digest) {
                Some(bytes) if bytes <= batch_bytes_max => small.push(*digest),
                _ => large.push(*digest),
            }
        }
        let size_of = |digest: &Digest| answer_bytes(digest).unwrap_or(usize::MAX);
        Ok((super::batch::runs(small, batch_bytes_max, size_of), large))
    }

    /// Reads the blobs of one batch; `None` for those that the cache does not have. In the order of the digests, which are
    /// of one function.
    pub async fn read_batch(&self, digests: &[Digest]) -> Result<Vec<Option<Bytes>>, ClientError> {
        let mut found: HashMap<Digest, Option<Bytes>> = HashMap::with_capacity(digests.len());
        let mut wanted = digests.to_vec();
        let mut attempts = Attempts::new(self.retry);
        loop {
            wanted.retain(|digest| !found.contains_key(digest));
            let Some(function) = wanted.first().map(Digest::function) else { break };
            let request = reapi::BatchReadBlobsRequest {
                instance_name: self.instance.to_string(),
                digests: wanted.iter().map(to_wire).collect(),
                acceptable_compressors: vec![Compressor::Identity.wire_number()],
                digest_function: function_field(function),
            };
            let status = match self.cas().batch_read_blobs(request).await {
                Ok(answer) => match take(&wanted, answer.into_inner(), &mut found)? {
                    Some(status) => status,
                    None => continue,
                },
                Err(status) => status,
            };
            attempts.pause(&status, || "a batch of blobs".to_owned()).await?;
        }
        Ok(digests.iter().map(|digest| found.get(digest).cloned().flatten()).collect())
    }

    /// Reads blobs into memory, however large; `None` for those that the cache does not have. In the order of the digests.
    /// The caller bounds their sum.
    pub async fn read_blobs(&self, digests: &[Digest]) -> Result<Vec<Option<Bytes>>, ClientError> {
        let (batches, large) = self.plan_reads(digests).await?;
        let mut found: HashMap<Digest, Option<Bytes>> = HashMap::with_capacity(digests.len());
        for batch in batches {
            let blobs = self.read_batch(&batch).await?;
            found.extend(batch.into_iter().zip(blobs));
        }
        for digest in large {
            let mut bytes = Vec::new();
            let blob = match self.download_blob(digest, &mut bytes).await {
                Ok(()) => Some(Bytes::from(bytes)),
                Err(ClientError::NotFound(_)) => None,
                Err(error) => return Err(error),
            };
            found.insert(digest, blob);
        }
        Ok(digests.iter().map(|digest| found.get(digest).cloned().flatten()).collect())
    }
}

/// What a blob takes of an answer; `None` when that does not fit in memory's addresses.
fn answer_bytes(digest: &Digest) -> Option<usize> {
    usize::try_from(digest.size_bytes()).ok()?.checked_add(BLOB_OVERHEAD_BYTES)
}

/// Takes over what an answer settles. `Some` is the status of blobs that are to be asked for again.
fn take(
    wanted: &[Digest],
    answer: reapi::BatchReadBlobsResponse,
    found: &mut HashMap<Digest, Option<Bytes>>,
) -> Result<Option<Status>, ClientError> {
    let by_wire: HashMap<(String, u64), Digest> =
        wanted.iter().map(|digest| ((digest.hash_hex(), digest.size_bytes()), *digest)).collect();
    let mut passing = None;
    for response in answer.responses {
        let named = response.digest.unwrap_or_default();
        let named = (named.hash, u64::try_from(named.size_bytes).unwrap_or(u64::MAX));
        let Some(digest) = by_wire.get(&named).copied() else { continue };
        let status = response.status.unwrap_or_default();
        match Code::from(status.code) {
            Code::Ok => {
                let data = response.data;
                if data.len() as u64 != digest.size_bytes() || Hasher::digest(digest.function(), &data) != digest {
                    return Err(ClientError::WrongBytes { digest, reason: "they hash to something else".to_owned() });
                }
                found.insert(digest, Some(data));
            }
            Code::NotFound => {
                found.insert(digest, None);
            }
            code if is_passing(code) => passing = Some(Status::new(code, status.message)),
            code => return Err(ClientError::of_status(&Status::new(code, status.message), || digest.to_string())),
        }
    }
    if passing.is_none() && wanted.iter().any(|digest| !found.contains_key(digest)) {
        passing = Some(Status::aborted("the cache did not answer for every blob"));
    }
    Ok(passing)
}
