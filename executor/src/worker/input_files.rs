//! Bringing the files of an input into the [`FileCache`]: what is not there is fetched, small files many at once, large ones as streams
//! straight to the disk. All of it is verified.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use cask_index::Digest;
use tokio::{
    sync::Semaphore,
    task::{JoinError, JoinSet},
};

use super::{
    fault::ExecutionFault,
    file_cache::{Claim, FileCache, FileKey, Flight, Pin, Pins},
};
use crate::{ClientError, client::RemoteCache};

/// What one fetch brought, and what the remote cache does not have.
#[derive(Default)]
struct Fetched {
    pins: Vec<Pin>,
    missing: Vec<Digest>,
}

type FetchOutcome = Result<Fetched, ExecutionFault>;

/// Pins all files, each once, when they are here. `fetches` bounds the calls that run at once, over all actions. Files that the remote cache does
/// not have are all named.
///
/// Cancel safe: what landed stays, and those who wait for what did not land fetch it themselves.
pub(crate) async fn bring(
    remote: &RemoteCache,
    files: &Arc<FileCache>,
    fetches: &Arc<Semaphore>,
    keys: Vec<FileKey>,
) -> Result<Pins, ExecutionFault> {
    let mut pins = Pins::with_capacity(keys.len());
    let mut missing = Vec::new();
    let mut wanted = keys;
    while !wanted.is_empty() && missing.is_empty() {
        let (mut doubtful, mut ours, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (key, claim) in wanted.iter().zip(files.claim(&wanted)) {
            match claim {
                Claim::Here(pin) if pin.is_verified() => {
                    pins.insert(*key, pin);
                }
                Claim::Here(pin) => doubtful.push(pin),
                Claim::Ours(flight) => ours.push(flight),
                Claim::Others(waiting) => others.push((*key, waiting)),
            }
        }
        wanted.clear();
        let fetched = fetch(remote, files, fetches, ours).await?;
        pins.extend(fetched.pins.into_iter().map(|pin| (pin.key(), pin)));
        missing = fetched.missing;
        if !doubtful.is_empty() {
            let files = Arc::clone(files);
            let verified = tokio::task::spawn_blocking(move || {
                doubtful.into_iter().map(|pin| Ok((files.verify(&pin)?, pin))).collect::<std::io::Result<Vec<_>>>()
            });
            for (is_right, pin) in disk(verified.await)? {
                if is_right {
                    pins.insert(pin.key(), pin);
                } else {
                    wanted.push(pin.key());
                }
            }
        }
        // After our own: two actions that wait for each other's files would do so for ever.
        for (key, mut waiting) in others {
            // Fails when the other is done, one way or the other.
            let _ = waiting.changed().await;
            wanted.push(key);
        }
        files.settle();
    }
    if missing.is_empty() { Ok(pins) } else { Err(ExecutionFault::Missing(missing)) }
}

async fn fetch(
    remote: &RemoteCache,
    files: &Arc<FileCache>,
    fetches: &Arc<Semaphore>,
    ours: Vec<Flight>,
) -> FetchOutcome {
    let mut tasks: JoinSet<FetchOutcome> = JoinSet::new();
    let mut near = Vec::new();
    // A content that is wanted with both modes is fetched once.
    let mut flights: HashMap<Digest, Vec<Flight>> = HashMap::new();
    for flight in ours {
        let key = flight.key();
        if key.digest.is_empty_blob() {
            near.push((flight, None));
        } else if let Some(twin) = files.twin(key).filter(Pin::is_verified) {
            near.push((flight, Some(twin)));
        } else {
            flights.entry(key.digest).or_default().push(flight);
        }
    }
    if !near.is_empty() {
        tasks.spawn(async move { land_near(near).await });
    }
    let digests: Vec<Digest> = flights.keys().copied().collect();
    if !digests.is_empty() {
        let (batches, large) = remote.plan_reads(&digests).await?;
        for batch in batches {
            let flights = batch.iter().filter_map(|digest| flights.remove(digest)).collect();
            let (remote, fetches) = (remote.clone(), Arc::clone(fetches));
            tasks.spawn(async move {
                let _turn = fetches.acquire().await.expect("the semaphore is never closed");
                fetch_batch(&remote, &batch, flights).await
            });
        }
        for digest in large {
            let flights = flights.remove(&digest).unwrap_or_default();
            let (remote, fetches) = (remote.clone(), Arc::clone(fetches));
            tasks.spawn(async move {
                let _turn = fetches.acquire().await.expect("the semaphore is never closed");
                fetch_large(&remote, digest, flights).await
            });
        }
    }
    let mut all = Fetched::default();
    while let Some(fetched) = tasks.join_next().await {
        let fetched = fetched.map_err(|error| ExecutionFault::Machine(format!("a fetch ended badly: {error}")))??;
        all.pins.extend(fetched.pins);
        all.missing.extend(fetched.missing);
    }
    Ok(all)
}

/// Files that need nobody else: empty ones, and those that are here with the other mode.
async fn land_near(near: Vec<(Flight, Option<Pin>)>) -> FetchOutcome {
    let landed = tokio::task::spawn_blocking(move || {
        near.into_iter()
            .map(|(flight, twin)| match twin {
                None => flight.land_bytes(b""),
                Some(twin) => flight.land_twin(&twin),
            })
            .collect::<std::io::Result<Vec<_>>>()
    });
    Ok(Fetched { pins: disk(landed.await)?, missing: Vec::new() })
}

/// `flights` are of the digests of the batch, in their order.
async fn fetch_batch(remote: &RemoteCache, batch: &[Digest], flights: Vec<Vec<Flight>>) -> FetchOutcome {
    let blobs = remote.read_batch(batch).await?;
    let mut missing = Vec::new();
    let mut present = Vec::with_capacity(batch.len());
    for ((digest, blob), flights) in batch.iter().zip(blobs).zip(flights) {
        match blob {
            Some(blob) => present.push((blob, flights)),
            None => missing.push(*digest),
        }
    }
    let landed = tokio::task::spawn_blocking(move || {
        let landing = present.into_iter().flat_map(|(blob, flights)| {
            flights.into_iter().map(move |flight| flight.land_bytes(&blob)).collect::<Vec<_>>()
        });
        landing.collect::<std::io::Result<Vec<_>>>()
    });
    Ok(Fetched { pins: disk(landed.await)?, missing })
}

async fn fetch_large(remote: &RemoteCache, digest: Digest, mut flights: Vec<Flight>) -> FetchOutcome {
    let Some(flight) = flights.pop() else { return Ok(Fetched::default()) };
    let (path, file) =
        flight.temporary().map_err(|error| ExecutionFault::machine("cannot make a file for an input", &error))?;
    let mut unlanded = Unlanded(Some(path));
    let mut sink = tokio::fs::File::from_std(file);
    match remote.download_blob(digest, &mut sink).await {
        Ok(()) => {}
        Err(ClientError::NotFound(_)) => return Ok(Fetched { pins: Vec::new(), missing: vec![digest] }),
        Err(error) => return Err(error.into()),
    }
    // No write is under way after the download's flush; the file has to be closed before anybody executes it.
    drop(sink.into_std().await);
    let landed = tokio::task::spawn_blocking(move || {
        let path = unlanded.0.take().expect("taken once");
        let pin = flight.land(&path)?;
        let mut pins = Vec::with_capacity(1 + flights.len());
        for flight in flights {
            pins.push(flight.land_twin(&pin)?);
        }
        pins.push(pin);
        Ok(pins)
    });
    Ok(Fetched { pins: disk(landed.await)?, missing: Vec::new() })
}

/// A file that is not in the cache yet, and is removed if it never gets there.
struct Unlanded(Option<PathBuf>);

impl Drop for Unlanded {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn disk<T>(outcome: Result<std::io::Result<T>, JoinError>) -> Result<T, ExecutionFault> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ExecutionFault::machine("an input file could not be stored", &error)),
        Err(error) => Err(ExecutionFault::Machine(format!("storing input files ended badly: {error}"))),
    }
}
