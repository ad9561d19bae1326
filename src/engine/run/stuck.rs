//! Detects runs that continue after they were cancelled.
//!
//! A run is cancelled when its deadline has passed or its callers have left. ONNX Runtime checks
//! for that between two operators. Inside one operator, which may take minutes (NonMaxSuppression
//! over many boxes), a run cannot be interrupted. A run that continues for [`StuckLimits::after`]
//! after its cancellation is *stuck*:
//!
//! | thread of the stuck run | what happens to the thread | what happens to the model |
//! |---|---|---|
//! | a compute thread | the pool stops counting it and starts a replacement (`pool/seat.rs`), up to [`StuckLimits::most`] | it refuses requests until the run has ended |
//! | a thread that answers HTTP | it cannot be replaced in this process | the same |
//!
//! Beyond this limit, or when a thread that answers HTTP is blocked, this process cannot serve
//! other models as before. [`Stuck::too_many`] then notifies the part that can have the process
//! replaced.
//!
//! Invariants:
//! - A stuck run is counted, and its model is marked, from its detection to its end.
//! - A run is detected under the same lock under which it ends.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::engine::InferenceError;
use crate::engine::run::pool::GiveUp;

#[derive(Debug, Clone, Copy)]
pub struct StuckLimits {
    /// Time that a run may continue after its cancellation.
    pub after: Duration,
    /// Maximum number of stuck runs whose threads are replaced.
    pub most: usize,
}

/// The stuck runs of a model under one name.
#[derive(Debug)]
pub struct Standing {
    /// The model's name, for the log and for error messages.
    name: String,
    /// The client's name for the model, for the log.
    target_model: Option<String>,
    /// The content's `ContentHash::short`.
    content: u64,
    runs: AtomicUsize,
    requests: AtomicUsize,
}

impl Standing {
    pub fn new(name: String, target_model: Option<String>, content: u64) -> Self {
        Self {
            name,
            target_model,
            content,
            runs: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        }
    }

    /// The model's name, for the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client's name for the model, for the log.
    pub fn target_model(&self) -> Option<&str> {
        self.target_model.as_deref()
    }

    /// Number of stuck runs.
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::Acquire)
    }

    /// Number of requests in these runs.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    /// Sets the numbers of stuck runs and of their requests, in tests without runs.
    #[cfg(test)]
    pub fn set(&self, runs: usize, requests: usize) {
        self.runs.store(runs, Ordering::Release);
        self.requests.store(requests, Ordering::Release);
    }

    /// Refuses a request while there are stuck runs.
    pub fn check(&self) -> Result<(), InferenceError> {
        match self.runs() {
            0 => Ok(()),
            runs => Err(InferenceError::Stuck {
                name: self.name.clone(),
                runs,
            }),
        }
    }
}

/// Content with stuck runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    /// The content's `ContentHash::short`.
    pub content: u64,
    pub runs: usize,
}

/// Numbers of stuck runs, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StuckCounts {
    pub runs: usize,
    /// Models that refuse requests because of these runs.
    pub models: usize,
    /// All stuck runs so far, including those that have ended.
    pub total: u64,
}

/// All stuck runs of a process, and the runs that may become stuck.
pub struct Stuck {
    limits: StuckLimits,
    /// Cancelled runs in the order of their cancellation, each with the time of its check.
    cancelled: Mutex<VecDeque<(Instant, Arc<TrackedRun>)>>,
    more: Condvar,
    /// The model of each stuck run.
    stuck: Mutex<Vec<Arc<Standing>>>,
    total: AtomicU64,
    too_many: watch::Sender<bool>,
    has_reported: AtomicBool,
}

impl std::fmt::Debug for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stuck")
            .field("limits", &self.limits)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// A run on a compute thread.
pub struct TrackedRun {
    standing: Arc<Standing>,
    stuck: Arc<Stuck>,
    /// Number of requests that the run answers.
    requests: usize,
    dispatch: Arc<dyn GiveUp>,
    phase: Mutex<Phase>,
}

#[derive(Debug)]
enum Phase {
    Running,
    Stuck(StuckRun),
    Ended,
}

/// A stuck run. It is counted until this is dropped.
#[derive(Debug)]
pub struct StuckRun {
    stuck: Arc<Stuck>,
    standing: Arc<Standing>,
    requests: usize,
}

impl Stuck {
    /// Starts a thread that checks cancelled runs as long as the process lives.
    pub fn watch(limits: StuckLimits) -> std::io::Result<Arc<Self>> {
        let stuck = Arc::new(Self::new(limits));
        let watched = Arc::clone(&stuck);
        thread::Builder::new()
            .name("stuck".to_owned())
            .spawn(move || watched.watch_loop())?;
        Ok(stuck)
    }

    fn new(limits: StuckLimits) -> Self {
        Self {
            limits,
            cancelled: Mutex::default(),
            more: Condvar::new(),
            stuck: Mutex::default(),
            total: AtomicU64::new(0),
            too_many: watch::Sender::new(false),
            has_reported: AtomicBool::new(false),
        }
    }

    /// Tracks a run of `requests` requests that starts on `dispatch`'s thread.
    pub fn track(
        self: &Arc<Self>,
        standing: &Arc<Standing>,
        requests: usize,
        dispatch: Arc<dyn GiveUp>,
    ) -> Arc<TrackedRun> {
        Arc::new(TrackedRun {
            standing: Arc::clone(standing),
            stuck: Arc::clone(self),
            requests,
            dispatch,
            phase: Mutex::new(Phase::Running),
        })
    }

    /// Time that a run may continue after its cancellation.
    pub fn after(&self) -> Duration {
        self.limits.after
    }

    pub fn counts(&self) -> StuckCounts {
        let stuck = self.stuck();
        let models: BTreeSet<_> = stuck.iter().map(Arc::as_ptr).collect();
        StuckCounts {
            runs: stuck.len(),
            models: models.len(),
            total: self.total.load(Ordering::Relaxed),
        }
    }

    /// Waits until this process cannot serve other models as before. Returns the contents of the
    /// stuck runs.
    pub async fn too_many(&self) -> Vec<Culprit> {
        let mut too_many = self.too_many.subscribe();
        // The sender lives as long as `self`.
        let _ = too_many.wait_for(|&too_many| too_many).await;
        culprits(self.stuck().iter().map(|standing| standing.content))
    }

    /// Counts a stuck run of `requests` requests and marks its model. `on` is the kind of its
    /// thread, for the log. Returns whether the thread may be replaced.
    fn count(self: &Arc<Self>, standing: &Arc<Standing>, requests: usize, on: &'static str) -> (StuckRun, bool) {
        let mut stuck = self.stuck();
        let is_within = stuck.len() < self.limits.most;
        stuck.push(Arc::clone(standing));
        standing.runs.fetch_add(1, Ordering::AcqRel);
        standing.requests.fetch_add(requests, Ordering::AcqRel);
        let runs = stuck.len();
        drop(stuck);
        self.total.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            model = standing.name,
            target_model = standing.target_model,
            on,
            stuck_runs = runs,
            "a run is stuck: it was cancelled {:?} ago and continues inside one operator; the model refuses requests \
             until the run has ended",
            self.limits.after
        );
        let counted = StuckRun {
            stuck: Arc::clone(self),
            standing: Arc::clone(standing),
            requests,
        };
        (counted, is_within)
    }

    /// Counts a stuck run on a thread that answers HTTP.
    pub fn count_on_http(self: &Arc<Self>, standing: &Arc<Standing>) -> StuckRun {
        let (counted, _) = self.count(standing, 1, "an HTTP thread");
        self.report_too_many("a stuck run blocks a thread that answers HTTP");
        counted
    }

    fn report_too_many(&self, why: &'static str) {
        self.too_many.send_replace(true);
        if !self.has_reported.swap(true, Ordering::Relaxed) {
            tracing::error!("{why}; this process cannot serve all models as before and should be replaced");
        }
    }

    fn cancel_requested(&self, run: Arc<TrackedRun>) {
        let due = Instant::now() + self.limits.after;
        self.cancelled().push_back((due, run));
        self.more.notify_one();
    }

    fn watch_loop(&self) {
        loop {
            let mut cancelled = self.cancelled();
            let (due, run) = loop {
                match cancelled.pop_front() {
                    Some(next) => break next,
                    None => cancelled = self.more.wait(cancelled).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(cancelled);
            // All runs wait for the same time, so this one is due first.
            thread::sleep(due.saturating_duration_since(Instant::now()));
            run.check();
        }
    }

    fn stuck(&self) -> MutexGuard<'_, Vec<Arc<Standing>>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancelled(&self) -> MutexGuard<'_, VecDeque<(Instant, Arc<TrackedRun>)>> {
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TrackedRun {
    /// Starts to wait for the end of a run that was cancelled.
    pub fn cancel_requested(self: Arc<Self>) {
        let stuck = Arc::clone(&self.stuck);
        stuck.cancel_requested(self);
    }

    /// Records the end of the run. Called on its thread, before the next step of its dispatch.
    pub fn ended(&self) {
        let before = std::mem::replace(&mut *self.phase(), Phase::Ended);
        if let Phase::Stuck(counted) = before {
            drop(counted);
        }
    }

    /// Gives up the run's dispatch if the run still continues.
    fn check(&self) {
        let mut phase = self.phase();
        if !matches!(*phase, Phase::Running) {
            return;
        }
        let (counted, is_within) = self.stuck.count(&self.standing, self.requests, "a compute thread");
        self.dispatch.give_up(is_within);
        *phase = Phase::Stuck(counted);
        drop(phase);
        if !is_within {
            self.stuck
                .report_too_many("more runs are stuck than --max-stuck allows");
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StuckRun {
    fn drop(&mut self) {
        let mut stuck = self.stuck.stuck();
        if let Some(place) = stuck.iter().position(|other| Arc::ptr_eq(other, &self.standing)) {
            stuck.swap_remove(place);
        }
        let left = self.standing.runs.fetch_sub(1, Ordering::AcqRel) - 1;
        self.standing.requests.fetch_sub(self.requests, Ordering::AcqRel);
        drop(stuck);
        tracing::info!(
            model = self.standing.name,
            target_model = self.standing.target_model,
            left,
            "a stuck run has ended{}",
            if left == 0 {
                "; the model accepts requests again"
            } else {
                ""
            }
        );
    }
}

/// Counts the contents of stuck runs; the one with the most runs comes first.
fn culprits(contents: impl Iterator<Item = u64>) -> Vec<Culprit> {
    let mut culprits: Vec<Culprit> = Vec::new();
    for content in contents {
        match culprits.iter_mut().find(|culprit| culprit.content == content) {
            Some(culprit) => culprit.runs += 1,
            None => culprits.push(Culprit { content, runs: 1 }),
        }
    }
    culprits.sort_by_key(|culprit| (std::cmp::Reverse(culprit.runs), culprit.content));
    culprits
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LIMITS: StuckLimits = StuckLimits {
        after: Duration::from_millis(1),
        most: 1,
    };

    /// A dispatch that reports when it is given up, and whether its thread is replaced.
    struct GiveUpRecorder(Mutex<mpsc::Sender<bool>>);

    impl GiveUp for GiveUpRecorder {
        fn give_up(&self, replace: bool) -> bool {
            self.0.lock().unwrap().send(replace).unwrap();
            replace
        }
    }

    fn dispatch() -> (Arc<dyn GiveUp>, mpsc::Receiver<bool>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::new(GiveUpRecorder(Mutex::new(sender))), receiver)
    }

    fn standing(name: &str, content: u64) -> Arc<Standing> {
        Arc::new(Standing::new(name.to_owned(), None, content))
    }

    #[test]
    fn a_run_that_continues_is_counted_and_its_model_refuses_requests_until_it_ends() {
        let stuck = Stuck::watch(LIMITS).unwrap();
        let (standing, (dispatch, given_up)) = (standing("slow", 1), dispatch());
        let run = stuck.track(&standing, 3, dispatch);
        assert!(standing.check().is_ok());
        Arc::clone(&run).cancel_requested();
        assert!(given_up.recv().unwrap(), "it is within the limit");
        // The run is counted before its dispatch is given up.
        assert_eq!((standing.runs(), standing.requests()), (1, 3));
        let (runs, models, total) = (1, 1, 1);
        assert_eq!(stuck.counts(), StuckCounts { runs, models, total });
        let refusal = standing.check().unwrap_err().to_string();
        assert!(
            refusal.contains("\"slow\"") && refusal.contains("one of its runs continues"),
            "{refusal}"
        );
        run.ended();
        assert!(standing.check().is_ok());
        let (runs, models, total) = (0, 0, 1);
        assert_eq!(stuck.counts(), StuckCounts { runs, models, total });
    }

    #[test]
    fn a_run_that_ends_in_time_is_not_given_up() {
        let stuck = Stuck::watch(LIMITS).unwrap();
        let standing = standing("quick", 1);
        let (first, first_given_up) = dispatch();
        let ended = stuck.track(&standing, 1, first);
        ended.ended();
        Arc::clone(&ended).cancel_requested();
        // This run is checked after the first one.
        let (second, second_given_up) = dispatch();
        let goes_on = stuck.track(&standing, 1, second);
        Arc::clone(&goes_on).cancel_requested();
        assert!(second_given_up.recv().unwrap());
        assert!(first_given_up.try_recv().is_err());
        assert_eq!(stuck.counts().total, 1);
    }

    #[tokio::test]
    async fn a_stuck_run_on_an_http_thread_is_one_too_many() {
        let stuck = Stuck::watch(StuckLimits { most: 8, ..LIMITS }).unwrap();
        let standing = standing("inline", 7);
        let counted = stuck.count_on_http(&standing);
        assert_eq!(stuck.too_many().await, [Culprit { content: 7, runs: 1 }]);
        assert!(standing.check().is_err());
        drop(counted);
        assert!(standing.check().is_ok());
    }

    #[tokio::test]
    async fn beyond_the_limit_threads_are_not_replaced_and_all_contents_are_reported() {
        let stuck = Stuck::watch(LIMITS).unwrap();
        let (one, other) = (standing("one", 7), standing("other", 5));
        let mut runs = Vec::new();
        let mut within = Vec::new();
        for standing in [&one, &other, &other] {
            let (dispatch, given_up) = dispatch();
            let run = stuck.track(standing, 1, dispatch);
            Arc::clone(&run).cancel_requested();
            within.push(given_up.recv().unwrap());
            runs.push(run);
        }
        assert_eq!(within, [true, false, false]);
        let culprits = stuck.too_many().await;
        let expected = [(5, 2), (7, 1)].map(|(content, runs)| Culprit { content, runs });
        assert_eq!(culprits, expected);
    }
}
