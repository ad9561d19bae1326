//! `/ping`: whether requests should come here.
//!
//! 503 until the one model of single-model mode can answer (PI-3), 200 from the first moment in
//! multi-model mode (PI-4). Broken models do not make a container unhealthy. While the process
//! drains, new connections are refused, and the ping gets 503 on those that are open (PI-6); other
//! requests that have arrived are answered.
//!
//! In the worker that follows one which was killed, the platform believes the model loaded.
//! Requests to it wait until it is, within their deadline, as they do for the models of multi-model
//! mode; the ping waits for a moment.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::State;
use super::error::Error;
use crate::engine::{InferenceError, PoolError};

/// The longest that a ping waits for the model after a restart: the platform waits for 2 s (PI-2).
const PING_PATIENCE: Duration = Duration::from_secs(1);

/// The process's phase, set by the part that starts and stops it.
#[derive(Debug)]
pub struct Health {
    phase: watch::Sender<Phase>,
    /// Whether the process follows one that was killed.
    is_restart: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    /// Requests that have arrived are still answered, if the process was ready before.
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

    /// Whether a request to the one model is taken: it has arrived, so it is answered while the
    /// process drains, and it would wait by [`Self::started_by`].
    pub(super) fn admit(&self) -> Result<(), Error> {
        match *self.phase.borrow() {
            Phase::Starting if !self.is_restart => Err(Error::Starting),
            Phase::Draining { was_ready: false } => Err(Error::Draining),
            Phase::Starting | Phase::Ready | Phase::Draining { was_ready: true } => Ok(()),
        }
    }

    /// Waits until the process has started, where it follows another one. Afterwards, `Ok` says
    /// that the start is over.
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

    /// As [`Self::check`]; after a restart it waits for a moment rather than alarm the platform.
    pub(super) async fn ping(&self) -> Result<(), Error> {
        if self.is_restart && self.is_starting() {
            self.wait_until(Instant::now() + PING_PATIENCE).await;
        }
        self.check()
    }

    fn is_starting(&self) -> bool {
        *self.phase.borrow() == Phase::Starting
    }

    async fn wait_until(&self, deadline: Instant) {
        let mut phase = self.phase.subscribe();
        let started = phase.wait_for(|&phase| phase != Phase::Starting);
        // Which of the two it was is seen by the phase.
        let _ = timeout_at(deadline, started).await;
    }
}

pub(super) async fn ping(state: web::Data<State>) -> Result<HttpResponse, Error> {
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
            Err(_) => "another",
        }
    }

    #[tokio::test]
    async fn the_first_process_refuses_while_it_starts_and_a_later_one_waits() {
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
            later.started_by(now + PING_PATIENCE * 60)
        );
        assert_eq!((ready, kind(&pinged), kind(&started)), ((), "ok", "ok"));
        later.set_draining();
        assert_eq!((kind(&later.admit()), kind(&later.ping().await)), ("ok", "draining"));
        first.set_draining();
        assert_eq!(kind(&first.admit()), "draining");
        // A request that has come as far as that is answered.
        assert_eq!(kind(&later.started_by(now).await), "ok");
    }
}
