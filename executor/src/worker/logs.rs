//! [`LiveLogs`]: what a running command prints, for those who watch.
//!
//! Tails the files that the runner writes to. A command that is done within half a second, or prints nothing, has no streams. Nothing
//! here is of weight for the result: a stream that fails is given up, and the log says so.

use std::{
    fs::File,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use cask_proto::{
    InstanceName,
    bytestream::{WriteRequest, byte_stream_client::ByteStreamClient},
    logstream::{CreateLogStreamRequest, log_stream_service_client::LogStreamServiceClient},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use super::beneath::open_file;

/// A command that ends sooner has no log streams.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// How long the end of a log may take to be written.
const END_WAIT_MAX: Duration = Duration::from_secs(5);

/// The two files a command prints to.
const NAMES: [&str; 2] = ["stdout", "stderr"];

/// Names of streams to read from: of standard output, of standard error. A name that is known stays.
pub(crate) type StreamNames = [Option<String>; 2];

/// The tailing of one run; dropping it leaves the streams unfinished.
pub(crate) struct LiveLogs {
    finish: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl LiveLogs {
    /// Watches the files in `folder`; says the names when there are streams.
    pub(crate) fn watch(
        channel: Channel,
        instance: InstanceName,
        folder: Arc<OwnedFd>,
        names: mpsc::Sender<StreamNames>,
    ) -> Self {
        let (finish, mut finished) = oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(PATIENCE) => {}
                _ = &mut finished => return,
            }
            let mut tails: [Tail; 2] = Default::default();
            let mut known: StreamNames = [None, None];
            let mut ending = false;
            loop {
                for (index, tail) in tails.iter_mut().enumerate() {
                    if let Err(status) = tail.look(&channel, &instance, &folder, NAMES[index]).await {
                        tracing::debug!(event = "worker.log_stream", message = status.message(), "a log stream failed");
                        tail.given_up = true;
                    }
                    if known[index].is_none() && tail.name.is_some() {
                        known[index].clone_from(&tail.name);
                        let _ = names.try_send(known.clone());
                    }
                }
                if ending {
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                    asked = &mut finished => {
                        if asked.is_err() {
                            return;
                        }
                        ending = true;
                    }
                }
            }
            for tail in tails {
                tail.end().await;
            }
        });
        Self { finish: Some(finish), task }
    }

    /// The command has ended: what it printed is written to the end, for a bounded time.
    pub(crate) async fn finish(mut self) {
        if let Some(finish) = self.finish.take() {
            let _ = finish.send(());
        }
        let _ = tokio::time::timeout(END_WAIT_MAX, &mut self.task).await;
    }
}

impl Drop for LiveLogs {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One file and its stream.
#[derive(Default)]
struct Tail {
    file: Option<Arc<File>>,
    sent_bytes: u64,
    name: Option<String>,
    stream: Option<Stream>,
    given_up: bool,
}

struct Stream {
    write_name: String,
    requests: mpsc::Sender<WriteRequest>,
    call: JoinHandle<()>,
}

impl Tail {
    /// Sends what is new.
    async fn look(
        &mut self,
        channel: &Channel,
        instance: &InstanceName,
        folder: &Arc<OwnedFd>,
        name: &'static str,
    ) -> Result<(), Status> {
        loop {
            if self.given_up {
                return Ok(());
            }
            let file = match &self.file {
                Some(file) => Arc::clone(file),
                None => match open_file(folder.as_fd(), name) {
                    Ok(file) => Arc::clone(self.file.insert(Arc::new(File::from(file)))),
                    Err(_) => return Ok(()),
                },
            };
            let offset_bytes = self.sent_bytes;
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; PIECE_BYTES_MAX];
                let count = file.read_at(&mut piece, offset_bytes)?;
                piece.truncate(count);
                Ok::<_, std::io::Error>(piece)
            });
            let piece = read.await.map_err(|error| Status::internal(error.to_string()))??;
            if piece.is_empty() {
                return Ok(());
            }
            if self.stream.is_none() {
                self.open(channel, instance).await?;
            }
            let count = piece.len() as u64;
            self.send(piece.into(), false).await?;
            self.sent_bytes += count;
        }
    }

    async fn open(&mut self, channel: &Channel, instance: &InstanceName) -> Result<(), Status> {
        let request = CreateLogStreamRequest { parent: instance.to_string() };
        let created = LogStreamServiceClient::new(channel.clone()).create_log_stream(request).await?.into_inner();
        let (requests, receiver) = mpsc::channel(2);
        let mut client = ByteStreamClient::new(channel.clone());
        let call = tokio::spawn(async move {
            // Its end is seen by the sender.
            let _ = client.write(ReceiverStream::new(receiver)).await;
        });
        self.name = Some(created.name);
        self.stream = Some(Stream { write_name: created.write_resource_name, requests, call });
        Ok(())
    }

    async fn send(&mut self, data: Bytes, finish_write: bool) -> Result<(), Status> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let request = WriteRequest {
            resource_name: std::mem::take(&mut stream.write_name),
            write_offset: self.sent_bytes as i64,
            finish_write,
            data,
        };
        stream.requests.send(request).await.map_err(|_| Status::aborted("the server ended the stream"))
    }

    async fn end(mut self) {
        if !self.given_up
            && self.send(Bytes::new(), true).await.is_ok()
            && let Some(stream) = self.stream.take()
        {
            drop(stream.requests);
            let _ = stream.call.await;
        }
    }
}
