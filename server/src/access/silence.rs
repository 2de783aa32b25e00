//! How long nothing has come from a client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A clock that runs while a client is waited for; its timer is made when it is first needed.
pub(crate) struct Silence {
    wait_max: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl Silence {
    pub(crate) fn new(wait_max: Duration) -> Self {
        Self { wait_max, timer: None, is_running: false }
    }

    pub(crate) fn wait_max(&self) -> Duration {
        self.wait_max
    }

    /// Something came.
    pub(crate) fn end(&mut self) {
        self.is_running = false;
    }

    /// Ready when nothing has come for too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wait_max = self.wait_max;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait_max)));
        if !self.is_running {
            self.is_running = true;
            timer.as_mut().reset(Instant::now() + wait_max);
        }
        timer.as_mut().poll(cx)
    }
}
