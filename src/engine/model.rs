//! A loaded model, and the way of a request to it: here and now, or on a compute thread.

use std::sync::Arc;

use tokio::time::Instant;

use super::InferenceError;
use super::content::ContentHash;
use super::crash;
use super::memory::{NoRoom, Working};
use super::placement;
use super::pool::Lane;
use super::records;
use super::resident::Resident;
use super::session::{Cancel, RunError};
use super::stuck::{Standing, Stuck};
use super::turn::{Batcher, Batches, Pending, guarded};
use super::watchdog::{Watchdog, Watched};
use crate::manifest::Manifest;
use crate::tensor::{Inputs, Signature, Tensor, Value};

/// A loaded model. Runs for any number of callers at once.
#[derive(Debug)]
pub struct Model {
    pub(super) resident: Arc<Resident>,
    pub(super) manifest: Arc<Manifest>,
    pub(super) lane: Lane<Pending>,
    /// `None` when the model has no batches.
    pub(super) batcher: Option<Batcher>,
    pub(super) batches: Arc<Batches>,
    pub(super) watchdog: Arc<Watchdog>,
    pub(super) standing: Arc<Standing>,
    pub(super) stuck: Arc<Stuck>,
}

/// The memory that a request may reserve beyond what requests of its size are expected to take,
/// before it touches it: only reading a picture's header tells how large the picture becomes.
pub trait Ledger {
    /// `None` where nothing is counted.
    fn reserve(&self, bytes: u64) -> Result<Option<Working>, NoRoom>;
}

/// What a request is beside its run. In two parts, because between them it may be joined with
/// others.
///
/// Both may be called more than once for one request; they run on whatever thread the model runs
/// on.
pub trait Work: Send + 'static {
    /// What decoding finds out for encoding.
    type Plan: Send + 'static;
    type Answer: Send + 'static;
    type Error: From<InferenceError> + Send + 'static;

    /// Reads the request.
    fn decode(&self, ledger: &dyn Ledger) -> Result<(Inputs, Self::Plan), Self::Error>;

    /// The outputs to run for, as indices into the signature's; `None` for all of them.
    fn outputs(plan: &Self::Plan) -> Option<&[usize]>;

    /// The inputs of the runs after the first one, where the request is divided into groups of
    /// records. Each group is a run of its own.
    fn further(plan: &Self::Plan) -> &[Inputs];

    /// How many records have to run one by one; `None` where one run answers them all. Asked before
    /// the run, and once more with the outputs of a run for all records. Not asked of a request that
    /// is divided into groups.
    fn apart(&self, plan: &Self::Plan, outputs: Option<&[Value]>) -> Option<usize>;

    /// Writes the answer. `runs` holds the outputs asked for, in that order, of the one run, of each
    /// group's, or of each record's.
    fn encode(&self, plan: Self::Plan, runs: &[Vec<Value>]) -> Result<Self::Answer, Self::Error>;
}

impl Model {
    /// The model under the name that log and refusals give it.
    pub fn called(self, name: String) -> Self {
        let standing = Arc::new(Standing::new(name, self.content().short()));
        Self { standing, ..self }
    }

    /// The model's runs that are stuck. While there are any, [`Self::answer`] refuses.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    pub fn signature(&self) -> &Signature {
        self.resident.session.signature()
    }

    /// The artifact's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Drops what is of no use once the model is ready: the manifest's requests, and the bytes of
    /// its tokenizer.
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

    /// What the model's files hold.
    pub fn content(&self) -> &ContentHash {
        &self.resident.content
    }

    /// Bytes of memory that the model was measured to take, shared with all models of the same
    /// content. Mapped weights are not among them.
    pub fn memory(&self) -> u64 {
        self.resident.footprint().private
    }

    /// Bytes that are free for others when it is unloaded, unless another name has the same
    /// content.
    pub fn charge(&self) -> u64 {
        self.resident.charge()
    }

    /// Does `work` for a request of `size` bytes: here and now when that is expected to be short,
    /// else on a compute thread when it is this model's turn, perhaps in a batch with others that
    /// wait. At `deadline` the result is [`Deadline`](super::PoolError::Deadline) and a run that
    /// goes on for this request alone is ended. Work on a compute thread holds a clone of `model`,
    /// and so keeps it loaded, until it is over, which may be later than this future ends.
    ///
    /// Work that turns out to be long where it was expected to be short is ended and done again on
    /// a compute thread; models have no state that a run could change.
    ///
    /// # Cancel safety
    /// Dropping the future ends a run that goes on, unless others wait for it too, and gives the
    /// place in the queue back.
    pub async fn answer<W: Work>(
        model: &(impl AsRef<Model> + Clone + Send + Sync + 'static),
        size: usize,
        deadline: Instant,
        work: W,
    ) -> Result<W::Answer, W::Error> {
        let this = model.as_ref();
        this.standing.check()?;
        let stays = placement::stays(this.resident.pace.expected(), size);
        if stays {
            let here = |cancel: &Cancel| guarded(|| this.answer_here(size, &work, cancel));
            let watched = this.watchdog.watch(&this.standing, here);
            if let Watched::Done(answer) = watched.map_err(InferenceError::from)? {
                return answer;
            }
            this.resident.pace.suspect();
        }
        let (pending, _hold, receiver) = Pending::new(model, size, deadline, stays, work);
        let _place = this.lane.submit(pending).map_err(InferenceError::from)?;
        let answer = this.lane.result(receiver, deadline).await;
        answer.map_err(InferenceError::from)?
    }

    fn answer_here<W: Work>(&self, size: usize, work: &W, cancel: &Cancel) -> Result<W::Answer, W::Error> {
        let _mark = crash::CrashMarker::new(self.content().short());
        let stopwatch = self.resident.pace.stopwatch();
        let (inputs, plan) = work.decode(&*self.resident)?;
        let runs = records::run(
            self.signature(),
            &inputs,
            W::further(&plan),
            |outputs| work.apart(&plan, outputs),
            |inputs| {
                self.resident
                    .session
                    .run_given(&inputs.tensors, &inputs.optional, W::outputs(&plan), cancel)
            },
        )
        .map_err(InferenceError::from)?;
        drop(inputs);
        let answer = work.encode(plan, &runs);
        self.resident.pace.record(stopwatch, size);
        answer
    }

    /// The model's run and nothing else, on this thread and for as long as it takes.
    pub fn run(&self, inputs: &[Tensor], outputs: Option<&[usize]>) -> Result<Vec<Value>, RunError> {
        self.resident.session.run(inputs, outputs, &Cancel::new()?)
    }
}
