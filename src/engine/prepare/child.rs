//! The child's side: reads jobs, does them, reports its findings.

use std::fs::File;
use std::io::{self, BufRead, Write, stdin, stdout};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::mapping::Mapping;
use super::probe::{self, Answers};
use super::protocol::{Findings, Job, Report};
use super::sandbox;
use super::trial;
use super::weighing::stays_small;
use crate::engine::allocator;
use crate::engine::axes::{self, Analysis, Axes, OutputAxis};
use crate::engine::onnx_file;
use crate::engine::output_rows::{self, TrialRun};
use crate::engine::runtime::{self, Environment, Libraries};
use crate::engine::session::{Cancel, Folding, Form, Session, SessionError};
use crate::engine::{LOAD_STACK, StartError};
use crate::tensor::OutputRows;

/// The longest that made-up data is run: what takes longer is a model for which that says nothing.
const PROBE: Duration = Duration::from_secs(10);

/// Bytes of weights up to which an uploaded model is read once more for the trial of its rows. A
/// prepared form is mapped, whatever its size.
const MOST_READ_AGAIN: u64 = 16 << 20;

/// Serves jobs from standard input until its end, with files in `folder`.
pub fn run(folder: &Path, libraries: &Libraries) -> Result<(), StartError> {
    let mut lacking = sandbox::enter()?;
    // What panics is caught, and nobody reads about it here.
    std::panic::set_hook(Box::new(|_| ()));
    // One thread: nothing but this one allocates, so what it counts is what the model takes.
    let (environment, _) = runtime::start(libraries, 1, None)?;
    // Before there is any other thread: each is bounded by what bounds the one that started it.
    lacking.extend(sandbox::close(folder)?);
    let timer = Timer::start()?;
    say(&Report::Ready(lacking))?;
    // ONNX Runtime walks a graph by recursion; the main thread's stack is what the system gives.
    let jobs = thread::Builder::new()
        .name("prepare".to_owned())
        .stack_size(LOAD_STACK)
        .spawn(move || serve(&environment, &timer))?;
    jobs.join().map_err(|_| io::Error::other("a job panicked"))??;
    Ok(())
}

fn serve(environment: &Environment, timer: &Timer) -> io::Result<()> {
    let mut is_capped = false;
    for line in stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line?)?;
        if !is_capped {
            sandbox::cap(job.most, job.widest())?;
            is_capped = true;
        }
        say(&Report::Started)?;
        sandbox::bound(job.memory, job.widest())?;
        let report = match prepare(environment, timer, &job) {
            Ok(findings) => Report::Done(findings),
            Err(SessionError::Rejected(message) | SessionError::Device(message)) => Report::Rejected(message),
            Err(SessionError::Unsupported(message)) => Report::Unsupported(message),
            Err(SessionError::OutOfMemory) => Report::OutOfMemory,
            Err(SessionError::NoDescriptors) => Report::NoDescriptors,
        };
        allocator::give_back();
        say(&report)?;
    }
    Ok(())
}

fn say(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut output = stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

fn prepare(environment: &Environment, timer: &Timer, job: &Job) -> Result<Findings, SessionError> {
    let examined = examine_best(environment, timer, job)?;
    // After the model was loaded: what it took then is more than its graph takes here.
    let analysis = if job.is_ort_format {
        axes::analyse_ort_format(&job.model)
    } else {
        axes::analyse(&job.model)
    };
    let independent_rows = try_rows(environment, timer, job, &examined, &analysis);
    let rows = examined.outputs.iter().zip(&examined.findings.rows);
    let rows = rows.map(|(output, &tried)| proven_rows(analysis.axes.of(output)).unwrap_or(tried));
    let rows = rows.collect();
    Ok(Findings {
        rows,
        axes: analysis.axes,
        independent_rows,
        ..examined.findings
    })
}

/// The relation of an output's entries to the records, where the graph proves one.
fn proven_rows(axis: Option<&OutputAxis>) -> Option<OutputRows> {
    match axis? {
        OutputAxis::Records => Some(OutputRows::PerRecord),
        OutputAxis::Elsewhere | OutputAxis::Whole => Some(OutputRows::Whole),
        OutputAxis::Mixed(_) => None,
    }
}

/// Whether rows were answered together as they were alone, in the outputs that keep them apart as
/// the graph has it.
fn try_rows(
    environment: &Environment,
    timer: &Timer,
    job: &Job,
    examined: &Examined,
    analysis: &Analysis,
) -> Option<bool> {
    let holds = examined.holds.as_ref()?;
    let outputs: Vec<usize> = examined
        .outputs
        .iter()
        .enumerate()
        .filter(|(_, output)| analysis.axes.of(output) == Some(&OutputAxis::Records))
        .map(|(index, _)| index)
        .collect();
    if outputs.is_empty() {
        return Some(holds.iter().all(|&holds| holds));
    }
    if !outputs.iter().all(|&output| holds.get(output) == Some(&true)) {
        return Some(false);
    }
    let keeps_apart = |session: &Session, outputs: &[usize]| {
        let cancel = Arc::new(Cancel::new().ok()?);
        timer.limited(&cancel, || {
            trial::keeps_rows_apart(session, outputs, examined.size, &cancel)
        })
    };
    let form = match &job.prepared {
        Some(prepared) if examined.findings.prepared => Form::Prepared(prepared),
        Some(_) | None => Form::Uploaded(&job.model),
    };
    let is_tried = examined.findings.prepared || job.weights <= MOST_READ_AGAIN;
    if is_tried
        && let Ok(session) = Session::open(environment, form, job.weights)
        && keeps_apart(&session, &outputs) == Some(false)
    {
        return Some(false);
    }
    // A label hides by how much the numbers that it was chosen by are off.
    if let Some(exposed) = exposed(environment, job, &analysis.inner) {
        let all = exposed.signature().outputs.len();
        let inner: Vec<usize> = (all.saturating_sub(analysis.inner.len())..all).collect();
        if keeps_apart(&exposed, &inner) == Some(false) {
            return Some(false);
        }
    }
    Some(true)
}

/// The model with these inner values as further outputs; `None` for a large one.
fn exposed(environment: &Environment, job: &Job, inner: &[String]) -> Option<Session> {
    /// Larger ones would take more memory than was reserved for this child.
    const MOST: u64 = 2 << 20;
    if inner.is_empty() || job.is_ort_format || job.weights > MOST {
        return None;
    }
    let mut bytes = std::fs::read(&job.model).ok()?;
    // External data would not be found beside a model in memory.
    if bytes.len() as u64 != job.weights {
        return None;
    }
    bytes.extend(onnx_file::more_outputs(inner));
    Session::open_bytes(environment, &bytes, job.weights).ok()
}

/// Loads, tries and measures the form of the model that is to be served.
fn examine_best(environment: &Environment, timer: &Timer, job: &Job) -> Result<Examined, SessionError> {
    let uploaded = Form::Uploaded(&job.model);
    let Some(prepared) = &job.prepared else {
        return examine(environment, timer, uploaded, job, None);
    };
    let folding = if job.fold { Folding::All } else { Folding::Small };
    let mut written = write(environment, timer, job, prepared, folding)?;
    if let Some(examined) = &written
        && job.fold
        && stays_small(environment, timer, job, prepared, &examined.findings)
    {
        written = match write(environment, timer, job, prepared, Folding::Small) {
            Ok(Some(examined)) => Some(examined),
            Ok(None) | Err(_) => write(environment, timer, job, prepared, Folding::All)?,
        };
    }
    if let Some(examined) = written {
        return Ok(examined);
    }
    // The server removes what is left of it.
    allocator::give_back();
    examine(environment, timer, uploaded, job, None)
}

/// A form of the model that has been loaded, run and measured.
struct Examined {
    /// The names of its outputs.
    outputs: Vec<String>,
    findings: Findings,
    /// Whether it answers as expected.
    agrees: bool,
    /// For each output, whether two rows were answered together as they were alone.
    holds: Option<Vec<bool>>,
    /// The size of its open dimensions but the first, in what it answered.
    size: usize,
}

/// Writes the prepared form of the job's model and examines it. `None` when it cannot be written,
/// or answers otherwise than the uploaded model.
fn write(
    environment: &Environment,
    timer: &Timer,
    job: &Job,
    prepared: &Path,
    folding: Folding,
) -> Result<Option<Examined>, SessionError> {
    // The model as it was uploaded answers first; the prepared form has to answer the same.
    let expected = match convert(environment, job, prepared, folding) {
        Ok(session) => {
            let answers = answers(&session, timer, job);
            drop(session);
            allocator::give_back();
            answers
        }
        Err(error @ (SessionError::OutOfMemory | SessionError::NoDescriptors)) => return Err(error),
        // Not every model can be written in this format (2 GB are its limit); whether this one can
        // be loaded at all is seen by the caller.
        Err(SessionError::Rejected(_) | SessionError::Unsupported(_) | SessionError::Device(_)) => return Ok(None),
    };
    let examined = examine(environment, timer, Form::Prepared(prepared), job, Some(expected));
    allocator::give_back();
    Ok(match examined {
        Ok(examined) if examined.agrees => Some(Examined {
            findings: Findings {
                prepared: true,
                ..examined.findings
            },
            ..examined
        }),
        Ok(_) | Err(_) => None,
    })
}

/// Writes the prepared form of the job's model.
fn convert(environment: &Environment, job: &Job, prepared: &Path, folding: Folding) -> Result<Session, SessionError> {
    if !job.is_ort_format {
        return Session::convert(environment, &job.model, job.weights, prepared, folding);
    }
    // Optimised by whoever made it. What is mapped must not be the uploader's file: it could be cut
    // while it is in use.
    let session = Session::open(environment, Form::Uploaded(&job.model), job.weights)?;
    copy(&job.model, prepared).map_err(|error| SessionError::Rejected(error.to_string()))?;
    Ok(session)
}

/// Copies the bytes of a file to one that is there.
fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    let mut target = File::options().write(true).truncate(true).open(to)?;
    io::copy(&mut File::open(from)?, &mut target)
}

/// Loads and runs one form of the model and measures it.
fn examine(
    environment: &Environment,
    timer: &Timer,
    form: Form<'_>,
    job: &Job,
    expected: Option<Option<Answers>>,
) -> Result<Examined, SessionError> {
    if let Form::Prepared(file) = form {
        let bytes = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
        // Without, there is less memory for the model.
        let _ = sandbox::allow_mapping(bytes);
    }
    let before = allocator::thread_balance();
    let open = || allocator::with_peak(|| Session::open(environment, form, job.weights));
    let ((session, load_peak), mapping) = match form {
        Form::Prepared(file) => {
            let (opened, mapping) = Mapping::created(file, open);
            (opened, Some(mapping))
        }
        Form::Uploaded(_) => (open(), None),
    };
    let session = session?;
    let (answers, run_peak) = allocator::with_peak(|| answers(&session, timer, job));
    let agrees = match &expected {
        // Drawn numbers differ in every run; a model that does not agree with itself is judged by
        // nobody.
        Some(Some(expected)) => {
            answers.as_ref().is_some_and(|answers| answers.agree(expected)) || !is_deterministic(&session, timer, job)
        }
        Some(None) | None => true,
    };
    let holds = answers.as_ref().and_then(Answers::independent_rows);
    let size = answers.as_ref().map_or(1, |answers| answers.size);
    let run_peak = answers.as_ref().map(|_| run_peak);
    let rows = match &answers {
        Some(answers) => rows(&session, timer, answers),
        None => session.signature().outputs.iter().map(|output| output.rows).collect(),
    };
    drop((answers, expected));
    let mapped = |private| mapping.map_or(0, |mapping| mapping.read_by_runs(run_peak.is_some(), private));
    let private = u64::try_from(allocator::thread_balance() - before).unwrap_or(0);
    let outputs = session.signature().outputs.iter();
    Ok(Examined {
        outputs: outputs.map(|output| output.name.clone()).collect(),
        findings: Findings {
            prepared: false,
            private,
            mapped: mapped(private),
            load_peak,
            run_peak,
            axes: Axes::unknown("the model's graph has not been analysed"),
            independent_rows: None,
            rows,
        },
        agrees,
        holds,
        size,
    })
}

fn is_deterministic(session: &Session, timer: &Timer, job: &Job) -> bool {
    match (answers(session, timer, job), answers(session, timer, job)) {
        (Some(first), Some(second)) => first.agree(&second),
        _ => false,
    }
}

/// What the model answers to made-up data; `None` when it is not asked, or does not answer.
fn answers(session: &Session, timer: &Timer, job: &Job) -> Option<Answers> {
    if !job.probe {
        return None;
    }
    // A death from here on is one in a run.
    say(&Report::Loaded).ok()?;
    let cancel = Arc::new(Cancel::new().ok()?);
    timer.limited(&cancel, || probe::ask(session, &cancel))
}

/// Decides for each output whether its entries follow the records of a request.
fn rows(session: &Session, timer: &Timer, answers: &Answers) -> Vec<OutputRows> {
    let signature = session.signature();
    // The runs so far had the smallest data that the model takes, where a record may have one entry
    // by chance.
    let larger = Cancel::new().ok().map(Arc::new).and_then(|cancel| {
        let has_open_output = signature
            .outputs
            .iter()
            .any(|output| output.rows == OutputRows::PerRecord);
        has_open_output.then(|| timer.limited(&cancel, || probe::ask_larger(session, &cancel)))?
    });
    let runs = answers.runs().chain(larger.as_deref().map(|outputs| (1, outputs)));
    let runs: Vec<TrialRun<'_>> = runs
        .filter_map(|(rows, outputs)| {
            let records = output_rows::records_of(&signature.inputs, rows)?;
            Some(TrialRun { records, outputs })
        })
        .collect();
    output_rows::tried(signature, &runs)
}

/// Ends runs that take longer than [`PROBE`]. A thread from the beginning on: later there may be no
/// memory for one.
pub(super) struct Timer {
    begun: Sender<Arc<Cancel>>,
    done: Sender<()>,
}

impl Timer {
    fn start() -> io::Result<Self> {
        let (begun, runs) = channel::<Arc<Cancel>>();
        let (done, is_done) = channel();
        let (started, is_started) = channel();
        thread::Builder::new().name("timer".to_owned()).spawn(move || {
            // What this thread takes to start is taken before a job is bounded.
            let _ = started.send(());
            for run in runs {
                if is_done.recv_timeout(PROBE) == Err(RecvTimeoutError::Timeout) {
                    run.cancel();
                    let _ = is_done.recv();
                }
            }
        })?;
        let _ = is_started.recv();
        Ok(Self { begun, done })
    }

    pub(super) fn limited<T>(&self, cancel: &Arc<Cancel>, run: impl FnOnce() -> T) -> T {
        let _ = self.begun.send(Arc::clone(cancel));
        let result = run();
        let _ = self.done.send(());
        result
    }
}
