//! The contents of an artifact's manifest, for a person and for a program.

use serde_json::{Value, json};

use crate::manifest::{Manifest, UnknownInputs};
use crate::telemetry::escape::plain;

/// Most names that are printed; further ones are counted.
const MOST: usize = 16;

/// A line for each thing that the manifest says; none where it says nothing.
pub fn lines(manifest: &Manifest) -> Vec<String> {
    let mut lines = Vec::new();
    let mut tell = |what: &str, of: Vec<String>| {
        if !of.is_empty() {
            lines.push(format!("{what}: {}", plain(&brief(&of))));
        }
    };
    let columns = |columns: &[crate::manifest::Column]| -> Vec<String> {
        let told = columns
            .iter()
            .map(|column| with_more(&column.name, &column.aliases, &[("default", column.default.as_ref())]));
        told.collect()
    };
    tell("columns", columns(&manifest.columns));
    let inputs = manifest.inputs.iter().map(|input| {
        let values = [
            ("default", input.default.as_ref()),
            ("constant", input.constant.as_ref()),
        ];
        with_more(&input.name, &input.aliases, &values)
    });
    tell("inputs", inputs.collect());
    if manifest.unknown_inputs == UnknownInputs::Ignore {
        tell("other columns and inputs", vec!["left out".to_owned()]);
    }
    let outputs = manifest.outputs.iter().map(|output| {
        let rename = output.rename.as_ref().map(|rename| format!(" as {rename}"));
        let labels = if output.labels { " with labels" } else { "" };
        format!("{}{}{labels}", output.name, rename.unwrap_or_default())
    });
    tell("outputs", outputs.collect());
    tell("labels", manifest.labels.clone());
    let csv = &manifest.csv;
    let header = csv
        .header
        .map(|header| if header { "with a header" } else { "without a header" });
    let delimiter = csv.delimiter.map(|delimiter| format!("delimiter {delimiter:?}"));
    let missing = (!csv.missing.is_empty()).then(|| format!("missing values {}", csv.missing.join(" ")));
    let csv = [header.map(ToOwned::to_owned), delimiter, missing];
    tell("CSV", csv.into_iter().flatten().collect());
    let requests = [(manifest.warmup.len(), "warm-up"), (manifest.golden.len(), "golden")];
    let requests = requests
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| format!("{count} {kind}"));
    tell("requests", requests.collect());
    tell("files of exporters", manifest.hints.files.clone());
    let passed_over = manifest.hints.passed_over.iter();
    tell(
        "not understood",
        passed_over
            .map(|passed| format!("{}: {}", passed.file, passed.why))
            .collect(),
    );
    tell("columns of exporters", columns(&manifest.hints.columns));
    lines
}

fn with_more(name: &str, aliases: &[String], values: &[(&str, Option<&Value>)]) -> String {
    let aliases = (!aliases.is_empty()).then(|| format!("or {}", aliases.join(", ")));
    let values = values
        .iter()
        .filter_map(|(what, value)| value.map(|value| format!("{what} {}", cut(&value.to_string()))));
    let more: Vec<String> = aliases.into_iter().chain(values).collect();
    if more.is_empty() {
        name.to_owned()
    } else {
        format!("{name} ({})", more.join("; "))
    }
}

fn cut(text: &str) -> String {
    const CHARACTERS: usize = 60;
    match text.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn brief(of: &[String]) -> String {
    let told = of[..of.len().min(MOST)].join(", ");
    match of.len().saturating_sub(MOST) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

/// The manifest with the numbers of its requests instead of them; null where it says nothing.
pub fn report(manifest: &Manifest) -> serde_json::Result<Value> {
    if *manifest == Manifest::default() {
        return Ok(Value::Null);
    }
    let mut report = serde_json::to_value(manifest)?;
    if let Value::Object(report) = &mut report {
        report.insert("warmup".to_owned(), json!(manifest.warmup.len()));
        report.insert("golden".to_owned(), json!(manifest.golden.len()));
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(manifest: Value) -> Manifest {
        serde_json::from_value(manifest).unwrap()
    }

    #[test]
    fn a_manifest_is_told_line_by_line() {
        let labels: Vec<String> = (0..20).map(|label| label.to_string()).collect();
        let told = lines(&read(json!({
            "columns": ["a", {"name": "b", "aliases": ["B", "bb"], "default": 0}],
            "inputs": [{"name": "x", "constant": [1, 2]}],
            "unknown_inputs": "ignore",
            "outputs": ["y", {"name": "z", "as": "score", "labels": true}],
            "labels": labels,
            "csv": {"header": true, "delimiter": ";", "missing": ["NA", "-"]},
            "warmup": [{"body": 1}],
            "golden": [{"request": {"body": 1}, "response": 1}, {"request": {"body": 1}, "response": 1}],
        })));
        let expected = [
            "columns: a, b (or B, bb; default 0)",
            "inputs: x (constant [1,2])",
            "other columns and inputs: left out",
            "outputs: y, z as score with labels",
            "labels: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 and 4 more",
            "CSV: with a header, delimiter ';', missing values NA -",
            "requests: 1 warm-up, 2 golden",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn no_manifest_is_nothing_to_tell() {
        assert_eq!(lines(&Manifest::default()), [""; 0]);
        assert_eq!(report(&Manifest::default()).unwrap(), Value::Null);
    }
}
