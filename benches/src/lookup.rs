//! FindMissing without a socket: from a request's bytes to its answer's against an index of any size, as the handler of the
//! edge does it.

use bytes::Bytes;
use cask_index::{Digest, DigestFunction, Key, Keyer, Location, Namespace, Table, TouchEpoch};
use cask_proto::digest::{DigestRule, FunctionRule, to_wire};
use cask_proto::reapi::{FindMissingBlobsRequest, FindMissingBlobsResponse};
use cask_proto::wire::{FindMissing, FindMissingAnswer, Segments};
use prost::Message;

use crate::blob;

/// Digests looked up at once.
const BATCH_DIGESTS: usize = 128;

/// A request with these digests.
pub fn request_of(digests: impl Iterator<Item = Digest>) -> Bytes {
    let blob_digests = digests.map(|digest| to_wire(&digest)).collect();
    let request = FindMissingBlobsRequest {
        instance_name: "main".to_owned(),
        blob_digests,
        digest_function: i32::from(DigestFunction::Sha256.wire_number()),
    };
    request.encode_to_vec().into()
}

/// A digest that no other number has, without hashing anything.
///
/// # Panics
/// Never: it has the function's length.
pub fn numbered(number: u64) -> Digest {
    Digest::new(DigestFunction::Sha256, &blob(number, 32), 4096 + number % 1000).expect("32 bytes")
}

/// An index that is full of [`numbered`] digests.
#[derive(Debug)]
pub struct FullIndex {
    keyer: Keyer,
    table: Table,
    entries: u64,
}

impl FullIndex {
    /// Of digests 0 to `entries`; `None` where there is no memory for it.
    ///
    /// # Panics
    /// Never: the table is made for as many.
    pub fn of(entries: u64) -> Option<Self> {
        let keyer = Keyer::new(&[7; 32]);
        let table = Table::with_capacity(entries).ok()?;
        for number in 0..entries {
            table.insert(keyer.blob(&numbered(number)), Location::new(1, 64, 4096), TouchEpoch::OLD).expect("room");
        }
        Some(Self { keyer, table, entries })
    }

    /// Requests of `count` digests each, `asked` in all before one comes again, spread over the index, and outside it where
    /// a miss is due.
    pub fn requests(&self, count: u64, asked: u64, hit_percent: u64) -> Vec<Bytes> {
        let digest = |index: u64, position: u64| {
            let number = (index * count + position) * 0x9E37_79B9 % self.entries;
            numbered(number + if position % 100 < hit_percent { 0 } else { self.entries })
        };
        let request = |index| request_of((0..count).map(|position| digest(index, position)));
        (0..(asked / count).max(1)).map(request).collect()
    }

    /// Decodes, looks up, touches and answers, as the handler does.
    ///
    /// # Panics
    /// When `message` is no request.
    pub fn answer<'m>(&self, message: &'m Bytes, lists: &mut Lists<'m>) -> Segments {
        let request = FindMissing::parse(message).expect("well-formed");
        let function = FunctionRule::of_request(request.digest_function, None).expect("known function");
        let rule = DigestRule::new(function, Namespace::SHARED);
        let mut missing = FindMissingAnswer::new(message);
        let mut reader = request.parse_digests(rule);
        let Lists { digests, keys, fields } = lists;
        while reader.next_batch(BATCH_DIGESTS, digests, fields).expect("digests") {
            keys.clear();
            keys.extend(digests.iter().map(|digest| self.keyer.blob(digest)));
            self.table.touch_batch(keys, TouchEpoch::from_u8(1), |position| missing.push(fields[position]));
        }
        missing.finish()
    }

    /// The same by the types that are generated from the protocol's declarations.
    ///
    /// # Panics
    /// When `message` is no request.
    pub fn answer_by_generated_types(&self, message: &Bytes) -> Vec<u8> {
        let request = FindMissingBlobsRequest::decode(message.clone()).expect("well-formed");
        let rule = FunctionRule::of_request(request.digest_function, None).expect("known function");
        let key = |digest| self.keyer.blob(&rule.from_wire(digest).expect("a digest"));
        let keys: Vec<Key> = request.blob_digests.iter().map(key).collect();
        let mut missing_blob_digests = Vec::new();
        self.table.touch_batch(&keys, TouchEpoch::from_u8(1), |position| {
            missing_blob_digests.push(request.blob_digests[position].clone());
        });
        FindMissingBlobsResponse { missing_blob_digests }.encode_to_vec()
    }
}

/// What a handler keeps from one request to the next.
#[derive(Debug, Default)]
pub struct Lists<'m> {
    digests: Vec<Digest>,
    keys: Vec<Key>,
    fields: Vec<&'m [u8]>,
}
