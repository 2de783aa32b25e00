//! What a check can find, and the words for it: what is wrong, what it means for users, what a repair does about it.

use std::fmt;
use std::path::PathBuf;

use cask_index::Digest;

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// File or folder, relative to the store's.
    pub path: PathBuf,
    /// Number of the segment, where it is one.
    pub segment: Option<u32>,
    /// Where in the file, in bytes.
    pub offset_bytes: Option<u64>,
    /// Of the blob or action concerned, where it is known.
    pub digest: Option<Digest>,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong. Each has three texts, see [`Fault::meaning`] and [`Fault::remedy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There are segments and no superblock.
    SuperblockMissing,
    /// The superblock cannot be believed.
    SuperblockDamaged(String),
    /// The touch snapshot cannot be believed.
    TouchesDamaged,
    /// An orderly close left a segment that is not there any more.
    SegmentMissing,
    /// A segment file is shorter or longer than a segment.
    SegmentLength {
        /// Bytes it has.
        found: u64,
        /// Bytes of a segment.
        expected: u64,
    },
    /// A copy of the segment header is damaged; the life is known all the same.
    HeaderDamaged,
    /// Both copies are, and there is no footer: the engine takes the segment for free.
    HeaderLost,
    /// The footer is damaged or half written; the records are found by their headers.
    FooterDamaged,
    /// The footer says something else of a record than the record does.
    FooterEntryWrong,
    /// A sound record that the footer does not list.
    NotInFooter,
    /// A listed record has no sound header.
    RecordHeaderDamaged,
    /// A payload does not have its checksum.
    PayloadDamaged,
    /// A payload has its checksum and does not hash to its digest.
    ContentWrong,
    /// The device does not give these bytes.
    Unreadable(String),
    /// Bytes between records that are no record.
    LogGap {
        /// How many.
        bytes: u64,
    },
    /// Records at the end of the log that an orderly close knew of.
    LogEndLost {
        /// How many.
        records: u64,
    },
    /// The payload of an action record makes no sense.
    ActionUndecodable,
    /// Parts of a large blob are gone.
    PartsMissing {
        /// How many.
        missing: u32,
        /// Of how many.
        parts: u32,
    },
    /// The parts of a large blob are sound and do not hash to its digest together.
    LargeContentWrong,
    /// An action result needs blobs that are not there.
    ActionIncomplete {
        /// How many of them.
        missing: u32,
        /// Of how many.
        needed: u32,
    },
    /// The last process did not close the store.
    Unclean,
    /// The torn end of a log that was being written when the machine stopped.
    TornEnd,
    /// A file that is not the store's.
    StrayFile,
    /// A replacement that was being written when its writer ended.
    Leftover,
}

impl Fault {
    /// False for what is worth a line and is no damage.
    pub fn is_problem(&self) -> bool {
        !matches!(
            self,
            Self::ActionIncomplete { .. } | Self::Unclean | Self::TornEnd | Self::StrayFile | Self::Leftover
        )
    }

    /// What it means for those who use the store.
    pub fn meaning(&self) -> &'static str {
        match self {
            Self::SuperblockMissing | Self::SuperblockDamaged(_) => "the store cannot be opened",
            Self::TouchesDamaged => "the order of eviction is forgotten",
            Self::SegmentMissing => "its blobs are misses",
            Self::SegmentLength { .. } => "what stood beyond the end of a short file is a miss",
            Self::HeaderDamaged => "nothing is lost yet",
            Self::HeaderLost => "all its blobs are misses",
            Self::FooterDamaged => "nothing is lost; opening takes longer",
            Self::FooterEntryWrong => "the record may not be found",
            Self::NotInFooter => "the record is not found",
            Self::RecordHeaderDamaged
            | Self::PayloadDamaged
            | Self::ContentWrong
            | Self::ActionUndecodable
            | Self::PartsMissing { .. }
            | Self::LargeContentWrong => "it is a miss, after having been reported present",
            Self::Unreadable(_) => "what stands there is a miss",
            Self::LogGap { .. } => "a record that stood there is a miss",
            Self::LogEndLost { .. } => "they are misses",
            Self::ActionIncomplete { .. } => "the action is a miss and will be run again",
            Self::Unclean => "leases of before count from the next start",
            Self::TornEnd => "it was never durable",
            Self::StrayFile | Self::Leftover => "nothing",
        }
    }

    /// What `--repair` does about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::SuperblockMissing | Self::SuperblockDamaged(_) => {
                "makes a new one from the segments; blobs stay, action results are lost"
            }
            Self::TouchesDamaged => "removes it",
            Self::SegmentMissing => "forgets it",
            Self::SegmentLength { .. } => "gives it its length",
            Self::HeaderDamaged | Self::HeaderLost => "writes the header again",
            Self::FooterDamaged | Self::FooterEntryWrong | Self::NotInFooter => {
                "writes the footer again, from the records"
            }
            Self::RecordHeaderDamaged
            | Self::PayloadDamaged
            | Self::ContentWrong
            | Self::ActionUndecodable
            | Self::PartsMissing { .. }
            | Self::LargeContentWrong
            | Self::LogEndLost { .. } => "drops it for good, so that it is uploaded again",
            Self::Unreadable(_) | Self::LogGap { .. } => "writes zeros over it",
            Self::ActionIncomplete { .. } | Self::Unclean | Self::TornEnd | Self::StrayFile | Self::Leftover => {
                "leaves it as it is"
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SuperblockMissing => f.write_str("the superblock is missing"),
            Self::SuperblockDamaged(reason) => write!(f, "the superblock is damaged ({reason})"),
            Self::TouchesDamaged => f.write_str("the touch snapshot is damaged"),
            Self::SegmentMissing => f.write_str("the segment file is missing"),
            Self::SegmentLength { found, expected } => write!(f, "the file has {found} bytes instead of {expected}"),
            Self::HeaderDamaged => f.write_str("a copy of the segment header is damaged"),
            Self::HeaderLost => f.write_str("the segment header is damaged beyond what the store can read"),
            Self::FooterDamaged => f.write_str("the footer is damaged"),
            Self::FooterEntryWrong => f.write_str("the footer contradicts the record"),
            Self::NotInFooter => f.write_str("the footer does not list the record"),
            Self::RecordHeaderDamaged => f.write_str("the record's header is damaged"),
            Self::PayloadDamaged => f.write_str("the payload does not have its checksum"),
            Self::ContentWrong => f.write_str("the payload does not hash to the digest"),
            Self::Unreadable(error) => write!(f, "the disk does not give these bytes ({error})"),
            Self::LogGap { bytes } => write!(f, "{bytes} bytes between records are no record"),
            Self::LogEndLost { records } => write!(f, "{records} records at the end of the log are gone"),
            Self::ActionUndecodable => f.write_str("the action record makes no sense"),
            Self::PartsMissing { missing, parts } => write!(f, "{missing} of the large blob's {parts} parts are gone"),
            Self::LargeContentWrong => f.write_str("the large blob's parts do not hash to the digest"),
            Self::ActionIncomplete { missing, needed } => {
                write!(f, "{missing} of the {needed} blobs that the action result needs are not there")
            }
            Self::Unclean => f.write_str("the store was not closed in order"),
            Self::TornEnd => f.write_str("the last write of the log is torn"),
            Self::StrayFile => f.write_str("not a file of the store"),
            Self::Leftover => f.write_str("left by a writer that ended early"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some(offset_bytes) = self.offset_bytes {
            write!(f, "at {offset_bytes}: ")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "{digest}: ")?;
        }
        write!(f, "{}; {}", self.fault, self.fault.meaning())
    }
}
