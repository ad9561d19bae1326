//! The main loop of a child process: reads jobs, does them, reports its findings.

use std::fs::File;
use std::io::{self, BufRead, Write, stdin, stdout};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::constant_use::{SplitForm, placed};
use super::mapping::Mapping;
use super::probe::{self, AnswerSample, Answers};
use super::protocol::{ChildReport, Findings, PrepareJob};
use super::sandbox;
use super::trial;
use super::weighing::should_stay_unfolded;
use crate::engine::load::axes::{self, Analysis, Axes, OutputAxis};
use crate::engine::load::onnx_file;
use crate::engine::load::onnx_file::order::with_nodes_reversed;
use crate::engine::load::output_rows::{self, TrialRun};
use crate::engine::memory::allocator;
use crate::engine::onnxruntime::runtime::{self, Environment, Libraries};
use crate::engine::onnxruntime::session::{Cancel, Folding, ModelForm, Session, SessionError, WrittenForm};
use crate::engine::{LOAD_STACK, StartError};
use crate::tensor::OutputRows;

/// Time limit of a run on generated data. If it takes longer, the data is not typical of the model.
const PROBE: Duration = Duration::from_secs(10);

/// Bytes of weights up to which an uploaded model is loaded again for the trial of its rows. A
/// prepared form is mapped, whatever its size.
const MOST_READ_AGAIN: u64 = 16 << 20;

/// Serves jobs from standard input until it ends, with files in `folder`.
pub fn run(folder: &Path, libraries: &Libraries) -> Result<(), StartError> {
    let mut lacking = sandbox::enter()?;
    // Panics are caught, and nothing reads their messages here.
    std::panic::set_hook(Box::new(|_| ()));
    // With one thread, nothing else allocates, so the allocator counts only the model's memory.
    let (environment, _) = runtime::start(libraries, 1, None)?;
    // Before other threads start: a thread inherits the limits of the one that started it.
    lacking.extend(sandbox::close(folder)?);
    let timer = Timer::start()?;
    send(&ChildReport::Ready(lacking))?;
    // ONNX Runtime walks a graph by recursion, and the main thread's stack size is not ours to set.
    let jobs = thread::Builder::new()
        .name("prepare".to_owned())
        .stack_size(LOAD_STACK)
        .spawn(move || serve(&environment, &timer))?;
    jobs.join().map_err(|_| io::Error::other("a job panicked"))??;
    Ok(())
}

fn serve(environment: &Environment, timer: &Timer) -> io::Result<()> {
    let mut is_limited = false;
    for line in stdin().lock().lines() {
        let job: PrepareJob = serde_json::from_str(&line?)?;
        if !is_limited {
            sandbox::limit_child(job.most, job.widest())?;
            is_limited = true;
        }
        send(&ChildReport::Started)?;
        sandbox::limit_job(job.memory, job.widest())?;
        let _allowed = sandbox::allow_mapping(external_bytes(&job));
        let report = match prepare(environment, timer, &job) {
            Ok(findings) => ChildReport::Done(findings),
            Err(SessionError::Rejected(message) | SessionError::Device(message)) => ChildReport::Rejected(message),
            Err(SessionError::Unsupported(message)) => ChildReport::Unsupported(message),
            Err(SessionError::OutOfMemory) => ChildReport::OutOfMemory,
            Err(SessionError::NoDescriptors) => ChildReport::NoDescriptors,
        };
        allocator::give_back();
        send(&report)?;
    }
    Ok(())
}

/// Bytes of the uploaded model that are not in the model file.
fn external_bytes(job: &PrepareJob) -> u64 {
    let model = std::fs::metadata(&job.model).map_or(job.weights, |metadata| metadata.len());
    job.weights.saturating_sub(model)
}

fn send(report: &ChildReport) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut output = stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

fn prepare(environment: &Environment, timer: &Timer, job: &PrepareJob) -> Result<Findings, SessionError> {
    let examined = examine_best(environment, timer, job)?;
    // After the model was loaded, which needs more memory than the analysis of its graph.
    let analysis = if job.is_ort_format {
        axes::analyse_ort_format(&job.model)
    } else {
        axes::analyse(&job.model)
    };
    let independent_rows = try_rows(environment, timer, job, &examined, &analysis);
    let rows = examined.outputs.iter().zip(&examined.findings.rows);
    let rows = rows.map(|(output, &tried)| {
        let axis = analysis.axes.of(output);
        axis.and_then(OutputAxis::proven_rows).unwrap_or(tried)
    });
    let rows = rows.collect();
    Ok(Findings {
        rows,
        axes: analysis.axes,
        independent_rows,
        ..examined.findings
    })
}

/// Tries whether joined rows have the same answers as single rows, in the outputs that keep rows
/// apart according to the graph.
fn try_rows(
    environment: &Environment,
    timer: &Timer,
    job: &PrepareJob,
    examined: &ExaminedForm,
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
        Some(prepared) if examined.findings.prepared => prepared_form(job, prepared, &examined.findings),
        Some(_) | None => ModelForm::Uploaded(&job.model),
    };
    let is_tried = examined.findings.prepared || job.weights <= MOST_READ_AGAIN;
    let mut reopened = None;
    let open = examined.open.as_ref().map(|open| &open.session);
    let session = open.or_else(|| {
        reopened = is_tried.then(|| Session::open(environment, form, job.weights).ok())?;
        reopened.as_ref()
    });
    if session.is_some_and(|session| keeps_apart(session, &outputs) == Some(false)) {
        return Some(false);
    }
    // A label hides small errors in the numbers that decide it.
    if let Some(exposed) = exposed(environment, job, &analysis.inner) {
        let all = exposed.signature().outputs.len();
        let inner: Vec<usize> = (all.saturating_sub(analysis.inner.len())..all).collect();
        if keeps_apart(&exposed, &inner) == Some(false) {
            return Some(false);
        }
    }
    Some(true)
}

/// Loads the model with these inner values as additional outputs; `None` for a large model.
fn exposed(environment: &Environment, job: &PrepareJob, inner: &[String]) -> Option<Session> {
    /// A larger model would need more memory than was reserved for this child.
    const MOST: u64 = 2 << 20;
    if inner.is_empty() || job.is_ort_format || job.weights > MOST {
        return None;
    }
    let mut bytes = std::fs::read(&job.model).ok()?;
    // A model in memory has no folder, so external data would not be found.
    if bytes.len() as u64 != job.weights {
        return None;
    }
    bytes.extend(onnx_file::more_outputs(inner));
    Session::open_bytes(environment, &bytes, job.weights).ok()
}

/// Loads, tries and measures the form of the model that will be served.
fn examine_best(environment: &Environment, timer: &Timer, job: &PrepareJob) -> Result<ExaminedForm, SessionError> {
    let uploaded = ModelForm::Uploaded(&job.model);
    let Some(prepared) = &job.prepared else {
        return examine(environment, timer, uploaded, job, None);
    };
    let folding = if job.fold { Folding::All } else { Folding::Small };
    let mut written = write(environment, timer, job, prepared, folding)?;
    if let Some(examined) = &mut written
        && job.fold
        && should_stay_unfolded(environment, timer, job, prepared, examined)
    {
        written = match write(environment, timer, job, prepared, Folding::Small) {
            Ok(Some(examined)) => Some(examined),
            Ok(None) | Err(_) => write(environment, timer, job, prepared, Folding::All)?,
        };
    }
    if let Some(examined) = written {
        return Ok(examined);
    }
    // The server removes the unfinished file.
    allocator::give_back();
    examine(environment, timer, uploaded, job, None)
}

/// A form of the model that was loaded, run and measured.
pub(super) struct ExaminedForm {
    /// Names of the outputs.
    outputs: Vec<String>,
    pub(super) findings: Findings,
    /// A session of the form, if one is still there.
    pub(super) open: Option<OpenForm>,
    /// Whether the answers match those of the uploaded model.
    agrees: bool,
    /// For each output, whether two joined rows had the same answers as single rows.
    holds: Option<Vec<bool>>,
    /// Size of the open dimensions other than the first, in the runs that were answered.
    size: usize,
}

/// A session of a form, and the raised limit for the files that it maps.
pub(super) struct OpenForm {
    session: Session,
    _allowed: sandbox::AllowedMapping,
}

/// The prepared form that these findings describe.
pub(super) fn prepared_form<'a>(job: &PrepareJob, prepared: &'a Path, findings: &Findings) -> ModelForm<'a> {
    match (&job.constants, &findings.constants) {
        (Some(_), Some(_)) => ModelForm::Graph(prepared),
        _ => ModelForm::Prepared(prepared),
    }
}

/// Bytes of all files of a form.
pub(super) fn form_bytes(job: &PrepareJob, form: ModelForm<'_>) -> u64 {
    let bytes = |file: &Path| std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    match (form, &job.constants) {
        (ModelForm::Uploaded(_), _) => job.weights,
        (ModelForm::Graph(graph), Some(constants)) => bytes(graph) + bytes(constants),
        (ModelForm::Prepared(file) | ModelForm::Graph(file), _) => bytes(file),
    }
}

/// Writes the prepared form of the job's model and examines it. `None` if it cannot be written, or
/// if its answers differ from those of the uploaded model.
fn write(
    environment: &Environment,
    timer: &Timer,
    job: &PrepareJob,
    prepared: &Path,
    folding: Folding,
) -> Result<Option<ExaminedForm>, SessionError> {
    if let Some(constants) = &job.constants {
        let split = WrittenForm::Split {
            graph: prepared,
            constants,
            bound: job.large,
        };
        let examined = write_form(environment, timer, job, split, folding)?;
        if examined.is_some() {
            return Ok(examined);
        }
    }
    write_form(environment, timer, job, WrittenForm::Whole(prepared), folding)
}

fn write_form(
    environment: &Environment,
    timer: &Timer,
    job: &PrepareJob,
    written: WrittenForm<'_>,
    folding: Folding,
) -> Result<Option<ExaminedForm>, SessionError> {
    // The prepared form has to give the same answers as the uploaded model.
    let expected = match convert(environment, job, written, folding) {
        Ok(session) => {
            let expected = sample(&session, timer, job);
            drop(session);
            allocator::give_back();
            expected
        }
        Err(error @ (SessionError::OutOfMemory | SessionError::NoDescriptors)) => return Err(error),
        // Not every model can be written in this format (its limit is 2 GB). The caller finds out
        // whether the model can be loaded at all.
        Err(SessionError::Rejected(_) | SessionError::Unsupported(_) | SessionError::Device(_)) => return Ok(None),
    };
    let form = match written {
        WrittenForm::Whole(file) => ModelForm::Prepared(file),
        // Only constants of the main graph can be shared.
        WrittenForm::Split { graph, .. }
            if placed(graph).is_some_and(|constants| !constants.is_empty()) && reverse(graph).is_some() =>
        {
            ModelForm::Graph(graph)
        }
        WrittenForm::Split { .. } => return Ok(None),
    };
    let examined = examine(environment, timer, form, job, expected);
    allocator::give_back();
    match examined {
        Ok(examined) if examined.agrees => Ok(Some(ExaminedForm {
            findings: Findings {
                prepared: true,
                ..examined.findings
            },
            ..examined
        })),
        // With more memory, the form may be fine.
        Err(error @ SessionError::OutOfMemory) if matches!(written, WrittenForm::Split { .. }) => Err(error),
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Reverses the nodes of a graph, so that they run in the order in which they were written.
fn reverse(graph: &Path) -> Option<()> {
    let reversed = with_nodes_reversed(&std::fs::read(graph).ok()?).ok()?;
    std::fs::write(graph, reversed).ok()
}

/// Writes the prepared form of the job's model.
fn convert(
    environment: &Environment,
    job: &PrepareJob,
    written: WrittenForm<'_>,
    folding: Folding,
) -> Result<Session, SessionError> {
    let prepared = match written {
        WrittenForm::Whole(prepared) if job.is_ort_format => prepared,
        WrittenForm::Whole(_) | WrittenForm::Split { .. } => {
            return Session::convert(environment, &job.model, job.weights, written, folding);
        }
    };
    // The uploader has optimised it. The mapped file must be a copy, because the uploader could
    // truncate its own file during use.
    let session = Session::open(environment, ModelForm::Uploaded(&job.model), job.weights)?;
    copy(&job.model, prepared).map_err(|error| SessionError::Rejected(error.to_string()))?;
    Ok(session)
}

/// Copies a file's bytes to an existing file.
fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    let mut target = File::options().write(true).truncate(true).open(to)?;
    io::copy(&mut File::open(from)?, &mut target)
}

/// Loads, runs and measures one form of the model.
fn examine(
    environment: &Environment,
    timer: &Timer,
    form: ModelForm<'_>,
    job: &PrepareJob,
    expected: Option<AnswerSample>,
) -> Result<ExaminedForm, SessionError> {
    let allowed = match form {
        ModelForm::Prepared(_) | ModelForm::Graph(_) => Some(sandbox::allow_mapping(form_bytes(job, form))),
        ModelForm::Uploaded(_) => None,
    };
    let split = match (form, &job.constants) {
        (ModelForm::Graph(graph), Some(constants)) => SplitForm::read(graph, constants),
        _ => None,
    };
    let before = allocator::thread_balance();
    let open = || {
        allocator::with_peak(|| match &split {
            Some(split) => split.open(environment, job),
            None => Session::open(environment, form, job.weights),
        })
    };
    let ((session, load_peak), mapping) = match form {
        ModelForm::Prepared(file) => {
            let (opened, mapping) = Mapping::created(file, open);
            (opened, Some(mapping))
        }
        ModelForm::Uploaded(_) | ModelForm::Graph(_) => (open(), None),
    };
    let session = session?;
    let created = allocator::thread_balance() - before;
    let (answers, run_peak) = allocator::with_peak(|| answers(&session, timer, job));
    // Random operators differ in every run, so a model that contradicts itself is accepted.
    let agrees = expected.as_ref().is_none_or(|expected| {
        answers.as_ref().is_some_and(|answers| answers.agree(expected)) || !is_deterministic(&session, timer, job)
    });
    let holds = answers.as_ref().and_then(Answers::independent_rows);
    let size = answers.as_ref().map_or(1, |answers| answers.size);
    let run_peak = answers.as_ref().map(|_| run_peak);
    let rows = match &answers {
        Some(answers) => rows(&session, timer, answers),
        None => session.signature().outputs.iter().map(|output| output.rows).collect(),
    };
    drop(answers);
    let private = u64::try_from(allocator::thread_balance() - before).unwrap_or(0);
    let created = u64::try_from(created).unwrap_or(0);
    let outputs = session.signature().outputs.iter();
    let outputs = outputs.map(|output| output.name.clone()).collect();
    let (constants, copies, mapped, session) = match (split, mapping) {
        (Some(split), _) => {
            let copies = split.copies(environment, job, created, |second| {
                let found = sample(second, timer, job);
                expected.is_none() || found == expected || !is_deterministic(second, timer, job)
            })?;
            // The next session makes copies of its own.
            drop(session);
            let used = split.reads(environment, job, copies)?;
            (Some(used.is_read), copies, used.mapped, used.session)
        }
        (None, Some(mapping)) => (None, 0, mapping.read_by_runs(run_peak.is_some(), private), None),
        (None, None) => (None, 0, external_bytes(job), None),
    };
    Ok(ExaminedForm {
        outputs,
        findings: Findings {
            prepared: false,
            constants,
            copies,
            private,
            growth: private.saturating_sub(created),
            mapped,
            load_peak,
            run_peak,
            axes: Axes::unknown("the model's graph has not been analysed"),
            independent_rows: None,
            rows,
        },
        open: session
            .zip(allowed)
            .map(|(session, _allowed)| OpenForm { session, _allowed }),
        agrees,
        holds,
        size,
    })
}

fn is_deterministic(session: &Session, timer: &Timer, job: &PrepareJob) -> bool {
    let first = sample(session, timer, job);
    first.is_some() && first == sample(session, timer, job)
}

/// Runs the model on generated data; `None` if the job does not ask for it, or the model does not
/// answer.
fn answers(session: &Session, timer: &Timer, job: &PrepareJob) -> Option<Answers> {
    probed(timer, job, |cancel| probe::ask(session, cancel))
}

/// Like [`answers`], in as few runs as a comparison needs.
fn sample(session: &Session, timer: &Timer, job: &PrepareJob) -> Option<AnswerSample> {
    probed(timer, job, |cancel| probe::ask_for_sample(session, cancel))
}

fn probed<T>(timer: &Timer, job: &PrepareJob, ask: impl FnOnce(&Cancel) -> Option<T>) -> Option<T> {
    if !job.probe {
        return None;
    }
    // From here on, a crash happens in a run.
    send(&ChildReport::Loaded).ok()?;
    let cancel = Arc::new(Cancel::new().ok()?);
    timer.limited(&cancel, || ask(&cancel))
}

/// Decides for each output whether its entries follow the records of a request.
fn rows(session: &Session, timer: &Timer, answers: &Answers) -> Vec<OutputRows> {
    let signature = session.signature();
    // The runs so far used the smallest data that the model accepts, where a record may have one
    // entry by chance.
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

/// Cancels runs that take longer than [`PROBE`]. Its thread starts first, because later there may
/// be no memory for it.
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
            // The memory that this thread needs to start is allocated before a job has limits.
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
