//! Calls of the engine that end when the test says so.

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::catalog::tests::NEVER;
use crate::engine::LoadError;

/// The engine's side of a [`HeldCall`].
pub(super) struct Gate {
    begun: oneshot::Sender<()>,
    end: oneshot::Receiver<Result<(), LoadError>>,
}

/// A call of the engine that does not end before the test says how.
pub struct HeldCall {
    begun: oneshot::Receiver<()>,
    end: oneshot::Sender<Result<(), LoadError>>,
}

impl HeldCall {
    pub(super) fn new() -> (Gate, Self) {
        let ((begun, is_begun), (end, ended)) = (oneshot::channel(), oneshot::channel());
        let gate = Gate { begun, end: ended };
        (gate, Self { begun: is_begun, end })
    }

    /// Waits until the catalog has made the call.
    pub async fn begun(&mut self) {
        let begun = timeout(NEVER, &mut self.begun).await;
        begun.expect("the call is made").unwrap();
    }

    pub fn has_begun(&mut self) -> bool {
        self.begun.try_recv().is_ok()
    }

    pub fn succeed(self) {
        // The call may have been cancelled.
        let _ = self.end.send(Ok(()));
    }

    pub fn fail(self, error: LoadError) {
        let _ = self.end.send(Err(error));
    }
}

impl Gate {
    pub(super) async fn pass(self) -> Result<(), LoadError> {
        let _ = self.begun.send(());
        self.end.await.unwrap_or(Ok(()))
    }
}
