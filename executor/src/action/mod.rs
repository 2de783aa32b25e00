//! What an action says, checked: its directories, its command, where it may run. Pure: nothing is read or written here.
//!
//! The server checks an action before it queues it, the worker once more before it makes anything: neither believes the other.
//! What passes holds names that are single path segments and places that are below the input root.

mod command;
mod directory;
mod fault;
mod message;
mod place;
mod platform;

pub use self::command::{CheckedCommand, OutputKind, OutputWish};
pub use self::directory::{CheckedDirectory, DirectoryEntry, FileEntry, SymlinkEntry};
pub use self::fault::ActionFault;
pub use self::message::CheckedAction;
pub use self::place::RootPath;
pub use self::platform::requirements;
