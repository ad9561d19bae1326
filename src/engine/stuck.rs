//! Runs that go on although they were told to end.
//!
//! A run is told to end when its deadline has passed or its callers have left. ONNX Runtime looks at that between two
//! operators; inside one, which may take minutes (NonMaxSuppression over many boxes), nothing reaches the run. A run that
//! goes on for [`Settings::after`] since is *stuck*:
//!
//! | a stuck run on | the thread | the model |
//! |---|---|---|
//! | a compute thread | leaves the pool's count, and another one takes its place (`pool/seat.rs`), up to [`Settings::most`] | takes no requests until the run has ended |
//! | a thread that answers HTTP | cannot be replaced in this process | the same |
//!
//! Beyond the bound, or when a thread that answers HTTP is held up, this process cannot give other models their share any
//! more: [`Stuck::too_many`] says so to the part that can have the process replaced.
//!
//! What always holds: a stuck run is counted, and its model is marked, from when it is found to when it ends; a run is
//! found under the same lock under which it ends.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::InferenceError;
use super::pool::GiveUp;

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a run may go on after it was told to end.
    pub after: Duration,
    /// Stuck runs whose threads are replaced.
    pub most: usize,
}

/// A model under a name, as far as its stuck runs go.
#[derive(Debug)]
pub struct Standing {
    /// For the log and for refusals.
    name: String,
    /// A `ContentHash::short`.
    content: u64,
    runs: AtomicUsize,
    requests: AtomicUsize,
}

impl Standing {
    pub fn new(name: String, content: u64) -> Self {
        Self {
            name,
            content,
            runs: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        }
    }

    /// The runs that are stuck.
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::Acquire)
    }

    /// The requests of these runs.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    /// Refuses a request while runs are stuck.
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
    /// A `ContentHash::short`.
    pub content: u64,
    pub runs: usize,
}

/// Where stuck runs stand, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub runs: usize,
    /// Models that take no requests for that.
    pub models: usize,
    /// Stuck runs so far, those that have ended included.
    pub total: u64,
}

/// All stuck runs of a process, and the runs that may become so.
pub struct Stuck {
    settings: Settings,
    /// Runs that were told to end, the first one first, and when they are looked at.
    told: Mutex<VecDeque<(Instant, Arc<Tracked>)>>,
    more: Condvar,
    /// The standing of each stuck run.
    stuck: Mutex<Vec<Arc<Standing>>>,
    total: AtomicU64,
    too_many: watch::Sender<bool>,
    has_complained: AtomicBool,
}

impl std::fmt::Debug for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stuck")
            .field("settings", &self.settings)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// A run on a compute thread.
pub struct Tracked {
    standing: Arc<Standing>,
    stuck: Arc<Stuck>,
    /// How many requests it answers.
    requests: usize,
    turn: Arc<dyn GiveUp>,
    phase: Mutex<Phase>,
}

#[derive(Debug)]
enum Phase {
    Running,
    Stuck(Counted),
    Ended,
}

/// A stuck run. Counted while it lives.
#[derive(Debug)]
pub struct Counted {
    stuck: Arc<Stuck>,
    standing: Arc<Standing>,
    requests: usize,
}

impl Stuck {
    /// Watches for stuck runs for as long as the process lives.
    pub fn watch(settings: Settings) -> std::io::Result<Arc<Self>> {
        let stuck = Arc::new(Self::new(settings));
        let watched = Arc::clone(&stuck);
        thread::Builder::new()
            .name("stuck".to_owned())
            .spawn(move || watched.look_on())?;
        Ok(stuck)
    }

    fn new(settings: Settings) -> Self {
        Self {
            settings,
            told: Mutex::default(),
            more: Condvar::new(),
            stuck: Mutex::default(),
            total: AtomicU64::new(0),
            too_many: watch::Sender::new(false),
            has_complained: AtomicBool::new(false),
        }
    }

    /// Follows a run of `requests` requests that begins on `turn`'s thread.
    pub fn track(self: &Arc<Self>, standing: &Arc<Standing>, requests: usize, turn: Arc<dyn GiveUp>) -> Arc<Tracked> {
        Arc::new(Tracked {
            standing: Arc::clone(standing),
            stuck: Arc::clone(self),
            requests,
            turn,
            phase: Mutex::new(Phase::Running),
        })
    }

    /// How long a run may go on after it was told to end.
    pub fn after(&self) -> Duration {
        self.settings.after
    }

    pub fn counts(&self) -> Counts {
        let stuck = self.stuck();
        let models: BTreeSet<_> = stuck.iter().map(Arc::as_ptr).collect();
        Counts {
            runs: stuck.len(),
            models: models.len(),
            total: self.total.load(Ordering::Relaxed),
        }
    }

    /// Waits until this process cannot give other models their share any more. Returns what takes it.
    pub async fn too_many(&self) -> Vec<Culprit> {
        let mut too_many = self.too_many.subscribe();
        // The sender lives as long as `self`.
        let _ = too_many.wait_for(|&too_many| too_many).await;
        culprits(self.stuck().iter().map(|standing| standing.content))
    }

    /// Counts a stuck run of `requests` requests, and marks its model. `on` is the thread's kind, for the log. Returns whether
    /// its thread may be replaced.
    fn count(self: &Arc<Self>, standing: &Arc<Standing>, requests: usize, on: &'static str) -> (Counted, bool) {
        let mut stuck = self.stuck();
        let is_within = stuck.len() < self.settings.most;
        stuck.push(Arc::clone(standing));
        standing.runs.fetch_add(1, Ordering::AcqRel);
        standing.requests.fetch_add(requests, Ordering::AcqRel);
        let runs = stuck.len();
        drop(stuck);
        self.total.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            model = standing.name,
            on,
            stuck_runs = runs,
            "a run is stuck: it was told to end {:?} ago and goes on inside one operator; the model takes no requests until it \
             has ended",
            self.settings.after
        );
        let counted = Counted {
            stuck: Arc::clone(self),
            standing: Arc::clone(standing),
            requests,
        };
        (counted, is_within)
    }

    /// Counts a stuck run on a thread that answers HTTP.
    pub fn count_on_http(self: &Arc<Self>, standing: &Arc<Standing>) -> Counted {
        let (counted, _) = self.count(standing, 1, "an HTTP thread");
        self.exceed("a thread that answers HTTP is held up by a stuck run");
        counted
    }

    fn exceed(&self, why: &'static str) {
        self.too_many.send_replace(true);
        if !self.has_complained.swap(true, Ordering::Relaxed) {
            tracing::error!("{why}; only another process can serve all models as before");
        }
    }

    fn told_to_end(&self, run: Arc<Tracked>) {
        let due = Instant::now() + self.settings.after;
        self.told().push_back((due, run));
        self.more.notify_one();
    }

    fn look_on(&self) {
        loop {
            let mut told = self.told();
            let (due, run) = loop {
                match told.pop_front() {
                    Some(next) => break next,
                    None => told = self.more.wait(told).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(told);
            // All of them wait for the same time, so none is due before this one.
            thread::sleep(due.saturating_duration_since(Instant::now()));
            run.look();
        }
    }

    fn stuck(&self) -> MutexGuard<'_, Vec<Arc<Standing>>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, VecDeque<(Instant, Arc<Tracked>)>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracked {
    /// Notes that the run has been told to end.
    pub fn told_to_end(self: Arc<Self>) {
        let stuck = Arc::clone(&self.stuck);
        stuck.told_to_end(self);
    }

    /// Notes that the run has ended. Called on its thread, before that takes its turn's next step.
    pub fn ended(&self) {
        let before = std::mem::replace(&mut *self.phase(), Phase::Ended);
        if let Phase::Stuck(counted) = before {
            drop(counted);
        }
    }

    /// Gives the run's turn up when the run goes on.
    fn look(&self) {
        let mut phase = self.phase();
        if !matches!(*phase, Phase::Running) {
            return;
        }
        let (counted, is_within) = self.stuck.count(&self.standing, self.requests, "a compute thread");
        self.turn.give_up(is_within);
        *phase = Phase::Stuck(counted);
        drop(phase);
        if !is_within {
            self.stuck.exceed("more runs are stuck than --max-stuck");
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
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
            left,
            "a stuck run has ended{}",
            if left == 0 {
                "; the model takes requests again"
            } else {
                ""
            }
        );
    }
}

/// The contents of stuck runs, the one with the most runs first.
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

    const SETTINGS: Settings = Settings {
        after: Duration::from_millis(1),
        most: 1,
    };

    /// A turn that tells when it is given up, and whether its thread is to be replaced.
    struct Told(Mutex<mpsc::Sender<bool>>);

    impl GiveUp for Told {
        fn give_up(&self, replace: bool) -> bool {
            self.0.lock().unwrap().send(replace).unwrap();
            replace
        }
    }

    fn turn() -> (Arc<dyn GiveUp>, mpsc::Receiver<bool>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::new(Told(Mutex::new(sender))), receiver)
    }

    fn standing(name: &str, content: u64) -> Arc<Standing> {
        Arc::new(Standing::new(name.to_owned(), content))
    }

    #[test]
    fn a_run_that_goes_on_is_counted_and_its_model_refuses_until_it_ends() {
        let stuck = Stuck::watch(SETTINGS).unwrap();
        let (standing, (turn, given_up)) = (standing("slow", 1), turn());
        let run = stuck.track(&standing, 3, turn);
        assert!(standing.check().is_ok());
        Arc::clone(&run).told_to_end();
        assert!(given_up.recv().unwrap(), "it is within the bound");
        // Counted before the turn is given up.
        assert_eq!((standing.runs(), standing.requests()), (1, 3));
        let (runs, models, total) = (1, 1, 1);
        assert_eq!(stuck.counts(), Counts { runs, models, total });
        let refusal = standing.check().unwrap_err().to_string();
        assert!(
            refusal.contains("\"slow\"") && refusal.contains("a run of it goes on"),
            "{refusal}"
        );
        run.ended();
        assert!(standing.check().is_ok());
        let (runs, models, total) = (0, 0, 1);
        assert_eq!(stuck.counts(), Counts { runs, models, total });
    }

    #[test]
    fn a_run_that_ends_in_time_is_not_given_up() {
        let stuck = Stuck::watch(SETTINGS).unwrap();
        let standing = standing("quick", 1);
        let (first, first_given_up) = turn();
        let ended = stuck.track(&standing, 1, first);
        ended.ended();
        Arc::clone(&ended).told_to_end();
        // Looked at after the first one.
        let (second, second_given_up) = turn();
        let goes_on = stuck.track(&standing, 1, second);
        Arc::clone(&goes_on).told_to_end();
        assert!(second_given_up.recv().unwrap());
        assert!(first_given_up.try_recv().is_err());
        assert_eq!(stuck.counts().total, 1);
    }

    #[tokio::test]
    async fn a_run_that_holds_up_an_http_thread_is_one_too_many() {
        let stuck = Stuck::watch(Settings { most: 8, ..SETTINGS }).unwrap();
        let standing = standing("inline", 7);
        let counted = stuck.count_on_http(&standing);
        assert_eq!(stuck.too_many().await, [Culprit { content: 7, runs: 1 }]);
        assert!(standing.check().is_err());
        drop(counted);
        assert!(standing.check().is_ok());
    }

    #[tokio::test]
    async fn one_run_too_many_has_no_thread_in_its_place_and_all_contents_are_to_blame() {
        let stuck = Stuck::watch(SETTINGS).unwrap();
        let (one, other) = (standing("one", 7), standing("other", 5));
        let mut runs = Vec::new();
        let mut within = Vec::new();
        for standing in [&one, &other, &other] {
            let (turn, given_up) = turn();
            let run = stuck.track(standing, 1, turn);
            Arc::clone(&run).told_to_end();
            within.push(given_up.recv().unwrap());
            runs.push(run);
        }
        assert_eq!(within, [true, false, false]);
        let culprits = stuck.too_many().await;
        let expected = [(5, 2), (7, 1)].map(|(content, runs)| Culprit { content, runs });
        assert_eq!(culprits, expected);
    }
}
