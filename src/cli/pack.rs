//! `longshore pack`: checks an artifact as a load does, prepares it, and writes it as an archive.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::table::{Table, bytes, print};
use crate::archive::{self, CollectedFiles, LeftOut, PackSource};
use crate::config::PackArgs;
use crate::engine::{Examination, ExaminedModel, PACKED_DESCRIPTION, PACKED_FOLDER, PACKED_MODEL};
use crate::handler::{Handler, rehearsals};
use crate::manifest::FILE;

pub fn run(args: &PackArgs) -> Result<()> {
    if args.output.exists() && !args.force {
        bail!("{} already exists; add --force to overwrite it", args.output.display());
    }
    if super::is_archive(&args.path)? {
        bail!(
            "{} is already an archive; name the folder or the file from which it was packed",
            args.path.display()
        );
    }
    let folder = output_folder(&args.output)?;
    let copied = super::snapshot::copy(&args.path)?;
    let path = copied.as_ref().map_or(&args.path, |copied| &copied.path);
    let examiner = super::examiner(&args.examine)?;
    super::progress("preparing");
    let examination = examiner.examine_uploaded(path)?;
    let loaded = match &examination.loaded {
        Ok(loaded) => loaded,
        Err(error) => bail!("a server would refuse to load it, so it is not packed: {error}"),
    };
    rehearse(&examination, loaded)?;
    let mut collected = collect(path, &examination, &args.output)?;
    let is_prepared = !args.no_prepared && add_prepared(loaded, &mut collected)?;
    super::progress("packing");
    let (files, archive) = write(&collected.files, &args.output, &folder, args.force)?;
    if args.examine.json {
        let names: Vec<&String> = collected.files.keys().collect();
        let left_out: Vec<_> = collected
            .left_out
            .iter()
            .map(|left| json!({"path": left.path, "why": left.why}))
            .collect();
        let summary = json!({
            "archive": args.output,
            "archive_bytes": archive,
            "file_bytes": files,
            "files": names,
            "left_out": left_out,
            "content": examination.content.to_string(),
            "prepared_for": is_prepared.then(|| examiner.platform()),
            "prepared_bytes": is_prepared.then(|| prepared_bytes(loaded)),
        });
        return Ok(print(format_args!("{summary:#}\n"))?);
    }
    let mut table = Table::default();
    table.line(
        "archive",
        format_args!("{} ({})", args.output.display(), bytes(archive)),
    );
    let count = collected.files.len();
    table.line("files", format_args!("{count}, {} unpacked", bytes(files)));
    for LeftOut { path, why } in &collected.left_out {
        table.line("left out", format_args!("{path} ({why})"));
    }
    table.line("model", examination.model_in_artifact().display());
    if let Some(adapter) = &examination.adapter {
        table.line(
            "adapter",
            adapter.strip_prefix(&examination.folder).unwrap_or(adapter).display(),
        );
    }
    table.line("content", examination.content);
    table.line("prepared", prepared_text(args, &examination, loaded, is_prepared));
    Ok(print(table)?)
}

/// Checks that the manifest fits the model and runs its example requests, as a load does.
fn rehearse(examination: &Examination, loaded: &ExaminedModel) -> Result<()> {
    const REFUSED: &str = "a server would refuse to load it, so it is not packed";
    let manifest = &examination.manifest;
    let handler = match Handler::of_artifact(manifest, &loaded.signature) {
        Ok(handler) => Arc::new(handler),
        Err(error) => bail!("{REFUSED}: {FILE}: {error}"),
    };
    if !(manifest.warmup.is_empty() && manifest.golden.is_empty()) {
        super::progress("running the example requests of the manifest");
    }
    for rehearsal in rehearsals(manifest) {
        let invocation = rehearsal.invocation(rehearsal.body(), None, "model".to_owned(), Arc::clone(&handler));
        let answer = loaded.answer(&invocation);
        let checked = answer
            .map_err(|error| rehearsal.failed(error))
            .and_then(|answer| rehearsal.check(&answer));
        if let Err(error) = checked {
            bail!("{REFUSED}: {FILE}: {error}");
        }
    }
    Ok(())
}

fn prepared_text(args: &PackArgs, examination: &Examination, loaded: &ExaminedModel, is_prepared: bool) -> String {
    let text = if is_prepared {
        return format!(
            "yes, for machines of the same kind; others prepare the model at its first load{}",
            growth_text(prepared_bytes(loaded), examination.weights)
        );
    } else if args.no_prepared {
        "no (--no-prepared)"
    } else if examination.is_ort_format {
        "no: the model is already in ONNX Runtime's own format"
    } else if loaded.findings.prepared {
        "no"
    } else {
        "no: the model cannot be written in ONNX Runtime's own format, or its results differ in that format"
    };
    text.to_owned()
}

fn prepared_bytes(loaded: &ExaminedModel) -> u64 {
    let file = loaded.prepared.as_ref().map(|(_, file)| file);
    file.and_then(|file| fs::metadata(file).ok())
        .map_or(0, |metadata| metadata.len())
}

/// Explains a prepared form that is much larger than the model; empty if it is not.
fn growth_text(prepared: u64, weights: u64) -> String {
    const MUCH: f64 = 1.25;
    let times = prepared as f64 / weights.max(1) as f64;
    if times <= MUCH || prepared < weights + (1 << 20) {
        return String::new();
    }
    format!(
        ". It takes {}, {times:.1} times the model, because ONNX Runtime stores values there that it computes from constants, \
         such as float32 from float16. Add --no-prepared to leave it out",
        bytes(prepared)
    )
}

/// Collects the files of the artifact by their path in the archive.
fn collect(path: &Path, examination: &Examination, output: &Path) -> Result<CollectedFiles> {
    let external = examination.external.iter().map(|(_, file)| file.clone());
    let requests = examination.request_files.iter().cloned();
    let needed: Vec<PathBuf> = std::iter::once(examination.model.clone())
        .chain(external)
        .chain(requests)
        .chain(examination.adapter.clone())
        .collect();
    if path.is_dir() {
        let output = output.canonicalize().unwrap_or_default();
        return Ok(archive::collect(&examination.folder, &needed, &output)?);
    }
    // For a single model file, pack only the files that it refers to, not others in its folder.
    let mut collected = CollectedFiles::default();
    for file in needed {
        let name = file.strip_prefix(&examination.folder).unwrap_or(&file);
        let name = name
            .to_str()
            .with_context(|| format!("the name of {} is not UTF-8; rename it", name.display()))?;
        collected.files.insert(name.to_owned(), PackSource::File(file.clone()));
    }
    Ok(collected)
}

/// Adds the prepared form, if there is one.
fn add_prepared(loaded: &ExaminedModel, collected: &mut CollectedFiles) -> Result<bool> {
    let Some((description, file)) = &loaded.prepared else {
        return Ok(false);
    };
    let mut text = serde_json::to_vec_pretty(description).context("describe the prepared form")?;
    text.push(b'\n');
    // The new prepared form replaces one from an earlier `pack`.
    collected
        .left_out
        .retain(|left| left.path.trim_end_matches('/') != PACKED_FOLDER);
    for (name, source) in [
        (PACKED_DESCRIPTION, PackSource::Bytes(text)),
        (PACKED_MODEL, PackSource::File(file.clone())),
    ] {
        collected.files.insert(format!("{PACKED_FOLDER}/{name}"), source);
    }
    Ok(true)
}

fn output_folder(output: &Path) -> Result<PathBuf> {
    let folder = match output.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        bail!(
            "{} is not a directory; create it, or choose another --output",
            folder.display()
        );
    }
    Ok(folder.to_owned())
}

/// Writes the archive next to `output` and renames it, so that the archive is complete or missing.
/// Returns the bytes of its files and of the archive itself.
fn write(files: &BTreeMap<String, PackSource>, output: &Path, folder: &Path, force: bool) -> Result<(u64, u64)> {
    let context = || format!("write {}", output.display());
    let unfinished = tempfile::Builder::new()
        .prefix(".longshore-")
        // The usual mode of a new file; temporary files are private to the user by default.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .with_context(context)?;
    let mut out = BufWriter::new(unfinished.as_file());
    let bytes = archive::write(files, &mut out)?;
    out.flush().with_context(context)?;
    drop(out);
    unfinished.as_file().sync_all().with_context(context)?;
    let kept = if force {
        unfinished.persist(output)
    } else {
        unfinished.persist_noclobber(output)
    };
    kept.map_err(|error| error.error).with_context(context)?;
    Ok((bytes, fs::metadata(output).with_context(context)?.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_explains_a_prepared_form_that_is_much_larger_than_the_model() {
        let text = growth_text(58 << 20, 29 << 20);
        assert!(text.contains("58.0 MiB, 2.0 times the model"), "{text}");
        assert!(text.contains("--no-prepared"), "{text}");
        for (prepared, weights) in [(30 << 20, 29 << 20), (20_000, 10_000), (100, 0)] {
            assert_eq!(growth_text(prepared, weights), "", "{prepared} {weights}");
        }
    }
}
