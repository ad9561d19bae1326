//! The second session of a large model, whose runs use only their own thread.
//!
//! The first session splits each operator over the process's thread pool, which makes one request
//! fast. When all cores are busy, the threads of several runs wait for each other: runs with one
//! thread each then answer 15 to 20 % more requests. ONNX Runtime fixes the number of threads when
//! a session is created, so this needs another session. It uses the constants and the copies of the
//! first one, and costs its graph and its kernels: some megabytes for a network of 100 MB.
//!
//! The second session is a cache. It is created after some runs that would have used it, it never
//! waits for memory, and it is dropped before a load is refused ([`SecondSessions`]).
//! A model whose large constants are not shared has no second session, because that would hold all
//! weights a second time.
//!
//! Invariants:
//! - The memory of a second session is reserved from before its creation until it is free.
//! - When a [`SecondSession`] has been dropped, no session of it exists and none is being created,
//!   except in runs, which keep their model loaded.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::engine::LoadError;
use crate::engine::load::constants::ConstantFiles;
use crate::engine::load::resident::SessionSource;
use crate::engine::memory::{Budget, Footprint, LoadRequest, MappedFile, ModelReservation, Replacement, allocator};
use crate::engine::onnxruntime::runtime::Environment;
use crate::engine::onnxruntime::session::{RunThreads, Session};
use crate::engine::run::crash;
use crate::engine::run::pool::{Lane, Task};

/// Number of runs on busy cores after which a model gets its second session: two clients that
/// overlap once or twice are not worth it.
const MANY_RUNS: u32 = 8;

/// Time after a refusal, or after the session was dropped for others, before the next try.
const RETRY: Duration = Duration::from_secs(30);

/// The creation of second sessions, and all those that exist.
#[derive(Debug)]
pub struct SecondSessions {
    environment: Environment,
    budget: Budget,
    constants: Arc<ConstantFiles>,
    loads: Lane,
    known: Mutex<Vec<Weak<State>>>,
}

/// The second session of a model, or the place for it.
#[derive(Debug)]
pub struct SecondSession(Arc<State>);

#[derive(Debug)]
struct State {
    source: Arc<SessionSource>,
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
    There(Arc<OpenSession>),
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
    /// Creates sessions in the lane `loads` of a pool for loads.
    pub fn new(environment: Environment, budget: Budget, constants: Arc<ConstantFiles>, loads: Lane) -> Arc<Self> {
        let all = Arc::new(Self {
            environment,
            budget: budget.clone(),
            constants,
            loads,
            known: Mutex::default(),
        });
        let weak = Arc::downgrade(&all);
        budget.free_first(move || weak.upgrade().is_some_and(|all| all.drop_idle()));
        all
    }

    /// Returns the second session for a run on busy cores. If there is none, counts the run, and
    /// has the session created when it is worth it.
    pub fn wanted(self: &Arc<Self>, second: &SecondSession) -> Option<SecondRun> {
        let mut stage = second.0.stage();
        match &mut *stage {
            Stage::There(open) => return Some(SecondRun(Arc::clone(open))),
            Stage::Awaited | Stage::Closed => return None,
            Stage::Refused(until) if Instant::now() < *until => return None,
            Stage::Refused(_) => *stage = Stage::Wanted(1),
            Stage::Wanted(runs) if *runs < MANY_RUNS => *runs += 1,
            Stage::Wanted(_) => {
                *stage = Stage::Awaited;
                drop(stage);
                self.create_later(&second.0);
            }
        }
        None
    }

    fn create_later(self: &Arc<Self>, state: &Arc<State>) {
        let (all, waiting) = (Arc::clone(self), Arc::clone(state));
        let task: Task = Box::new(move || all.create(&waiting));
        if self.loads.spawn(task).is_err() {
            state.refuse();
        }
    }

    /// Creates the session of `state`, on a thread for loads.
    fn create(&self, state: &Arc<State>) {
        let _creation = lock(&state.creation);
        if !matches!(*state.stage(), Stage::Awaited) {
            return;
        }
        let _mark = crash::CrashMarker::new(state.content);
        match self.open(&state.source) {
            Ok(Some(open)) => {
                tracing::debug!(
                    model = %state.source.file().display(),
                    bytes = open.memory.charge(),
                    "created a second session, whose runs use one thread each"
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
        known.retain(|other| other.strong_count() > 0);
        known.push(Arc::downgrade(state));
        drop(known);
        let mut stage = state.stage();
        if matches!(*stage, Stage::Awaited) {
            *stage = Stage::There(open);
            return;
        }
        // The model is being unloaded, and waits for the memory.
        drop(stage);
        drop(open);
        allocator::give_back();
    }

    /// Opens the session. Returns `None` if a session with the same constants is being created.
    fn open(&self, source: &SessionSource) -> Result<Option<OpenSession>, LoadError> {
        let Some(_turn) = self.constants.try_turn(source.stored_constants()) else {
            return Ok(None);
        };
        let Some(constants) = source.constants(&self.constants)? else {
            return Ok(None);
        };
        let request = LoadRequest {
            replacement: Replacement::default(),
            // The first session has mapped them.
            mapped: 0,
            ..source.expected(&constants.expected(), false)
        };
        let loading = self.budget.load_now(&request)?;
        let before = allocator::thread_balance();
        let given = constants.for_session();
        let file = self.budget.map_file(constants.bytes_of_others(&given));
        let opened = source.open_graph(&self.environment, given, RunThreads::Caller);
        let taken = u64::try_from(allocator::thread_balance() - before).unwrap_or(0);
        let footprint = Footprint {
            private: taken.saturating_add(source.growth()),
            ..Footprint::default()
        };
        match (opened, loading.settle(footprint)) {
            (Ok(session), Ok(memory)) => Ok(Some(OpenSession {
                session,
                memory,
                _file: file,
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

    /// Drops all second sessions that no run uses. Returns whether there were any.
    fn drop_idle(&self) -> bool {
        let known = lock(&self.known).clone();
        let states = known.iter().filter_map(Weak::upgrade);
        let count = states.filter(|state| state.drop_idle()).count();
        if count > 0 {
            tracing::debug!(count, "dropped second sessions to make room");
        }
        count > 0
    }
}

impl SecondSession {
    /// The place for the second session of the model with the prepared form `source`; `None` if the
    /// model can have none.
    pub fn of(source: &Arc<SessionSource>, first: &Session, content: u64) -> Option<Self> {
        let can_have_one = first.is_pooled() && !source.stored_constants().is_empty();
        can_have_one.then(|| {
            Self(Arc::new(State {
                source: Arc::clone(source),
                content,
                stage: Mutex::new(Stage::Wanted(0)),
                creation: Mutex::default(),
            }))
        })
    }

    /// Bytes that count against the limit: those of the session, if there is one.
    pub fn charge(&self) -> u64 {
        match &*self.0.stage() {
            Stage::There(open) => open.memory.charge(),
            Stage::Wanted(_) | Stage::Awaited | Stage::Refused(_) | Stage::Closed => 0,
        }
    }
}

impl Drop for SecondSession {
    fn drop(&mut self) {
        let stage = std::mem::replace(&mut *self.0.stage(), Stage::Closed);
        drop(stage);
        // Wait for a creation in progress, which drops its session now.
        drop(lock(&self.0.creation));
    }
}

impl State {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        lock(&self.stage)
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
        let is_idle = matches!(&*stage, Stage::There(open) if Arc::strong_count(open) == 1);
        if !is_idle {
            return false;
        }
        let open = std::mem::replace(&mut *stage, Stage::Refused(Instant::now() + RETRY));
        drop(stage);
        drop(open);
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
