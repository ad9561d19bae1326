//! Records that count a request once, when they are dropped, however it ends.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::labels::{HEALTH, OK};
use super::{Metrics, Route};
use crate::telemetry::cause::Cause;
use crate::telemetry::models::ModelStats;

/// Status of a request whose client hung up before the response, as nginx logs it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A request that is being answered. Dropping it counts the request, also when its future is
/// dropped because the client hung up.
#[derive(Debug)]
pub struct RequestRecord<'a> {
    metrics: &'a Metrics,
    route: Route,
    /// Status, and the cause of an error.
    result: (u16, Option<Cause>),
}

impl RequestRecord<'_> {
    /// Sets the status of the response, and the cause of an error.
    pub fn answered(&mut self, status: u16, cause: Option<Cause>) {
        self.result = (status, cause);
    }
}

impl Drop for RequestRecord<'_> {
    fn drop(&mut self) {
        let (status, cause) = self.result;
        self.metrics.request(self.route, status, cause);
    }
}

/// A request to a loaded model. Dropping it without a result counts a client that hung up.
#[derive(Debug)]
#[must_use]
pub struct ModelRequest<'a> {
    metrics: &'a Metrics,
    stats: &'a ModelStats,
    /// `None` if the request is not counted, or not any more.
    arrived: Option<Instant>,
}

impl ModelRequest<'_> {
    /// Ends the request with its result. An error is not counted here: [`Metrics::model_failed`]
    /// counts it with the message.
    pub fn settle<T, E>(mut self, result: Result<T, E>) -> Result<T, E> {
        let arrived = self.arrived.take();
        if let (Some(arrived), true) = (arrived, result.is_ok()) {
            let now = Instant::now();
            let took = now.saturating_duration_since(arrived);
            self.stats.answered(now, took);
            self.metrics.recorder.answered(took);
        }
        result
    }
}

impl Drop for ModelRequest<'_> {
    fn drop(&mut self) {
        if self.arrived.is_some() {
            self.stats.hung_up();
            self.metrics.model_errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Metrics {
    /// Starts to count a request. The record counts it once, when it is dropped.
    pub const fn start_request(&self, route: Route) -> RequestRecord<'_> {
        RequestRecord {
            metrics: self,
            route,
            result: (CLIENT_CLOSED_REQUEST, Some(Cause::HungUp)),
        }
    }

    fn request(&self, route: Route, status: u16, cause: Option<Cause>) {
        if !self.is_on() {
            return;
        }
        // An answer about the state, such as a 404 of a model that is not loaded, does not count.
        if let Some(cause) = cause.filter(|_| route.label() != HEALTH) {
            self.errors[cause as usize].fetch_add(1, Ordering::Relaxed);
        }
        if status == OK {
            self.ok[route as usize].fetch_add(1, Ordering::Relaxed);
        } else {
            let mut not_ok = self.not_ok.lock().unwrap_or_else(PoisonError::into_inner);
            *not_ok.entry((route.label(), status)).or_default() += 1;
        }
    }

    /// Starts to count a request to a loaded model whose head arrived at `arrived`. A request that
    /// had to wait until the model was loaded `is_cold`.
    pub fn start_model_request<'a>(
        &'a self,
        stats: &'a ModelStats,
        arrived: impl Into<Instant>,
        is_cold: bool,
    ) -> ModelRequest<'a> {
        self.recorder.found_model(is_cold);
        if is_cold && self.is_on() {
            stats.waited_for_load();
        }
        ModelRequest {
            metrics: self,
            stats,
            arrived: self.is_on().then(|| arrived.into()),
        }
    }

    /// Counts a failed request to a listed model, with its message.
    pub fn model_failed(&self, stats: &ModelStats, cause: Cause, text: &str) {
        if self.is_on() {
            stats.failed(cause, text);
            self.model_errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}
