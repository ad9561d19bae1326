//! Summary of an artifact's manifest, as text and as JSON.

use serde_json::{Value, json};

use crate::manifest::{Manifest, UnknownInputs};
use crate::telemetry::escape::plain;

/// Number of names that are printed; further ones are only counted.
const MAX_NAMES: usize = 16;

/// Returns a line for each key of the manifest that is set.
pub fn lines(manifest: &Manifest) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |what: &str, of: Vec<String>| {
        if !of.is_empty() {
            lines.push(format!("{what}: {}", plain(&brief(&of))));
        }
    };
    let columns = |columns: &[crate::manifest::Column]| -> Vec<String> {
        let texts = columns
            .iter()
            .map(|column| with_more(&column.name, &column.aliases, &[("default", column.default.as_ref())]));
        texts.collect()
    };
    add("columns", columns(&manifest.columns));
    let inputs = manifest.inputs.iter().map(|input| {
        let values = [
            ("default", input.default.as_ref()),
            ("constant", input.constant.as_ref()),
        ];
        with_more(&input.name, &input.aliases, &values)
    });
    add("inputs", inputs.collect());
    if manifest.unknown_inputs == UnknownInputs::Ignore {
        add("other columns and inputs", vec!["ignored".to_owned()]);
    }
    let outputs = manifest.outputs.iter().map(|output| {
        let rename = output.rename.as_ref().map(|rename| format!(" as {rename}"));
        let labels = if output.labels { " with labels" } else { "" };
        format!("{}{}{labels}", output.name, rename.unwrap_or_default())
    });
    add("outputs", outputs.collect());
    add("labels", manifest.labels.clone());
    let csv = &manifest.csv;
    let header = csv
        .header
        .map(|header| if header { "with a header" } else { "without a header" });
    let delimiter = csv.delimiter.map(|delimiter| format!("delimiter {delimiter:?}"));
    let missing = (!csv.missing.is_empty()).then(|| format!("missing values {}", csv.missing.join(" ")));
    let csv = [header.map(ToOwned::to_owned), delimiter, missing];
    add("CSV", csv.into_iter().flatten().collect());
    let requests = [(manifest.warmup.len(), "warm-up"), (manifest.golden.len(), "golden")];
    let requests = requests
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| format!("{count} {kind}"));
    add("requests", requests.collect());
    add("exporter files", manifest.hints.files.clone());
    let passed_over = manifest.hints.passed_over.iter();
    add(
        "ignored files",
        passed_over
            .map(|passed| format!("{}: {}", passed.file, passed.why))
            .collect(),
    );
    add("exporter columns", columns(&manifest.hints.columns));
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
    let listed = of[..of.len().min(MAX_NAMES)].join(", ");
    match of.len().saturating_sub(MAX_NAMES) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

/// Returns the manifest as JSON, with the numbers of its requests in place of the requests; null
/// if it is empty.
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
    fn the_summary_has_a_line_for_each_key() {
        let labels: Vec<String> = (0..20).map(|label| label.to_string()).collect();
        let listed = lines(&read(json!({
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
            "other columns and inputs: ignored",
            "outputs: y, z as score with labels",
            "labels: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 and 4 more",
            "CSV: with a header, delimiter ';', missing values NA -",
            "requests: 1 warm-up, 2 golden",
        ];
        assert_eq!(listed, expected);
    }

    #[test]
    fn the_summary_of_an_empty_manifest_is_empty() {
        assert_eq!(lines(&Manifest::default()), [""; 0]);
        assert_eq!(report(&Manifest::default()).unwrap(), Value::Null);
    }
}
