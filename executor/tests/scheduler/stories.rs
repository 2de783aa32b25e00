//! What happens to tasks, one story a test.

use std::collections::BTreeMap;
use std::time::Duration;

use cask_executor::scheduler::{Effect, JournalSlot, NotYours, Options, Refused, Stage, Submission};
use cask_proto::queue::TaskRecord;
use cask_proto::workers;

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

#[test]
fn a_process_that_comes_again_takes_the_place_of_its_older_session() {
    let mut farm = farm();
    farm.execute(submission(1));
    let old = farm.join(hello("a", 1));
    let given = farm.given_one();
    let mut back = hello("a", 1);
    back.held = vec![given.lease];
    let joined = farm.scheduler.join(&farm.now, back);
    assert_eq!(joined.kept, [given.lease]);
    assert!(matches!(farm.effects()[..], [Effect::CloseSession { session }] if session == old));
    let late = farm.scheduler.begin_finish(&farm.now, old, given.lease);
    assert_eq!(late.map(|_| ()), Err(NotYours));
    farm.scheduler.leave(&farm.now, old);
    farm.pass(seconds(10));
    farm.finish(&Given { session: joined.session, ..given }, "done");
}

#[test]
fn a_lost_task_that_nobody_got_goes_back_to_the_worker_that_has_it() {
    for by_heartbeat in [false, true] {
        let mut farm = farm();
        let operation = farm.execute(submission(1));
        let mut session = farm.join(hello("a", 1));
        let given = farm.given_one();
        if by_heartbeat {
            // Resting after it gave something back, it gets nothing; so what it lost waits.
            farm.scheduler.drain(&farm.now, session);
            farm.scheduler.heartbeat(&farm.now, session, &[]);
            farm.scheduler.heartbeat(&farm.now, session, &[]);
        } else {
            farm.scheduler.leave(&farm.now, session);
            farm.pass(seconds(6));
        }
        assert!(matches!(farm.stage(operation), Stage::Queued));
        if by_heartbeat {
            farm.scheduler.heartbeat(&farm.now, session, &[given.lease]);
        } else {
            let mut back = hello("a", 1);
            back.held = vec![given.lease];
            let joined = farm.scheduler.join(&farm.now, back);
            assert_eq!(joined.kept, [given.lease]);
            session = joined.session;
        }
        assert!(matches!(farm.stage(operation), Stage::Executing));
        assert_eq!(farm.given().len(), 0);
        farm.finish(&Given { session, ..given }, "done");
        assert_eq!(farm.outcome(operation).0, "done");
    }
}

/// What was taken from it came first among what it held, and took the room of what was its.
#[test]
fn a_worker_that_comes_back_with_too_much_keeps_what_is_its() {
    let mut farm = farm();
    let (first, second) = (farm.execute(submission(1)), farm.execute(submission(2)));
    let session = farm.join(hello("a", 1));
    let lost = farm.given_one();
    farm.scheduler.heartbeat(&farm.now, session, &[]);
    farm.scheduler.cancel(&farm.now, second).expect("it is known");
    farm.execute(Submission { priority: -1, ..submission(3) });
    farm.scheduler.heartbeat(&farm.now, session, &[]);
    let its = farm.given_one();
    assert!(matches!(farm.stage(first), Stage::Queued));
    let mut back = hello("a", 1);
    back.held = vec![lost.lease, its.lease];
    assert_eq!(farm.scheduler.join(&farm.now, back).kept, [its.lease]);
}

#[test]
fn a_lease_that_was_given_to_another_is_not_kept_and_not_anybody_elses() {
    let mut farm = farm();
    farm.execute(submission(1));
    let session = farm.join(hello("a", 1));
    let given = farm.given_one();
    farm.scheduler.leave(&farm.now, session);
    farm.pass(seconds(6));
    let mut thief = hello("thief", 1);
    thief.held = vec![given.lease];
    let joined = farm.scheduler.join(&farm.now, thief);
    assert_eq!(joined.kept, []);
    let again = farm.given_one();
    assert_eq!(again.session, joined.session);
    let mut back = hello("a", 1);
    back.held = vec![given.lease, again.lease];
    assert_eq!(farm.scheduler.join(&farm.now, back).kept, []);
}

#[test]
fn one_heartbeat_without_a_lease_may_have_crossed_it() {
    let mut farm = farm();
    farm.execute(submission(1));
    let session = farm.join(hello("a", 1));
    let given = farm.given_one();
    farm.scheduler.heartbeat(&farm.now, session, &[]);
    farm.scheduler.heartbeat(&farm.now, session, &[given.lease]);
    farm.scheduler.heartbeat(&farm.now, session, &[]);
    assert_eq!(farm.given().len(), 0);
    farm.scheduler.heartbeat(&farm.now, session, &[]);
    let again = farm.given_one();
    assert_eq!((again.assignment.attempt, again.lease == given.lease), (1, false));
    farm.scheduler.heartbeat(&farm.now, session, &[given.lease, again.lease]);
    let cancelled = |effect: &Effect| matches!(effect, Effect::CancelLease { lease, .. } if *lease == given.lease);
    assert!(farm.effects().iter().any(cancelled));
}

#[test]
fn a_worker_with_a_fault_rests_and_another_has_the_task() {
    let mut farm = farm();
    let operation = farm.execute(submission(1));
    let faulty = farm.join(hello("a", 1));
    let given = farm.given_one();
    farm.scheduler.give_back(&farm.now, faulty, given.lease, "its disk is full").expect("it is its");
    assert_eq!(farm.given().len(), 0);
    let other = farm.join(hello("b", 1));
    let given = farm.given_one();
    assert_eq!((given.session, given.assignment.attempt), (other, 1));
    farm.scheduler.give_back(&farm.now, other, given.lease, "its disk is full").expect("it is its");
    for attempt in 2..4 {
        assert!(matches!(farm.stage(operation), Stage::Queued));
        farm.scheduler.heartbeat(&farm.now, faulty, &[]);
        let given = farm.given_one();
        assert_eq!((given.session, given.assignment.attempt), (faulty, attempt));
        farm.scheduler.give_back(&farm.now, faulty, given.lease, "its disk is full").expect("it is its");
    }
    let Stage::Completed(response) = farm.stage(operation) else { panic!("it goes on") };
    let status = response.status.clone().expect("it failed");
    assert_eq!(status.code, UNAVAILABLE);
    assert!(status.message.contains("4 times") && status.message.contains("its disk is full"), "{}", status.message);
}

#[test]
fn a_result_on_its_way_needs_no_worker() {
    for end in ["leaves", "is silent", "does not name it"] {
        let mut farm = farm();
        let operation = farm.execute(submission(1));
        let session = farm.join(hello("a", 1));
        let given = farm.given_one();
        farm.scheduler.begin_finish(&farm.now, session, given.lease).expect("it is its");
        match end {
            "leaves" => farm.scheduler.leave(&farm.now, session),
            "is silent" => {}
            _ => (0..3).for_each(|_| farm.scheduler.heartbeat(&farm.now, session, &[])),
        }
        farm.pass(seconds(60));
        assert!(matches!(farm.stage(operation), Stage::Executing), "{end}");
        farm.scheduler.finish(&farm.now, given.lease, response("done"));
        assert_eq!(farm.outcome(operation).0, "done", "{end}");
        assert_eq!(farm.scheduler.counts().leased, 0);
    }
}

#[test]
fn what_is_not_to_be_cached_is_not_shared_and_fresh_results_are_shared_by_fresh_calls() {
    let fresh = |number| Submission { skip_cache_lookup: true, ..submission(number) };
    let uncached = |number| Submission { do_not_cache: true, ..submission(number) };
    let other = |number| Submission {
        instance: cask_proto::InstanceName::parse("other").expect("a name"),
        ..submission(number)
    };
    let calls: [(&str, [Submission; 2], u64); 7] = [
        ("plain, plain", [submission(1), submission(1)], 1),
        ("plain, fresh", [submission(1), fresh(1)], 0),
        ("fresh, fresh", [fresh(1), fresh(1)], 1),
        ("fresh, plain", [fresh(1), submission(1)], 1),
        ("uncached twice", [uncached(1), uncached(1)], 0),
        ("other action", [submission(1), submission(2)], 0),
        ("other instance", [submission(1), other(1)], 0),
    ];
    for (name, calls, merged) in calls {
        let mut farm = farm();
        for call in calls {
            farm.execute(call);
        }
        assert_eq!(farm.scheduler.counts().merged_total, merged, "{name}");
        assert_eq!(farm.scheduler.counts().queued as u64, 2 - merged, "{name}");
    }
}

#[test]
fn a_task_with_very_many_operations_is_joined_by_no_more() {
    let mut farm = farm();
    for _ in 0..1025 {
        farm.execute(submission(1));
    }
    assert_eq!((farm.scheduler.counts().queued, farm.scheduler.counts().operations), (2, 1025));
}

#[test]
fn lower_numbers_come_first_and_a_call_that_joins_brings_its_own() {
    let mut farm = farm();
    let with = |priority, number| Submission { priority, ..submission(number) };
    for (priority, number) in [(0, 1), (5, 2), (-10, 3), (0, 4), (7, 5)] {
        farm.execute(with(priority, number));
    }
    farm.execute(with(-20, 5));
    farm.join(hello("a", 5));
    let order: Vec<_> = farm.given().into_iter().map(|it| it.assignment.action_digest).collect();
    let expected = [5, 3, 1, 4, 2].map(|number| Some(cask_proto::digest::to_wire(&crate::farm::action(number))));
    assert_eq!(order, expected);
}

#[test]
fn what_waited_longest_comes_now_and_then_whatever_its_priority() {
    let mut farm = Farm::new(Options { oldest_first_every: 4, ..Options::default() });
    let patient = farm.execute(Submission { priority: 100, ..submission(1) });
    for number in 0..10 {
        farm.execute(submission(10 + number));
    }
    farm.join(hello("a", 3));
    assert!(matches!(farm.stage(patient), Stage::Queued));
    let given = farm.given();
    farm.finish(&given[0], "done");
    assert!(matches!(farm.stage(patient), Stage::Executing));
}

#[test]
fn a_small_build_that_joins_a_large_ones_task_does_not_wait_for_the_large_one() {
    let mut farm = farm();
    for number in 0..100 {
        farm.execute(of("large", number));
    }
    farm.join(hello("a", 2));
    let given = farm.given();
    let joined = farm.execute(of("small", 99));
    assert_eq!(farm.scheduler.counts().merged_total, 1);
    farm.finish(&given[0], "done");
    assert!(matches!(farm.stage(joined), Stage::Executing));
}

#[test]
fn tasks_spread_over_the_workers() {
    let mut farm = farm();
    let (small, large) = (farm.join(hello("small", 2)), farm.join(hello("large", 4)));
    let mut sessions = Vec::new();
    for number in 0..6 {
        farm.execute(submission(number));
        sessions.push(farm.given_one().session);
    }
    assert_eq!(sessions, [large, large, small, large, small, large]);
}

#[test]
fn a_draining_worker_finishes_what_it_has_and_gets_no_more_even_when_it_comes_again() {
    let mut farm = farm();
    farm.execute(submission(1));
    let session = farm.join(hello("a", 2));
    let given = farm.given_one();
    farm.scheduler.drain(&farm.now, session);
    farm.execute(submission(2));
    assert_eq!(farm.given().len(), 0);
    let mut back = hello("a", 2);
    back.held = vec![given.lease];
    let session = farm.join(back);
    assert_eq!(farm.given().len(), 0);
    farm.finish(&Given { session, ..given }, "done");
    assert_eq!(farm.given().len(), 0);
    assert_eq!(farm.scheduler.counts().queued, 1);
}

#[test]
fn a_queued_task_that_nobody_listens_to_is_given_up_and_a_running_one_is_not() {
    let mut farm = farm();
    farm.execute(submission(1));
    farm.join(hello("a", 1));
    let given = farm.given_one();
    let (heard, unheard, deleted) =
        (farm.execute(submission(2)), farm.execute(submission(3)), farm.execute(submission(4)));
    for operation in [heard, unheard, deleted] {
        farm.scheduler.attach(operation).expect("it is known");
    }
    farm.pass(seconds(20));
    farm.scheduler.detach(&farm.now, unheard);
    farm.scheduler.delete(&farm.now, deleted).expect("it is known");
    for _ in 0..299 {
        farm.pass(seconds(1));
        farm.scheduler.heartbeat(&farm.now, given.session, &[given.lease]);
    }
    assert_eq!(farm.scheduler.counts().queued, 3);
    farm.pass(seconds(2));
    assert_eq!(farm.scheduler.counts().queued, 1);
    // Not CANCELLED, which nobody asked for.
    assert!(matches!(farm.stage(unheard), Stage::Completed(it) if it.status.as_ref().unwrap().code == UNAVAILABLE));
    assert!(matches!(farm.stage(heard), Stage::Queued));
    assert_eq!(farm.scheduler.counts().leased, 1);
}

/// Clients that poll instead of listening lost what they waited for.
#[test]
fn a_queued_task_that_is_asked_after_now_and_then_waits_on() {
    let mut farm = Farm::new(Options { no_worker_patience: seconds(10_000), ..Options::default() });
    let (asked, unasked) = (farm.execute(submission(1)), farm.execute(submission(2)));
    for _ in 0..10 {
        farm.scheduler.ask_after(&farm.now, asked);
        farm.pass(seconds(80));
    }
    assert!(matches!(farm.stage(asked), Stage::Queued));
    assert!(matches!(farm.stage(unasked), Stage::Completed(_)));
    farm.scheduler.ask_after(&farm.now, unasked);
    farm.pass(seconds(300));
    assert_eq!(farm.scheduler.counts().queued, 0, "nor for ever");
}

#[test]
fn results_are_remembered_for_a_while_and_as_long_as_somebody_listens() {
    let mut farm = farm();
    farm.join(hello("a", 1));
    let (heard, unheard) = (farm.execute(submission(1)), farm.execute(submission(2)));
    farm.scheduler.attach(heard).expect("it is known");
    for _ in 0..2 {
        let given = farm.given_one();
        farm.finish(&given, "done");
    }
    farm.pass(seconds(899));
    assert!(farm.scheduler.operation(unheard).is_some());
    farm.pass(seconds(1));
    assert!(farm.scheduler.operation(unheard).is_none());
    assert_eq!(farm.outcome(heard).0, "done");
    farm.scheduler.detach(&farm.now, heard);
    farm.pass(seconds(1));
    assert!(farm.scheduler.operation(heard).is_none());
    farm.effects();
    assert_eq!(journal(&farm.effects), []);
}

#[test]
fn results_are_remembered_up_to_a_number_of_bytes_the_oldest_forgotten_first_and_the_newest_never() {
    let mut farm = Farm::new(Options { finished_bytes_max: 4 << 10, ..Options::default() });
    farm.join(hello("a", 1));
    let mut finish = |number: u64, length: usize| {
        let operation = farm.execute(submission(number));
        let given = farm.given_one();
        farm.pass(seconds(1));
        farm.finish(&given, &"x".repeat(length));
        let known = farm.scheduler.operations(&cask_proto::InstanceName::EMPTY, None, 100).len();
        (known, farm.scheduler.operation(operation).is_some())
    };
    assert_eq!(finish(1, 10), (1, true));
    assert_eq!(finish(2, 10), (2, true));
    assert_eq!(finish(3, 10), (3, true));
    assert_eq!(finish(4, 10), (3, true));
    assert_eq!(finish(5, 2000), (2, true));
    assert_eq!(finish(6, 100_000), (1, true));
    assert_eq!(finish(7, 10), (1, true));
}

/// Builds that find everything in the cache pushed out the results of others' runs.
#[test]
fn results_that_were_known_push_out_only_each_other() {
    let mut farm = Farm::new(Options { known_bytes_max: 4 << 10, ..Options::default() });
    farm.join(hello("a", 1));
    let ran = farm.execute(submission(1));
    let given = farm.given_one();
    farm.finish(&given, "done");
    let mut known = Vec::new();
    for number in 0..100 {
        farm.pass(Duration::from_millis(10));
        known.push(farm.scheduler.finished_at_once(&farm.now, submission(number), response("known")));
    }
    let remembered = known.iter().filter(|it| farm.scheduler.operation(**it).is_some()).count();
    assert_eq!(remembered, 3);
    assert!(farm.scheduler.operation(known[99]).is_some());
    assert_eq!(farm.outcome(ran).0, "done");
    farm.pass(seconds(901));
    assert_eq!(farm.scheduler.counts().operations, 0, "both have their time");
}

#[test]
fn a_full_queue_takes_only_what_need_not_wait() {
    let mut farm = Farm::new(Options { queued_max: 1, ..Options::default() });
    farm.execute(submission(1));
    farm.try_execute(submission(2)).expect_err("it is full");
    farm.execute(submission(1));
    let session = farm.join(hello("a", 2));
    farm.execute(submission(2));
    farm.execute(submission(3));
    farm.try_execute(submission(4)).expect_err("it is full");
    farm.scheduler.leave(&farm.now, session);
    let mut small = Farm::new(Options { queued_bytes_max: 4000, ..Options::default() });
    small.execute(submission(1));
    let long = crate::farm::platform(&[&format!("name={}", "x".repeat(4000))]);
    let refused = small.try_execute(Submission { platform: long, ..submission(2) });
    assert!(matches!(refused, Err(Refused::QueueTooLarge { limit_bytes: 4000 })));
    small.execute(submission(3));
}

#[test]
fn a_deleted_operation_is_unknown_and_its_task_runs_to_its_end() {
    let mut farm = farm();
    let operation = farm.execute(submission(1));
    farm.join(hello("a", 1));
    let given = farm.given_one();
    farm.scheduler.delete(&farm.now, operation).expect("it is known");
    assert!(farm.scheduler.operation(operation).is_none());
    let finishing = farm.scheduler.begin_finish(&farm.now, given.session, given.lease).expect("it goes on");
    let finishing = finishing.expect("it is told for the first time");
    assert_eq!(finishing.action, crate::farm::action(1));
    farm.scheduler.finish(&farm.now, given.lease, response("done"));
    farm.effects();
    assert_eq!(journal(&farm.effects), []);
}

#[test]
fn what_a_worker_says_of_a_run_is_seen_and_forgotten_with_the_run() {
    let mut farm = farm();
    let operation = farm.execute(submission(1));
    let session = farm.join(hello("a", 1));
    let given = farm.given_one();
    let progress = |name: &str| workers::Progress {
        lease_id: given.lease.to_string(),
        stdout_stream_name: name.to_owned(),
        ..Default::default()
    };
    farm.scheduler.progress(&farm.now, session, progress("logs/1")).expect("it is its");
    farm.scheduler.progress(&farm.now, session, progress("")).expect("it is its");
    let task = farm.scheduler.operation(operation).expect("it is known").task;
    assert_eq!((&*task.stdout_stream_name, &*task.partial_metadata.worker), ("logs/1", "worker a"));
    farm.scheduler.leave(&farm.now, session);
    farm.pass(seconds(6));
    let task = farm.scheduler.operation(operation).expect("it is known").task;
    assert_eq!((&*task.stdout_stream_name, &*task.partial_metadata.worker), ("", ""));
    assert!(task.partial_metadata.queued_timestamp.is_some());
}

#[test]
fn a_damaged_record_costs_its_task_alone() {
    let mut farm = farm();
    farm.execute(submission(1));
    let kept = farm.execute(submission(2));
    farm.effects();
    let mut records = journal(&farm.effects);
    records[0].1.action_digest.as_mut().expect("set").hash = "no hash".to_owned();
    let mut after = Farm::restarted(Options::default(), farm.now.wall, records);
    assert!(matches!(after.stage(kept), Stage::Queued));
    assert_eq!(after.scheduler.counts().operations, 1);
    assert!(matches!(after.effects()[..], [Effect::Journal { slot: JournalSlot(0), record: None }]));
}

#[test]
fn a_restart_keeps_the_order_the_merging_and_what_was_cancelled() {
    let mut farm = farm();
    let (first, joined) = (farm.execute(submission(1)), farm.execute(submission(1)));
    farm.pass(seconds(1));
    let later = farm.execute(submission(2));
    farm.scheduler.cancel(&farm.now, first).expect("it is known");
    farm.effects();
    let mut records = journal(&farm.effects);
    records.reverse();
    let mut after = Farm::restarted(Options::default(), farm.now.wall, records);
    assert_eq!(after.outcome(first).1, CANCELLED);
    let again = after.execute(submission(1));
    assert_eq!(after.scheduler.counts().queued, 2);
    after.join(hello("a", 1));
    for operation in [joined, again] {
        assert!(matches!(after.stage(operation), Stage::Executing));
    }
    assert!(matches!(after.stage(later), Stage::Queued));
}

#[test]
fn a_worker_that_does_not_come_back_after_a_restart_is_lost() {
    let mut farm = farm();
    let operation = farm.execute(submission(1));
    farm.join(hello("a", 1));
    let given = farm.given_one();
    let mut after = Farm::restarted(Options::default(), farm.now.wall, journal(&farm.effects));
    let other = after.join(hello("b", 1));
    after.scheduler.begin_finish(&after.now, other, given.lease).expect_err("it is not its");
    after.pass(seconds(29));
    after.scheduler.heartbeat(&after.now, other, &[]);
    assert_eq!(after.given().len(), 0);
    after.pass(seconds(1));
    let given = after.given_one();
    assert_eq!((given.session, given.assignment.attempt), (other, 1));
    assert!(matches!(after.stage(operation), Stage::Executing));
}
