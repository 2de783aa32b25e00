//! [`Source`]: where requests of one kind come from; [`Draw`]: a connection's place in it.
//!
//! Requests that ask for what is there, or is not, are written before the measured time and replayed in turn; uploads are
//! written as they are needed, so that each blob is new.

use std::sync::atomic::{AtomicU64, Ordering};

use cask_index::Digest;

use super::answer::{Expect, Known};
use super::content::{Content, Family, Shape, Tail};
use super::message::{self, Address};
use super::operation::Operation;
use super::protobuf::{self, PREFIX_BYTES};
use crate::wire::body::Body;
use crate::wire::headers::Method;

/// Requests of one kind.
pub(crate) enum Source {
    /// Written before.
    Replay {
        operation: Operation,
        method: Method,
        requests: Requests,
        expect: Expect,
        /// What the answers are compared with, where they are blobs.
        stored: Option<Stored>,
    },
    /// Written before, each sent once, by whichever connection comes first.
    Once { operation: Operation, method: Method, requests: Requests, next: AtomicU64 },
    /// One new blob each.
    Write { shape: Shape, family: Family, message_bytes: usize, next: AtomicU64 },
    /// Several new blobs each.
    BatchUpdate { shape: Shape, family: Family, batch: usize, next: AtomicU64 },
    /// A new action each, with the same result.
    ActionUpdate { shape: Shape, family: Family, result: Vec<u8>, next: AtomicU64 },
    /// One new blob each, over HTTP/1.1.
    HttpPut { shape: Shape, family: Family, next: AtomicU64 },
}

/// Blobs that requests ask for: request `n` has those from `n * batch` on.
pub(crate) struct Stored {
    pub(crate) shape: Shape,
    pub(crate) batch: u64,
}

/// Requests as bytes, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Requests {
    /// Appends the request that `write` writes.
    pub(crate) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, at: usize) -> &[u8] {
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin..self.ends[at]]
    }
}

/// A request that was written into a body.
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) method: Method,
    /// Which of the source's requests it is.
    pub(crate) number: u64,
    pub(crate) expect: Expect,
}

/// A connection's place among the requests that are replayed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Draw {
    at: usize,
}

impl Draw {
    /// The place of connection `number` of `count`: they begin apart.
    pub(crate) fn of_connection(number: usize, count: usize, source: &Source) -> Self {
        match source {
            Source::Replay { requests, .. } => Self { at: requests.len() * number / count },
            _ => Self::default(),
        }
    }
}

impl Source {
    /// Writes the next request.
    pub(crate) fn next<'a>(
        &'a self,
        draw: &mut Draw,
        content: &'a Content,
        address: &Address,
        body: &mut Body<'a>,
    ) -> Call {
        body.clear();
        match self {
            Self::Replay { operation, method, requests, expect, .. } => {
                let number = draw.at;
                draw.at = if number + 1 == requests.len() { 0 } else { number + 1 };
                body.lent(requests.get(number));
                Call { operation: *operation, method: *method, number: number as u64, expect: *expect }
            }
            Self::Once { operation, method, requests, next } => {
                let number = next.fetch_add(1, Ordering::Relaxed);
                body.lent(requests.get(number as usize % requests.len()));
                Call { operation: *operation, method: *method, number, expect: Expect::Something }
            }
            Self::Write { shape, family, message_bytes, next } => {
                let number = next.fetch_add(1, Ordering::Relaxed);
                put_write(content, address, shape, *family, number, *message_bytes, body);
                let expect = Expect::Committed { size_bytes: shape.size_bytes() };
                Call { operation: Operation::Write, method: Method::Write, number, expect }
            }
            Self::BatchUpdate { shape, family, batch, next } => {
                let number = next.fetch_add(*batch as u64, Ordering::Relaxed);
                put_batch_update(content, address, shape, *family, number, *batch, body);
                let expect = Expect::Stored { count: *batch as u64, bytes: shape.size_bytes() * *batch as u64 };
                Call { operation: Operation::BatchUpdate, method: Method::BatchUpdateBlobs, number, expect }
            }
            Self::ActionUpdate { shape, family, result, next } => {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let action = shape.digest(&content.tail(*family, number));
                body.own(|out| address.put_update_action(out, &action, result));
                Call {
                    operation: Operation::ActionUpdate,
                    method: Method::UpdateActionResult,
                    number,
                    expect: Expect::Something,
                }
            }
            Self::HttpPut { shape, family, next } => {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let tail = content.tail(*family, number);
                let size_bytes = shape.size_bytes();
                body.own(|out| address.put_http(out, "PUT", &shape.digest(&tail), Some(size_bytes)));
                content.append(body, shape, &tail, 0, size_bytes);
                let expect = Expect::Accepted { size_bytes };
                Call { operation: Operation::HttpPut, method: Method::Write, number, expect }
            }
        }
    }

    /// What the answer to request `number` is compared with, and the tail of its n-th blob.
    pub(crate) fn known<'a>(
        &'a self,
        content: &'a Content,
        number: u64,
    ) -> Option<(Known<'a>, impl Fn(u64) -> Tail + 'a)> {
        let Self::Replay { stored: Some(Stored { shape, batch }), .. } = self else { return None };
        let tail = move |at| content.tail(Family::Stored, number * batch + at);
        Some((Known { content, shape }, tail))
    }
}

/// An upload in messages of `message_bytes`, the name on the first.
fn put_write<'a>(
    content: &'a Content,
    address: &Address,
    shape: &Shape,
    family: Family,
    number: u64,
    message_bytes: usize,
    body: &mut Body<'a>,
) {
    let tail = content.tail(family, number);
    let digest = shape.digest(&tail);
    // A version 4 UUID that no other upload of the run has.
    let upload = format!("uploads/{:08x}-0000-4000-8000-{:012x}/", content.run() as u32, number & 0xffff_ffff_ffff);
    let name = address.resource_name(&upload, &digest);
    let size = shape.size_bytes();
    let mut at = 0;
    loop {
        let end = (at + message_bytes as u64).min(size);
        body.own(|out| {
            let begin = out.len();
            protobuf::put_prefix(out, 0);
            if at == 0 {
                protobuf::put_bytes(out, 1, &name);
            }
            protobuf::put_number(out, 2, at);
            protobuf::put_number(out, 3, u64::from(end == size));
            if end > at {
                protobuf::put_length(out, 10, (end - at) as usize);
            }
            let length = out.len() - begin - PREFIX_BYTES + (end - at) as usize;
            out[begin + 1..begin + PREFIX_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
        });
        content.append(body, shape, &tail, at, end);
        at = end;
        if at == size {
            return;
        }
    }
}

fn put_batch_update<'a>(
    content: &'a Content,
    address: &Address,
    shape: &Shape,
    family: Family,
    first: u64,
    batch: usize,
    body: &mut Body<'a>,
) {
    let field_bytes = |length: usize| 1 + protobuf::varint_bytes(length as u64) + length;
    let size = shape.size_bytes();
    let item_bytes = |digest: &Digest| {
        field_bytes(message::digest_bytes(digest)) + if size > 0 { field_bytes(size as usize) } else { 0 }
    };
    let blob = |number| {
        let tail = content.tail(family, number);
        (shape.digest(&tail), tail)
    };
    let mut envelope = Vec::new();
    address.put_instance(&mut envelope);
    let mut function = Vec::new();
    address.put_function(&mut function, 5);
    // All items have one size, so that the length is known before the digests are.
    let each = field_bytes(item_bytes(&blob(first).0));
    body.own(|out| {
        protobuf::put_prefix(out, envelope.len() + each * batch + function.len());
        out.extend_from_slice(&envelope);
    });
    for number in first..first + batch as u64 {
        let (digest, tail) = blob(number);
        body.own(|out| {
            protobuf::put_length(out, 2, item_bytes(&digest));
            message::put_digest(out, 1, &digest);
            if size > 0 {
                protobuf::put_length(out, 2, size as usize);
            }
        });
        content.append(body, shape, &tail, 0, size);
    }
    body.own(|out| out.extend_from_slice(&function));
}
