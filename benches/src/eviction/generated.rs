//! A made-up company: a monorepo, its commits, its developers and its CI, and what their builds ask of a cache.
//!
//! | what | how it is drawn |
//! |---|---|
//! | targets | `targets` in a graph: 1 to 4 dependencies each, 85 % of them close by (geometric, mean 60), the rest anywhere below |
//! | projects | a top-level target each, with up to 700 targets it is made of |
//! | popularity | Zipf over projects, exponent 0.9; every day 5 % of the ranks swap places |
//! | outputs | 1 or more (geometric, mean 1.5), log-normal, median 13 KB, sigma 1.5: 40 KB on average |
//! | toolchains | 40 files, log-normal, median 1 MB; each build probes 20 of them |
//! | commits | one target each, felt by its dependents (each edge with probability 0.7, at most 1,000); an affected action's outputs change with probability 0.6 (early cutoff) |
//! | CI, trunk | each commit: what it affects, and one popular project whole; once a day the 60 most popular projects whole |
//! | CI, branches | before each commit 1 to 3 runs of a version that is never seen again |
//! | developers | each has a project (changed now and then) and a revision it was synced to (moved every day or so); a build asks for what a local edit, never seen elsewhere, affects; every fourth builds the whole project from clean |
//! | inputs | before an action that nobody ran yet, `FindMissing` over its source and its dependencies' outputs |
//!
//! Sizes are divided by `scale` so that a replay is quick; everything a cache decides by stays in proportion.

use std::collections::HashMap;

use super::chance::{Chance, Zipf};
use super::trace::{Action, Event, Object, Trace};

/// How large the company is.
#[derive(Clone, Copy, Debug)]
pub struct Company {
    /// Targets of the monorepo.
    pub targets: usize,
    /// Top-level targets that people build.
    pub projects: usize,
    /// People.
    pub developers: usize,
    /// Days that pass.
    pub days: u64,
    /// Commits a day.
    pub commits_a_day: usize,
    /// Builds of a developer a day.
    pub builds_a_day: usize,
    /// Sizes are divided by this.
    pub scale: u32,
    /// For everything.
    pub seed: u64,
}

impl Company {
    /// About three million requests over ten days; 15 GB before scaling.
    pub const MIDDLING: Self = Self {
        targets: 12_000,
        projects: 300,
        developers: 80,
        days: 10,
        commits_a_day: 120,
        builds_a_day: 8,
        scale: 16,
        seed: 1,
    };
}

const DAY_MS: u64 = 24 * 3600 * 1000;
const PROJECT_TARGETS_MAX: usize = 700;
const AFFECTED_MAX: usize = 1000;
const TOOL_COUNT: usize = 40;
const TOOLS_A_BUILD: usize = 20;
const TRUNK: u32 = 0;

struct Developer {
    project: usize,
    base: u32,
}

struct Builder {
    company: Company,
    chance: Chance,
    dependencies: Vec<Vec<u32>>,
    dependents: Vec<Vec<u32>>,
    projects: Vec<Vec<u32>>,
    /// Of each target: commits that changed its action, and its outputs.
    changes: Vec<Vec<u32>>,
    output_changes: Vec<Vec<u32>>,
    /// Sizes of each target's outputs.
    output_bytes: Vec<Vec<u32>>,
    branch_count: u32,
    objects: HashMap<(u32, u32, u32, u32), Object>,
    actions: HashMap<(u32, u32, u32), u32>,
    tools: Vec<Object>,
    trace: Trace,
}

/// The source of a target, in the place of an output's number.
const SOURCE: u32 = 1000;
const MESSAGE: u32 = 1001;
const RECORD: u32 = 1002;

/// Draws the company's trace.
pub fn generate(company: Company) -> Trace {
    let mut builder = Builder::new(company);
    let popularity = Zipf::new(company.projects, 0.9);
    let mut ranks: Vec<usize> = (0..company.projects).collect();
    let mut developers: Vec<Developer> = (0..company.developers)
        .map(|_| Developer { project: ranks[popularity.draw(&mut builder.chance)], base: 0 })
        .collect();
    let mut commit = 0;
    for day in 0..company.days {
        for _ in 0..company.projects / 20 {
            let (one, other) = (builder.chance.below(company.projects), builder.chance.below(company.projects));
            ranks.swap(one, other);
        }
        // What happens on a day, in order of time: commits around the clock, developers from nine to seven.
        let mut agenda: Vec<(u64, Option<usize>)> = Vec::new();
        for _ in 0..company.commits_a_day {
            agenda.push(((builder.chance.share() * DAY_MS as f64) as u64, None));
        }
        for developer in 0..company.developers {
            for _ in 0..company.builds_a_day {
                let hour = 9.0 + 10.0 * builder.chance.share();
                agenda.push(((hour * 3_600_000.0) as u64, Some(developer)));
            }
        }
        agenda.sort_unstable();
        let mut nightly = false;
        for (in_day_ms, who) in agenda {
            let at_ms = day * DAY_MS + in_day_ms;
            if !nightly && in_day_ms > 2 * 3_600_000 {
                nightly = true;
                for project in &ranks[..company.projects / 5] {
                    builder.build(at_ms, &builder.projects[*project].clone(), commit, &HashMap::new());
                }
            }
            match who {
                None => {
                    commit += 1;
                    let project = ranks[popularity.draw(&mut builder.chance)];
                    builder.commit(at_ms, commit, project);
                }
                Some(number) => {
                    let developer = &mut developers[number];
                    if builder.chance.share() < 0.02 {
                        developer.project = ranks[popularity.draw(&mut builder.chance)];
                    }
                    let mut whole = builder.chance.share() < 0.25;
                    if builder.chance.share() < 0.1 {
                        developer.base = commit;
                        whole = true;
                    }
                    builder.developer_builds(at_ms, developer, whole);
                }
            }
        }
    }
    let mut trace = builder.trace;
    trace.events.sort_by_key(|(at_ms, _)| *at_ms);
    trace
}

impl Builder {
    fn new(company: Company) -> Self {
        let mut chance = Chance::new(company.seed);
        let mut dependencies: Vec<Vec<u32>> = vec![Vec::new()];
        for target in 1..company.targets {
            let count = 1 + chance.below(4);
            let mut deps: Vec<u32> = (0..count)
                .map(|_| {
                    let near = chance.share() < 0.85;
                    let back = if near { chance.geometric(60.0).min(target) } else { 1 + chance.below(target) };
                    (target - back) as u32
                })
                .collect();
            deps.sort_unstable();
            deps.dedup();
            dependencies.push(deps);
        }
        let mut dependents = vec![Vec::new(); company.targets];
        for (target, deps) in dependencies.iter().enumerate() {
            for dep in deps {
                dependents[*dep as usize].push(target as u32);
            }
        }
        let output_bytes = (0..company.targets)
            .map(|_| {
                let count = chance.geometric(1.5).min(8);
                (0..count).map(|_| chance.log_normal(13_000.0, 1.5).clamp(200.0, 5e7) as u32).collect()
            })
            .collect();
        let mut builder = Self {
            company,
            chance,
            dependencies,
            dependents,
            projects: Vec::new(),
            changes: vec![Vec::new(); company.targets],
            output_changes: vec![Vec::new(); company.targets],
            output_bytes,
            branch_count: 0,
            objects: HashMap::new(),
            actions: HashMap::new(),
            tools: Vec::new(),
            trace: Trace::default(),
        };
        for _ in 0..company.projects {
            let top = company.targets / 3 + builder.chance.below(company.targets * 2 / 3);
            let whole = builder.reachable(top as u32, PROJECT_TARGETS_MAX);
            builder.projects.push(whole);
        }
        for _ in 0..TOOL_COUNT {
            let bytes = builder.chance.log_normal(1e6, 1.0).min(2e7) as u32;
            let object = builder.new_object(bytes);
            builder.tools.push(object);
        }
        builder
    }

    fn new_object(&mut self, bytes: u32) -> Object {
        self.trace.sizes_bytes.push((bytes / self.company.scale).max(1));
        self.trace.sizes_bytes.len() as u32 - 1
    }

    /// What a target is made of, dependencies first.
    fn reachable(&self, top: u32, count_max: usize) -> Vec<u32> {
        let (mut found, mut next) = (vec![top], 0);
        let mut known = vec![false; self.company.targets];
        known[top as usize] = true;
        while next < found.len() {
            for dep in &self.dependencies[found[next] as usize] {
                if found.len() < count_max && !std::mem::replace(&mut known[*dep as usize], true) {
                    found.push(*dep);
                }
            }
            next += 1;
        }
        found.sort_unstable();
        found
    }

    /// What feels a change of a target.
    fn affected(&mut self, target: u32) -> Vec<u32> {
        let (mut found, mut next) = (vec![target], 0);
        let mut known = std::collections::HashSet::from([target]);
        while next < found.len() && found.len() < AFFECTED_MAX {
            for dependent in self.dependents[found[next] as usize].clone() {
                if self.chance.share() < 0.7 && known.insert(dependent) {
                    found.push(dependent);
                }
            }
            next += 1;
        }
        found.sort_unstable();
        found
    }

    /// A target that somebody edits: of a project, nearer to its top than to the roots of everything.
    fn edited_target(&mut self, project: usize) -> u32 {
        let targets = &self.projects[project];
        let back = self.chance.geometric(targets.len() as f64 / 6.0).min(targets.len());
        targets[targets.len() - back]
    }

    fn commit(&mut self, at_ms: u64, commit: u32, project: usize) {
        let edited = self.edited_target(project);
        for _ in 0..=self.chance.below(3) {
            let branch = self.edit(edited);
            let targets: Vec<u32> = branch.keys().copied().collect();
            self.build(at_ms, &sorted(targets), commit - 1, &branch);
        }
        let affected = self.affected(edited);
        for target in &affected {
            self.changes[*target as usize].push(commit);
            if self.chance.share() < 0.6 || *target == edited {
                self.output_changes[*target as usize].push(commit);
            }
        }
        self.build(at_ms + 60_000, &affected, commit, &HashMap::new());
        let whole = self.projects[project].clone();
        self.build(at_ms + 120_000, &whole, commit, &HashMap::new());
    }

    /// A version of a target and what it affects that nobody else has: the branch's number by target, and whether the
    /// outputs differ.
    fn edit(&mut self, target: u32) -> HashMap<u32, (u32, bool)> {
        self.branch_count += 1;
        let number = self.branch_count;
        let affected = self.affected(target);
        affected.into_iter().map(|other| (other, (number, other == target || self.chance.share() < 0.6))).collect()
    }

    fn developer_builds(&mut self, at_ms: u64, developer: &Developer, whole: bool) {
        let project = self.projects[developer.project].clone();
        let edited = self.edited_target(developer.project);
        let edit = self.edit(edited);
        let targets: Vec<u32> =
            if whole { project } else { project.into_iter().filter(|target| edit.contains_key(target)).collect() };
        self.build(at_ms, &targets, developer.base, &edit);
    }

    fn object(&mut self, target: u32, version: u32, branch: u32, part: u32, bytes: u32) -> Object {
        if let Some(object) = self.objects.get(&(target, version, branch, part)) {
            return *object;
        }
        let object = self.new_object(bytes);
        self.objects.insert((target, version, branch, part), object);
        object
    }

    fn outputs(&mut self, target: u32, base: u32, edit: &HashMap<u32, (u32, bool)>) -> Box<[Object]> {
        let version = self.output_changes[target as usize].partition_point(|commit| *commit <= base) as u32;
        let branch = edit.get(&target).filter(|(_, differs)| *differs).map_or(TRUNK, |(branch, _)| *branch);
        let sizes = self.output_bytes[target as usize].clone();
        (0..).zip(sizes).map(|(part, bytes)| self.object(target, version, branch, part, bytes)).collect()
    }

    fn build(&mut self, at_ms: u64, targets: &[u32], base: u32, edit: &HashMap<u32, (u32, bool)>) {
        let first_tool = self.chance.below(TOOL_COUNT - TOOLS_A_BUILD);
        let tools: Box<[Object]> = self.tools[first_tool..first_tool + TOOLS_A_BUILD].into();
        self.probe(at_ms, tools);
        for (position, target) in (0_u64..).zip(targets) {
            // A build goes through a few actions a second.
            let at_ms = at_ms + position * 200;
            let version = self.changes[*target as usize].partition_point(|commit| *commit <= base) as u32;
            let branch = edit.get(target).map_or(TRUNK, |(branch, _)| *branch);
            let number = match self.actions.get(&(*target, version, branch)) {
                Some(number) => *number,
                None => self.run_first(at_ms, *target, version, branch, base, edit),
            };
            self.trace.events.push((at_ms, Event::Action(number)));
        }
    }

    fn run_first(
        &mut self,
        at_ms: u64,
        target: u32,
        version: u32,
        branch: u32,
        base: u32,
        edit: &HashMap<u32, (u32, bool)>,
    ) -> u32 {
        let mut inputs = vec![self.object(target, version, branch, SOURCE, 6000)];
        for dependency in self.dependencies[target as usize].clone() {
            inputs.extend(self.outputs(dependency, base, edit));
        }
        self.probe(at_ms, inputs.into());
        let outputs = self.outputs(target, base, edit);
        let record_bytes = 400 + 40 * outputs.len() as u32;
        // Not divided by the scale: records of actions are small as they are.
        let message = self.object(target, version, branch, MESSAGE, 1500);
        let record = self.object(target, version, branch, RECORD, record_bytes * self.company.scale / 4);
        let number = self.trace.actions.len() as u32;
        self.trace.actions.push(Action { record, outputs, uploads: [message].into() });
        self.actions.insert((target, version, branch), number);
        number
    }

    fn probe(&mut self, at_ms: u64, blobs: Box<[Object]>) {
        self.trace.events.push((at_ms, Event::Probe(self.trace.batches.len() as u32)));
        self.trace.batches.push(blobs);
    }
}

fn sorted(mut targets: Vec<u32>) -> Vec<u32> {
    targets.sort_unstable();
    targets
}
