//! What happens to tasks, one story a test.

use std::collections::BTreeMap;
use std::time::Duration;

use cask_executor::scheduler::{Effect, JournalSlot, NotYours, Options, Stage, Submission};
use cask_proto::queue::TaskRecord;

use crate::farm::{Farm, Given, hello, of, response, submission};

const CANCELLED: i32 = 1;
const FAILED_PRECONDITION: i32 = 9;
const UNAVAILABLE: i32 = 14;

fn farm() -> Farm {
    Farm::new(Options::default())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a journal has after these effects.
fn journal(effects: &[Effect]) -> Vec<(JournalSlot, TaskRecord)> {
    let mut slots = BTreeMap::new();
    for effect in effects {
        if let Effect::Journal { slot, record } = effect {
            slots.insert(*slot, record.clone());
        }
    }
    slots.into_iter().filter_map(|(slot, record)| Some((slot, *record?))).collect()
}

#[test]
fn an_action_waits_runs_and_ends() {
    let mut farm = farm();
    let operation = farm.execute(submission(1));
    assert!(matches!(farm.stage(operation), Stage::Queued));
    let session = farm.join(hello("a", 1));
    let given = farm.given_one();
    assert_eq!((given.session, given.assignment.attempt), (session, 0));
    assert!(matches!(farm.stage(operation), Stage::Executing));
    farm.finish(&given, "done");
    assert_eq!(farm.outcome(operation), ("done".to_owned(), 0));
    assert_eq!(farm.scheduler.begin_finish(&farm.now, session, given.lease).map(|_| ()), Err(NotYours));
}

#[test]
fn identical_actions_share_a_task_and_its_last_operation_cancels_it() {
    let mut farm = farm();
    let (first, second) = (farm.execute(submission(1)), farm.execute(submission(1)));
    farm.join(hello("a", 4));
    let given = farm.given_one();
    farm.scheduler.cancel(&farm.now, first).expect("it is known");
    assert_eq!(farm.outcome(first).1, CANCELLED);
    assert!(matches!(farm.stage(second), Stage::Executing));
    farm.effects();
    farm.scheduler.cancel(&farm.now, second).expect("it is known");
    assert_eq!(farm.outcome(second).1, CANCELLED);
    let stopped = |effect: &Effect| matches!(effect, Effect::CancelLease { lease, .. } if *lease == given.lease);
    assert!(farm.effects().iter().any(stopped));
    farm.scheduler.finish(&farm.now, given.lease, response("late"));
    assert_eq!(farm.outcome(second).1, CANCELLED);
}

#[test]
fn a_worker_that_comes_back_in_time_goes_on_and_a_late_one_does_not() {
    for (away, is_kept) in [(4, true), (6, false)] {
        let mut farm = farm();
        let operation = farm.execute(submission(1));
        let session = farm.join(hello("a", 1));
        let given = farm.given_one();
        farm.join(hello("b", 1));
        farm.scheduler.leave(&farm.now, session);
        farm.pass(seconds(away));
        let mut back = hello("a", 1);
        back.held = vec![given.lease];
        let joined = farm.scheduler.join(&farm.now, back);
        assert_eq!(joined.kept, if is_kept { vec![given.lease] } else { vec![] });
        let given = if is_kept { Given { session: joined.session, ..given } } else { farm.given_one() };
        assert_eq!(given.assignment.attempt, u32::from(!is_kept));
        farm.finish(&given, "done");
        assert_eq!(farm.outcome(operation), ("done".to_owned(), 0));
    }
}

#[test]
fn a_task_whose_workers_are_lost_is_given_up() {
    let mut farm = farm();
    let operation = farm.execute(submission(1));
    for attempt in 0..4 {
        farm.join(hello(&attempt.to_string(), 1));
        assert_eq!(farm.given_one().assignment.attempt, attempt);
        farm.pass(seconds(31));
    }
    assert_eq!(farm.outcome(operation).1, UNAVAILABLE);
}

#[test]
fn a_task_that_no_worker_can_run_fails_after_a_while() {
    let mut farm = farm();
    farm.join(hello("a", 1));
    let platform = crate::farm::platform(&["OSFamily=plan9", "ISA=mips"]);
    let operation = farm.execute(Submission { platform, ..submission(1) });
    farm.scheduler.attach(operation).expect("it is known");
    for _ in 0..899 {
        farm.pass(seconds(1));
    }
    assert!(matches!(farm.stage(operation), Stage::Queued));
    farm.pass(seconds(2));
    let Stage::Completed(response) = farm.stage(operation) else { panic!("it waits") };
    let status = response.status.clone().expect("it failed");
    assert_eq!(status.code, FAILED_PRECONDITION);
    assert!(status.message.contains("ISA=mips, OSFamily=plan9"), "{}", status.message);
}

#[test]
fn a_restart_loses_nothing() {
    let mut farm = farm();
    let (running, waiting) = (farm.execute(submission(1)), farm.execute(submission(2)));
    let session = farm.join(hello("a", 1));
    let done = farm.given_one();
    farm.finish(&done, "done");
    let given = farm.given_one();
    let third = farm.execute(submission(3));
    farm.effects();
    assert_eq!(farm.outcome(running).0, "done");
    let mut after = Farm::restarted(Options::default(), farm.now.wall, journal(&farm.effects));
    assert_eq!(after.outcome(running).0, "done");
    assert!(matches!(after.stage(waiting), Stage::Executing));
    assert!(matches!(after.stage(third), Stage::Queued));
    let mut back = hello("a", 1);
    back.held = vec![given.lease];
    let joined = after.scheduler.join(&after.now, back);
    assert_eq!(joined.kept, [given.lease]);
    let _ = session;
    after.finish(&Given { session: joined.session, ..given }, "late");
    assert_eq!(after.outcome(waiting).0, "late");
    let given = after.given_one();
    after.finish(&given, "third");
    assert_eq!(after.outcome(third).0, "third");
}

#[test]
fn a_small_build_is_not_starved_by_a_large_one() {
    let mut farm = farm();
    for number in 0..1000 {
        farm.execute(of("large", number));
    }
    farm.join(hello("a", 10));
    let mut given: std::collections::VecDeque<_> = farm.given().into();
    assert_eq!(given.len(), 10);
    let small: Vec<_> = (0..3).map(|number| farm.execute(of("small", 5000 + number))).collect();
    for _ in 0..4 {
        farm.finish(&given.pop_front().expect("it has ten"), "done");
        given.extend(farm.given());
    }
    assert!(small.iter().all(|operation| matches!(farm.stage(*operation), Stage::Executing)));
}
