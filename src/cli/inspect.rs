//! `longshore inspect`: what is to know of an artifact before it is deployed.
//!
//! What is seen of the files is shown also of a model that cannot be loaded; then why it cannot be
//! is the error that the command ends with.

mod curl;
mod json;
mod manifest;

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::table::{Table, bytes, print};
use crate::archive;
use crate::codec::{self, Sample};
use crate::config::InspectArgs;
use crate::engine::{
    Batching, BatchingEvidence, Examination, ExaminedModel, NoBatching, OnnxHeader, Packing, decide_batching,
};
use crate::handler::Handler;
use crate::manifest::FILE;
use crate::telemetry::escape::plain;
use crate::tensor::{InputSpec, OutputRows, Signature};

/// Operators that are told; further ones are counted.
const OPERATORS: usize = 6;

/// Elements of a sample's inputs: more is no sample but a load test.
const MAX_SAMPLE_ELEMENTS: usize = 1 << 20;

pub fn run(args: &InspectArgs) -> Result<()> {
    let (path, _unpacked) = artifact(args)?;
    let copied = super::snapshot::copy(&path)?;
    let path = copied.as_ref().map_or(path, |copied| copied.path.clone());
    let examiner = super::examiner(&args.examine)?;
    super::progress("preparing and measuring");
    let examination = examiner.examine(&path)?;
    let handler = match &examination.loaded {
        Ok(loaded) => Some(Handler::of_artifact(&examination.manifest, &loaded.signature)),
        Err(_) => None,
    };
    let requests = match (&examination.loaded, &handler) {
        (Ok(loaded), Some(Ok(handler))) => requests(loaded, handler, args)?,
        _ => Vec::new(),
    };
    let prepared = match &handler {
        Some(Ok(handler)) => Prepared {
            steps: handler.steps(),
            curl: handler
                .example()
                .map(|(content_type, body)| curl::example(&args.url, content_type, body)),
        },
        Some(Err(_)) | None => Prepared::default(),
    };
    if args.examine.json {
        print(format_args!(
            "{:#}\n",
            json::report(&examination, &requests, &prepared)?
        ))?;
    } else {
        print(report(&examination, &requests, &prepared))?;
    }
    match (&examination.loaded, &handler) {
        (Err(error), _) => bail!("a server would refuse to load it: {error}"),
        (Ok(_), Some(Err(error))) => bail!("a server would refuse to load it: {FILE}: {error}"),
        (Ok(_), _) => Ok(()),
    }
}

/// The artifact's path, and the folder that it was unpacked into when it is an archive.
fn artifact(args: &InspectArgs) -> Result<(PathBuf, Option<TempDir>)> {
    let path = &args.path;
    if !super::is_archive(path)? {
        return Ok((path.clone(), None));
    }
    let folder = tempfile::Builder::new()
        .prefix("longshore-")
        .tempdir()
        .context("make a folder to unpack into; TMPDIR names another place")?;
    let bounds = super::bounds(&args.archives);
    super::progress("unpacking");
    let failed = || format!("{} cannot be unpacked", path.display());
    let file = File::open(path).with_context(failed)?;
    archive::unpack(file, archive::Expected::Anything("model.onnx"), folder.path(), &bounds).with_context(failed)?;
    Ok((folder.path().to_owned(), Some(folder)))
}

/// What is done for a model that takes more than tensors.
#[derive(Debug, Default)]
struct Prepared {
    /// From a body to the answer, in order.
    steps: Vec<String>,
    /// A command line with a body of this kind.
    curl: Option<String>,
}

/// A sample, and how it is sent.
struct Request {
    sample: Sample,
    /// A command line; `None` when there is no sample, or when it is too long and no file has it.
    curl: Option<String>,
}

fn requests(loaded: &ExaminedModel, handler: &Handler, args: &InspectArgs) -> Result<Vec<Request>> {
    let example = loaded.example.as_deref().unwrap_or_default();
    let elements: usize = example.iter().map(crate::tensor::Tensor::len).sum();
    if (example.is_empty() && !loaded.signature.inputs.is_empty()) || elements > MAX_SAMPLE_ELEMENTS {
        return Ok(Vec::new());
    }
    if let Some(folder) = &args.samples {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
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
            Ok(Request { sample, curl })
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

fn report(examination: &Examination, requests: &[Request], prepared: &Prepared) -> Table {
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
    let told = manifest::lines(&examination.manifest);
    if !told.is_empty() {
        table.line("manifest", told.join("\n"));
    }
    if let Ok(loaded) = &examination.loaded {
        describe(loaded, examination, &mut table);
        if !prepared.steps.is_empty() {
            let steps: Vec<String> = prepared.steps.iter().map(|step| plain(step).into_owned()).collect();
            table.line("steps", steps.join("\n"));
        }
        if let Some(curl) = &prepared.curl {
            table.text(&format!("From a file or a text to the answer\n  {curl}"));
        }
        for request in requests {
            let title = format!("{} ({})", request.sample.name, request.sample.content_type);
            let text = match (&request.sample.body, &request.curl) {
                (Err(why), _) => format!("  not for this model: {}", plain(why)),
                (Ok(_), Some(curl)) => format!("  {curl}"),
                (Ok(body), None) => {
                    format!(
                        "  {} are too long for a command line; --samples DIR writes a file",
                        bytes(body.len() as u64)
                    )
                }
            };
            table.text(&format!("{title}\n{text}"));
        }
        if requests.is_empty() {
            table.text("No sample requests: data of the kind and size that the model takes cannot be made up.");
        } else if loaded.findings.run_peak.is_none() {
            table.text("The model did not answer made-up data: put real values into the requests.");
        }
    }
    table
}

fn describe(loaded: &ExaminedModel, examination: &Examination, table: &mut Table) {
    /// Old exporters declare each weight as an input that may be given.
    const MOST_OPTIONAL: usize = 16;
    let Signature {
        inputs,
        optional,
        outputs,
    } = &loaded.signature;
    let told = |input: &InputSpec| format!("{} {}", plain(&input.name), plain(&input.to_string()));
    let inputs: Vec<String> = inputs.iter().map(told).collect();
    let mut may_be_given: Vec<String> = optional.iter().take(MOST_OPTIONAL).map(told).collect();
    if optional.len() > MOST_OPTIONAL {
        may_be_given.push(format!("and {} more", optional.len() - MOST_OPTIONAL));
    }
    let outputs: Vec<String> = outputs
        .iter()
        .map(|output| {
            let whole = match output.rows {
                OutputRows::PerRecord => "",
                OutputRows::Whole => " (whole: its entries do not follow the records of a request)",
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
            "{} of its own and {} mapped from a file, {} while it is loaded; a run of one row: {run}",
            bytes(findings.private),
            bytes(findings.mapped),
            bytes(findings.load_peak.max(findings.private)),
        ),
    );
    table.line("batches", batches(&joining(loaded, examination)));
}

/// Whether a server with the usual limit joins requests to the model.
fn joining(loaded: &ExaminedModel, examination: &Examination) -> Result<Batching, NoBatching> {
    /// `--max-batch` unless it is given.
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
        Ok(batching) => format!("requests that wait are joined{}", plain(&batching.exception())),
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
        Packing::None => "no prepared form came along; a server prepares it at its first load".to_owned(),
        Packing::Usable(_) => "with a prepared form that this machine uses".to_owned(),
        Packing::Unusable { description, why } => {
            let made_for = description.as_ref().map_or_else(String::new, |description| {
                format!(
                    "; it is for {} with {}",
                    description.platform.architecture, description.platform.features
                )
            });
            format!("with a prepared form that this machine does not use: {why}{made_for}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_operators_are_told() {
        let told = |counts: &[(&str, u64)]| {
            let counts = counts.iter().map(|(name, count)| ((*name).to_owned(), *count));
            operators(&OnnxHeader {
                operators: counts.collect(),
                ..OnnxHeader::default()
            })
        };
        assert_eq!(told(&[("Add", 1), ("Gemm", 3)]), "4: Gemm 3, Add 1");
        let many = ["A", "B", "C", "D", "E", "F", "G", "H"].map(|name| (name, 1));
        assert_eq!(told(&many), "8: A 1, B 1, C 1, D 1, E 1, F 1 and 2 other kinds");
    }
}
