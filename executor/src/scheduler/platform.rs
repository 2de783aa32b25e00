//! Which worker can run what: the properties that actions ask for against those that workers have.
//!
//! What actions ask for is kept once a *kind* (all tasks with the same properties), what workers have once a *shape* (all
//! workers with the same platforms), and which shapes fit which kinds is worked out when one of them is first seen. So a task
//! costs a number, and a match costs nothing. Work here is in the number of kinds and shapes that differ: a handful.
//!
//! An action fits a worker if one of the worker's platforms has each (name, value) that the action asks for, byte for byte.
//! A name with several values asks for all of them, as the platform lexicon wants it of `ISA`; `OSFamily` has one value, so two
//! different ones fit nothing. A worker's value `*` is every value. An action that asks for nothing fits every worker.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cask_proto::reapi::{self, platform::Property};

use super::slots::Slots;

/// Kinds without tasks that are remembered, so that a queue that is mostly empty does not work them out over and over.
const IDLE_KINDS_MAX: usize = 64;

/// A worker's value that has every value.
const ANY: &str = "*";

/// Properties of an action: sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Requirements(Box<[(String, String)]>);

impl Requirements {
    pub(super) fn of(platform: reapi::Platform) -> Self {
        Self(canonical(platform).into_boxed_slice())
    }

    fn to_wire(&self) -> reapi::Platform {
        to_wire(&self.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if nothing could ever have all of them.
    fn is_contradictory(&self) -> bool {
        self.0.iter().filter(|(name, _)| name == "OSFamily").count() > 1
    }
}

impl fmt::Display for Requirements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={value}", if position > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

fn to_wire(properties: &[(String, String)]) -> reapi::Platform {
    let property = |(name, value): &(String, String)| Property { name: name.clone(), value: value.clone() };
    reapi::Platform { properties: properties.iter().map(property).collect() }
}

fn canonical(platform: reapi::Platform) -> Vec<(String, String)> {
    let mut properties: Vec<_> = platform.properties.into_iter().map(|it| (it.name, it.value)).collect();
    properties.sort();
    properties.dedup();
    properties
}

/// Platforms of a worker: sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Offer(Vec<Vec<(String, String)>>);

impl Offer {
    pub(super) fn of(platforms: &[reapi::Platform]) -> Self {
        let mut platforms: Vec<_> = platforms.iter().cloned().map(canonical).collect();
        platforms.sort();
        platforms.dedup();
        Self(platforms)
    }

    pub(super) fn to_wire(&self) -> Vec<reapi::Platform> {
        self.0.iter().map(|platform| to_wire(platform)).collect()
    }

    pub(super) fn fits(&self, requirements: &Requirements) -> bool {
        if requirements.is_empty() {
            return true;
        }
        let has = |platform: &[(String, String)], wanted: &(String, String)| {
            let lists = |name: &str, value: &str| {
                platform.binary_search_by(|(n, v)| (n.as_str(), v.as_str()).cmp(&(name, value))).is_ok()
            };
            lists(&wanted.0, &wanted.1) || lists(&wanted.0, ANY)
        };
        !requirements.is_contradictory()
            && self.0.iter().any(|platform| requirements.0.iter().all(|wanted| has(platform, wanted)))
    }
}

/// All tasks of an instance that ask for the same properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct KindIndex(pub(super) u32);

/// All workers of an instance that have the same platforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ShapeIndex(pub(super) u32);

#[derive(Debug)]
struct Kind {
    requirements: Arc<Requirements>,
    /// Unfinished tasks.
    tasks: usize,
    is_listed_idle: bool,
    /// That fit.
    shapes: BTreeSet<ShapeIndex>,
    /// Those of them that have present workers.
    present: usize,
    /// Since when there are none.
    deserted_at: Option<Duration>,
    /// That nobody can run its tasks was said.
    is_complained_of: bool,
}

#[derive(Debug)]
struct Shape {
    offer: Arc<Offer>,
    workers: usize,
    /// Of those, the ones that take tasks or may come back to.
    present: usize,
    /// That fit.
    kinds: BTreeSet<KindIndex>,
}

/// The kinds and shapes of an instance.
#[derive(Debug)]
pub(super) struct Platforms {
    kinds: Slots<Kind>,
    kind_of: HashMap<Arc<Requirements>, KindIndex>,
    idle: VecDeque<KindIndex>,
    shapes: Slots<Shape>,
    shape_of: HashMap<Arc<Offer>, ShapeIndex>,
}

impl Platforms {
    pub(super) fn new() -> Self {
        Self {
            kinds: Slots::new(),
            kind_of: HashMap::new(),
            idle: VecDeque::new(),
            shapes: Slots::new(),
            shape_of: HashMap::new(),
        }
    }

    /// Nobody asks for anything and nobody has anything.
    pub(super) fn is_unused(&self) -> bool {
        self.shapes.len() == 0 && self.kinds.iter().all(|(_, kind)| kind.tasks == 0)
    }

    /// Counts a task to its kind.
    pub(super) fn add_task(&mut self, now: Duration, requirements: Requirements) -> KindIndex {
        if let Some(kind) = self.kind_of.get(&requirements) {
            self.kinds.get_mut(kind.0).tasks += 1;
            return *kind;
        }
        let requirements = Arc::new(requirements);
        let fitting: Vec<_> = self.shapes.iter().filter(|(_, shape)| shape.offer.fits(&requirements)).collect();
        let present = fitting.iter().filter(|(_, shape)| shape.present > 0).count();
        let shapes: BTreeSet<_> = fitting.iter().map(|(shape, _)| ShapeIndex(*shape)).collect();
        let kind = Kind {
            requirements: requirements.clone(),
            tasks: 1,
            is_listed_idle: false,
            shapes: shapes.clone(),
            present,
            deserted_at: (present == 0).then_some(now),
            is_complained_of: false,
        };
        let kind = KindIndex(self.kinds.insert(kind));
        for shape in shapes {
            self.shapes.get_mut(shape.0).kinds.insert(kind);
        }
        self.kind_of.insert(requirements, kind);
        kind
    }

    /// The task of a kind ended. Returns a kind that is forgotten now, if there is one.
    pub(super) fn remove_task(&mut self, index: KindIndex) -> Option<KindIndex> {
        let kind = self.kinds.get_mut(index.0);
        kind.tasks -= 1;
        if kind.tasks > 0 || std::mem::replace(&mut kind.is_listed_idle, true) {
            return None;
        }
        self.idle.push_back(index);
        if self.idle.len() <= IDLE_KINDS_MAX {
            return None;
        }
        let oldest = self.idle.pop_front().expect("it is longer than that");
        let kind = self.kinds.get_mut(oldest.0);
        kind.is_listed_idle = false;
        if kind.tasks > 0 {
            return None;
        }
        let kind = self.kinds.remove(oldest.0);
        self.kind_of.remove(&kind.requirements);
        for shape in kind.shapes {
            self.shapes.get_mut(shape.0).kinds.remove(&oldest);
        }
        Some(oldest)
    }

    /// Counts a worker to its shape; not present yet.
    pub(super) fn add_worker(&mut self, offer: Offer) -> ShapeIndex {
        if let Some(shape) = self.shape_of.get(&offer) {
            self.shapes.get_mut(shape.0).workers += 1;
            return *shape;
        }
        let fitting = self.kinds.iter().filter(|(_, kind)| offer.fits(&kind.requirements));
        let kinds: BTreeSet<_> = fitting.map(|(kind, _)| KindIndex(kind)).collect();
        let offer = Arc::new(offer);
        let shape = Shape { offer: offer.clone(), workers: 1, present: 0, kinds: kinds.clone() };
        let shape = ShapeIndex(self.shapes.insert(shape));
        for kind in kinds {
            self.kinds.get_mut(kind.0).shapes.insert(shape);
        }
        self.shape_of.insert(offer, shape);
        shape
    }

    /// A worker, which is not present any more, is gone. Returns true if that was the last of its shape, which is forgotten.
    pub(super) fn remove_worker(&mut self, index: ShapeIndex) -> bool {
        let shape = self.shapes.get_mut(index.0);
        shape.workers -= 1;
        if shape.workers > 0 {
            return false;
        }
        let shape = self.shapes.remove(index.0);
        assert_eq!(shape.present, 0, "those present are counted in");
        self.shape_of.remove(&shape.offer);
        for kind in shape.kinds {
            self.kinds.get_mut(kind.0).shapes.remove(&index);
        }
        true
    }

    /// One more worker of a shape takes tasks, or one less. Returns the kinds that no worker is there for from now on.
    pub(super) fn set_present(&mut self, now: Duration, index: ShapeIndex, is_present: bool) -> Vec<KindIndex> {
        let shape = self.shapes.get_mut(index.0);
        shape.present = if is_present { shape.present + 1 } else { shape.present - 1 };
        let mut deserted = Vec::new();
        if shape.present != usize::from(is_present) {
            return deserted; // Others of the shape are there before and after.
        }
        for index in &shape.kinds {
            let kind = self.kinds.get_mut(index.0);
            kind.present = if is_present { kind.present + 1 } else { kind.present - 1 };
            kind.deserted_at = (kind.present == 0).then_some(now);
            if kind.present == 0 {
                deserted.push(*index);
            }
        }
        deserted
    }

    /// Since when no worker is there, or may come back, that could run tasks of the kind; `None` while one is, and for a kind
    /// that is forgotten.
    pub(super) fn deserted_at(&self, kind: KindIndex) -> Option<Duration> {
        self.kinds.find(kind.0)?.deserted_at
    }

    /// True once a kind, if no worker is there that could run its tasks.
    pub(super) fn is_to_be_complained_of(&mut self, kind: KindIndex) -> bool {
        let kind = self.kinds.get_mut(kind.0);
        kind.deserted_at.is_some() && !std::mem::replace(&mut kind.is_complained_of, true)
    }

    pub(super) fn requirements(&self, kind: KindIndex) -> &Requirements {
        &self.kinds.get(kind.0).requirements
    }

    pub(super) fn platform(&self, kind: KindIndex) -> reapi::Platform {
        self.requirements(kind).to_wire()
    }

    pub(super) fn offer(&self, shape: ShapeIndex) -> &Offer {
        &self.shapes.get(shape.0).offer
    }

    pub(super) fn fits(&self, shape: ShapeIndex, kind: KindIndex) -> bool {
        self.shapes.get(shape.0).kinds.contains(&kind)
    }

    pub(super) fn shapes_of(&self, kind: KindIndex) -> impl Iterator<Item = ShapeIndex> {
        self.kinds.get(kind.0).shapes.iter().copied()
    }

    pub(super) fn kinds_of(&self, shape: ShapeIndex) -> impl Iterator<Item = KindIndex> {
        self.shapes.get(shape.0).kinds.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(properties: &[&str]) -> reapi::Platform {
        let property = |text: &&str| {
            let (name, value) = text.split_once('=').expect("name=value");
            Property { name: name.to_owned(), value: value.to_owned() }
        };
        reapi::Platform { properties: properties.iter().map(property).collect() }
    }

    #[test]
    fn a_worker_fits_that_has_all_that_is_asked_for_on_one_platform() {
        /// What is asked for, what is offered, whether it fits.
        type Case<'a> = (&'a [&'a str], &'a [&'a [&'a str]], bool);
        let linux: &[&str] = &["OSFamily=linux", "ISA=x86-64", "ISA=avx2"];
        let images: &[&str] = &["OSFamily=linux", "container-image=*"];
        let cases: &[Case<'_>] = &[
            (&[], &[], true),
            (&[], &[linux], true),
            (&["OSFamily=linux"], &[], false),
            (&["OSFamily=linux"], &[linux], true),
            // Byte for byte.
            (&["OSFamily=Linux"], &[linux], false),
            (&["osfamily=linux"], &[linux], false),
            (&["OSFamily="], &[linux], false),
            // A name that nobody declared is not ignored.
            (&["OSFamily=linux", "pool=large"], &[linux], false),
            // Several values of a name are all asked for.
            (&["ISA=avx2", "ISA=x86-64"], &[linux], true),
            (&["ISA=avx512", "ISA=x86-64"], &[linux], false),
            (&["OSFamily=linux", "OSFamily=windows"], &[&["OSFamily=linux", "OSFamily=windows"]], false),
            (&["OSFamily=linux", "OSFamily=windows"], &[&["OSFamily=*"]], false),
            // Order and repetition do not matter.
            (&["ISA=x86-64", "OSFamily=linux", "ISA=x86-64", "OSFamily=linux"], &[linux], true),
            (&["OSFamily=linux"], &[&["OSFamily=linux", "OSFamily=linux"]], true),
            // `*` is every value of its name on a worker, and a value like others in an action.
            (&["OSFamily=linux", "container-image=docker://busybox"], &[images], true),
            (&["container-image="], &[images], true),
            (&["network=on"], &[images], false),
            (&["OSFamily=*"], &[linux], false),
            (&["container-image=*"], &[images], true),
            // One platform has it all, not two together.
            (&["ISA=x86-64", "container-image=a"], &[linux, images], false),
            (&["OSFamily=linux", "container-image=a"], &[linux, images], true),
        ];
        for (asked, offered, fits) in cases {
            let platforms: Vec<_> = offered.iter().map(|it| platform(it)).collect();
            let requirements = Requirements::of(platform(asked));
            assert_eq!(Offer::of(&platforms).fits(&requirements), *fits, "{asked:?} on {offered:?}");
        }
    }

    #[test]
    fn a_kind_that_nobody_can_run_is_complained_of_once_and_others_never() {
        let now = Duration::from_secs(5);
        let mut platforms = Platforms::new();
        let shape = platforms.add_worker(Offer::of(&[platform(&["OSFamily=linux"])]));
        platforms.set_present(now, shape, true);
        let fits = platforms.add_task(now, Requirements::of(platform(&["OSFamily=linux"])));
        let slip = platforms.add_task(now, Requirements::of(platform(&["OSFamily=Linux"])));
        for is_first in [true, false] {
            assert!(!platforms.is_to_be_complained_of(fits));
            assert_eq!(platforms.is_to_be_complained_of(slip), is_first);
        }
        platforms.set_present(now, shape, false);
        assert!(platforms.is_to_be_complained_of(fits), "nobody is there any more");
    }

    #[test]
    fn kinds_and_shapes_are_kept_once_and_forgotten_after_their_last() {
        let now = Duration::from_secs(5);
        let requirements = |number: u32| Requirements::of(platform(&["OSFamily=linux", &format!("n={number}")]));
        let mut platforms = Platforms::new();
        let kind = platforms.add_task(now, requirements(0));
        assert_eq!(platforms.add_task(now, requirements(0)), kind);
        assert_eq!(platforms.deserted_at(kind), Some(now));
        let offer = || Offer::of(&[platform(&["n=*", "OSFamily=linux"])]);
        let shape = platforms.add_worker(offer());
        assert_eq!(platforms.add_worker(offer()), shape);
        assert!(platforms.fits(shape, kind));
        assert_eq!(platforms.set_present(now, shape, true), []);
        assert_eq!(platforms.set_present(now, shape, true), []);
        assert_eq!(platforms.deserted_at(kind), None);
        assert_eq!(platforms.set_present(now, shape, false), []);
        assert_eq!(platforms.set_present(now, shape, false), [kind]);
        assert_eq!((platforms.remove_worker(shape), platforms.remove_worker(shape)), (false, true));
        assert_eq!(platforms.shapes_of(kind).count(), 0);
        // Kinds without tasks are remembered for a while.
        assert_eq!((platforms.remove_task(kind), platforms.remove_task(kind)), (None, None));
        assert!(platforms.is_unused());
        let forgotten: Vec<_> = (1..=IDLE_KINDS_MAX as u32)
            .filter_map(|number| {
                let kind = platforms.add_task(now, requirements(number));
                platforms.remove_task(kind)
            })
            .collect();
        assert_eq!(forgotten, [kind]);
        assert_eq!(platforms.kinds.len(), IDLE_KINDS_MAX);
    }
}
