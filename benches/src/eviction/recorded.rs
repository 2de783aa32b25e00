//! A trace recorded from Bazel, replayed by several teams at once.
//!
//! The recording (see `benches/traces/README.md`) is one client's builds of one code base. A shared cache has many such:
//! each team replays the recording with blobs of its own, beginning at a time of its own, and a share of its actions is
//! everybody's (as common libraries are). A team is a CI, which builds every revision and every fifth from clean, and
//! developers, who build about every third revision, a while later, and mostly with a warm output base: they ask only for
//! the actions that were not in their build before.

use std::collections::HashSet;

use super::chance::Chance;
use super::trace::{Action, Event, Object, Trace};

/// The recording as it stands in the file.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    blob_bytes: Vec<u32>,
    /// Bytes of the message, bytes of the result, outputs.
    actions: Vec<(u32, u32, Vec<u32>)>,
    builds: Vec<Vec<u32>>,
}

/// How a recording is played.
#[derive(Clone, Copy, Debug)]
pub struct Teams {
    /// How many replay it.
    pub count: u32,
    /// A blob or action of the recording is everybody's with this probability.
    pub shared: f64,
    /// Developers of each, beside its CI.
    pub members: u32,
    /// Revisions of a team are so far apart.
    pub pause_ms: u64,
    /// Blobs' sizes are divided by this.
    pub scale: u32,
    /// For the interleaving.
    pub seed: u64,
}

impl Recording {
    /// Reads the format of `benches/traces/README.md`. `Err` names the line that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut recording = Self::default();
        for (number, line) in text.lines().enumerate() {
            let wrong = |_| format!("line {} is no number list: {line:.60}", number + 1);
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            let rest = if kind == "build" { rest.split_once(' ').map_or("", |(_, rest)| rest) } else { rest };
            match (number, kind) {
                (0, "cask") => continue,
                (0, _) => return Err("not a trace".to_owned()),
                _ => {}
            }
            let numbers: Vec<u32> =
                rest.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().map_err(wrong)?;
            match (kind, numbers.as_slice()) {
                ("blobs", sizes) => recording.blob_bytes.extend(sizes),
                ("action", [message, result, outputs @ ..]) => {
                    recording.actions.push((*message, *result, outputs.to_vec()));
                }
                ("build", _) => recording.builds.push(numbers),
                _ => return Err(format!("line {} is of no known kind: {line:.60}", number + 1)),
            }
        }
        let blobs_known = recording
            .actions
            .iter()
            .flat_map(|(_, _, outputs)| outputs)
            .all(|blob| (*blob as usize) < recording.blob_bytes.len());
        let actions_known =
            recording.builds.iter().flatten().all(|action| (*action as usize) < recording.actions.len());
        if blobs_known && actions_known { Ok(recording) } else { Err("a number has no definition".to_owned()) }
    }

    /// Builds in it.
    pub fn build_count(&self) -> usize {
        self.builds.len()
    }

    /// The trace of all teams together.
    pub fn played_by(&self, teams: Teams) -> Trace {
        let mut chance = Chance::new(teams.seed);
        let mut trace = Trace::default();
        // Objects of one copy: blobs, then for each action its message, its command and its record.
        let stride = (self.blob_bytes.len() + 3 * self.actions.len()) as u32;
        let shared: Vec<bool> = (0..self.actions.len()).map(|_| chance.share() < teams.shared).collect();
        // What an action of everybody's makes is everybody's, whoever else makes it too.
        let mut blob_shared = vec![false; self.blob_bytes.len()];
        for ((_, _, outputs), shared) in self.actions.iter().zip(&shared) {
            for blob in outputs {
                blob_shared[*blob as usize] |= shared;
            }
        }
        for team in 0..teams.count {
            trace.sizes_bytes.extend(self.blob_bytes.iter().map(|bytes| bytes / teams.scale + 1));
            let first_record = self.blob_bytes.len() as u32;
            for (number, (message, result, outputs)) in (0..).zip(&self.actions) {
                let copy = if shared[number as usize] { 0 } else { team };
                let own = first_record + 3 * number;
                // A command line is some times the message that points to it.
                trace.sizes_bytes.extend([*message, message * 8, *result + 24 * outputs.len() as u32]);
                let output = |blob: &u32| if blob_shared[*blob as usize] { *blob } else { team * stride + blob };
                let place = |object: u32| copy * stride + object;
                trace.actions.push(Action {
                    record: place(own + 2),
                    outputs: outputs.iter().map(output).collect(),
                    uploads: [place(own), place(own + 1)].into(),
                });
            }
        }
        self.interleave(teams, &mut chance, &mut trace);
        trace
    }

    fn interleave(&self, teams: Teams, chance: &mut Chance, trace: &mut Trace) {
        // Teams come and go: each is at work for a quarter of the time.
        let work_ms = teams.pause_ms * self.builds.len() as u64;
        let mut turns: Vec<(u64, u32, Vec<u32>)> = Vec::new();
        for team in 0..teams.count {
            let began_ms = (chance.share() * 3.0 * work_ms as f64) as u64;
            for member in 0..=teams.members {
                let mut before: HashSet<u32> = HashSet::new();
                for (number, build) in (0..).zip(&self.builds) {
                    let late = chance.share();
                    // The first member is CI: it builds everything, now and then from clean.
                    let takes_part = member == 0 || chance.share() < 0.3;
                    if !takes_part {
                        continue;
                    }
                    let clean = before.is_empty() || chance.share() < if member == 0 { 0.2 } else { 0.03 };
                    let asked = build.iter().filter(|action| clean || !before.contains(action)).copied().collect();
                    before = build.iter().copied().collect();
                    let lag_ms = if member == 0 { 0.0 } else { late * 8.0 * teams.pause_ms as f64 };
                    turns.push((began_ms + number * teams.pause_ms + lag_ms as u64, team, asked));
                }
            }
        }
        turns.sort_unstable();
        for (at_ms, team, actions) in turns {
            let first_action = team * self.actions.len() as u32;
            // A build of a thousand actions takes minutes.
            for (position, action) in (0..).zip(actions) {
                trace.events.push((at_ms + position * 100, Event::Action(first_action + action)));
            }
        }
        trace.events.sort_by_key(|(at_ms, _)| *at_ms);
    }
}

const _: () = assert!(size_of::<Object>() == size_of::<u32>());
