//! The waiting tasks of an instance, and which of them is next.
//!
//! Lower priority numbers first, strictly. Among equal ones it is the turn of the tool invocation that has the fewest running
//! tasks, then of what waited longest. That is how a build of 10,000 actions and one of 3 get on: after each assignment the large
//! one has more running than the small one. A task that several invocations wait for stands in the lane of each, and counts as
//! running for each.
//!
//! ```text
//! kind (a platform) ─┬─ lane (an invocation) ── tasks by (priority, order)
//!                    ├─ lane …                       │ head
//!                    ├─ turns: a key a lane, (priority, running, order) of its head, lowest next
//!                    └─ oldest: all tasks by order
//! ```
//!
//! Work is logarithmic in the tasks; a change of an invocation's running tasks touches its lanes, one a kind it waits in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::JournalSlot;
use super::platform::KindIndex;
use super::slots::Slots;

/// A tool invocation, as a number while it has unfinished tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InvocationIndex(pub(super) u32);

impl InvocationIndex {
    /// Of operations whose task is finished.
    pub(super) const NONE: InvocationIndex = InvocationIndex(u32::MAX);
}

/// A place in the order of arrival; lower waited longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order(pub(super) u64);

/// What a lane is chosen by: lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    priority: i32,
    running: u32,
    order: Order,
    /// Only to tell turns apart.
    invocation: InvocationIndex,
}

#[derive(Debug)]
struct Invocation {
    id: Arc<str>,
    /// Unfinished tasks it asked for.
    tasks: u32,
    running: u32,
    /// Kinds it has a lane in.
    waits_in: BTreeSet<KindIndex>,
}

#[derive(Debug)]
struct Lane {
    tasks: BTreeMap<(i32, Order), JournalSlot>,
    /// As it stands in the kind's turns.
    turn: Turn,
}

#[derive(Debug, Default)]
struct KindQueue {
    lanes: BTreeMap<InvocationIndex, Lane>,
    turns: BTreeSet<Turn>,
    oldest: BTreeMap<Order, JournalSlot>,
}

/// A task as the queue sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting<'a> {
    pub(super) slot: JournalSlot,
    pub(super) kind: KindIndex,
    pub(super) priority: i32,
    pub(super) order: Order,
    /// Not empty, each once.
    pub(super) invocations: &'a [InvocationIndex],
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    invocations: Slots<Invocation>,
    invocation_of: HashMap<Arc<str>, InvocationIndex>,
    /// Only kinds that have waiting tasks.
    kinds: BTreeMap<KindIndex, KindQueue>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { invocations: Slots::new(), invocation_of: HashMap::new(), kinds: BTreeMap::new() }
    }

    /// Counts a task to an invocation.
    pub(super) fn ask(&mut self, id: &str) -> InvocationIndex {
        if let Some(index) = self.invocation_of.get(id) {
            self.invocations.get_mut(index.0).tasks += 1;
            return *index;
        }
        let id: Arc<str> = id.into();
        let invocation = Invocation { id: id.clone(), tasks: 1, running: 0, waits_in: BTreeSet::new() };
        let index = InvocationIndex(self.invocations.insert(invocation));
        self.invocation_of.insert(id, index);
        index
    }

    /// The invocation of that name, if it has unfinished tasks.
    pub(super) fn find_invocation(&self, id: &str) -> Option<InvocationIndex> {
        self.invocation_of.get(id).copied()
    }

    /// A task, neither waiting nor running any more for it, is not the invocation's any more.
    pub(super) fn ask_no_more(&mut self, index: InvocationIndex) {
        let invocation = self.invocations.get_mut(index.0);
        invocation.tasks -= 1;
        if invocation.tasks == 0 {
            let invocation = self.invocations.remove(index.0);
            assert!(invocation.running == 0 && invocation.waits_in.is_empty(), "its tasks are gone");
            self.invocation_of.remove(&invocation.id);
        }
    }

    /// A task waits.
    pub(super) fn push(&mut self, task: Waiting<'_>) {
        self.kinds.entry(task.kind).or_default().oldest.insert(task.order, task.slot);
        for invocation in task.invocations {
            self.enter_lane(task, *invocation);
        }
    }

    /// A task waits no more.
    pub(super) fn remove(&mut self, task: Waiting<'_>) {
        for invocation in task.invocations {
            self.leave_lane(task, *invocation);
        }
        let kind = self.kinds.get_mut(&task.kind).expect("it has a waiting task");
        let removed = kind.oldest.remove(&task.order);
        assert_eq!(removed, Some(task.slot), "it waited");
        if kind.oldest.is_empty() {
            assert!(kind.lanes.is_empty() && kind.turns.is_empty(), "lanes hold what waits");
            self.kinds.remove(&task.kind);
        }
    }

    /// A waiting task, which the invocation has in no lane, gets into its lane.
    pub(super) fn enter_lane(&mut self, task: Waiting<'_>, invocation: InvocationIndex) {
        let running = self.invocations.get(invocation.0).running;
        let kind = self.kinds.get_mut(&task.kind).expect("pushed before");
        let turn = Turn { priority: task.priority, running, order: task.order, invocation };
        let lane = kind.lanes.entry(invocation).or_insert_with(|| {
            kind.turns.insert(turn);
            Lane { tasks: BTreeMap::new(), turn }
        });
        lane.tasks.insert((task.priority, task.order), task.slot);
        self.invocations.get_mut(invocation.0).waits_in.insert(task.kind);
        self.update_turn(task.kind, invocation);
    }

    /// A waiting task gets out of the lane of an invocation.
    pub(super) fn leave_lane(&mut self, task: Waiting<'_>, invocation: InvocationIndex) {
        let kind = self.kinds.get_mut(&task.kind).expect("it has a waiting task");
        let lane = kind.lanes.get_mut(&invocation).expect("it has a waiting task");
        let removed = lane.tasks.remove(&(task.priority, task.order));
        assert_eq!(removed, Some(task.slot), "it was in the lane");
        if lane.tasks.is_empty() {
            kind.turns.remove(&lane.turn);
            kind.lanes.remove(&invocation);
            self.invocations.get_mut(invocation.0).waits_in.remove(&task.kind);
        } else {
            self.update_turn(task.kind, invocation);
        }
    }

    /// A task of an invocation began to run.
    pub(super) fn started(&mut self, invocation: InvocationIndex) {
        self.invocations.get_mut(invocation.0).running += 1;
        self.update_turns(invocation);
    }

    /// A task of an invocation runs no more.
    pub(super) fn stopped(&mut self, invocation: InvocationIndex) {
        self.invocations.get_mut(invocation.0).running -= 1;
        self.update_turns(invocation);
    }

    fn update_turns(&mut self, invocation: InvocationIndex) {
        let kinds: Vec<_> = self.invocations.get(invocation.0).waits_in.iter().copied().collect();
        for kind in kinds {
            self.update_turn(kind, invocation);
        }
    }

    fn update_turn(&mut self, kind: KindIndex, invocation: InvocationIndex) {
        let running = self.invocations.get(invocation.0).running;
        let kind = self.kinds.get_mut(&kind).expect("it has a lane");
        let lane = kind.lanes.get_mut(&invocation).expect("it has a lane");
        let ((priority, order), _) = lane.tasks.first_key_value().expect("lanes are not empty");
        let turn = Turn { priority: *priority, running, order: *order, invocation };
        if turn != lane.turn {
            kind.turns.remove(&lane.turn);
            kind.turns.insert(turn);
            lane.turn = turn;
        }
    }

    /// True if tasks of the kind wait.
    pub(super) fn has(&self, kind: KindIndex) -> bool {
        self.kinds.contains_key(&kind)
    }

    /// The next task among these kinds.
    pub(super) fn next(&self, kinds: impl Iterator<Item = KindIndex>) -> Option<JournalSlot> {
        let kinds = kinds.filter_map(|kind| self.kinds.get(&kind));
        let (turn, kind) = kinds.filter_map(|kind| Some((kind.turns.first()?, kind))).min_by_key(|(turn, _)| **turn)?;
        kind.lanes[&turn.invocation].tasks.values().next().copied()
    }

    /// The task among these kinds that waited longest, whatever its priority.
    pub(super) fn oldest(&self, kinds: impl Iterator<Item = KindIndex>) -> Option<JournalSlot> {
        let oldest = kinds.filter_map(|kind| self.kinds.get(&kind)?.oldest.first_key_value());
        oldest.min_by_key(|(order, _)| **order).map(|(_, slot)| *slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: KindIndex = KindIndex(0);

    /// A task of the kind; its slot and its order are its number.
    fn task(number: u32, kind: KindIndex, priority: i32, invocations: &[InvocationIndex]) -> Waiting<'_> {
        Waiting { slot: JournalSlot(number), kind, priority, order: Order(number.into()), invocations }
    }

    /// Takes all, one after another, each of which runs on.
    fn order(queue: &mut Queue, mut tasks: Vec<Waiting<'_>>) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some(next) = queue.next([KIND, KindIndex(1)].into_iter()) {
            let position = tasks.iter().position(|task| task.slot == next).expect("it waits");
            let task = tasks.remove(position);
            queue.remove(task);
            task.invocations.iter().for_each(|invocation| queue.started(*invocation));
            order.push(next.0);
        }
        order
    }

    #[test]
    fn invocations_take_turns_by_what_they_have_running() {
        let mut queue = Queue::new();
        let (large, small, late) = ([queue.ask("large")], [queue.ask("small")], [queue.ask("late")]);
        let mut tasks: Vec<_> = (0..4).map(|number| task(number, KIND, 0, &large)).collect();
        tasks.extend((4..6).map(|number| task(number, KindIndex(1), 0, &small)));
        tasks.push(task(6, KIND, 0, &late));
        tasks.push(task(7, KIND, -1, &large));
        for task in &tasks {
            queue.push(*task);
        }
        // It runs one before the others begin.
        assert_eq!(order(&mut queue, tasks), [7, 4, 6, 0, 5, 1, 2, 3]);
        assert!(!queue.has(KIND) && queue.oldest([KIND].into_iter()).is_none());
    }

    #[test]
    fn a_task_of_two_invocations_stands_in_both_lanes() {
        let mut queue = Queue::new();
        let (large, small) = (queue.ask("large"), queue.ask("small"));
        let (only_large, both) = ([large], [large, small]);
        let tasks: Vec<_> = (0..3).map(|number| task(number, KIND, 0, &only_large)).collect();
        let shared = task(9, KIND, 0, &both);
        for task in &tasks {
            queue.push(*task);
        }
        queue.push(shared);
        queue.started(large);
        assert_eq!(queue.next([KIND].into_iter()), Some(JournalSlot(9)));
        queue.leave_lane(shared, small);
        assert_eq!(queue.next([KIND].into_iter()), Some(JournalSlot(0)));
        assert_eq!(queue.find_invocation("small"), Some(small));
        queue.ask_no_more(small);
        assert_eq!(queue.find_invocation("small"), None);
    }

    #[test]
    fn the_oldest_is_the_oldest_of_all_kinds_asked_about() {
        let mut queue = Queue::new();
        let invocation = [queue.ask("")];
        for (number, kind, priority) in [(3, 0, -5), (1, 1, 0), (2, 0, 9)] {
            queue.push(task(number, KindIndex(kind), priority, &invocation));
        }
        let oldest = |kinds: &[u32]| queue.oldest(kinds.iter().map(|kind| KindIndex(*kind)));
        assert_eq!(oldest(&[0]), Some(JournalSlot(2)));
        assert_eq!(oldest(&[0, 1]), Some(JournalSlot(1)));
        assert_eq!(oldest(&[7]), None);
    }
}
