//! `longshore inspect`: describes an artifact before it is deployed.
//!
//! For a model that cannot be loaded, the command still shows what it found in the files, and then
//! fails with the error of the load.

mod curl;
mod json;
mod manifest;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::table::{Table, bytes, print};
use crate::archive;
use crate::codec::{self, Sample};
use crate::config::InspectArgs;
use crate::engine::{
    Batching, BatchingEvidence, Examination, ExaminedConstant, ExaminedModel, NoBatching, OnnxHeader, Packing,
    decide_batching,
};
use crate::handler::Handler;
use crate::manifest::FILE;
use crate::telemetry::escape::plain;
use crate::tensor::{InputSpec, OutputRows, Signature};

/// Number of operators that are listed; further ones are only counted.
const OPERATORS: usize = 6;

/// Largest number of input elements of an example request; a larger one would be a load test.
const MAX_SAMPLE_ELEMENTS: usize = 1 << 20;

pub fn run(args: &InspectArgs) -> Result<()> {
    let (path, _unpacked) = artifact(args)?;
    let copied = super::snapshot::copy(&path)?;
    let path = copied.as_ref().map_or(path, |copied| copied.path.clone());
    let examiner = super::examiner(&args.examine)?;
    super::progress("preparing and measuring");
    let examination = examiner.examine(&path, &args.cache_dir())?;
    let handler = match &examination.loaded {
        Ok(loaded) => Some(Handler::of_artifact(&examination.manifest, &loaded.signature)),
        Err(_) => None,
    };
    let requests = match (&examination.loaded, &handler) {
        (Ok(loaded), Some(Ok(handler))) => requests(loaded, handler, args)?,
        _ => Vec::new(),
    };
    let summary = match &handler {
        Some(Ok(handler)) => HandlerSummary {
            steps: handler.steps(),
            curl: handler
                .example()
                .map(|(content_type, body)| curl::example(&args.url, content_type, body)),
        },
        Some(Err(_)) | None => HandlerSummary::default(),
    };
    if args.examine.json {
        print(format_args!("{:#}\n", json::report(&examination, &requests, &summary)?))?;
    } else {
        print(report(&examination, &requests, &summary))?;
    }
    match (&examination.loaded, &handler) {
        (Err(error), _) => bail!("a server would refuse to load it: {error}"),
        (Ok(_), Some(Err(error))) => bail!("a server would refuse to load it: {FILE}: {error}"),
        (Ok(_), _) => Ok(()),
    }
}

/// Returns the path of the artifact, and the temporary folder if it was an archive that had to be
/// unpacked.
fn artifact(args: &InspectArgs) -> Result<(PathBuf, Option<TempDir>)> {
    let path = &args.path;
    if !super::is_archive(path)? {
        return Ok((path.clone(), None));
    }
    let folder = tempfile::Builder::new()
        .prefix("longshore-")
        .tempdir()
        .context("create a folder to unpack into; set TMPDIR to use another directory")?;
    let bounds = super::bounds(&args.archives);
    super::progress("unpacking");
    let failed = || format!("{} cannot be unpacked", path.display());
    let file = File::open(path).with_context(failed)?;
    archive::unpack(
        file,
        archive::ExpectedFormat::Anything("model.onnx"),
        folder.path(),
        &bounds,
    )
    .with_context(failed)?;
    Ok((folder.path().to_owned(), Some(folder)))
}

/// Steps and an example of a model that accepts pictures, texts or sound.
#[derive(Debug, Default)]
struct HandlerSummary {
    /// Steps from the request body to the response, in order.
    steps: Vec<String>,
    /// Command line with an example body.
    curl: Option<String>,
}

/// An example request and its command line.
struct ExampleRequest {
    sample: Sample,
    /// `None` if there is no body, or if the body is too long and was not written to a file.
    curl: Option<String>,
}

/// Builds the example requests, and writes their bodies if `--samples` is set.
fn requests(loaded: &ExaminedModel, handler: &Handler, args: &InspectArgs) -> Result<Vec<ExampleRequest>> {
    let example = loaded.example.as_deref().unwrap_or_default();
    let elements: usize = example.iter().map(crate::tensor::Tensor::len).sum();
    if (example.is_empty() && !loaded.signature.inputs.is_empty()) || elements > MAX_SAMPLE_ELEMENTS {
        return Ok(Vec::new());
    }
    if let Some(folder) = &args.samples {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    codec::samples(handler.schema(), example)
        .into_iter()
        .map(|sample| {
            let curl = match &sample.body {
                Err(_) => None,
                Ok(body) => {
                    let file = match &args.samples {
                        None => None,
                        Some(folder) => {
                            let file = folder.join(file_name(&sample));
                            fs::write(&file, body).with_context(|| format!("write {}", file.display()))?;
                            Some(file)
                        }
                    };
                    curl::command(&args.url, sample.content_type, body, file.as_deref())
                }
            };
            Ok(ExampleRequest { sample, curl })
        })
        .collect()
}

fn file_name(sample: &Sample) -> &'static str {
    match sample.name {
        "JSON" => "request.json",
        "JSON lines" => "request.jsonl",
        "CSV" => "request.csv",
        "NPZ" => "request.npz",
        "LIBSVM" => "request.libsvm",
        "raw elements" => "request.bin",
        "CSV with a header" => "request.header.csv",
        "JSON table" => "request.table.json",
        "NPY" => "request.npy",
        _ => "request.v2.json",
    }
}

fn report(examination: &Examination, requests: &[ExampleRequest], summary: &HandlerSummary) -> Table {
    let mut table = Table::default();
    let model = examination.model_in_artifact();
    table.line("model", format_args!("{} ({})", model.display(), examination.found));
    table.line("format", format(examination));
    if let Some(header) = &examination.header {
        if !header.producer.is_empty() {
            let producer = format!("{} {}", header.producer, header.producer_version);
            table.line("producer", producer.trim());
        }
        table.line("operators", operators(header));
    }
    let external = match examination.external.len() {
        0 => String::new(),
        1 => ", with external data in 1 file".to_owned(),
        files => format!(", with external data in {files} files"),
    };
    table.line("size", bytes(examination.weights) + &external);
    table.line("content", examination.content);
    table.line("packed", packing(&examination.packing));
    if let Some(adapter) = &examination.adapter {
        table.line("adapter", adapter_text(adapter, examination));
    }
    let lines = manifest::lines(&examination.manifest);
    if !lines.is_empty() {
        table.line("manifest", lines.join("\n"));
    }
    if let Ok(loaded) = &examination.loaded {
        describe(loaded, examination, &mut table);
        if !summary.steps.is_empty() {
            let steps: Vec<String> = summary.steps.iter().map(|step| plain(step).into_owned()).collect();
            table.line("steps", steps.join("\n"));
        }
        if let Some(curl) = &summary.curl {
            table.text(&format!("Request with a file or a text\n  {curl}"));
        }
        for request in requests {
            let title = format!("{} ({})", request.sample.name, request.sample.content_type);
            let text = match (&request.sample.body, &request.curl) {
                (Err(why), _) => format!("  not for this model: {}", plain(why)),
                (Ok(_), Some(curl)) => format!("  {curl}"),
                (Ok(body), None) => {
                    format!(
                        "  {} are too long for a command line; add --samples DIR to write them to a file",
                        bytes(body.len() as u64)
                    )
                }
            };
            table.text(&format!("{title}\n{text}"));
        }
        if requests.is_empty() {
            table.text("No example requests: data of the model's input types and sizes cannot be generated.");
        } else if loaded.findings.run_peak.is_none() {
            table.text("The model failed on generated data; replace it with real values in these requests.");
        }
    }
    table
}

/// Describes the adapter and the first of its values.
fn adapter_text(adapter: &Path, examination: &Examination) -> String {
    /// Largest number of values that are listed.
    const MOST_VALUES: usize = 8;
    let file = adapter.strip_prefix(&examination.folder).unwrap_or(adapter);
    let mut lines = vec![plain(&file.to_string_lossy()).into_owned()];
    if let Ok(loaded) = &examination.loaded {
        let values = loaded.adapter_values();
        let described = |(name, value_type): &(&str, String)| format!("{} {value_type}", plain(name));
        lines.extend(values.iter().take(MOST_VALUES).map(described));
        if values.len() > MOST_VALUES {
            lines.push(format!("and {} more", values.len() - MOST_VALUES));
        }
    }
    lines.join("\n")
}

fn describe(loaded: &ExaminedModel, examination: &Examination, table: &mut Table) {
    /// Largest number of optional inputs that are listed: old exporters declare each weight as
    /// one.
    const MOST_OPTIONAL: usize = 16;
    let Signature {
        inputs,
        optional,
        outputs,
    } = &loaded.signature;
    let described = |input: &InputSpec| format!("{} {}", plain(&input.name), plain(&input.to_string()));
    let inputs: Vec<String> = inputs.iter().map(described).collect();
    let mut may_be_given: Vec<String> = optional.iter().take(MOST_OPTIONAL).map(described).collect();
    if optional.len() > MOST_OPTIONAL {
        may_be_given.push(format!("and {} more", optional.len() - MOST_OPTIONAL));
    }
    let outputs: Vec<String> = outputs
        .iter()
        .map(|output| {
            let whole = match output.rows {
                OutputRows::PerRecord => "",
                OutputRows::Whole => " (not per record: its first axis does not match the records of a request)",
            };
            format!(
                "{} {}{whole}",
                plain(&output.name),
                plain(&output.value_type.to_string())
            )
        })
        .collect();
    table.line("inputs", inputs.join("\n"));
    if !may_be_given.is_empty() {
        table.line("optional", may_be_given.join("\n"));
    }
    table.line("outputs", outputs.join("\n"));
    let findings = &loaded.findings;
    let run = findings.run_peak.map_or_else(|| "not measured".to_owned(), bytes);
    table.line(
        "memory",
        format_args!(
            "{} private and {} mapped from a file; {} during the load; a run of one row: {run}",
            bytes(findings.private),
            bytes(findings.mapped),
            bytes(findings.load_peak.max(findings.private)),
        ),
    );
    if let Some(text) = shared(&loaded.constants) {
        table.line("shared", text);
    }
    table.line("batches", batches(&joining(loaded, examination)));
}

/// Describes the part of the model that a server shares with other models; `None` if no model can
/// share any.
fn shared(constants: &[ExaminedConstant]) -> Option<String> {
    let count_and_size = |is_counted: fn(&ExaminedConstant) -> bool| {
        let counted = constants.iter().filter(|constant| is_counted(constant));
        let sizes: Vec<u64> = counted.map(|constant| constant.bytes).collect();
        (sizes.len(), bytes(sizes.iter().sum()))
    };
    let (count, size) = count_and_size(|_| true);
    let (known, known_size) = count_and_size(|constant| constant.models > 0);
    let models = constants.iter().map(|constant| constant.models).max()?;
    let in_cache = match known {
        0 => "none of them is in a prepared model of --cache-dir".to_owned(),
        _ => format!("{known} of them, of {known_size}, are in up to {models} prepared models of --cache-dir"),
    };
    Some(format!("{count} large constants of {size}; {in_cache}"))
}

/// Decides whether a server with the default `--max-batch` batches requests to the model.
fn joining(loaded: &ExaminedModel, examination: &Examination) -> Result<Batching, NoBatching> {
    /// Default of `--max-batch`.
    const MAX_BATCH: usize = 32;
    let evidence = BatchingEvidence {
        axes: loaded.findings.axes.clone(),
        trial: loaded.findings.independent_rows,
    };
    decide_batching(
        &loaded.signature,
        examination.manifest.batching,
        Some(&evidence),
        MAX_BATCH,
    )
}

fn batches(joining: &Result<Batching, NoBatching>) -> String {
    match joining {
        Ok(batching) => format!("waiting requests are batched{}", plain(&batching.exception())),
        Err(why) => format!("every request runs alone: {}", plain(&why.to_string())),
    }
}

fn format(examination: &Examination) -> String {
    let Some(header) = &examination.header else {
        return "ONNX Runtime's own (ORT)".to_owned();
    };
    let opsets: Vec<String> = header
        .opsets
        .iter()
        .map(|(domain, version)| format!("{domain} {version}"))
        .collect();
    format!(
        "ONNX, IR version {}, operator sets {}",
        header.ir_version,
        opsets.join(", ")
    )
}

fn operators(header: &OnnxHeader) -> String {
    let mut operators: Vec<(&String, &u64)> = header.operators.iter().collect();
    operators.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
    let total: u64 = header.operators.values().sum();
    let top: Vec<String> = operators
        .iter()
        .take(OPERATORS)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let more = operators.len().saturating_sub(OPERATORS);
    let more = if more > 0 {
        format!(" and {more} other kinds")
    } else {
        String::new()
    };
    format!("{total}: {}{more}", top.join(", "))
}

fn packing(packing: &Packing) -> String {
    match packing {
        Packing::None => "no prepared form; a server prepares the model at its first load".to_owned(),
        Packing::Usable(_) => "has a prepared form that this machine can use".to_owned(),
        Packing::Unusable { description, why } => {
            let made_for = description.as_ref().map_or_else(String::new, |description| {
                format!(
                    "; it was made for {} with {}",
                    description.platform.architecture, description.platform.features
                )
            });
            format!("has a prepared form that this machine cannot use: {why}{made_for}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_operators_are_listed() {
        let summary = |counts: &[(&str, u64)]| {
            let counts = counts.iter().map(|(name, count)| ((*name).to_owned(), *count));
            operators(&OnnxHeader {
                operators: counts.collect(),
                ..OnnxHeader::default()
            })
        };
        assert_eq!(summary(&[("Add", 1), ("Gemm", 3)]), "4: Gemm 3, Add 1");
        let many = ["A", "B", "C", "D", "E", "F", "G", "H"].map(|name| (name, 1));
        assert_eq!(summary(&many), "8: A 1, B 1, C 1, D 1, E 1, F 1 and 2 other kinds");
    }
}
