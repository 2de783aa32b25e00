//! Which isolated instance has which [`Namespace`]: a small file of the store, asked at start for each of them.
//!
//! ```text
//! cask-namespaces 1
//! 17 team/a
//! 203 team/b
//! crc32c 1a2b3c4d
//! ```
//! A number stays its name's for the life of the store, since records carry it. It is derived from the name (and moved on where
//! another name has it). The superblock says that the file is there, so that a store without it is not taken for one that never had it.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use cask_index::Namespace;

use crate::core::Core;
use crate::disk::Disk;
use crate::engine::SUPERBLOCK_NAME;
use crate::error::NamespaceError;
use crate::format::superblock::Superblock;

pub(crate) const NAMESPACES_NAME: &str = "namespaces";

const HEAD: &str = "cask-namespaces 1";

impl Core {
    /// Whether some name has a number.
    pub(crate) fn has_namespaces(&self) -> bool {
        self.has_namespaces.load(Ordering::Relaxed)
    }

    /// The namespace of a name, entered in the file if it is new.
    pub(crate) fn namespace(&self, name: &str) -> Result<Namespace, NamespaceError> {
        let namespace = of_name(&*self.disk, name, self.has_namespaces())?;
        if !self.has_namespaces.swap(true, Ordering::Relaxed) {
            // After the file: a crash in between leaves a file that nothing speaks of, which is believed.
            let superblock = Superblock { clean: false, has_namespaces: true, ..self.superblock.clone() };
            self.disk.replace_small(SUPERBLOCK_NAME, &superblock.encode())?;
        }
        Ok(namespace)
    }
}

fn of_name(disk: &dyn Disk, name: &str, is_expected: bool) -> Result<Namespace, NamespaceError> {
    if name.contains('\n') {
        return Err(NamespaceError::Name);
    }
    let mut assigned = match disk.read_small(NAMESPACES_NAME)? {
        Some(bytes) => decode(&bytes).ok_or(NamespaceError::Damaged)?,
        None if is_expected => return Err(NamespaceError::Damaged),
        None => Vec::new(),
    };
    if let Some((number, _)) = assigned.iter().find(|(_, known)| known == name) {
        return Ok(Namespace::from_number(*number));
    }
    let first = xxhash_rust::xxh3::xxh3_64(name.as_bytes()) % u64::from(u8::MAX);
    let number = (0..u64::from(u8::MAX))
        .map(|step| 1 + ((first + step) % u64::from(u8::MAX)) as u8)
        .find(|number| assigned.iter().all(|(taken, _)| taken != number))
        .ok_or(NamespaceError::TooMany)?;
    assigned.push((number, name.to_owned()));
    disk.replace_small(NAMESPACES_NAME, encode(&assigned).as_bytes())?;
    Ok(Namespace::from_number(number))
}

fn encode(assigned: &[(u8, String)]) -> String {
    let mut text = format!("{HEAD}\n");
    for (number, name) in assigned {
        writeln!(text, "{number} {name}").expect("writing to a String cannot fail");
    }
    let crc = crc32c::crc32c(text.as_bytes());
    writeln!(text, "crc32c {crc:08x}").expect("writing to a String cannot fail");
    text
}

/// `None`: not what [`encode`] makes, in whichever way.
fn decode(bytes: &[u8]) -> Option<Vec<(u8, String)>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let lines = text.strip_prefix(HEAD)?.strip_prefix('\n')?.lines();
    let assigned = lines
        .take_while(|line| !line.starts_with("crc32c "))
        .map(|line| {
            let (number, name) = line.split_once(' ')?;
            Some((number.parse().ok().filter(|number| *number > 0)?, name.to_owned()))
        })
        .collect::<Option<Vec<(u8, String)>>>()?;
    (encode(&assigned) == text).then_some(assigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let assigned = vec![(17, "team/a".to_owned()), (203, String::new()), (1, "with space".to_owned())];
        let text = encode(&assigned);
        assert_eq!(decode(text.as_bytes()), Some(assigned));
        for cut in 0..text.len() {
            assert_eq!(decode(&text.as_bytes()[..cut]), None, "cut at {cut}");
        }
        for position in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[position] ^= 1;
            assert_eq!(decode(&bytes), None, "a bit of byte {position}");
        }
    }
}
