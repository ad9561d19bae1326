//! The second sessions of a large model, whose runs use other threads than those of the first.
//!
//! The first session splits each operator over the process's thread pool, which does not spin
//! (`runtime.rs`). Two situations have a faster way, and ONNX Runtime fixes the threads of a
//! session when it is created, so each needs another session:
//! - *All cores have work.* The threads of several runs wait for each other. Runs with one thread
//!   each answer more requests.
//! - *A run is alone.* Each operator wakes the threads of the pool, which takes longer than a small
//!   operator. Threads that wait actively between the operators answer sooner, and no other request
//!   to a compute thread is there to lose the time.
//!
//! A second session uses the constants and the copies of the first one, and costs its graph and its
//! kernels: some megabytes for a network of 100 MB.
//!
//! Second sessions are a cache. One is created after some runs that would have used it, it never
//! waits for memory, and it is dropped before a load is refused ([`SecondSessions`]).
//! A model whose large constants are not shared has no second session, because that would hold all
//! weights a second time.
//!
//! Invariants:
//! - The memory of a second session is reserved from before its creation until it is free.
//! - When a [`SecondPlaces`] has been dropped, no session of it exists and none is being created,
//!   except in runs, which keep their model loaded.

mod own_threads;

use std::ops::Deref;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::engine::LoadError;
use crate::engine::load::constants::ConstantFiles;
use crate::engine::load::resident::SessionSource;
use crate::engine::memory::{Budget, Footprint, LoadRequest, MappedFile, ModelReservation, Replacement, allocator};
use crate::engine::onnxruntime::runtime::Environment;
use crate::engine::onnxruntime::session::{RunThreads, Session};
use crate::engine::run::crash;
use crate::engine::run::pool::{CoreUse, Lane, Task};

use own_threads::{OwnThreads, Seat};

/// Number of runs in a situation after which a model gets the second session for it: two clients
/// that overlap once or twice are not worth it.
const MANY_RUNS: u32 = 8;

/// Time after a refusal, or after the session was dropped for others, before the next try.
const RETRY: Duration = Duration::from_secs(30);

/// Time without a run after which a session with threads of its own may leave its place to another.
const UNUSED: Duration = Duration::from_secs(30);

/// The creation of second sessions, and all those that exist.
#[derive(Debug)]
pub struct SecondSessions {
    environment: Environment,
    budget: Budget,
    constants: Arc<ConstantFiles>,
    /// The lanes in which sessions are created: threads that yield to requests, and threads that do
    /// not.
    creations: [Lane; 2],
    own_threads: OwnThreads,
    known: Mutex<Vec<Weak<State>>>,
}

/// The second sessions of a model, or the places for them.
#[derive(Debug)]
pub struct SecondPlaces {
    /// For a run that is alone.
    alone: Arc<State>,
    /// For runs while all cores have work.
    crowded: Arc<State>,
}

/// A situation in which other threads than those of the first session are faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Situation {
    /// A run is alone.
    Alone,
    /// All cores have work.
    Crowded,
}

#[derive(Debug)]
struct State {
    source: Arc<SessionSource>,
    situation: Situation,
    /// Identifies the model to the supervisor if the creation crashes the process.
    content: u64,
    stage: Mutex<Stage>,
    /// Locked while the session is created.
    creation: Mutex<()>,
}

#[derive(Debug)]
enum Stage {
    /// Number of runs that would have used the session.
    Wanted(u32),
    /// The creation waits for a thread, or is in progress.
    Awaited,
    There {
        open: Arc<OpenSession>,
        /// The start of the last run.
        used: Instant,
    },
    /// There is none until then.
    Refused(Instant),
    /// There is none any more.
    Closed,
}

/// A second session with the memory reserved for it. Fields drop in this order. The first session
/// holds the reservations of the constants and copies that both read.
#[derive(Debug)]
struct OpenSession {
    session: Session,
    memory: ModelReservation,
    _file: MappedFile,
    _seat: Option<Seat>,
}

/// The session that a run uses.
#[derive(Debug)]
pub enum RunSession<'a> {
    First(&'a Session),
    Second(SecondRun),
}

/// Keeps a second session during a run. Only its place drops a session, because that needs the
/// stack of a thread for loads.
#[derive(Debug)]
pub struct SecondRun(Arc<OpenSession>);

impl Deref for RunSession<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        match self {
            Self::First(session) => session,
            Self::Second(SecondRun(open)) => &open.session,
        }
    }
}

impl SecondSessions {
    /// Creates sessions in the lanes `creations`, on threads for deep recursion: in the second one
    /// those with threads of their own, `threads` of them for a run.
    pub fn new(
        environment: Environment,
        budget: Budget,
        constants: Arc<ConstantFiles>,
        creations: [Lane; 2],
        threads: usize,
    ) -> Arc<Self> {
        let all = Arc::new(Self {
            environment,
            budget: budget.clone(),
            constants,
            creations,
            own_threads: OwnThreads::new(budget.clone(), threads),
            known: Mutex::default(),
        });
        let weak = Arc::downgrade(&all);
        budget.free_first(move || weak.upgrade().is_some_and(|all| all.drop_idle()));
        all
    }

    /// Returns the second session for a run, if its situation has one and it exists. If not, counts
    /// the run, and has the session created when it is worth it.
    pub fn wanted(self: &Arc<Self>, second: &SecondPlaces, core_use: CoreUse) -> Option<SecondRun> {
        let state = match core_use {
            CoreUse::Alone if self.own_threads.of_run() > 1 => &second.alone,
            CoreUse::All => &second.crowded,
            // On one core, a session has no threads of its own.
            CoreUse::Alone | CoreUse::Part => return None,
        };
        let mut stage = state.stage();
        match &mut *stage {
            Stage::There { open, used } => {
                *used = Instant::now();
                return Some(SecondRun(Arc::clone(open)));
            }
            Stage::Awaited | Stage::Closed => return None,
            Stage::Refused(until) if Instant::now() < *until => return None,
            Stage::Refused(_) => *stage = Stage::Wanted(1),
            Stage::Wanted(runs) if *runs < MANY_RUNS => *runs += 1,
            Stage::Wanted(_) => {
                *stage = Stage::Awaited;
                drop(stage);
                self.create_later(state);
            }
        }
        None
    }

    fn create_later(self: &Arc<Self>, state: &Arc<State>) {
        let (all, waiting) = (Arc::clone(self), Arc::clone(state));
        let task: Task = Box::new(move || all.create(&waiting));
        let [yielding, lively] = &self.creations;
        let lane = match state.situation {
            Situation::Crowded => yielding,
            Situation::Alone => lively,
        };
        if lane.spawn(task).is_err() {
            state.refuse();
        }
    }

    /// Creates the session of `state`, on a thread for that.
    fn create(&self, state: &Arc<State>) {
        let _creation = lock(&state.creation);
        if !matches!(*state.stage(), Stage::Awaited) {
            return;
        }
        match self.open(state) {
            Ok(Some(open)) => {
                tracing::debug!(
                    model = %state.source.file().display(),
                    bytes = open.memory.charge(),
                    "created a second session for {}",
                    match state.situation {
                        Situation::Alone => "runs that are alone",
                        Situation::Crowded => "busy cores",
                    }
                );
                self.enter(state, Arc::new(open));
            }
            Ok(None) => state.refuse(),
            Err(error) => {
                tracing::debug!(model = %state.source.file().display(), %error, "failed to create a second session");
                allocator::give_back();
                state.refuse();
            }
        }
    }

    fn enter(&self, state: &Arc<State>, open: Arc<OpenSession>) {
        let mut known = lock(&self.known);
        known.retain(|other| other.strong_count() > 0 && !ptr::eq(other.as_ptr(), Arc::as_ptr(state)));
        known.push(Arc::downgrade(state));
        drop(known);
        let mut stage = state.stage();
        if matches!(*stage, Stage::Awaited) {
            let used = Instant::now();
            *stage = Stage::There { open, used };
            return;
        }
        // The model is being unloaded, and waits for the memory.
        drop(stage);
        drop(open);
        allocator::give_back();
    }

    /// Opens the session. Returns `None` if it would need threads that no other session gives up,
    /// or if a session with the same constants is being created.
    fn open(&self, state: &State) -> Result<Option<OpenSession>, LoadError> {
        let source = &state.source;
        let (threads, threads_memory) = match state.situation {
            Situation::Crowded => (RunThreads::Caller, 0),
            Situation::Alone => (RunThreads::Own(self.own_threads.of_run()), self.own_threads.memory()),
        };
        let Some(_turn) = self.constants.try_turn(source.stored_constants()) else {
            return Ok(None);
        };
        let Some(constants) = source.constants(&self.constants)? else {
            return Ok(None);
        };
        let expected = source.expected(&constants.expected(), false);
        let request = LoadRequest {
            peak: expected.peak.saturating_add(threads_memory),
            private: expected.private.saturating_add(threads_memory),
            // The first session has mapped them.
            mapped: 0,
            replacement: Replacement::default(),
        };
        let loading = self.budget.load_now(&request)?;
        let seat = match state.situation {
            Situation::Crowded => None,
            Situation::Alone => {
                let Some(seat) = self.seat() else { return Ok(None) };
                Some(seat)
            }
        };
        let _mark = crash::CrashMarker::new(state.content);
        let before = allocator::thread_balance();
        let given = constants.for_session();
        let file = self.budget.map_file(constants.bytes_of_others(&given));
        let opened = source.open_graph(&self.environment, given, threads);
        let taken = u64::try_from(allocator::thread_balance() - before).unwrap_or(0);
        let footprint = Footprint {
            private: taken.saturating_add(source.growth()).saturating_add(threads_memory),
            ..Footprint::default()
        };
        match (opened, loading.settle(footprint)) {
            (Ok(session), Ok(memory)) => Ok(Some(OpenSession {
                session,
                memory,
                _file: file,
                _seat: seat,
            })),
            (Ok(session), Err((refused, memory))) => {
                drop(session);
                drop(memory);
                Err(refused.into())
            }
            (Err(error), Ok(memory) | Err((_, memory))) => {
                constants.keep(memory);
                Err(error.into())
            }
        }
    }

    /// A seat for a session with threads of its own; if all are taken, that of the session that was
    /// used longest ago, unless it is in use.
    fn seat(&self) -> Option<Seat> {
        self.own_threads.take().or_else(|| {
            let used = self.known().filter_map(|state| Some((state.own_used()?, state)));
            let unused = longest_unused(used, Instant::now())?;
            if unused.drop_idle() {
                tracing::debug!(model = %unused.source.file().display(), "dropped a second session for that of another model");
            }
            self.own_threads.take()
        })
    }

    /// Drops all second sessions that no run uses. Returns whether there were any.
    fn drop_idle(&self) -> bool {
        let count = self.known().filter(|state| state.drop_idle()).count();
        if count > 0 {
            tracing::debug!(count, "dropped second sessions to make room");
        }
        count > 0
    }

    /// The places that have or had a session.
    fn known(&self) -> impl Iterator<Item = Arc<State>> {
        let known = lock(&self.known).clone();
        known.into_iter().filter_map(|state| state.upgrade())
    }
}

/// Finds what was used longest ago. `None` if everything was used shortly before `now`: several
/// models that take turns would otherwise lose their sessions to each other all the time.
fn longest_unused<T>(used: impl Iterator<Item = (Instant, T)>, now: Instant) -> Option<T> {
    let (used, unused) = used.min_by_key(|(used, _)| *used)?;
    (now.saturating_duration_since(used) >= UNUSED).then_some(unused)
}

impl SecondPlaces {
    /// The places for the second sessions of the model with the prepared form `source`; `None` if
    /// the model can have none.
    pub fn of(source: &Arc<SessionSource>, first: &Session, content: u64) -> Option<Self> {
        let place = |situation| {
            Arc::new(State {
                source: Arc::clone(source),
                situation,
                content,
                stage: Mutex::new(Stage::Wanted(0)),
                creation: Mutex::default(),
            })
        };
        let can_have_some = first.is_pooled() && !source.stored_constants().is_empty();
        can_have_some.then(|| Self {
            alone: place(Situation::Alone),
            crowded: place(Situation::Crowded),
        })
    }

    /// Bytes that count against the limit: those of the sessions that exist.
    pub fn charge(&self) -> u64 {
        self.alone.charge() + self.crowded.charge()
    }
}

impl Drop for SecondPlaces {
    fn drop(&mut self) {
        // Both first, so that neither begins a creation while the other one is waited for.
        self.alone.close();
        self.crowded.close();
        drop(lock(&self.alone.creation));
        drop(lock(&self.crowded.creation));
    }
}

impl State {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        lock(&self.stage)
    }

    fn charge(&self) -> u64 {
        match &*self.stage() {
            Stage::There { open, .. } => open.memory.charge(),
            Stage::Wanted(_) | Stage::Awaited | Stage::Refused(_) | Stage::Closed => 0,
        }
    }

    /// The last use of the session, if there is one with threads of its own.
    fn own_used(&self) -> Option<Instant> {
        match (self.situation, &*self.stage()) {
            (Situation::Alone, Stage::There { used, .. }) => Some(*used),
            _ => None,
        }
    }

    fn refuse(&self) {
        let mut stage = self.stage();
        if !matches!(*stage, Stage::Closed) {
            *stage = Stage::Refused(Instant::now() + RETRY);
        }
    }

    /// Drops the session if no run uses it. Returns whether it did.
    fn drop_idle(&self) -> bool {
        let mut stage = self.stage();
        // Runs get the session under this lock.
        let is_idle = matches!(&*stage, Stage::There { open, .. } if Arc::strong_count(open) == 1);
        if !is_idle {
            return false;
        }
        let open = std::mem::replace(&mut *stage, Stage::Refused(Instant::now() + RETRY));
        drop(stage);
        drop(open);
        true
    }

    /// Drops the session. A creation in progress drops its session at its end.
    fn close(&self) {
        let stage = std::mem::replace(&mut *self.stage(), Stage::Closed);
        drop(stage);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_that_was_used_longest_ago_leaves_its_place_if_it_was_not_used_shortly_before() {
        let now = Instant::now() + Duration::from_secs(3_600);
        let ago = |seconds| now - Duration::from_secs(seconds);
        let table = [
            (vec![], None),
            (vec![(ago(29), 'a')], None),
            (vec![(ago(30), 'a')], Some('a')),
            (vec![(ago(40), 'a'), (ago(90), 'b'), (ago(0), 'c')], Some('b')),
            (vec![(ago(3), 'a'), (ago(9), 'b')], None),
        ];
        for (used, expected) in table {
            assert_eq!(longest_unused(used.clone().into_iter(), now), expected, "{used:?}");
        }
    }
}
