use std::collections::HashMap;

use cask_index::DigestFunction;
use cask_proto::workers::to_worker::Message as ToWorkerMessage;

use super::*;
use crate::scheduler::Stage;

/// A store whose writes wait for the test, one permit each, and fail when they are told to.
struct GatedStore {
    records: Mutex<HashMap<JournalSlot, Option<Bytes>>>,
    written: Mutex<Vec<(JournalSlot, Option<TaskRecord>)>>,
    gate: tokio::sync::Semaphore,
    fails: Mutex<bool>,
}

impl GatedStore {
    fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::default(),
            written: Mutex::default(),
            gate: tokio::sync::Semaphore::new(permits),
            fails: Mutex::new(false),
        })
    }
}

#[tonic::async_trait]
impl QueueStore for GatedStore {
    async fn load(&self) -> Result<Vec<(JournalSlot, Bytes)>, QueueStoreError> {
        Ok(self.records.lock().iter().filter_map(|(slot, record)| Some((*slot, record.clone()?))).collect())
    }

    async fn put(&self, slot: JournalSlot, record: Option<Bytes>) -> Result<(), QueueStoreError> {
        self.gate.acquire().await.expect("the gate is not closed").forget();
        if *self.fails.lock() {
            return Err(QueueStoreError { message: "the disk is full".to_owned(), retry_after: None });
        }
        let decoded = record.clone().map(|record| TaskRecord::decode(record).expect("a record"));
        self.written.lock().push((slot, decoded));
        self.records.lock().insert(slot, record);
        Ok(())
    }
}

const MANY: usize = 1 << 20;

async fn farm(store: &Arc<GatedStore>, options: Options) -> Farm {
    let mut last = store.records.lock().len() as u128 * 1000;
    let random = Box::new(move || {
        last += 1;
        last
    });
    let (farm, background) = Farm::start(options, Arc::clone(store) as _, random).await.expect("the store is read");
    tokio::spawn(background.run());
    farm
}

fn submission(number: u8) -> Submission {
    let digest = cask_index::Digest::new(DigestFunction::Sha256, &[number; 32], 7).expect("a digest");
    Submission {
        instance: InstanceName::EMPTY,
        action: digest,
        platform: reapi::Platform::default(),
        priority: 0,
        timeout: Duration::from_secs(60),
        do_not_cache: false,
        skip_cache_lookup: false,
        request_metadata: reapi::RequestMetadata::default(),
    }
}

fn hello(held: Vec<LeaseId>) -> WorkerHello {
    WorkerHello {
        name: "w".to_owned(),
        process_id: "p".to_owned(),
        instance: InstanceName::EMPTY,
        concurrency: 1,
        platforms: vec![reapi::Platform::default()],
        held,
    }
}

async fn said(session: &mut Session) -> ToWorkerMessage {
    session.next().await.expect("the session goes on").message.expect("content")
}

async fn assignment(session: &mut Session) -> LeaseId {
    loop {
        match said(session).await {
            ToWorkerMessage::Assignment(assignment) => return LeaseId::parse(&assignment.lease_id).expect("a lease"),
            ToWorkerMessage::Welcome(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_action_is_taken_when_its_record_is_written() {
    let store = GatedStore::new(0);
    let farm = farm(&store, Options::default()).await;
    let mut taking = Box::pin(farm.execute(submission(1)));
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut taking).await.is_err(), "nothing is written yet");
    assert_eq!((farm.counts().queued, farm.journal_backlog()), (1, 1));
    store.gate.add_permits(1);
    let mut watch = taking.await.expect("it is taken");
    assert!(matches!(watch.view().expect("a view").stage, Stage::Queued));
    assert_eq!(store.written.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_action_that_cannot_be_written_is_taken_back() {
    let store = GatedStore::new(MANY);
    *store.fails.lock() = true;
    let farm = farm(&store, Options::default()).await;
    assert!(matches!(farm.execute(submission(1)).await, Err(ExecuteError::Journal(_))));
    assert_eq!(farm.counts().queued, 0);
}

/// What happens to a task while its record waits costs one more write, and that is of the last state.
#[tokio::test(start_paused = true)]
async fn records_that_wait_are_replaced_by_later_ones() {
    let store = GatedStore::new(1);
    let farm = farm(&store, Options::default()).await;
    let mut watch = farm.execute(submission(1)).await.expect("it is taken");
    let mut session = farm.join(hello(Vec::new()));
    let lease = assignment(&mut session).await;
    farm.begin_finish(session.id(), lease).expect("its lease");
    let response = reapi::ExecuteResponse { message: "done".to_owned(), ..Default::default() };
    let mut finishing = Box::pin(farm.finish(lease, response));
    // The write of the lease is under way and waits; the result comes behind it.
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut finishing).await.is_err());
    assert!(
        matches!(watch.view().expect("a view").stage, Stage::Completed(_)),
        "who listens need not wait for the disk"
    );
    store.gate.add_permits(MANY);
    finishing.await;
    let written = store.written.lock();
    let last = written.last().and_then(|(_, record)| record.as_ref()).expect("a record");
    assert!(last.finished.is_some());
    assert!(written.len() <= 3, "{written:?}");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_is_tried_again_with_what_is_true_by_then() {
    let store = GatedStore::new(MANY);
    let farm = farm(&store, Options::default()).await;
    let watch = farm.execute(submission(1)).await.expect("it is taken");
    *store.fails.lock() = true;
    let mut session = farm.join(hello(Vec::new()));
    assignment(&mut session).await;
    assert!(matches!(farm.cancel(watch.operation()).await, Err(ChangeError::Journal(_))));
    tokio::time::sleep(Duration::from_secs(10)).await;
    *store.fails.lock() = false;
    farm.stop().await;
    let written = store.written.lock();
    assert!(written.last().expect("a write").1.as_ref().is_some_and(|record| record.finished.is_some()), "{written:?}");
}

#[tokio::test(start_paused = true)]
async fn the_next_process_goes_on_and_the_worker_keeps_its_lease() {
    let store = GatedStore::new(MANY);
    let before = farm(&store, Options::default()).await;
    let watch = before.execute(submission(1)).await.expect("it is taken");
    let operation = watch.operation();
    let mut session = before.join(hello(Vec::new()));
    let lease = assignment(&mut session).await;
    // The drain: streams end, and nobody is to be given up for it.
    before.freeze();
    drop((watch, session));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    before.stop().await;

    let after = farm(&store, Options::default()).await;
    let mut watch = after.watch(operation).expect("the operation has its name still");
    let mut session = after.join(hello(vec![lease]));
    match said(&mut session).await {
        ToWorkerMessage::Welcome(welcome) => assert_eq!(welcome.kept_lease_ids, [lease.to_string()]),
        other => panic!("{other:?}"),
    }
    after.begin_finish(session.id(), lease).expect("its lease");
    after.finish(lease, reapi::ExecuteResponse::default()).await;
    assert!(matches!(watch.view().expect("a view").stage, Stage::Completed(_)));
}

/// Told twice, it is settled once; and the answer finds the worker in the session that it has by then.
#[tokio::test(start_paused = true)]
async fn a_result_told_again_by_a_worker_that_came_back_is_settled_once_and_acknowledged_there() {
    let store = GatedStore::new(MANY);
    let farm = farm(&store, Options::default()).await;
    let mut watch = farm.execute(submission(1)).await.expect("it is taken");
    let mut old = farm.join(hello(Vec::new()));
    let lease = assignment(&mut old).await;
    assert!(farm.begin_finish(old.id(), lease).expect("its lease").is_some());
    assert!(farm.begin_finish(old.id(), lease).expect("its lease").is_none());
    drop(old);
    let mut new = farm.join(hello(vec![lease]));
    assert!(matches!(said(&mut new).await, ToWorkerMessage::Welcome(_)));
    assert!(farm.begin_finish(new.id(), lease).expect("its lease").is_none());
    let holder = farm.finish(lease, reapi::ExecuteResponse::default()).await.expect("a worker has it");
    holder.send(holder.acknowledgement(lease)).await;
    assert!(matches!(said(&mut new).await, ToWorkerMessage::Acknowledged(_)));
    assert!(matches!(watch.view().expect("a view").stage, Stage::Completed(_)));
    assert!(farm.begin_finish(new.id(), lease).is_err(), "it is over");
    assert!(farm.reject(lease, "too late").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_gone_for_too_long_loses_what_it_had() {
    let store = GatedStore::new(MANY);
    let options = Options { reconnect_grace: Duration::from_secs(5), ..Options::default() };
    let farm = farm(&store, options).await;
    let mut watch = farm.execute(submission(1)).await.expect("it is taken");
    let mut session = farm.join(hello(Vec::new()));
    assignment(&mut session).await;
    assert!(matches!(watch.view().expect("a view").stage, Stage::Executing));
    drop(session);
    watch.changed().await;
    assert!(matches!(watch.view().expect("a view").stage, Stage::Queued));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_does_not_take_what_it_is_sent_is_ended() {
    let store = GatedStore::new(MANY);
    let farm = farm(&store, Options::default()).await;
    let mut session = farm.join(hello(Vec::new()));
    for number in 0..1000 {
        // Each is one that it does not have, and is told so.
        farm.heartbeat(session.id(), &[LeaseId(number)]);
    }
    let mut count = 0;
    while session.next().await.is_some() {
        count += 1;
    }
    assert!(count < 1000, "{count} messages were kept for it");
}

#[tokio::test(start_paused = true)]
async fn who_listens_to_a_deleted_operation_hears_of_it() {
    let store = GatedStore::new(MANY);
    let farm = farm(&store, Options::default()).await;
    let mut watch = farm.execute(submission(1)).await.expect("it is taken");
    assert!(watch.view().is_some());
    farm.delete(watch.operation()).await.expect("it is there");
    watch.changed().await;
    assert!(watch.view().is_none());
    assert!(farm.watch(watch.operation()).is_err());
}

/// Of two that went at once each saw the other's receiver, and their operation's entry stayed for ever.
#[test]
fn nothing_is_left_of_watches_that_are_dropped_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (farm, operation) = runtime.block_on(async {
        let store = GatedStore::new(MANY);
        let farm = farm(&store, Options { finished_retention: Duration::MAX / 4, ..Options::default() }).await;
        let watch = farm.finished_at_once(submission(1), reapi::ExecuteResponse::default());
        (farm, watch.operation())
    });
    for _ in 0..2000 {
        let watches = [farm.watch(operation).expect("it is there"), farm.watch(operation).expect("it is there")];
        let barrier = std::sync::Barrier::new(watches.len());
        std::thread::scope(|scope| {
            for watch in watches {
                scope.spawn(|| {
                    barrier.wait();
                    drop(watch);
                });
            }
        });
        assert!(farm.shared.state.lock().listeners.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_and_forgetting_are_acknowledged_when_they_are_written() {
    let store = GatedStore::new(1);
    let farm = farm(&store, Options::default()).await;
    let operation = farm.execute(submission(1)).await.expect("it is taken").operation();
    let a_while = Duration::from_secs(60);
    let mut cancelling = Box::pin(farm.cancel(operation));
    assert!(tokio::time::timeout(a_while, &mut cancelling).await.is_err(), "nothing is written yet");
    let mut again = Box::pin(farm.cancel(operation));
    assert!(tokio::time::timeout(a_while, &mut again).await.is_err(), "it is as little written for who asks twice");
    store.gate.add_permits(2);
    cancelling.await.expect("it is written");
    again.await.expect("it is written");
    let mut deleting = Box::pin(farm.delete(operation));
    assert!(tokio::time::timeout(a_while, &mut deleting).await.is_err(), "nothing is written yet");
    store.gate.add_permits(1);
    deleting.await.expect("it is written");
    assert!(store.written.lock().last().expect("a write").1.is_none());
}
