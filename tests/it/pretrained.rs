//! Pretrained networks from packages, compared with the packages' own pipelines.
//!
//! `tests/pretrained` writes the artifacts, the requests and the results of the packages;
//! `scripts/pretrained` installs the packages. The requests are pictures, sentences and sounds, as
//! clients have them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::harness::{Builder, PRETRAINED, Request, Response, Server};

/// Smallest cosine between an embedding and the package's.
const NEARNESS: f64 = 0.9999;
/// Largest distance in pixels between an edge of a box and the package's; boxes have whole pixels.
const PIXELS: f64 = 1.0;

/// Content type between the containers of a pipeline.
const NPY: &str = "application/x-npy";

/// Description of an artifact by `tests/pretrained/make.py`.
#[derive(Debug, Deserialize)]
struct Network {
    package: String,
    task: String,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    content_type: String,
    accept: String,
    /// File next to this one.
    body: String,
    /// Largest difference of a score, or of a number in a tensor, from the package's.
    tolerance: f64,
    expected: Expected,
}

/// Result of the package.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expected {
    /// The scores of all labels.
    Scores(BTreeMap<String, f64>),
    /// One embedding for each input.
    Embeddings(Vec<Vec<f64>>),
    /// File next to this one, in the format of NumPy.
    Tensor(String),
    /// Integers by the names of tensors.
    Tokens(BTreeMap<String, Vec<Vec<i64>>>),
    /// Detected objects, in any order.
    Boxes(Vec<Detection>),
}

#[derive(Debug, Clone, Deserialize)]
struct Detection {
    label: String,
    score: f64,
    #[serde(rename = "box")]
    place: Place,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Place {
    xmin: f64,
    ymin: f64,
    xmax: f64,
    ymax: f64,
}

/// Difference between a result and the expected one, or a description of the error.
type Compared = Result<f64, String>;

impl Case {
    fn request(&self, name: &str, folder: &Path, accept: &str) -> Request {
        Server::invocation(name)
            .header("Content-Type", &self.content_type)
            .header("Accept", accept)
            .body(fs::read(folder.join(&self.body)).unwrap())
    }

    /// Returns the largest difference if it is within the tolerance.
    fn compare(&self, response: &Response, folder: &Path) -> Compared {
        if response.status != 200 {
            return Err(format!("{} {}", response.status, response.text()));
        }
        let json = || serde_json::from_slice::<Value>(&response.body).map_err(|error| error.to_string());
        match &self.expected {
            Expected::Scores(right) => compare_scores(&json()?, right, self.tolerance),
            Expected::Embeddings(right) => compare_embeddings(&json()?, right),
            Expected::Tokens(right) => compare_tokens(&json()?, right),
            Expected::Boxes(right) => compare_boxes(&json()?, right, self.tolerance),
            Expected::Tensor(file) => {
                let right = fs::read(folder.join(file)).unwrap();
                compare_arrays(&response.body, &right, self.tolerance)
            }
        }
    }
}

// Labels

/// Returns labels with their scores in the given order, from `[{"label", "score"}]` of the only
/// record or from an object of scores by label.
fn labelled(answer: &Value) -> Option<Vec<(&str, f64)>> {
    match answer {
        Value::Array(items) => {
            let pairs: Option<Vec<_>> = items
                .iter()
                .map(|item| Some((item["label"].as_str()?, item["score"].as_f64()?)))
                .collect();
            pairs
                .filter(|pairs| !pairs.is_empty())
                .or_else(|| labelled(only(items)?))
        }
        Value::Object(members) => {
            let pairs: Option<Vec<_>> = members
                .iter()
                .map(|(label, score)| Some((label.as_str(), score.as_f64()?)))
                .collect();
            let mut pairs = match pairs {
                Some(pairs) => pairs,
                None => return labelled(only(&members.values().collect::<Vec<_>>())?),
            };
            pairs.sort_by(|(_, one), (_, other)| other.total_cmp(one));
            Some(pairs)
        }
        _ => None,
    }
}

fn only<T>(items: &[T]) -> Option<&T> {
    match items {
        [item] => Some(item),
        _ => None,
    }
}

fn compare_scores(answer: &Value, right: &BTreeMap<String, f64>, tolerance: f64) -> Compared {
    let labelled = labelled(answer).ok_or_else(|| format!("no labels in {answer}"))?;
    let (&(first, _), highest) = (
        labelled.first().ok_or("no label")?,
        right.values().copied().fold(f64::MIN, f64::max),
    );
    let mut greatest = 0f64;
    for (label, score) in &labelled {
        let must = right.get(*label).ok_or_else(|| format!("no such label: {label}"))?;
        greatest = greatest.max((score - must).abs());
    }
    // Of two equally likely labels, either may come first.
    if highest - right[first] > tolerance {
        return Err(format!("the first label is {first}, must be that with {highest}"));
    }
    within(greatest, tolerance, "a score")
}

// Embeddings

/// Collects all numbers in a value, in order.
fn numbers(answer: &Value, into: &mut Vec<f64>) {
    match answer {
        Value::Number(number) => into.extend(number.as_f64()),
        Value::Array(items) => items.iter().for_each(|item| numbers(item, into)),
        Value::Object(members) => members.values().for_each(|item| numbers(item, into)),
        _ => {}
    }
}

fn compare_embeddings(answer: &Value, right: &[Vec<f64>]) -> Compared {
    let mut all = Vec::new();
    numbers(answer, &mut all);
    let width = right.first().map_or(0, Vec::len);
    if all.len() != width * right.len() {
        let told: String = answer.to_string().chars().take(200).collect();
        return Err(format!(
            "{} numbers, must be {} times {width}: {told}",
            all.len(),
            right.len()
        ));
    }
    let mut nearest = 1f64;
    for (row, must) in all.chunks_exact(width).zip(right) {
        let dot = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f64>();
        let cosine = dot(row, must) / (dot(row, row) * dot(must, must)).sqrt();
        nearest = nearest.min(cosine);
    }
    // This comparison is false for NaN.
    if nearest > NEARNESS {
        Ok(1.0 - nearest)
    } else {
        Err(format!("the cosine of an embedding is {nearest}"))
    }
}

// Tokens

/// Collects the tensors with this name: one for all records, or one in each record.
fn named<'a>(answer: &'a Value, name: &str, into: &mut Vec<&'a Value>) {
    match answer {
        Value::Array(items) => items.iter().for_each(|item| named(item, name, into)),
        Value::Object(members) => {
            for (key, value) in members {
                if key == name {
                    into.push(value);
                } else {
                    named(value, name, into);
                }
            }
        }
        _ => {}
    }
}

fn compare_tokens(answer: &Value, right: &BTreeMap<String, Vec<Vec<i64>>>) -> Compared {
    for (name, right) in right {
        let mut found = Vec::new();
        named(answer, name, &mut found);
        let mut all = Vec::new();
        found.iter().for_each(|value| numbers(value, &mut all));
        let must: Vec<f64> = right.iter().flatten().map(|&token| token as f64).collect();
        if all != must {
            return Err(format!("{name} is {all:?}, must be {must:?}"));
        }
    }
    Ok(0.0)
}

// Boxes

fn compare_boxes(answer: &Value, right: &[Detection], tolerance: f64) -> Compared {
    let mut found: Vec<Detection> =
        serde_json::from_value(answer.clone()).map_err(|error| format!("{error} in {answer}"))?;
    if found.len() != right.len() {
        return Err(format!("{} boxes, must be {}: {answer}", found.len(), right.len()));
    }
    let mut greatest = 0f64;
    for must in right {
        let distance = |one: &Detection| {
            let (one, other) = (one.place, must.place);
            [
                one.xmin - other.xmin,
                one.ymin - other.ymin,
                one.xmax - other.xmax,
                one.ymax - other.ymax,
            ]
            .map(f64::abs)
            .into_iter()
            .fold(0.0, f64::max)
        };
        let nearest = (0..found.len())
            .filter(|&index| found[index].label == must.label)
            .min_by(|&one, &other| distance(&found[one]).total_cmp(&distance(&found[other])))
            .ok_or_else(|| format!("no {} in {answer}", must.label))?;
        let nearest = found.swap_remove(nearest);
        within(distance(&nearest), PIXELS, "an edge")?;
        greatest = greatest.max((nearest.score - must.score).abs());
    }
    within(greatest, tolerance, "a score")
}

// Tensors

/// Reads a NumPy array of 32-bit floats: its shape and its numbers.
fn array(bytes: &[u8]) -> Option<(String, Vec<f32>)> {
    let header = bytes.strip_prefix(b"\x93NUMPY\x01\x00")?;
    let (length, rest) = header.split_first_chunk::<2>()?;
    let (header, data) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let header = std::str::from_utf8(header).ok()?;
    if !header.contains("'<f4'") || !header.contains("'fortran_order': False") {
        return None;
    }
    let (_, shape) = header.split_once("'shape': (")?;
    let (shape, _) = shape.split_once(')')?;
    let (numbers, []) = data.as_chunks::<4>() else {
        return None;
    };
    let numbers = numbers.iter().map(|number| f32::from_le_bytes(*number));
    Some((shape.to_owned(), numbers.collect()))
}

fn compare_arrays(answer: &[u8], right: &[u8], tolerance: f64) -> Compared {
    let (must_shape, must) = array(right).unwrap();
    let (shape, numbers) = array(answer).ok_or("the response is not an array of floats")?;
    if shape != must_shape || numbers.len() != must.len() {
        return Err(format!("the shape is {shape}, must be {must_shape}"));
    }
    // NaN counts as an infinite difference.
    let differences = numbers.iter().zip(&must).map(|(one, other)| match (one - other).abs() {
        difference if difference.is_nan() => f64::INFINITY,
        difference => f64::from(difference),
    });
    within(differences.fold(0.0, f64::max), tolerance, "a number")
}

/// Returns `difference` if it is not more than `bound`.
fn within(difference: f64, bound: f64, what: &str) -> Compared {
    if difference <= bound {
        Ok(difference)
    } else {
        Err(format!("{what} is off by {difference}, may be by {bound}"))
    }
}

#[test]
fn pretrained_networks_give_the_results_of_their_own_pipelines() {
    let server = Builder::multi().start();
    let root = server.models().root().to_owned();
    PRETRAINED.run(
        "tests/pretrained/make.py",
        [root.display().to_string()],
        [("OMP_NUM_THREADS", "2".to_owned())],
    );
    let mut folders: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    let (mut wrong, mut table, mut cases) = (Vec::new(), String::new(), 0);
    for folder in &folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let network: Network = serde_json::from_slice(&fs::read(folder.join("cases.json")).unwrap()).unwrap();
        let loaded = server.load(name, &folder.join("model").display().to_string());
        if loaded.status != 200 {
            wrong.push(format!("{name} is not loaded: {}", loaded.text()));
            continue;
        }
        let mut greatest = 0f64;
        for case in &network.cases {
            match case.compare(&server.send(&case.request(name, folder, &case.accept)), folder) {
                Ok(difference) => greatest = greatest.max(difference),
                Err(difference) => wrong.push(format!("{name}, {:?}: {difference}", case.name)),
            }
        }
        cases += network.cases.len();
        let _ = writeln!(
            table,
            "| {name} | {} | {} | {} | {greatest:.1e} |",
            network.task,
            network.package,
            network.cases.len()
        );
    }
    println!("| artifact | task | package | requests | greatest difference |\n|---|---|---|---|---|\n{table}");
    let pixels_then_labels = series(&server, &root);
    wrong.extend(pixels_then_labels.err());
    assert!(
        wrong.is_empty(),
        "{} answers are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(
        folders.len() >= 13 && cases > 120,
        "{} artifacts, {cases} requests",
        folders.len()
    );
}

/// Sends one request through three artifacts, as a pipeline of three containers does: pixels, the
/// network's tensor, labels.
fn series(server: &Server, root: &Path) -> Compared {
    let folder = root.join("open_nsfw");
    let network: Network = serde_json::from_slice(&fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let mut greatest = 0f64;
    for case in &network.cases {
        let mut request = case.request("open_nsfw_pixels", &folder, NPY);
        for next in ["open_nsfw", "open_nsfw_labels"] {
            let accept = if next == "open_nsfw" { NPY } else { "application/json" };
            let between = server.send(&request);
            if between.status != 200 {
                return Err(format!("before {next}: {} {}", between.status, between.text()));
            }
            request = Server::invocation(next)
                .header("Content-Type", NPY)
                .header("Accept", accept)
                .body(between.body);
        }
        let difference = case.compare(&server.send(&request), &folder);
        greatest = greatest.max(difference.map_err(|error| format!("in series, {:?}: {error}", case.name))?);
    }
    Ok(greatest)
}
