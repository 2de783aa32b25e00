//! A result's outputs as lines of text, for tables.

use cask_index::{Digest, DigestFunction};
use cask_proto::{
    digest::{FunctionRule, to_wire},
    reapi as re,
};

use crate::fake::{FakeServer, digest_of};

/// One line an output: `file a = content`, `file a* = content` when executable, `link a -> b`, `dir a { ... }`.
pub(crate) fn render(server: &FakeServer, result: &re::ActionResult) -> Vec<String> {
    let mut lines = Vec::new();
    for file in &result.output_files {
        lines.push(format!("file {}", file_text(server, &file.path, file.is_executable, file.digest.as_ref())));
    }
    for directory in &result.output_directories {
        let text = match &directory.tree_digest {
            Some(tree) => {
                let tree = Tree::checked(server, tree, directory.is_topologically_sorted);
                if let Some(root) = &directory.root_directory_digest {
                    assert_eq!(*root, to_wire(&tree.root), "the root of the tree");
                }
                tree.text(server, &tree.root)
            }
            None => below(server, directory.root_directory_digest.as_ref().expect("one of them")),
        };
        let kind = match (&directory.tree_digest, &directory.root_directory_digest) {
            (Some(_), Some(_)) => "both",
            (Some(_), None) => "dir",
            _ => "directories",
        };
        lines.push(format!("{kind} {} {text}", directory.path));
    }
    for (kind, symlinks) in [
        ("link", &result.output_symlinks),
        ("file link", &result.output_file_symlinks),
        ("dir link", &result.output_directory_symlinks),
    ] {
        lines.extend(symlinks.iter().map(|symlink| format!("{kind} {} -> {}", symlink.path, symlink.target)));
    }
    lines
}

fn file_text(server: &FakeServer, name: &str, is_executable: bool, digest: Option<&re::Digest>) -> String {
    let content = server.blob(digest.expect("set"));
    format!("{name}{} = {}", if is_executable { "*" } else { "" }, String::from_utf8_lossy(&content))
}

fn directory_text(server: &FakeServer, directory: &re::Directory, child: impl Fn(&re::Digest) -> String) -> String {
    let mut parts = Vec::new();
    for file in &directory.files {
        parts.push(file_text(server, &file.name, file.is_executable, file.digest.as_ref()));
    }
    for node in &directory.directories {
        parts.push(format!("{}/ {}", node.name, child(node.digest.as_ref().expect("set"))));
    }
    parts.extend(directory.symlinks.iter().map(|node| format!("{} -> {}", node.name, node.target)));
    if parts.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", parts.join(", ")) }
}

/// From Directory messages in the cache.
fn below(server: &FakeServer, digest: &re::Digest) -> String {
    directory_text(server, &server.message(digest), |child| below(server, child))
}

struct Tree {
    root: Digest,
    directories: Vec<(Digest, re::Directory)>,
}

impl Tree {
    /// Holds the encoding to what `is_topologically_sorted` promises.
    fn checked(server: &FakeServer, digest: &re::Digest, is_sorted: bool) -> Self {
        assert!(is_sorted);
        let mut bytes = &server.blob(digest)[..];
        let mut directories: Vec<(Digest, re::Directory)> = Vec::new();
        while let Some((tag, rest)) = bytes.split_first() {
            assert_eq!(*tag, if directories.is_empty() { 0x0a } else { 0x12 }, "the root, then its children");
            let mut rest = rest;
            let length = prost::encoding::decode_varint(&mut rest).expect("a length") as usize;
            let (encoded, after) = rest.split_at(length);
            let digest = digest_of(encoded);
            let directory: re::Directory = prost::Message::decode(encoded).expect("a directory");
            assert!(directories.iter().all(|(other, _)| *other != digest), "each once");
            if !directories.is_empty() {
                let is_led_to = |(_, parent): &(Digest, re::Directory)| {
                    parent.directories.iter().any(|node| node.digest.as_ref() == Some(&to_wire(&digest)))
                };
                assert!(directories.iter().any(is_led_to), "parents first");
            }
            directories.push((digest, directory));
            bytes = after;
        }
        // No parent behind a child.
        for (index, (_, directory)) in directories.iter().enumerate() {
            for node in &directory.directories {
                let child = FunctionRule::Named(DigestFunction::Sha256)
                    .from_wire(node.digest.as_ref().expect("set"))
                    .expect("a digest");
                let at = directories.iter().position(|(digest, _)| *digest == child).expect("all that is reachable");
                assert!(at > index, "parents first");
            }
        }
        Self { root: directories[0].0, directories }
    }

    fn text(&self, server: &FakeServer, digest: &Digest) -> String {
        let (_, directory) = self.directories.iter().find(|(other, _)| other == digest).expect("in the tree");
        directory_text(server, directory, |child| {
            let child = FunctionRule::Named(DigestFunction::Sha256).from_wire(child).expect("a digest");
            self.text(server, &child)
        })
    }
}
