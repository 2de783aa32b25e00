//! `GetTree`: the directories below a root, in pages.
//!
//! Breadth first from the root, each distinct directory once however often it is shared, absent ones skipped. Iterative and bounded:
//! a tree of more directories than the limit is refused, not cut. A page token names the root and the last directory of its
//! page; resuming walks again from the root and goes on behind that directory. So the server keeps nothing between calls, and the
//! order is the same each time because blobs do not change.

use std::collections::{HashSet, VecDeque};

use cask_engine::EngineError;
use cask_index::Digest;
use cask_proto::digest::DigestRule;
use cask_proto::reapi::{Directory, GetTreeResponse};
use prost::Message;

use super::request;
use crate::access::limits::Permit;
use crate::cache::Cache;
use crate::status::{Answer, answer_of};

/// Bytes that a directory takes in a page beside its own: tag and length.
const ENTRY_OVERHEAD_BYTES: usize = 6;

/// A listing under way.
pub(super) struct Listing {
    walk: Walk,
    root: Digest,
    /// Directories in a page, at most.
    page_directories_max: usize,
    page_size_bytes_max: usize,
    /// The first directory of the next page; `None` when the last page is out.
    held: Option<(Digest, Directory)>,
}

/// Where and how a client wants to list.
pub(super) struct ListingOptions {
    pub(super) root: Digest,
    /// 0: as the server likes.
    pub(super) page_size: i32,
    /// Empty: from the root.
    pub(super) page_token: String,
}

impl Listing {
    /// Finds the first directory to list. `NOT_FOUND` when the root is absent.
    pub(super) async fn begin(cache: Cache, options: ListingOptions) -> Result<Listing, Answer> {
        let limits = cache.limits();
        let page_size = usize::try_from(options.page_size)
            .map_err(|_| Answer::invalid(format!("page_size {} is negative", options.page_size)))?;
        let page_directories_max = match page_size {
            0 => limits.tree_page_directories_max,
            asked => asked.min(limits.tree_page_directories_max),
        };
        let page_size_bytes_max = limits.response_size_bytes_max;
        let resume_behind = match options.page_token.as_str() {
            "" => None,
            token => Some(PageToken::parse(token, options.root)?.last),
        };
        let slot = cache.listing_slot().await.map_err(answer_of)?;
        let mut walk = Walk::new(cache, options.root, slot);
        let mut held = Some(walk.root().await?);
        if let Some(last) = resume_behind {
            while let Some((digest, _)) = &held
                && *digest != last
            {
                held = walk.next().await?;
            }
            if held.is_none() {
                return Err(Answer::invalid("page_token does not belong to this tree; list it from the start"));
            }
            held = walk.next().await?;
        }
        Ok(Listing { walk, root: options.root, page_directories_max, page_size_bytes_max, held })
    }

    /// The next page, or `None` behind the last.
    pub(super) async fn next_page(&mut self) -> Result<Option<GetTreeResponse>, Answer> {
        let Some((mut last, first)) = self.held.take() else { return Ok(None) };
        let mut page_size_bytes = page_token_room(self.root) + entry_size_bytes(&first);
        let mut directories = vec![first];
        while let Some((digest, directory)) = self.walk.next().await? {
            page_size_bytes += entry_size_bytes(&directory);
            // A directory larger than a page goes out alone all the same.
            if directories.len() == self.page_directories_max || page_size_bytes > self.page_size_bytes_max {
                self.held = Some((digest, directory));
                break;
            }
            last = digest;
            directories.push(directory);
        }
        let next_page_token = match &self.held {
            Some(_) => PageToken { root: self.root, last }.to_string(),
            None => String::new(),
        };
        Ok(Some(GetTreeResponse { directories, next_page_token }))
    }
}

fn entry_size_bytes(directory: &Directory) -> usize {
    directory.encoded_len() + ENTRY_OVERHEAD_BYTES
}

fn page_token_room(root: Digest) -> usize {
    PageToken { root, last: root }.to_string().len() + 2 * ENTRY_OVERHEAD_BYTES + 2 * u64::MAX.to_string().len()
}

/// The walk itself.
struct Walk {
    cache: Cache,
    rule: DigestRule,
    queue: VecDeque<Digest>,
    seen: HashSet<Digest>,
    /// A walk holds a queue and a set of digests; the budget of walks bounds them over all clients.
    _slot: Permit,
}

impl Walk {
    fn new(cache: Cache, root: Digest, slot: Permit) -> Walk {
        let rule = DigestRule::like(&root);
        Walk { cache, rule, queue: VecDeque::from([root]), seen: HashSet::from([root]), _slot: slot }
    }

    async fn root(&mut self) -> Result<(Digest, Directory), Answer> {
        match self.next().await? {
            Some(root) => Ok(root),
            None => Err(answer_of(EngineError::NotFound)),
        }
    }

    /// The next directory that is present.
    async fn next(&mut self) -> Result<Option<(Digest, Directory)>, Answer> {
        while let Some(digest) = self.queue.pop_front() {
            // Of what is in memory nothing ever waits: the thread's other connections need their turn.
            tokio::task::coop::consume_budget().await;
            let bytes = match self.cache.read_whole(&digest, self.cache.limits().tree_size_bytes_max).await {
                Ok(bytes) => bytes,
                Err(EngineError::NotFound) => continue,
                Err(error) => return Err(answer_of(error)),
            };
            let directory = Directory::decode(bytes)
                .map_err(|error| Answer::invalid(format!("blob {digest} is not a Directory: {error}")))?;
            for child in &directory.directories {
                let child = request::digest_field(self.rule, "directories.digest", child.digest.as_ref())?;
                if self.seen.insert(child) {
                    self.queue.push_back(child);
                }
            }
            let limit = self.cache.limits().tree_directories_max;
            if self.seen.len() > limit {
                return Err(Answer::precondition(format!("the tree has more than {limit} directories")));
            }
            return Ok(Some((digest, directory)));
        }
        Ok(None)
    }
}

/// The place behind the last directory of a page. Text: `<root>:<last>`, each `<hash>/<size>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageToken {
    root: Digest,
    last: Digest,
}

impl std::fmt::Display for PageToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.root, self.last)
    }
}

impl PageToken {
    /// A token that was given out for a listing of `root`.
    fn parse(token: &str, root: Digest) -> Result<PageToken, Answer> {
        let parts = token.split_once(':');
        let parsed = parts.and_then(|(root_part, last_part)| {
            Some(PageToken { root: parse_digest(&root, root_part)?, last: parse_digest(&root, last_part)? })
        });
        match parsed {
            // Compared as text too, so that one place has one token.
            Some(parsed) if parsed.root == root && parsed.to_string() == token => Ok(parsed),
            _ => Err(Answer::invalid("page_token was not given out for this tree")),
        }
    }
}

/// Of the function and namespace of `like`.
fn parse_digest(like: &Digest, text: &str) -> Option<Digest> {
    let (hash, size_bytes) = text.split_once('/')?;
    let digest = Digest::parse_hex(like.function(), hash.as_bytes(), size_bytes.parse().ok()?).ok()?;
    Some(digest.within(like.namespace()))
}

#[cfg(test)]
mod tests {
    use cask_index::DigestFunction;

    use super::*;

    fn digest(byte: u8, size_bytes: u64) -> Digest {
        Digest::new(DigestFunction::Sha256, &[byte; 32], size_bytes).unwrap()
    }

    #[test]
    fn a_page_token_names_its_place() {
        let token = PageToken { root: digest(1, 10), last: digest(2, 0) };
        assert_eq!(PageToken::parse(&token.to_string(), digest(1, 10)), Ok(token));
    }

    #[test]
    fn a_token_of_another_tree_or_of_nobody_is_refused() {
        let token = PageToken { root: digest(1, 10), last: digest(0xab, 20) }.to_string();
        for garbage in [
            "garbage".to_owned(),
            ":".to_owned(),
            "/:/".to_owned(),
            token.to_uppercase(),
            token.replace("/20", "/020"),
            token.replace("/20", "/-20"),
            token.replace("/20", ""),
            format!("{token}0:"),
            format!(" {token}"),
        ] {
            assert!(PageToken::parse(&garbage, digest(1, 10)).is_err(), "{garbage}");
        }
        for other_root in [digest(2, 10), digest(1, 11)] {
            assert!(PageToken::parse(&token, other_root).is_err());
        }
    }
}
