//! A loaded model, and the path of a request to it: inline, or on a compute thread.

use std::sync::Arc;

use tokio::time::Instant;

use crate::engine::InferenceError;
use crate::engine::load::adapter::BoundAdapter;
use crate::engine::load::content::ContentHash;
use crate::engine::load::resident::Resident;
use crate::engine::load::second::{RunSession, SecondSessions};
use crate::engine::memory::{NoRoom, RequestMemory};
use crate::engine::onnxruntime::session::{Cancel, RunError, Session};
use crate::engine::run::crash;
use crate::engine::run::placement;
use crate::engine::run::pool::{CoreUse, Lane};
use crate::engine::run::records;
use crate::engine::run::stuck::{Standing, Stuck};
use crate::engine::run::turn::{Batcher, PendingRequest, guarded};
use crate::engine::run::watchdog::{Watchdog, Watched};
use crate::manifest::Manifest;
use crate::telemetry::recorder::{Phase, Recorder};
use crate::telemetry::times::RequestTimes;
use crate::tensor::{Inputs, Signature, Tensor, Value};

/// A loaded model. Answers any number of concurrent requests.
#[derive(Debug)]
pub struct Model {
    pub(in crate::engine) resident: Arc<Resident>,
    /// The values of some inputs of the session, which requests do not give.
    pub(in crate::engine) adapter: Option<Box<BoundAdapter>>,
    pub(in crate::engine) manifest: Arc<Manifest>,
    pub(in crate::engine) lane: Lane<PendingRequest>,
    /// `None` if requests to this model are not batched.
    pub(in crate::engine) batcher: Option<Batcher>,
    pub(in crate::engine) second_sessions: Arc<SecondSessions>,
    pub(in crate::engine) recorder: Arc<Recorder>,
    pub(in crate::engine) watchdog: Arc<Watchdog>,
    pub(in crate::engine) standing: Arc<Standing>,
    pub(in crate::engine) stuck: Arc<Stuck>,
}

/// The memory of a model that was loaded, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadedMemory {
    /// Private memory that is freed with the model.
    pub own: u64,
    /// Large constants that models of other contents had in memory before.
    pub shared: u64,
    /// Weights that are mapped from files.
    pub mapped: u64,
}

/// The memory and the time that decoding a request may take.
pub trait RequestBudget {
    /// Reserves `bytes` bytes before they are used, in addition to what requests of this size are
    /// expected to need: for example, only an image's header tells how large the image becomes.
    /// Returns `None` if memory is not counted.
    fn reserve(&self, bytes: u64) -> Result<Option<RequestMemory>, NoRoom>;

    /// The time at which no client waits for the answer any more; `None` if there is no such time.
    fn deadline(&self) -> Option<std::time::Instant> {
        None
    }
}

/// The budget of a request to a loaded model.
pub(in crate::engine) struct ModelBudget<'a> {
    pub model: &'a Model,
    pub deadline: Instant,
}

impl RequestBudget for ModelBudget<'_> {
    fn reserve(&self, bytes: u64) -> Result<Option<RequestMemory>, NoRoom> {
        self.model.resident.reserve(bytes).map(Some)
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        Some(self.deadline.into_std())
    }
}

/// The parts of a request apart from its run. There are two, because the request may be joined with
/// others between them.
///
/// Both may be called several times for one request, on any thread that runs the model.
pub trait Work: Send + 'static {
    /// Results of decoding that encoding needs.
    type Plan: Send + 'static;
    type Answer: Send + 'static;
    type Error: From<InferenceError> + Send + 'static;

    /// Decodes the request.
    fn decode(&self, budget: &dyn RequestBudget) -> Result<(Inputs, Self::Plan), Self::Error>;

    /// The outputs that the run must return, as indices into the signature's; `None` for all.
    fn outputs(plan: &Self::Plan) -> Option<&[usize]>;

    /// The inputs of the runs after the first one, if the request is divided into groups of
    /// records. Each group is a run of its own.
    fn further(plan: &Self::Plan) -> &[Inputs];

    /// Number of records that have to run one by one; `None` if one run answers them all. Called
    /// before the run, and again with the outputs of a run for all records, but not for a request
    /// that is divided into groups.
    fn apart(&self, plan: &Self::Plan, outputs: Option<&[Value]>) -> Option<usize>;

    /// The times of the request, if it is timed by itself.
    fn times(&self) -> Option<&RequestTimes>;

    /// Encodes the answer. `runs` holds the requested outputs, in that order, of the one run, of
    /// each group's run, or of each record's run.
    fn encode(&self, plan: Self::Plan, runs: &[Vec<Value>]) -> Result<Self::Answer, Self::Error>;
}

impl Model {
    /// Sets the model's name for the log and for error messages, and the client's name for it.
    pub fn called(self, name: String, target_model: Option<String>) -> Self {
        let standing = Arc::new(Standing::new(name, target_model, self.content().short()));
        Self { standing, ..self }
    }

    /// The model's stuck runs. While there are any, [`Self::answer`] refuses requests.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    pub fn signature(&self) -> &Signature {
        match &self.adapter {
            None => self.resident.session.signature(),
            Some(adapter) => adapter.signature(),
        }
    }

    /// The session for a run on a compute thread; `core_use` says how much of the cores is in use.
    pub(in crate::engine) fn session_for(&self, core_use: impl FnOnce() -> CoreUse) -> RunSession<'_> {
        self.resident.session_for(core_use, &self.second_sessions)
    }

    /// Runs `session` on the inputs of a request, and on the values of the adapter if there is one.
    pub(in crate::engine) fn run_session(
        &self,
        session: &Session,
        tensors: &[Tensor],
        optional: &[(usize, Tensor)],
        outputs: Option<&[usize]>,
        cancel: &Cancel,
    ) -> Result<Vec<Value>, RunError> {
        match &self.adapter {
            None => session.run_given(tensors, optional, outputs, cancel),
            Some(adapter) => session.run_placed(adapter.given(tensors, optional), outputs, cancel),
        }
    }

    /// The artifact's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Drops what a ready model does not need: the manifest's requests, and the bytes of its
    /// tokenizer.
    pub fn forget_files(&mut self) {
        let Manifest {
            warmup, golden, hints, ..
        } = &*self.manifest;
        let has_bytes = hints.tokenizer.as_ref().is_some_and(|file| file.bytes.is_some());
        if has_bytes || !(warmup.is_empty() && golden.is_empty()) {
            let mut manifest = Manifest::clone(&self.manifest);
            (manifest.warmup, manifest.golden) = (Vec::new(), Vec::new());
            if let Some(file) = &mut manifest.hints.tokenizer {
                file.bytes = None;
            }
            self.manifest = Arc::new(manifest);
        }
    }

    /// The hash of the model's files, including that of its adapter.
    pub fn content(&self) -> &ContentHash {
        match &self.adapter {
            None => &self.resident.content,
            Some(adapter) => adapter.content(),
        }
    }

    /// Measured bytes of the model, shared with all models of the same content. Does not include
    /// mapped weights.
    pub fn memory(&self) -> u64 {
        self.resident.private() + self.adapter_charge()
    }

    /// The memory of this model after its load.
    pub fn loaded_memory(&self) -> LoadedMemory {
        LoadedMemory {
            own: self.memory(),
            shared: self.resident.found(),
            mapped: self.resident.footprint().mapped,
        }
    }

    /// Bytes that unloading the model frees, unless another name has the same content.
    pub fn charge(&self) -> u64 {
        self.resident.charge() + self.adapter_charge()
    }

    fn adapter_charge(&self) -> u64 {
        self.adapter.as_ref().map_or(0, |adapter| adapter.adapter().charge())
    }

    /// Bytes that dropping this model frees: nothing of the session or of the adapter if another
    /// name has it, too.
    pub(in crate::engine) fn frees(&self) -> u64 {
        let session = if Arc::strong_count(&self.resident) == 1 {
            self.resident.charge()
        } else {
            0
        };
        let adapter = self.adapter.as_ref().map(|bound| bound.adapter());
        session
            + adapter
                .filter(|adapter| Arc::strong_count(adapter) == 1)
                .map_or(0, |adapter| adapter.charge())
    }

    /// Runs `work` for a request of `size` bytes. A request that is expected to be short runs
    /// inline; any other waits for a compute thread, and may be batched with others. At `deadline`
    /// the result is [`Deadline`](crate::engine::PoolError::Deadline), and a run that only this
    /// request waits for is cancelled. Work on a compute thread holds a clone of `model`, and so
    /// keeps it loaded, until it ends, which may be later than this future.
    ///
    /// If inline work takes longer than expected, the watchdog ends it, and it runs again on a
    /// compute thread. This is safe because models have no state that a run could change.
    ///
    /// # Cancel safety
    /// Dropping the future frees the request's place in the queue. It also cancels a run, unless
    /// other requests wait for the same run.
    pub async fn answer<W: Work>(
        model: &(impl AsRef<Model> + Clone + Send + Sync + 'static),
        size: usize,
        deadline: Instant,
        work: W,
    ) -> Result<W::Answer, W::Error> {
        let this = model.as_ref();
        this.standing.check()?;
        let is_inline = placement::runs_inline(this.resident.stats.expected(), size);
        if is_inline {
            let inline = |cancel: &Cancel| guarded(|| this.answer_inline(size, deadline, &work, cancel));
            let watched = this.watchdog.watch(&this.standing, inline);
            if let Watched::Done(answer) = watched.map_err(InferenceError::from)? {
                return answer;
            }
            this.resident.stats.assume_long();
        }
        let (pending, _handle, receiver) = PendingRequest::new(model, size, deadline, is_inline, work);
        let _place = this.lane.submit(pending).map_err(InferenceError::from)?;
        let answer = this.lane.result(receiver, deadline).await;
        answer.map_err(InferenceError::from)?
    }

    fn answer_inline<W: Work>(
        &self,
        size: usize,
        deadline: Instant,
        work: &W,
        cancel: &Cancel,
    ) -> Result<W::Answer, W::Error> {
        let _mark = crash::CrashMarker::new(self.content().short());
        let stopwatch = self.resident.stats.stopwatch();
        let times = work.times();
        let mut phases = self.recorder.work(times.is_some());
        let (inputs, plan) = work.decode(&ModelBudget { model: self, deadline })?;
        let session = &self.resident.session;
        phases.end(Phase::Parse, times);
        let runs = records::run(
            self.signature(),
            &inputs,
            W::further(&plan),
            |outputs| work.apart(&plan, outputs),
            |inputs| self.run_session(session, &inputs.tensors, &inputs.optional, W::outputs(&plan), cancel),
        )
        .map_err(InferenceError::from)?;
        phases.end(Phase::Run, times);
        drop(inputs);
        let answer = work.encode(plan, &runs);
        phases.end(Phase::Write, times);
        self.resident.stats.record(stopwatch, size);
        answer
    }

    /// Runs the model without decoding or encoding, on this thread and without a time limit.
    pub fn run(&self, inputs: &[Tensor], outputs: Option<&[usize]>) -> Result<Vec<Value>, RunError> {
        self.run_session(&self.resident.session, inputs, &[], outputs, &Cancel::new()?)
    }
}
