//! The reference model: what the store was given, what it said, and what may have become of it.
//!
//! A blob or action result is *present* from the moment the engine said so. It stops being expected only for a reason that
//! the model was told: reclaim counted a drop (and the floor was over), a sync or write failed under what was not durable
//! yet, power was lost before a sync in mode `Written`, `max_size` was lowered, or a media fault hit a record of it. After
//! such a reason its fate is *unknown* until the engine says something again, which binds anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use cask_engine::Durability;
use cask_index::{Digest, DigestFunction};
use sha2::Digest as _;

use crate::random::{content, mix_seed};
use crate::workload::{INSTANCES, Setup};

/// Smaller blobs are not made compressible: they would be too much alike.
const COMPRESSIBLE_BYTES_MIN: usize = 256;

/// What is known of whether something is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is not.
    Absent,
    /// It is, and has to be.
    Present,
    /// Nobody can say.
    Unknown,
}

/// A blob that was mentioned.
#[derive(Clone)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    pub data: Arc<[u8]>,
    /// Is it there?
    pub known: Known,
    /// It survives a power loss.
    pub durable: bool,
    /// When it was reported present last.
    pub promised_ms: Option<u64>,
    /// All of it was handed to the engine once: without that it is never visible.
    pub whole: bool,
}

/// What became of one call of `put_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutState {
    /// No answer yet, or none that binds.
    Open,
    /// Stored, it said.
    Acknowledged,
}

/// One call of `put_action`.
#[derive(Clone)]
pub struct Put {
    /// The value; no two are alike.
    pub value: Vec<u8>,
    /// Numbers of the blobs it needs.
    pub closure: Vec<u32>,
    /// What became of it.
    pub state: PutState,
    /// It survives a power loss.
    pub durable: bool,
}

/// An action and what was stored for it, in the order of the calls.
#[derive(Clone)]
pub struct Action {
    /// Where it is stored.
    pub instance: &'static str,
    /// Its name.
    pub digest: Digest,
    /// All calls.
    pub puts: Vec<Put>,
    /// When it was reported present last.
    pub promised_ms: Option<u64>,
    /// It was stored or hit, and nothing happened since that may have taken it away.
    pub confirmed: bool,
}

impl Action {
    /// The newest call that was acknowledged: no older value may ever be seen again.
    pub fn newest_binding(&self) -> Option<usize> {
        self.puts.iter().rposition(|put| put.state == PutState::Acknowledged)
    }
}

/// See the module's head.
#[derive(Clone)]
pub struct Model {
    seed: u64,
    durability: Durability,
    /// Blobs by number.
    pub blobs: BTreeMap<u32, Blob>,
    /// Actions by number.
    pub actions: BTreeMap<u32, Action>,
    /// Distinct keys that were ever submitted, at most.
    pub keys_max: u64,
}

/// The SHA-256 digest of `data`.
pub fn digest_of(data: &[u8]) -> Digest {
    Digest::new(DigestFunction::Sha256, &sha2::Sha256::digest(data), data.len() as u64).expect("32 bytes")
}

impl Model {
    /// Of an empty store.
    pub fn new(setup: &Setup) -> Self {
        Self {
            seed: setup.seed,
            durability: setup.durability,
            blobs: BTreeMap::new(),
            actions: BTreeMap::new(),
            keys_max: 0,
        }
    }

    /// The blob of a number, made when it is mentioned first.
    pub fn blob(&mut self, setup: &Setup, number: u32) -> &mut Blob {
        self.blobs.entry(number).or_insert_with(|| {
            let mut data = content(mix_seed(setup.seed, 1 << 40 | u64::from(number)), setup.blob_size_bytes(number));
            if setup.compresses && number % 2 == 1 && data.len() >= COMPRESSIBLE_BYTES_MIN {
                data.iter_mut().for_each(|byte| *byte &= 15);
            }
            let digest = digest_of(&data);
            // The empty blob is everywhere and always, and tiny sizes have few contents.
            let is_empty = data.is_empty();
            let known = if is_empty { Known::Present } else { Known::Absent };
            Blob { digest, data: data.into(), known, durable: is_empty, promised_ms: None, whole: is_empty }
        })
    }

    /// The action of a number.
    pub fn action(&mut self, number: u32) -> &mut Action {
        let seed = self.seed;
        self.actions.entry(number).or_insert_with(|| Action {
            instance: INSTANCES[number as usize % INSTANCES.len()],
            digest: digest_of(&content(mix_seed(seed, 1 << 41 | u64::from(number)), 100)),
            puts: Vec::new(),
            promised_ms: None,
            confirmed: false,
        })
    }

    /// A call of `put_action`; its position.
    pub fn put(&mut self, number: u32, closure: Vec<u32>, value_bytes: usize) -> usize {
        let seed = self.seed;
        let action = self.action(number);
        let position = action.puts.len();
        let mut value = format!("{number}:{position}:").into_bytes();
        value.extend(content(mix_seed(seed, (position as u64) << 32 | u64::from(number)), value_bytes));
        action.puts.push(Put { value, closure, state: PutState::Open, durable: false });
        self.keys_max += 1;
        position
    }

    /// The engine said that the blob is there.
    pub fn blob_reported(&mut self, number: u32, now_ms: u64) {
        let synced = self.durability == Durability::Synced;
        let blob = self.blobs.get_mut(&number).expect("it was mentioned");
        if blob.known != Known::Present {
            blob.known = Known::Present;
            blob.durable = false;
        }
        blob.durable |= synced || blob.data.is_empty();
        blob.promised_ms = Some(now_ms);
    }

    /// The engine acknowledged or returned the `position`-th value.
    pub fn action_reported(&mut self, number: u32, position: usize, now_ms: u64) {
        let synced = self.durability == Durability::Synced;
        let action = self.actions.get_mut(&number).expect("it was mentioned");
        let put = &mut action.puts[position];
        put.state = PutState::Acknowledged;
        put.durable |= synced;
        action.promised_ms = Some(now_ms);
        action.confirmed = true;
    }

    /// Everything acknowledged so far has reached the disk.
    pub fn synced(&mut self) {
        self.blobs.values_mut().filter(|blob| blob.known == Known::Present).for_each(|blob| blob.durable = true);
        for put in self.actions.values_mut().flat_map(|action| &mut action.puts) {
            put.durable |= put.state == PutState::Acknowledged;
        }
    }

    /// A sync or write failed: actions that were not durable may be gone, and the one before does not come back while the process
    /// lives. (Blobs are looked at one by one.)
    pub fn quarantined(&mut self) {
        for action in self.actions.values_mut() {
            let Some(newest) = action.newest_binding() else { continue };
            if !action.puts[newest].durable {
                action.confirmed = false;
                action.puts.iter_mut().filter(|put| !put.durable).for_each(|put| put.state = PutState::Open);
            }
        }
    }

    /// Power was lost: what was not durable has an unknown fate.
    pub fn power_lost(&mut self) {
        for blob in self.blobs.values_mut().filter(|blob| !blob.durable && blob.known == Known::Present) {
            blob.known = Known::Unknown;
            blob.promised_ms = None;
        }
        self.quarantined();
    }

    /// `max_size` was lowered: anything may be gone.
    pub fn shrunk(&mut self) {
        for blob in self.blobs.values_mut().filter(|blob| blob.known == Known::Present && !blob.data.is_empty()) {
            blob.known = Known::Unknown;
            blob.promised_ms = None;
        }
        for action in self.actions.values_mut() {
            action.confirmed = false;
            action.promised_ms = None;
            // The newest may be gone with its segment, and an older value have been moved to a younger one.
            action.puts.iter_mut().for_each(|put| put.state = PutState::Open);
        }
    }
}
