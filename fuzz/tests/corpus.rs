//! Each target over its seeds, and over a fixed stream of mutations of them: what a fuzzer would find in its first
//! seconds is found by an ordinary test.

use std::{fs, path::Path};

/// A run of the engine takes a thousand times as long as a parser.
fn mutation_count(name: &str) -> usize {
    if name == "engine_operations" { 2000 } else { 50_000 }
}

const INPUT_BYTES_MAX: usize = 4096;

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % bound
    }

    /// One small change, of the kinds that parsers stumble over.
    fn mutate(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below(input.len() - at + 1).min(80);
        match self.below(7) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.below(256) as u8,
            2 => input.insert(at, *b"/.-0a\0"[..].get(self.below(6)).expect("six bytes")),
            3 => drop(input.drain(at..end)),
            4 => {
                let copied = input[at..end].to_vec();
                input.splice(at..at, copied);
            }
            5 => input.truncate(at),
            _ => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                input.splice(at..end, other[from..].iter().copied());
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
}

fn check(name: &str, target: cask_fuzz::Target) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut paths: Vec<_> =
        fs::read_dir(&folder).expect("the seeds").map(|entry| entry.expect("a seed").path()).collect();
    paths.sort();
    let seeds: Vec<_> = paths.iter().map(|path| fs::read(path).expect("a seed")).collect();
    assert!(!seeds.is_empty(), "{name} has no seeds");

    let mut accepted_count = seeds.iter().filter(|seed| target(seed)).count();
    assert!(accepted_count > 0, "none of {name}'s seeds is accepted");
    let mut random = Random(0xca5c);
    let mut input = Vec::new();
    let mutation_count = mutation_count(name);
    for step in 0..mutation_count {
        // A few changes on top of each other, then from a seed again: most inputs stay close to well-formed ones.
        if step % 4 == 0 {
            input.clone_from(&seeds[random.below(seeds.len())]);
        }
        random.mutate(&mut input, &seeds);
        accepted_count += usize::from(target(&input));
    }
    // Both outcomes have to occur often, or the stream tests only one side of the parser.
    let share = accepted_count as f64 / mutation_count as f64;
    assert!((0.005..0.995).contains(&share), "{name} accepts {share} of the inputs");
}

#[test]
fn every_target_holds_over_its_seeds_and_their_mutations() {
    for (name, target) in cask_fuzz::TARGETS {
        check(name, target);
    }
}

/// A target without a shell is never fuzzed.
#[test]
fn every_target_has_a_shell() {
    let manifest = include_str!("../Cargo.toml");
    for (name, _) in cask_fuzz::TARGETS {
        let path = format!("fuzz_targets/{name}.rs");
        let shell = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)).expect("a shell");
        assert!(shell.contains(&format!("cask_fuzz::{name}(data)")), "{path}");
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{path} is in no [[bin]]");
    }
}
