//! Recorded traffic: access logs and exports of CloudWatch.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::BufRead;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::wire::ModelPath;
use crate::wire::v2::{ModelPart, V2Path};

/// Longest line of a log that is read.
const MOST_LINE: usize = 1 << 20;

/// Keys of the client's name of a model, and of the name in the path.
const KEYS_OF_MODEL: [&str; 2] = ["target_model", "model"];
const KEYS_OF_TIME: [&str; 3] = ["timestamp", "time", "@timestamp"];

/// Paths of requests that do not name their model.
const TEXTS: [&str; 4] = ["/embed", "/rerank", "/predict", "/v1/embeddings"];

/// A request of an access log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogRequest {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The index of its model.
    pub model: u32,
    /// Whether the log may have only a share of such requests. The server logs each failed one.
    pub is_sampled: bool,
}

/// The content of a file with traffic.
#[derive(Debug, Clone, PartialEq)]
pub enum Recorded {
    /// Single requests, in the order of their times.
    Requests {
        models: Vec<String>,
        requests: Vec<LogRequest>,
        /// Lines about other things, such as health checks.
        others: usize,
    },
    /// Numbers of requests by model, and the time in which they came; `None` if all values are of
    /// one period, whose length is unknown.
    Counts {
        models: Vec<(String, f64)>,
        seconds: Option<f64>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    #[error("line {0} is not a JSON object; expected one a line, as the server's access log has it")]
    Line(usize),
    #[error("line {0} is longer than {MOST_LINE} bytes")]
    LongLine(usize),
    #[error(
        "line {line} names a model but has no time that can be read ({found}); expected \"timestamp\" with a time such as \
         \"2026-01-31T12:00:00.250Z\", or seconds since 1970"
    )]
    NoTime { line: usize, found: String },
    #[error("no line is about a request to a model; expected objects with the key \"target_model\" or \"model\"")]
    NoModel,
    #[error("it cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error(
        "it is not the output of `aws cloudwatch get-metric-data`: {0}; expected {{\"MetricDataResults\": [{{\"Label\": \
         \"MODEL\", \"Timestamps\": [...], \"Values\": [...]}}]}}"
    )]
    CloudWatch(serde_json::Error),
    #[error("the metric {label:?} has {timestamps} timestamps and {values} values")]
    Uneven {
        label: String,
        timestamps: usize,
        values: usize,
    },
    #[error("the metric {label:?} has a timestamp that is not a time: {found}")]
    CloudWatchTime { label: String, found: String },
    #[error("it has no requests: each value is 0 or missing")]
    Empty,
}

/// Nanoseconds since 1970 of a time as text (RFC 3339), or as a number of seconds or milliseconds.
fn time(value: &Value) -> Option<u64> {
    /// The latest time as a number, in seconds: a time in the year 2286.
    const LATEST: f64 = 1e10;
    /// Numbers from here on are milliseconds: as seconds they would be after the year 5000.
    const MILLISECONDS: f64 = 1e11;
    match value {
        Value::String(text) => {
            let (local, offset) = without_offset(text);
            let time = humantime::parse_rfc3339_weak(local).ok()?;
            let local = i128::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()?;
            u64::try_from(local - i128::from(offset) * 1_000_000_000).ok()
        }
        Value::Number(number) => {
            let number = number.as_f64().filter(|number| *number >= 0.0)?;
            let seconds = if number < MILLISECONDS { number } else { number / 1e3 };
            (seconds <= LATEST).then_some((seconds * 1e9) as u64)
        }
        _ => None,
    }
}

/// Splits the offset from UTC off a time, such as `+01:00`, in seconds.
fn without_offset(text: &str) -> (&str, i64) {
    let split = text.len().checked_sub("+00:00".len());
    let parsed = split
        .and_then(|split| text.split_at_checked(split))
        .and_then(|(local, offset)| {
            let (hours, minutes) = offset.get(1..)?.split_once(':')?;
            let seconds = 3600 * i64::from(hours.parse::<u8>().ok()?) + 60 * i64::from(minutes.parse::<u8>().ok()?);
            match offset.as_bytes()[0] {
                b'+' => Some((local, seconds)),
                b'-' => Some((local, -seconds)),
                _ => None,
            }
        });
    parsed.unwrap_or((text, 0))
}

/// The value of one of these keys, in the object or in its `fields`, where the server's log has
/// them.
fn value<'a>(line: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a Value> {
    let fields = line.get("fields").and_then(Value::as_object);
    let objects = [Some(line), fields];
    let found = |key: &&str| objects.into_iter().flatten().find_map(|object| object.get(*key));
    keys.iter().filter_map(found).find(|value| !value.is_null())
}

/// Whether requests with this path run a model.
fn is_invocation(path: &str) -> bool {
    let is_infer = || match V2Path::parse(path) {
        Some(V2Path::Model(model)) => model.part == ModelPart::Infer,
        Some(_) | None => false,
    };
    path.ends_with("/invocations")
        || TEXTS.contains(&path)
        || matches!(ModelPath::parse(path), Some(ModelPath::Invoke(_)))
        || is_infer()
}

/// Whether a line with a model is about a run of it. The server's log also has lines about its
/// loads, which have no status, about requests for its state, and about unknown models.
fn is_request(line: &Map<String, Value>) -> bool {
    const NOT_FOUND: u64 = 404;
    let status = value(line, &["status"]).and_then(Value::as_u64);
    let path = value(line, &["path"]).and_then(Value::as_str);
    path.is_none_or(is_invocation) && status != Some(NOT_FOUND) && (!is_from_the_server(line) || status.is_some())
}

fn is_from_the_server(line: &Map<String, Value>) -> bool {
    value(line, &["level"]).is_some()
}

/// The index of a name, which is added if it is new.
fn index_of(name: &str, names: &mut Vec<String>, known: &mut HashMap<String, u32>) -> u32 {
    if let Some(&index) = known.get(name) {
        return index;
    }
    let index = names.len() as u32;
    names.push(name.to_owned());
    known.insert(name.to_owned(), index);
    index
}

/// Reads an access log: a JSON object a line, with a model and a time. Lines that are not about
/// requests to a model are counted. A request arrived before its line was written, by the
/// `duration_ms` of the line. A last line without an end that is not JSON is left out,
/// because the log is being written.
pub fn access_log(mut log: impl BufRead) -> Result<Recorded, RecordedError> {
    let (mut models, mut known, mut requests) = (Vec::new(), HashMap::new(), Vec::new());
    let mut others = 0;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let bytes = std::io::Read::take(&mut log, MOST_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        if bytes == 0 {
            break;
        }
        if bytes > MOST_LINE {
            return Err(RecordedError::LongLine(number));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let object: Map<String, Value> = match serde_json::from_slice(&line) {
            Ok(object) => object,
            Err(_) if !line.ends_with(b"\n") => break,
            Err(_) => return Err(RecordedError::Line(number)),
        };
        let model = value(&object, &KEYS_OF_MODEL).and_then(Value::as_str);
        let Some(model) = model.filter(|_| is_request(&object)) else {
            others += 1;
            continue;
        };
        let found = value(&object, &KEYS_OF_TIME);
        let Some(time) = found.and_then(time) else {
            let found = found.map_or_else(|| "it has none".to_owned(), |value| format!("it has {value}"));
            return Err(RecordedError::NoTime { line: number, found });
        };
        let duration = value(&object, &["duration_ms"]).and_then(Value::as_f64);
        requests.push(LogRequest {
            time: time.saturating_sub((duration.unwrap_or_default() * 1e6) as u64),
            model: index_of(model, &mut models, &mut known),
            is_sampled: duration.is_some() || !is_from_the_server(&object),
        });
    }
    if requests.is_empty() {
        return Err(RecordedError::NoModel);
    }
    // A log has its lines in the order of the answers.
    requests.sort_by_key(|request| request.time);
    Ok(Recorded::Requests {
        models,
        requests,
        others,
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetricData {
    metric_data_results: Vec<MetricDataResult>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetricDataResult {
    label: String,
    #[serde(default)]
    timestamps: Vec<Value>,
    #[serde(default)]
    values: Vec<f64>,
}

/// Reads the output of `aws cloudwatch get-metric-data` with a metric for each model, whose label
/// is the model's name.
pub fn cloudwatch(text: &[u8]) -> Result<Recorded, RecordedError> {
    let data: MetricData = serde_json::from_slice(text).map_err(RecordedError::CloudWatch)?;
    let (mut names, mut known, mut counts) = (Vec::new(), HashMap::new(), Vec::new());
    let mut times = Vec::new();
    for MetricDataResult {
        label,
        timestamps,
        values,
    } in data.metric_data_results
    {
        if timestamps.len() != values.len() {
            let (timestamps, values) = (timestamps.len(), values.len());
            return Err(RecordedError::Uneven {
                label,
                timestamps,
                values,
            });
        }
        for timestamp in &timestamps {
            let unreadable = || RecordedError::CloudWatchTime {
                label: label.clone(),
                found: timestamp.to_string(),
            };
            times.push(time(timestamp).ok_or_else(unreadable)?);
        }
        // The label that CloudWatch chooses may end in the metric's name.
        let model = label.strip_suffix(" Invocations").unwrap_or(&label);
        let count: f64 = values.iter().filter(|value| value.is_finite() && **value > 0.0).sum();
        // Several pages of a result repeat its label.
        let index = index_of(model, &mut names, &mut known) as usize;
        counts.resize(names.len(), 0.0);
        counts[index] += count;
    }
    if !counts.iter().any(|count| *count > 0.0) {
        return Err(RecordedError::Empty);
    }
    times.sort_unstable();
    times.dedup();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let seconds = gaps.min().map(|period| {
        let span = times[times.len() - 1] - times[0];
        (span as f64 + period as f64) / 1e9
    });
    Ok(Recorded::Counts {
        models: names.into_iter().zip(counts).collect(),
        seconds,
    })
}
