//! An execution as a person or a script sees it: where it stands, its output as it comes, what became of it.
//!
//! Standard output is the command's alone. Standard error is the command's too; we add a line where something went otherwise than
//! asked, and on a terminal one that says where the execution stands and goes away again.

use std::io::{IsTerminal, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cask_executor::ClientError;
use cask_executor::client::{
    Execution, ExecutionEvent, InputTree, LogReader, OperationState, RemoteCache, RetryPolicy, Stage,
};
use cask_index::{Digest, DigestFunction};
use cask_proto::GRPC_CODES;
use cask_proto::digest::FunctionRule;
use cask_proto::reapi::{ActionResult, Digest as WireDigest, ExecuteResponse};
use tokio::io::AsyncWrite;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tonic::Code;

use super::Failure;

/// Not run, or not to an end, for reasons that are not the command's; as docker and env have it.
pub(super) const EXIT_NOT_RUN: u8 = 125;
/// The command took longer than its timeout; as timeout has it.
const EXIT_TIMED_OUT: u8 = 124;
/// A signal's number is added to this.
const EXIT_SIGNAL: u8 = 128;

/// For the help of the commands that run others.
pub(super) const EXIT_CODES_HELP: &str = "Ends with the command's exit code. Codes of Cask's own, always with a line on standard error: 124 the command \
took longer than its timeout, 125 it was not run or not to an end, 130 and 143 it was cancelled by SIGINT (^C) or SIGTERM.";

/// How long a log may go on when the execution has ended: it is finished before the result is there, where all is well.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// A restart of the server takes a while, and what it was asked goes on after it: half a minute.
const RETRY: RetryPolicy =
    RetryPolicy { attempts_max: 12, delay_first: Duration::from_millis(100), delay_max: Duration::from_secs(5) };
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// All but codes that are the command's own become [`EXIT_NOT_RUN`].
pub(super) fn as_not_run(failure: Failure) -> Failure {
    match failure {
        Failure::Usage(sentence) | Failure::Run(sentence) => Failure::Exit(EXIT_NOT_RUN, Some(sentence)),
        exit @ Failure::Exit(..) => exit,
    }
}

/// The client of one run of ours: patient, and an invocation of its own.
pub(super) fn client(cache: &RemoteCache) -> RemoteCache {
    cache.with_retry(RETRY).as_invocation_of("cask", env!("CARGO_PKG_VERSION"))
}

/// Executes to the end, with its output shown. `inputs` are uploaded where the server finds them missing.
pub(super) async fn watch(
    cache: &RemoteCache,
    mut execution: Execution,
    inputs: Option<&InputTree>,
) -> Result<Watched, Failure> {
    let mut view = View::new();
    let outcome = follow(cache, &mut execution, inputs, &mut view).await;
    view.status.clear();
    let response = outcome?;
    let mut result = response.result.clone();
    if let Some(result) = &mut result {
        let function = FunctionOf(execution.action().function());
        view.stdout
            .show_rest(cache, function, std::mem::take(&mut result.stdout_raw), result.stdout_digest.as_ref())
            .await?;
        view.stderr
            .show_rest(cache, function, std::mem::take(&mut result.stderr_raw), result.stderr_digest.as_ref())
            .await?;
    }
    for (name, log) in &response.server_logs {
        if let (true, Some(digest)) = (log.human_readable, &log.digest) {
            view.status.note(format_args!("the worker left a log, {name}: {}/{}", digest.hash, digest.size_bytes));
        }
    }
    let status = response.status.clone().unwrap_or_default();
    let said = if response.message.is_empty() { String::new() } else { format!("; {}", response.message) };
    match (Code::from(status.code), result) {
        (Code::Ok, Some(result)) => Ok(Watched { result }),
        (Code::Ok, None) => Err(Failure::Exit(EXIT_NOT_RUN, Some("the server's answer has no result".to_owned()))),
        (Code::DeadlineExceeded, _) => {
            Err(Failure::Exit(EXIT_TIMED_OUT, Some(format!("timed out: {}{said}", status.message))))
        }
        (Code::Cancelled, _) => {
            // By somebody else where we did not ask for it.
            let code = view.interrupted.map_or(EXIT_NOT_RUN, exit_of_signal);
            Err(Failure::Exit(code, Some(format!("cancelled{said}"))))
        }
        (code, _) => {
            let sentence = format!("not run: {}: {}{said}", GRPC_CODES[code as usize], status.message);
            Err(Failure::Exit(EXIT_NOT_RUN, Some(sentence)))
        }
    }
}

fn exit_of_signal(signal: SignalKind) -> u8 {
    EXIT_SIGNAL + u8::try_from(signal.as_raw_value()).unwrap_or(0)
}

/// What an execution came to.
pub(super) struct Watched {
    /// Its output was shown, and was taken out of it.
    pub(super) result: ActionResult,
}

impl Watched {
    /// Ends as the command did.
    pub(super) fn exit(&self) -> Result<(), Failure> {
        match self.result.exit_code {
            0 => Ok(()),
            // Codes that no process can end with are a failure still.
            code => Err(Failure::Exit(u8::try_from(code).unwrap_or(u8::MAX), None)),
        }
    }
}

#[derive(Clone, Copy)]
struct FunctionOf(DigestFunction);

impl FunctionOf {
    fn parse(self, digest: &WireDigest) -> Result<Digest, Failure> {
        Ok(FunctionRule::Named(self.0).from_wire(digest).map_err(ClientError::from)?)
    }
}

/// All that is on the screen, or in the files that stand for it.
struct View {
    status: StatusLine,
    stdout: Output,
    stderr: Output,
    /// By what the user asked us to stop.
    interrupted: Option<SignalKind>,
}

impl View {
    fn new() -> Self {
        Self {
            status: StatusLine::new(),
            stdout: Output::new(Target::Stdout),
            stderr: Output::new(Target::Stderr),
            interrupted: None,
        }
    }

    fn changed(&mut self, cache: &RemoteCache, before: &OperationState, now: &OperationState) {
        if before.stage == Stage::Executing && now.stage == Stage::Queued {
            self.status.note(format_args!("queued again"));
        }
        self.stdout.follow(cache, &now.stdout_stream_name);
        self.stderr.follow(cache, &now.stderr_stream_name);
        let text = match now.stage {
            Stage::Unknown => "waiting".to_owned(),
            Stage::CacheCheck => "looking for a result".to_owned(),
            Stage::Queued => "queued".to_owned(),
            Stage::Executing if now.worker.is_empty() => "running".to_owned(),
            Stage::Executing => format!("running on {}", now.worker),
            Stage::Completed => "done".to_owned(),
        };
        self.status.set(text);
    }
}

async fn follow(
    cache: &RemoteCache,
    execution: &mut Execution,
    inputs: Option<&InputTree>,
    view: &mut View,
) -> Result<ExecuteResponse, Failure> {
    let no_signals = |error| Failure::Run(format!("cannot wait for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut ticks = tokio::time::interval(STATUS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut response: Option<ExecuteResponse> = None;
    let mut cancelling: Option<Cancelling> = None;
    let mut is_cancelled = false;
    let log_end = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(log_end);
    loop {
        if let Some(response) = response.take_if(|_| !view.stdout.is_live() && !view.stderr.is_live()) {
            return Ok(response);
        }
        tokio::select! {
            event = execution.next(), if response.is_none() => match event? {
                ExecutionEvent::Changed(now) => {
                    let before = std::mem::replace(&mut view.status.operation, now.clone());
                    view.changed(cache, &before, &now);
                }
                ExecutionEvent::Missing(missing) => upload_again(cache, inputs, &missing).await?,
                ExecutionEvent::Done(done) => {
                    response = Some(*done);
                    log_end.as_mut().reset(tokio::time::Instant::now() + LOG_PATIENCE);
                }
            },
            chunk = view.stdout.next() => view.stdout.show(&mut view.status, chunk)?,
            chunk = view.stderr.next() => view.stderr.show(&mut view.status, chunk)?,
            kind = either(&mut interrupt, &mut terminate) => {
                if view.interrupted.is_some() {
                    return Err(Failure::Exit(exit_of_signal(kind), Some("left alone; the server may go on with it".to_owned())));
                }
                view.interrupted = Some(kind);
                view.status.note(format_args!("cancelling; once more to leave at once"));
            }
            outcome = wait(&mut cancelling) => {
                cancelling = None;
                outcome?;
            }
            () = &mut log_end, if response.is_some() => {
                // What is missing of them comes with the result.
                view.stdout.stop();
                view.stderr.stop();
            }
            _ = ticks.tick() => view.status.show(),
        }
        // Before there is a name nothing can be cancelled; it comes at once.
        if view.interrupted.is_some()
            && !is_cancelled
            && response.is_none()
            && let Some(cancel) = execution.cancel()
        {
            cancelling = Some(Box::pin(cancel));
            is_cancelled = true;
        }
    }
}

/// A cancellation on its way.
type Cancelling = Pin<Box<dyn Future<Output = Result<(), ClientError>>>>;

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
    }
}

/// Never, while there is nothing to wait for.
async fn wait<T>(work: &mut Option<Pin<Box<dyn Future<Output = T>>>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn upload_again(cache: &RemoteCache, inputs: Option<&InputTree>, missing: &[Digest]) -> Result<(), Failure> {
    match inputs {
        Some(inputs) if inputs.has_all(missing) => {
            cache.upload_tree(inputs).await?;
            Ok(())
        }
        _ => {
            let list: Vec<_> = missing.iter().take(10).map(Digest::to_string).collect();
            let more = if missing.len() > list.len() { ", ..." } else { "" };
            Err(Failure::Run(format!("{} blobs are not in the cache: {}{more}", missing.len(), list.join(", "))))
        }
    }
}

#[derive(Clone, Copy)]
enum Target {
    Stdout,
    Stderr,
}

/// One of the command's two outputs: what of it was shown already, and where more of it comes from.
struct Output {
    target: Target,
    log: Option<LogReader>,
    name: String,
    shown_bytes: u64,
}

impl Output {
    fn new(target: Target) -> Self {
        Self { target, log: None, name: String::new(), shown_bytes: 0 }
    }

    fn is_live(&self) -> bool {
        self.log.is_some()
    }

    fn follow(&mut self, cache: &RemoteCache, name: &str) {
        if !name.is_empty() && name != self.name {
            // Another name is another run, whose output begins anew.
            name.clone_into(&mut self.name);
            self.shown_bytes = 0;
            self.log = Some(cache.follow_log(name.to_owned()));
        }
    }

    fn stop(&mut self) {
        self.log = None;
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        match &mut self.log {
            Some(log) => log.next().await,
            None => std::future::pending().await,
        }
    }

    fn show(&mut self, status: &mut StatusLine, chunk: Result<Option<Bytes>, ClientError>) -> Result<(), Failure> {
        // A log that fails is no failure of the command: its output comes with the result.
        let Ok(Some(chunk)) = chunk else {
            self.stop();
            return Ok(());
        };
        status.end();
        self.shown_bytes += chunk.len() as u64;
        self.print(&chunk).map_err(cannot_print)
    }

    fn print(&self, bytes: &[u8]) -> std::io::Result<()> {
        match self.target {
            Target::Stdout => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Target::Stderr => std::io::stderr().lock().write_all(bytes),
        }
    }

    /// All that was not shown while it ran.
    async fn show_rest(
        &mut self,
        cache: &RemoteCache,
        function: FunctionOf,
        raw: Bytes,
        digest: Option<&WireDigest>,
    ) -> Result<(), Failure> {
        if raw.is_empty() {
            let Some(digest) = digest else { return Ok(()) };
            let digest = function.parse(digest)?;
            // Nothing more to come: not asked for.
            if digest.size_bytes() > self.shown_bytes {
                cache.download_blob(digest, self).await?;
            }
            return Ok(());
        }
        let shown = usize::try_from(self.shown_bytes).unwrap_or(usize::MAX).min(raw.len());
        self.print(&raw[shown..]).map_err(cannot_print)
    }
}

/// Takes an output from its beginning and prints what was not printed.
impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let shown = usize::try_from(this.shown_bytes).unwrap_or(usize::MAX).min(bytes.len());
        this.shown_bytes -= shown as u64;
        Poll::Ready(this.print(&bytes[shown..]).map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn cannot_print(error: std::io::Error) -> Failure {
    Failure::Run(format!("cannot print: {error}"))
}

/// Where the execution stands, on the last line of a terminal. Nothing of it is written anywhere else.
struct StatusLine {
    is_terminal: bool,
    is_shown: bool,
    text: String,
    since: Instant,
    operation: OperationState,
}

impl StatusLine {
    fn new() -> Self {
        Self {
            is_terminal: std::io::stderr().is_terminal(),
            is_shown: false,
            text: String::new(),
            since: Instant::now(),
            operation: OperationState::default(),
        }
    }

    fn set(&mut self, text: String) {
        if text != self.text {
            self.text = text;
            self.since = Instant::now();
            self.show();
        }
    }

    fn show(&mut self) {
        if self.is_terminal && !self.text.is_empty() {
            let seconds = self.since.elapsed().as_secs();
            // Nobody is hurt by a status that cannot be written.
            let _ = write!(std::io::stderr(), "\r\x1b[2Kcask: {}, {seconds} s", self.text);
            self.is_shown = true;
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }

    /// From now on the lines are the command's.
    fn end(&mut self) {
        self.clear();
        self.is_terminal = false;
    }

    fn note(&mut self, sentence: std::fmt::Arguments<'_>) {
        self.clear();
        let _ = writeln!(std::io::stderr(), "cask: {sentence}");
    }
}
