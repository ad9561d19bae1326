//! Metrics as lines of JSON in CloudWatch's Embedded Metric Format, for platforms whose collector
//! does not read `/metrics`: CloudWatch makes metrics from such lines in a log.
//!
//! Each interval has a line for the server, and a line for each of the busiest models that had
//! requests (`--metrics-models`); the other models are counted together. A number is that of the
//! interval, so that sums over time and over servers are right. Latencies are an array of quantiles
//! at equal distances, from which CloudWatch computes its percentiles: the format has no place for
//! a distribution, and no more than a hundred values.
//!
//! Only the worker writes: it has the numbers. The supervisor, which starts it, has none, and the
//! processes that prepare models use their standard output for their answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::latency::LatencySnapshot;
use super::metrics::{Facts, Metrics, Report};

/// The most values of a metric in a line.
const VALUES: u64 = 100;

/// The dimension of the models.
const MODEL: &str = "Model";

/// Writes the lines of one server.
#[derive(Debug)]
pub struct Emf {
    namespace: String,
    /// Names and values of the dimensions of all metrics.
    dimensions: Vec<(String, String)>,
    metrics: Arc<Metrics>,
    /// Figures at the end of the last interval. Locked while lines are made.
    last: Mutex<Report>,
}

/// A line in the making.
#[derive(Debug, Default)]
struct Line {
    definitions: Vec<Value>,
    values: Map<String, Value>,
}

impl Line {
    fn add(&mut self, name: &str, unit: &str, value: impl Into<Value>) {
        self.definitions.push(json!({"Name": name, "Unit": unit}));
        self.values.insert(name.to_owned(), value.into());
    }

    /// Adds a count, if there is something to count.
    fn count(&mut self, name: &str, count: u64) {
        if count > 0 {
            self.add(name, "Count", count);
        }
    }

    fn latency(&mut self, latency: &LatencySnapshot) {
        let values = latency.count.min(VALUES);
        let quantiles = (0..values).filter_map(|index| latency.quantile((index as f64 + 0.5) / values as f64));
        let milliseconds: Vec<f64> = quantiles.map(|value| round(value.as_secs_f64() * 1e3)).collect();
        if !milliseconds.is_empty() {
            self.add("Latency", "Milliseconds", milliseconds);
        }
    }
}

/// Rounds to microseconds, as milliseconds: more digits would only make the log longer.
fn round(milliseconds: f64) -> f64 {
    (milliseconds * 1e3).round() / 1e3
}

impl Emf {
    pub fn new(namespace: String, dimensions: Vec<(String, String)>, metrics: Arc<Metrics>) -> Self {
        Self {
            namespace,
            dimensions,
            metrics,
            last: Mutex::default(),
        }
    }

    /// Makes the lines of the interval that ends now, each with its newline. Takes milliseconds for
    /// thousands of models: call it on a thread that may block.
    pub fn lines(&self, facts: &Facts) -> Vec<String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (report, models) = self.metrics.report(facts);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut lines = vec![self.line(timestamp, None, server(&report, &last, facts))];
        for model in models {
            let mut line = Line::default();
            line.add("Invocations", "Count", model.latency.count + model.errors);
            line.count("Errors", model.errors);
            line.latency(&model.latency);
            if let Some(memory) = model.memory {
                line.add("MemoryBytes", "Bytes", memory);
            }
            lines.push(self.line(timestamp, Some(&model.label), line));
        }
        *last = report;
        lines
    }

    fn line(&self, timestamp: u64, model: Option<&str>, line: Line) -> String {
        let mut members = line.values;
        let mut names: Vec<&str> = Vec::new();
        for (name, value) in &self.dimensions {
            names.push(name);
            members.insert(name.clone(), value.as_str().into());
        }
        if let Some(model) = model {
            names.push(MODEL);
            members.insert(MODEL.to_owned(), ascii(model).into());
        }
        let directive = json!({
            "Namespace": self.namespace,
            "Dimensions": [names],
            "Metrics": line.definitions,
        });
        let metadata = json!({"Timestamp": timestamp, "CloudWatchMetrics": [directive]});
        members.insert("_aws".to_owned(), metadata);
        Value::Object(members).to_string() + "\n"
    }
}

/// The line of the server.
fn server(now: &Report, last: &Report, facts: &Facts) -> Line {
    let mut line = Line::default();
    let latency = now.latency.since(&last.latency);
    let grown = |now: u64, last: u64| now.saturating_sub(last);
    let errors = grown(now.errors, last.errors);
    line.add("Invocations", "Count", latency.count + errors);
    line.add("Errors", "Count", errors);
    line.latency(&latency);
    line.count("ColdStarts", grown(now.cold, last.cold));
    line.count("Loads", grown(now.loads, last.loads));
    line.count("LoadErrors", grown(now.load_errors, last.load_errors));
    line.count("Unloads", grown(now.unloads, last.unloads));
    line.count("Evictions", grown(now.evictions, last.evictions));
    line.add("ModelsLoaded", "Count", facts.models.len());
    line.add("QueueDepth", "Count", facts.waiting);
    line.add("QueueWait", "Milliseconds", round(now.queue_wait.as_secs_f64() * 1e3));
    line.add("ComputeSaturation", "Percent", round(now.saturation * 1e2));
    line.add("MemoryBytes", "Bytes", facts.process);
    if let Some(used) = facts.used_memory() {
        line.add("MemoryUsed", "Percent", round(used * 1e2));
    }
    line
}

/// The value of a dimension: CloudWatch accepts printable ASCII characters only.
fn ascii(name: &str) -> String {
    let escaped: String = name
        .chars()
        .flat_map(|c| match c {
            ' '..='~' => vec![c],
            _ => c.escape_unicode().collect(),
        })
        .collect();
    match escaped.trim().is_empty() {
        true => "(blank)".to_owned(),
        false => escaped,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::telemetry::cause::Cause;
    use crate::telemetry::metrics::{ListedModel, LoadOutcome, MetricsConfig, UnloadReason};

    fn listed(name: &str) -> ListedModel {
        ListedModel {
            name: name.to_owned(),
            target_model: None,
            memory: Some(1000),
            stats: Arc::default(),
        }
    }

    fn answer(metrics: &Metrics, model: &ListedModel, took: Duration) {
        let arrived = Instant::now() - took;
        let request = metrics.start_model_request(&model.stats, arrived, false);
        request.settle(Ok::<_, ()>(())).unwrap();
    }

    fn emf(dimensions: &[(&str, &str)], models: usize) -> (Emf, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new(MetricsConfig { is_on: true, models }));
        let dimensions = dimensions
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        (
            Emf::new("Test".to_owned(), dimensions.collect(), Arc::clone(&metrics)),
            metrics,
        )
    }

    fn read(emf: &Emf, facts: &Facts) -> Vec<Value> {
        emf.lines(facts)
            .iter()
            .map(|line| {
                assert_eq!(line.matches('\n').count(), 1);
                let line: Value = serde_json::from_str(line).unwrap();
                assert_valid(&line);
                line
            })
            .collect()
    }

    /// Checks a document by the rules of the specification and of its JSON Schema.
    fn assert_valid(document: &Value) {
        const UNITS: [&str; 4] = ["Count", "Milliseconds", "Bytes", "Percent"];
        let metadata = document["_aws"].as_object().unwrap();
        assert_eq!(metadata.len(), 2);
        assert!(metadata["Timestamp"].is_u64());
        assert!(document.to_string().len() < 256 << 10);
        for directive in metadata["CloudWatchMetrics"].as_array().unwrap() {
            let directive = directive.as_object().unwrap();
            assert_eq!(directive.len(), 3);
            let namespace = directive["Namespace"].as_str().unwrap();
            assert!((1..=255).contains(&namespace.len()));
            let sets = directive["Dimensions"].as_array().unwrap();
            assert!(!sets.is_empty());
            for set in sets {
                let set = set.as_array().unwrap();
                assert!(set.len() <= 9);
                for name in set {
                    let name = name.as_str().unwrap();
                    assert!((1..=250).contains(&name.len()));
                    let value = document[name].as_str().unwrap();
                    assert!((1..=1024).contains(&value.len()) && value.is_ascii(), "{value}");
                }
            }
            let metrics = directive["Metrics"].as_array().unwrap();
            assert!((1..=100).contains(&metrics.len()));
            for metric in metrics {
                assert_eq!(metric.as_object().unwrap().len(), 2);
                assert!(UNITS.contains(&metric["Unit"].as_str().unwrap()));
                match &document[metric["Name"].as_str().unwrap()] {
                    Value::Array(values) => {
                        assert!((1..=100).contains(&values.len()) && values.iter().all(Value::is_number));
                    }
                    value => assert!(value.is_number(), "{metric} is {value}"),
                }
            }
        }
    }

    #[test]
    fn the_lines_have_the_numbers_of_the_interval() {
        let (emf, metrics) = emf(&[("EndpointName", "segments")], 10);
        let facts = Facts {
            models: vec![listed("a"), listed("b")],
            limit: Some(1000),
            free: Some(750),
            process: 250,
            ..Facts::default()
        };
        for _ in 0..3 {
            answer(&metrics, &facts.models[0], Duration::from_millis(20));
        }
        metrics.model_failed(&facts.models[0].stats, Cause::Internal, "no");
        metrics.load(LoadOutcome::Ok, Duration::ZERO);
        metrics.unload(UnloadReason::Memory, None);
        let lines = read(&emf, &facts);
        assert_eq!(lines.len(), 2, "{lines:?}");
        let server = &lines[0];
        assert_eq!((&server["Invocations"], &server["Errors"]), (&json!(4), &json!(1)));
        assert_eq!(server["Latency"].as_array().unwrap().len(), 3);
        assert_eq!((&server["Loads"], &server["Evictions"]), (&json!(1), &json!(1)));
        assert_eq!(
            (&server["MemoryUsed"], &server["ModelsLoaded"]),
            (&json!(25.0), &json!(2))
        );
        assert_eq!(server["EndpointName"], "segments");
        assert_eq!(lines[1]["Model"], "a");
        assert_eq!((&lines[1]["Invocations"], &lines[1]["Errors"]), (&json!(4), &json!(1)));
        assert_eq!(
            lines[1]["_aws"]["CloudWatchMetrics"][0]["Dimensions"],
            json!([["EndpointName", "Model"]])
        );

        answer(&metrics, &facts.models[1], Duration::ZERO);
        let lines = read(&emf, &facts);
        assert_eq!((&lines[0]["Invocations"], &lines[0]["Errors"]), (&json!(1), &json!(0)));
        assert_eq!(lines[0].get("Loads"), None, "nothing was loaded in this interval");
        assert!(lines.iter().all(|line| line["Model"] != "a"), "{lines:?}");
    }

    #[test]
    fn the_number_of_lines_is_bounded_and_the_other_models_are_counted_together() {
        let (emf, metrics) = emf(&[], 3);
        let names: Vec<_> = (0..500).map(|number| format!("model-{number}")).collect();
        let facts = Facts {
            models: names.iter().map(|name| listed(name)).collect(),
            ..Facts::default()
        };
        for _ in 0..2 {
            for (index, model) in facts.models.iter().enumerate() {
                for _ in 0..=index / 100 {
                    answer(&metrics, model, Duration::from_millis(1));
                }
            }
            let lines = read(&emf, &facts);
            assert_eq!(lines.len(), 5);
            assert_eq!(lines[4]["Model"], "other");
            let sum: u64 = lines[1..]
                .iter()
                .map(|line| line["Invocations"].as_u64().unwrap())
                .sum();
            assert_eq!(Some(sum), lines[0]["Invocations"].as_u64());
        }
    }

    #[test]
    fn latencies_are_at_most_a_hundred_quantiles() {
        let (emf, metrics) = emf(&[], 1);
        let facts = Facts {
            models: vec![listed("a")],
            ..Facts::default()
        };
        for milliseconds in 1..=1000 {
            answer(&metrics, &facts.models[0], Duration::from_millis(milliseconds));
        }
        let lines = read(&emf, &facts);
        let values: Vec<f64> = serde_json::from_value(lines[1]["Latency"].clone()).unwrap();
        assert_eq!(values.len(), 100);
        assert!(values.is_sorted());
        assert!(values[50] > 350.0 && values[50] < 700.0, "{}", values[50]);
        assert!(values[99] > 800.0, "{}", values[99]);
    }

    #[test]
    fn values_of_dimensions_are_printable_ascii() {
        let table = [
            ("a/b.tar.gz", "a/b.tar.gz"),
            ("größe", "gr\\u{f6}\\u{df}e"),
            ("a\nb", "a\\u{a}b"),
            (" ", "(blank)"),
            ("", "(blank)"),
        ];
        for (name, expected) in table {
            assert_eq!(ascii(name), expected);
        }
    }
}
