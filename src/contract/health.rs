//! `/ping`: reports whether the container is ready for requests.
//!
//! In single-model mode the response is 503 until the model can answer (PI-3). In multi-model mode
//! it is 200 from the start (PI-4). Broken models do not make a container unhealthy. While the
//! process drains, it refuses new connections and answers 503 to pings on open ones (PI-6). It
//! still answers other requests that have arrived.
//!
//! After a crash the supervisor starts another worker, but the platform believes that the model is
//! still loaded. Requests therefore wait for the model within their deadline, as in multi-model
//! mode, and a ping waits for a short time.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::AppState;
use super::error::Error;
use crate::engine::{InferenceError, PoolError};

/// Longest time that a ping waits for the model after a restart; the platform waits 2 s (PI-2).
const PING_WAIT: Duration = Duration::from_secs(1);

/// Phase of the process, set by the code that starts and stops it.
#[derive(Debug)]
pub struct Health {
    phase: watch::Sender<Phase>,
    /// Whether the supervisor started this process after another one was killed.
    is_restart: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    /// The process answers the requests that have arrived, if it was ready before.
    Draining {
        was_ready: bool,
    },
}

impl Health {
    pub fn new(is_restart: bool) -> Self {
        Self {
            phase: watch::Sender::new(Phase::Starting),
            is_restart,
        }
    }

    pub fn set_ready(&self) {
        self.phase.send_replace(Phase::Ready);
    }

    pub fn set_draining(&self) {
        self.phase.send_modify(|phase| {
            let was_ready = matches!(phase, Phase::Ready | Phase::Draining { was_ready: true });
            *phase = Phase::Draining { was_ready };
        });
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        match *self.phase.borrow() {
            Phase::Starting => Err(Error::Starting),
            Phase::Draining { .. } => Err(Error::Draining),
            Phase::Ready => Ok(()),
        }
    }

    /// Admits or refuses a request to the default model. A request that has arrived is answered
    /// even while the process drains. After a restart it is admitted, and [`Self::started_by`]
    /// waits.
    pub(super) fn admit(&self) -> Result<(), Error> {
        match *self.phase.borrow() {
            Phase::Starting if !self.is_restart => Err(Error::Starting),
            Phase::Draining { was_ready: false } => Err(Error::Draining),
            Phase::Starting | Phase::Ready | Phase::Draining { was_ready: true } => Ok(()),
        }
    }

    /// After a restart, waits until the process has started. `Ok` means that the start is over.
    pub(super) async fn started_by(&self, deadline: Instant) -> Result<(), Error> {
        if self.is_starting() {
            if !self.is_restart {
                return Err(Error::Starting);
            }
            self.wait_until(deadline).await;
            if self.is_starting() {
                return Err(InferenceError::Pool(PoolError::Deadline).into());
            }
        }
        self.admit()
    }

    /// Checks as [`Self::check`] does. After a restart it waits for a short time first, so that
    /// the platform does not see an unhealthy container.
    pub(super) async fn ping(&self) -> Result<(), Error> {
        if self.is_restart && self.is_starting() {
            self.wait_until(Instant::now() + PING_WAIT).await;
        }
        self.check()
    }

    fn is_starting(&self) -> bool {
        *self.phase.borrow() == Phase::Starting
    }

    async fn wait_until(&self, deadline: Instant) {
        let mut phase = self.phase.subscribe();
        let started = phase.wait_for(|&phase| phase != Phase::Starting);
        // The caller reads the phase to see whether it changed or the deadline passed.
        let _ = timeout_at(deadline, started).await;
    }
}

pub(super) async fn ping(state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    state.health.ping().await?;
    Ok(HttpResponse::Ok().finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(result: &Result<(), Error>) -> &'static str {
        match result {
            Ok(()) => "ok",
            Err(Error::Starting) => "starting",
            Err(Error::Draining) => "draining",
            Err(Error::Inference(_)) => "deadline",
            Err(_) => "other",
        }
    }

    #[tokio::test]
    async fn the_first_process_refuses_requests_during_its_start_and_a_restarted_one_waits() {
        let now = Instant::now();
        let first = Health::new(false);
        assert_eq!(kind(&first.admit()), "starting");
        assert_eq!(kind(&first.started_by(now).await), "starting");
        assert_eq!(kind(&first.ping().await), "starting");
        let later = Health::new(true);
        assert_eq!(kind(&later.admit()), "ok");
        assert_eq!(kind(&later.check()), "starting");
        assert_eq!(kind(&later.started_by(now).await), "deadline");
        let (ready, pinged, started) = tokio::join!(
            async { later.set_ready() },
            later.ping(),
            later.started_by(now + PING_WAIT * 60)
        );
        assert_eq!((ready, kind(&pinged), kind(&started)), ((), "ok", "ok"));
        later.set_draining();
        assert_eq!((kind(&later.admit()), kind(&later.ping().await)), ("ok", "draining"));
        first.set_draining();
        assert_eq!(kind(&first.admit()), "draining");
        // A request that has already arrived is answered.
        assert_eq!(kind(&later.started_by(now).await), "ok");
    }
}
