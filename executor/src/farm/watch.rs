//! Somebody who listens to an operation, from one state to the next. States that follow each other faster than they are
//! asked for are skipped; the last is never.

use tokio::sync::watch;

use super::Farm;
use crate::scheduler::{OperationId, OperationView};

/// Listens until it is dropped.
pub struct Watch {
    farm: Farm,
    operation: OperationId,
    changes: watch::Receiver<()>,
}

impl Watch {
    pub(super) fn new(farm: Farm, operation: OperationId, changes: watch::Receiver<()>) -> Self {
        Self { farm, operation, changes }
    }

    /// To what.
    pub fn operation(&self) -> OperationId {
        self.operation
    }

    /// How it stands now; `None`: it was deleted or forgotten. Changes from now on end [`Watch::changed`].
    pub fn view(&mut self) -> Option<OperationView> {
        // Marked first: what changes between the two is looked at twice rather than never.
        self.changes.mark_unchanged();
        self.farm.operation(self.operation)
    }

    /// Waits until it is not as it was when it was looked at last. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            unreachable!("the sender lives for as long as there is a receiver");
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.farm.unlisten(self.operation);
    }
}
