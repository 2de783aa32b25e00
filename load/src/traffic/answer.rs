//! [`Answer`]: what came for one request, and whether that is what was asked for.

use std::collections::BTreeMap;

use super::content::{Content, Shape, Tail};
use super::message::put_hash;
use super::protobuf;
use super::read_stream::ReadParser;
use crate::fault::{Fault, code};
use crate::wire::End;

/// What must come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// An answer of any content.
    Something,
    /// `NOT_FOUND`.
    Absence,
    /// This many of the digests asked for are missing.
    Missing { of: u64, missing: u64 },
    /// A stream of one blob.
    Blob { size_bytes: u64 },
    /// A blob as HTTP's body.
    Body { size_bytes: u64 },
    /// HTTP's yes to an upload.
    Accepted { size_bytes: u64 },
    /// An answer with this many blobs.
    Blobs { count: u64, size_bytes: u64 },
    /// An upload's end.
    Committed { size_bytes: u64 },
    /// Several uploads' ends.
    Stored { count: u64, bytes: u64 },
}

/// What an answer was worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) digests: u64,
    pub(crate) bytes: u64,
}

/// The most of an answer that is kept to be looked at.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// The most of what HTTP says beside a status.
const HTTP_DETAIL_BYTES_MAX: u64 = 200;

/// Blobs by which answers are checked.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) content: &'a Content,
    pub(crate) shape: &'a Shape,
}

/// An answer as it comes.
#[derive(Default)]
pub(crate) struct Answer {
    /// Data bytes of a blob's stream, or all bytes of another answer.
    received_bytes: u64,
    kept: Vec<u8>,
    parser: ReadParser,
    fault: Option<&'static str>,
}

impl Answer {
    /// Ready for the next one.
    pub(crate) fn clear(&mut self) {
        self.received_bytes = 0;
        self.kept.clear();
        self.parser.clear();
        self.fault = None;
    }

    /// Takes the next bytes. `blob` is what a stream is compared with.
    #[inline]
    pub(crate) fn take(&mut self, expect: Expect, bytes: &[u8], blob: Option<(Known<'_>, Tail)>) {
        match expect {
            Expect::Blob { .. } => {
                let Self { received_bytes, parser, fault, .. } = self;
                let taken = parser.take(bytes, |data| {
                    if let Some((known, tail)) = &blob
                        && !known.content.is_at(known.shape, tail, *received_bytes, data)
                    {
                        *fault = Some("other bytes than the blob's");
                    }
                    *received_bytes += data.len() as u64;
                });
                if taken.is_none() {
                    *fault = Some("an answer that is no stream of ReadResponse");
                    parser.clear();
                }
            }
            Expect::Body { .. } | Expect::Accepted { .. } => {
                if let (Expect::Body { .. }, Some((known, tail))) = (expect, &blob)
                    && !known.content.is_at(known.shape, tail, self.received_bytes, bytes)
                {
                    self.fault = Some("other bytes than the blob's");
                }
                // What refusals say is kept: they come in few bytes.
                if self.received_bytes < HTTP_DETAIL_BYTES_MAX {
                    let kept = bytes.len().min((HTTP_DETAIL_BYTES_MAX - self.received_bytes) as usize);
                    self.kept.extend_from_slice(&bytes[..kept]);
                }
                self.received_bytes += bytes.len() as u64;
            }
            // Kept only where it is looked at.
            Expect::Something | Expect::Absence => self.received_bytes += bytes.len() as u64,
            Expect::Missing { .. } | Expect::Blobs { .. } | Expect::Committed { .. } | Expect::Stored { .. } => {
                self.received_bytes += bytes.len() as u64;
                if self.kept.len() + bytes.len() > KEPT_BYTES_MAX {
                    self.fault = Some("an answer of more than 16 MiB");
                } else if !matches!(expect, Expect::Blobs { .. }) || blob.is_some() {
                    self.kept.extend_from_slice(bytes);
                }
            }
        }
    }

    /// Judges the answer. `blob(n)` is the tail of the n-th blob of a batch, where those are checked.
    pub(crate) fn judge(
        &self,
        expect: Expect,
        end: End<'_>,
        blobs: Option<(Known<'_>, &dyn Fn(u64) -> Tail)>,
    ) -> Result<Work, Fault> {
        match end {
            End::Reset(code) => return Err(Fault::Reset(code)),
            End::Refused(code) => return Err(Fault::Refused(code)),
            End::Lost => return Err(Fault::Lost(String::new())),
            End::Answered { grpc: Some(code::NOT_FOUND), .. } if expect == Expect::Absence => {
                return Ok(Work::default());
            }
            End::Answered { grpc: Some(0), .. } => {}
            End::Answered { status, .. } if matches!(expect, Expect::Body { .. } | Expect::Accepted { .. }) => {
                if !matches!((expect, status), (_, 200) | (Expect::Accepted { .. }, 201 | 204)) {
                    return Err(Fault::http(status, &self.kept));
                }
            }
            End::Answered { grpc: Some(code), message, .. } => return Err(Fault::grpc(code, message)),
            End::Answered { status, grpc: None, .. } => return Err(Fault::http(status, &[])),
        }
        if let Some(fault) = self.fault {
            return Err(Fault::Wrong(fault));
        }
        self.check(expect, blobs).map_err(|fault| match fault {
            Fault::Wrong("") => Fault::Wrong("an answer that is no such message"),
            fault => fault,
        })
    }

    fn check(&self, expect: Expect, blobs: Option<(Known<'_>, &dyn Fn(u64) -> Tail)>) -> Result<Work, Fault> {
        const MALFORMED: Fault = Fault::Wrong("");
        let kept = || protobuf::unary(&self.kept).ok_or(MALFORMED);
        match expect {
            Expect::Absence => Err(Fault::Wrong("a result of an action that has none")),
            Expect::Something if self.received_bytes >= protobuf::PREFIX_BYTES as u64 => Ok(Work::default()),
            Expect::Something => Err(MALFORMED),
            Expect::Missing { of, missing } => match protobuf::count(kept()?, 2).ok_or(MALFORMED)? {
                found if found == missing => Ok(Work { digests: of, bytes: 0 }),
                found if found > missing => Err(Fault::Wrong("blobs reported missing that were stored")),
                _ => Err(Fault::Wrong("blobs reported present that were never stored")),
            },
            Expect::Blob { size_bytes } if self.received_bytes == size_bytes && self.parser.is_at_end() => {
                Ok(Work { digests: 0, bytes: size_bytes })
            }
            Expect::Body { size_bytes } if self.received_bytes == size_bytes => {
                Ok(Work { digests: 0, bytes: size_bytes })
            }
            Expect::Blob { .. } | Expect::Body { .. } => Err(Fault::Wrong("another number of bytes than the blob's")),
            Expect::Accepted { size_bytes } => Ok(Work { digests: 0, bytes: size_bytes }),
            Expect::Blobs { count, size_bytes } => {
                let bytes = count * size_bytes;
                if self.received_bytes < bytes {
                    return Err(Fault::Wrong("fewer bytes than the blobs'"));
                }
                if let Some((known, tail)) = blobs {
                    check_batch(kept()?, known, count, tail)?;
                }
                Ok(Work { digests: count, bytes })
            }
            Expect::Committed { size_bytes } => {
                if protobuf::number(kept()?, 1).ok_or(MALFORMED)? == size_bytes {
                    return Ok(Work { digests: 0, bytes: size_bytes });
                }
                Err(Fault::Wrong("another committed_size than the blob's"))
            }
            Expect::Stored { count, bytes } => {
                let (mut answered, mut refused) = (0, None);
                let read = protobuf::each_message(kept()?, 1, |response| {
                    let status = protobuf::bytes_of(response, 2)?;
                    let code = protobuf::number(status, 1)?;
                    if code != 0 {
                        refused = Some(Fault::item(code as u32, protobuf::bytes_of(status, 2)?));
                    }
                    answered += 1;
                    Some(())
                });
                read.ok_or(MALFORMED)?;
                match refused {
                    Some(fault) => Err(fault),
                    None if answered == count => Ok(Work { digests: count, bytes }),
                    None => Err(Fault::Wrong("another number of responses than of blobs")),
                }
            }
        }
    }
}

/// Every blob once, with its bytes.
fn check_batch(message: &[u8], known: Known<'_>, count: u64, tail: &dyn Fn(u64) -> Tail) -> Result<(), Fault> {
    // Servers may answer in any order.
    let mut expected: BTreeMap<Vec<u8>, Tail> = BTreeMap::new();
    for number in 0..count {
        let tail = tail(number);
        let mut hash = Vec::new();
        put_hash(&mut hash, &known.shape.digest(&tail));
        expected.insert(hash, tail);
    }
    let mut fault = None;
    let read = protobuf::each_message(message, 1, |response| {
        let hash = protobuf::bytes_of(protobuf::bytes_of(response, 1)?, 1)?;
        let status = protobuf::bytes_of(response, 3)?;
        let code = protobuf::number(status, 1)?;
        let data = protobuf::bytes_of(response, 2)?;
        if code != 0 {
            fault = Some(Fault::item(code as u32, protobuf::bytes_of(status, 2)?));
        } else if data.len() as u64 != known.shape.size_bytes()
            || !expected.remove(hash).is_some_and(|tail| known.content.is_at(known.shape, &tail, 0, data))
        {
            fault = Some(Fault::Wrong("other bytes than the blob's"));
        }
        Some(())
    });
    read.ok_or(Fault::Wrong(""))?;
    match fault {
        Some(fault) => Err(fault),
        None if expected.is_empty() => Ok(()),
        None => Err(Fault::Wrong("a blob that is not answered for")),
    }
}
