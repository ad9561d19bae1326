//! Recorded traffic: access logs and exports of CloudWatch.

use std::io::BufRead;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Longest line of a log that is read.
const MOST_LINE: usize = 1 << 20;

/// Lines without a model or a time that an error quotes; one of them is enough to see the reason.
const KEYS_OF_MODEL: [&str; 2] = ["target_model", "model"];
const KEYS_OF_TIME: [&str; 3] = ["timestamp", "time", "@timestamp"];

/// A request of an access log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRequest {
    /// Nanoseconds since 1970.
    pub time: u64,
    pub model: String,
}

/// The content of a file with traffic.
#[derive(Debug, Clone, PartialEq)]
pub enum Recorded {
    /// Single requests, in the order of their times.
    Requests {
        requests: Vec<LogRequest>,
        /// Lines without a model, such as those of health checks.
        without_model: usize,
    },
    /// Numbers of requests by model, and the time in which they came.
    Counts { models: Vec<(String, f64)>, seconds: f64 },
}

#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    #[error("line {0} is not JSON: {1}; expected one JSON object a line, as the server's access log has it")]
    Line(usize, serde_json::Error),
    #[error("line {0} is longer than {MOST_LINE} bytes")]
    LongLine(usize),
    #[error(
        "line {line} names a model but has no time that can be read ({found}); expected \"timestamp\" with a time such as \
         \"2026-01-31T12:00:00.250Z\", or seconds since 1970"
    )]
    NoTime { line: usize, found: String },
    #[error("no line names a model; expected objects with the key \"target_model\" or \"model\"")]
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
    #[error(
        "all its values are of one time, so the length of a period is unknown; export at least two periods, with \
         --period at most half of the time between --start-time and --end-time"
    )]
    OnePeriod,
}

/// Nanoseconds since 1970 of a time as text (RFC 3339), or as a number of seconds or milliseconds.
fn time(value: &Value) -> Option<u64> {
    /// Numbers from here on are milliseconds: as seconds they would be after the year 5000.
    const MILLISECONDS: f64 = 1e11;
    match value {
        Value::String(text) => {
            let utc = text.strip_suffix("+00:00").map(|text| format!("{text}Z"));
            let time = humantime::parse_rfc3339_weak(utc.as_deref().unwrap_or(text)).ok()?;
            u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
        }
        Value::Number(number) => {
            let number = number.as_f64().filter(|number| *number >= 0.0)?;
            let seconds = if number < MILLISECONDS { number } else { number / 1e3 };
            Some((seconds * 1e9) as u64)
        }
        _ => None,
    }
}

/// The value of one of these keys, in the object or in its `fields`, where the server's log has
/// them.
fn value<'a>(line: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a Value> {
    let fields = line.get("fields").and_then(Value::as_object);
    let objects = [Some(line), fields];
    let found = |key: &&str| objects.into_iter().flatten().find_map(|object| object.get(*key));
    keys.iter().filter_map(found).find(|value| !value.is_null())
}

/// Whether a line with a model is about a request to it. The server's log also has lines about its
/// loads, which have no status, and about requests that load or unload it.
fn is_request(line: &Map<String, Value>) -> bool {
    let is_from_the_server = value(line, &["level"]).is_some();
    let path = value(line, &["path"]).and_then(Value::as_str);
    let is_invocation = path.is_none_or(|path| {
        let is_other = path == "/models" || path.starts_with("/v2/repository/");
        let is_model = path.starts_with("/models/") && !path.ends_with("/invoke");
        !is_other && !is_model
    });
    is_invocation && (!is_from_the_server || value(line, &["status"]).is_some())
}

/// Reads an access log: a JSON object a line, with a model and a time. Lines that are not about
/// requests to a model are counted. A last line without an end that is not JSON is left out,
/// because the log is being written.
pub fn access_log(mut log: impl BufRead) -> Result<Recorded, RecordedError> {
    let (mut requests, mut without_model) = (Vec::new(), 0);
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
            Err(error) => return Err(RecordedError::Line(number, error)),
        };
        let model = value(&object, &KEYS_OF_MODEL).and_then(Value::as_str);
        let Some(model) = model.filter(|_| is_request(&object)) else {
            without_model += 1;
            continue;
        };
        let found = value(&object, &KEYS_OF_TIME);
        let Some(time) = found.and_then(time) else {
            let found = found.map_or_else(|| "it has none".to_owned(), |value| format!("it has {value}"));
            return Err(RecordedError::NoTime { line: number, found });
        };
        requests.push(LogRequest {
            time,
            model: model.to_owned(),
        });
    }
    if requests.is_empty() {
        return Err(RecordedError::NoModel);
    }
    // A log has its lines in the order of the answers.
    requests.sort_by_key(|request| request.time);
    Ok(Recorded::Requests {
        requests,
        without_model,
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
    let (mut models, mut times): (Vec<(String, f64)>, Vec<u64>) = Default::default();
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
        match models.iter_mut().find(|(name, _)| name == model) {
            Some((_, sum)) => *sum += count,
            None => models.push((model.to_owned(), count)),
        }
    }
    if !models.iter().any(|(_, count)| *count > 0.0) {
        return Err(RecordedError::Empty);
    }
    times.sort_unstable();
    times.dedup();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let period = gaps.min().ok_or(RecordedError::OnePeriod)?;
    let span = times[times.len() - 1] - times[0] + period;
    Ok(Recorded::Counts {
        models,
        seconds: span as f64 / 1e9,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(log: &str) -> Result<(Vec<(u64, String)>, usize), String> {
        match access_log(log.as_bytes()).map_err(|error| error.to_string())? {
            Recorded::Requests {
                requests,
                without_model,
            } => {
                let start = requests[0].time;
                let request = |request: LogRequest| ((request.time - start + 500_000) / 1_000_000, request.model);
                Ok((requests.into_iter().map(request).collect(), without_model))
            }
            counts @ Recorded::Counts { .. } => panic!("{counts:?}"),
        }
    }

    #[test]
    fn logs_are_read_in_the_order_of_their_times() {
        let log = r#"{"timestamp": "2026-01-31T12:00:01.500Z", "target_model": "b.tar.gz", "model": "17", "status": 200}
{"timestamp": "2026-01-31T12:00:01Z", "fields": {"message": "request", "model": "a"}}

{"timestamp": "2026-01-31T12:00:02Z", "message": "ready"}
{"timestamp": 1769860802.25, "model": "a"}
{"time": 1769860801250, "target_model": null, "model": "c"}
{"timestamp": "2026-01-31T12:00:0"#;
        let expected = [(0, "a"), (250, "c"), (500, "b.tar.gz"), (1250, "a")];
        let expected: Vec<(u64, String)> = expected.map(|(time, model)| (time, model.to_owned())).into();
        assert_eq!(requests(log), Ok((expected, 1)));
    }

    #[test]
    fn lines_of_the_servers_log_that_are_not_requests_to_models_are_left_out() {
        let log = r#"{"timestamp":"2026-01-31T12:00:00Z","level":"INFO","message":"model loaded","model":"a"}
{"timestamp":"2026-01-31T12:00:00Z","level":"INFO","message":"request","status":200,"method":"POST","path":"/models","model":"a"}
{"timestamp":"2026-01-31T12:00:01Z","level":"INFO","message":"request","status":200,"method":"POST","path":"/models/a/invoke","model":"a"}
{"timestamp":"2026-01-31T12:00:02Z","level":"WARN","message":"the deadline passed","status":504,"method":"POST","path":"/invocations","model":"b"}
{"timestamp":"2026-01-31T12:00:03Z","level":"INFO","message":"request","status":200,"method":"DELETE","path":"/models/a","model":"a"}
"#;
        let expected: Vec<(u64, String)> = vec![(0, "a".to_owned()), (1000, "b".to_owned())];
        assert_eq!(requests(log), Ok((expected, 3)));
    }

    #[test]
    fn an_unreadable_log_is_refused_with_its_line() {
        let table = [
            ("{\"timestamp\": \"2026-01-31T12:00:00Z\"}\n", "no line names a model"),
            ("127.0.0.1 - - GET /\n{}\n", "line 1 is not JSON"),
            ("{\"model\": \"a\"}\n", "line 1 names a model but has no time"),
            (
                "\n{\"model\": \"a\", \"timestamp\": \"noon\"}\n",
                "line 2 names a model",
            ),
            ("", "no line names a model"),
        ];
        for (log, expected) in table {
            let error = requests(log).unwrap_err();
            assert!(error.contains(expected), "{log}: {error}");
        }
        let long = format!("{{\"model\": \"{}\"}}\n", "a".repeat(MOST_LINE));
        assert!(requests(&long).unwrap_err().contains("line 1 is longer"));
    }

    #[test]
    fn cloudwatch_exports_give_counts_and_a_time() {
        let text = br#"{"MetricDataResults": [
            {"Id": "a", "Label": "a.tar.gz Invocations", "StatusCode": "Complete",
             "Timestamps": ["2026-01-31T12:10:00+00:00", "2026-01-31T12:00:00+00:00"], "Values": [30.0, 10.0]},
            {"Id": "b", "Label": "b", "Timestamps": ["2026-01-31T12:05:00Z"], "Values": [2]},
            {"Id": "a", "Label": "a.tar.gz Invocations", "Timestamps": [], "Values": []},
            {"Id": "c", "Label": "c"}
        ], "Messages": []}"#;
        let expected = [("a.tar.gz", 40.0), ("b", 2.0), ("c", 0.0)];
        let counts = Recorded::Counts {
            models: expected.map(|(name, count)| (name.to_owned(), count)).into(),
            seconds: 900.0,
        };
        assert_eq!(cloudwatch(text).unwrap(), counts);
    }

    #[test]
    fn other_exports_are_refused() {
        let table = [
            ("{\"Datapoints\": []}", "not the output of"),
            ("{\"MetricDataResults\": []}", "no requests"),
            (
                "{\"MetricDataResults\": [{\"Label\": \"a\", \"Timestamps\": [1], \"Values\": [1, 2]}]}",
                "1 timestamps and 2 values",
            ),
            (
                "{\"MetricDataResults\": [{\"Label\": \"a\", \"Timestamps\": [\"x\"], \"Values\": [1]}]}",
                "not a time",
            ),
            (
                "{\"MetricDataResults\": [{\"Label\": \"a\", \"Timestamps\": [60], \"Values\": [1]}]}",
                "of one time",
            ),
        ];
        for (text, expected) in table {
            let error = cloudwatch(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
