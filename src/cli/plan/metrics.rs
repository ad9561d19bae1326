//! Times and memory of the models of a running server, from its `/metrics`.

use anyhow::{Context, Result, bail};

use super::super::top::client::Client;
use crate::engine::ModelCost;

/// Measurements of a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The mean of the loads, with the first ones of a model, in nanoseconds; `None` if there was
    /// none.
    pub load: Option<u64>,
    /// The mean of the requests without waiting, in nanoseconds; `None` if there was none.
    pub run: Option<u64>,
    /// The mean of the loaded models; `None` if none is loaded.
    pub cost: Option<ModelCost>,
}

pub async fn read(url: &str) -> Result<Measured> {
    let client = Client::new(url)?;
    let text = client.metrics().await?;
    let measured = parse(&text).with_context(|| format!("read the metrics of {}", client.address()))?;
    if measured.run.is_none() && measured.load.is_none() {
        bail!(
            "{} has neither loaded a model nor answered a request; send it some, or give --load-time and --run-time",
            client.address()
        );
    }
    Ok(measured)
}

/// The labels and the value of a line of this metric.
fn line<'a>(line: &'a str, metric: &str) -> Option<(&'a str, f64)> {
    let rest = line.strip_prefix(metric)?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_once('}')?,
        None if rest.starts_with(' ') => ("", rest),
        None => return None,
    };
    Some((labels, value.split_ascii_whitespace().next()?.parse().ok()?))
}

fn value(text: &str, metric: &str, label: &str) -> Option<f64> {
    let values = text.lines().filter_map(|text| line(text, metric));
    values
        .filter(|(labels, _)| labels.contains(label))
        .map(|(_, value)| value)
        .next()
}

/// Mean of a summary with this label, in nanoseconds.
fn mean(text: &str, metric: &str, label: &str) -> Option<f64> {
    let sum = value(text, &format!("{metric}_sum"), label)?;
    let count = value(text, &format!("{metric}_count"), label)?;
    (count > 0.0).then(|| sum / count * 1e9)
}

fn parse(text: &str) -> Result<Measured> {
    const PHASES: &str = "longshore_phase_seconds";
    if !text.contains("longshore_") {
        bail!("they have no metric of Longshore");
    }
    let phase = |name: &str| format!("phase=\"{name}\"");
    // Besides the run, a core parses the body and writes the response.
    let around: f64 = ["parse", "write"]
        .iter()
        .filter_map(|name| mean(text, PHASES, &phase(name)))
        .sum();
    let run = mean(text, PHASES, &phase("run")).map(|run| (run + around) as u64);
    let load = mean(text, "longshore_load_seconds", "").map(|load| load as u64);
    let gauge = |metric: &str| value(text, metric, "").unwrap_or_default();
    let loaded = gauge("longshore_models_loaded");
    let cost = (loaded > 0.0).then(|| {
        let private = (gauge("longshore_memory_reserved_bytes") / loaded) as u64;
        let mapped = (gauge("longshore_memory_mapped_bytes") / loaded) as u64;
        ModelCost {
            private,
            mapped,
            ..ModelCost::estimated(private + mapped)
        }
    });
    Ok(Measured { load, run, cost })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of the page of a server that answered twelve requests.
    const PAGE: &str = "\
# TYPE longshore_phase_seconds summary
longshore_phase_seconds{phase=\"read\",quantile=\"0.99\"} 0.000056811
longshore_phase_seconds_sum{phase=\"read\"} 0.000501353
longshore_phase_seconds_count{phase=\"read\"} 13
longshore_phase_seconds{phase=\"parse\",quantile=\"0.99\"} 0.000639631
longshore_phase_seconds_sum{phase=\"parse\"} 0.004409328
longshore_phase_seconds_count{phase=\"parse\"} 12
longshore_phase_seconds{phase=\"queue\",quantile=\"0.99\"} 0.000770703
longshore_phase_seconds_sum{phase=\"queue\"} 0.001957683
longshore_phase_seconds_count{phase=\"queue\"} 12
longshore_phase_seconds{phase=\"run\",quantile=\"0.99\"} 0.000639631
longshore_phase_seconds_sum{phase=\"run\"} 0.003581182
longshore_phase_seconds_count{phase=\"run\"} 12
longshore_phase_seconds{phase=\"write\",quantile=\"0.99\"} 0.001279262
longshore_phase_seconds_sum{phase=\"write\"} 0.003937062
longshore_phase_seconds_count{phase=\"write\"} 12
# TYPE longshore_models_loaded gauge
longshore_models_loaded 2
# TYPE longshore_model_lookups_total counter
longshore_model_lookups_total{state=\"warm\"} 10
longshore_model_lookups_total{state=\"cold\"} 2
# TYPE longshore_load_seconds summary
longshore_load_seconds{quantile=\"0.99\"} 0.133714411
longshore_load_seconds_sum 0.13598031
longshore_load_seconds_count 3
# TYPE longshore_memory_reserved_bytes gauge
longshore_memory_reserved_bytes 66792
# TYPE longshore_memory_mapped_bytes gauge
longshore_memory_mapped_bytes 0
# TYPE longshore_memory_process_bytes gauge
longshore_memory_process_bytes 16801792
";

    #[test]
    fn times_and_memory_are_the_means_of_the_metrics() {
        let measured = parse(PAGE).unwrap();
        let cost = measured.cost.unwrap();
        assert_eq!((cost.private, cost.mapped), (33_396, 0));
        // Twelve runs took 3.581182 ms, and with parsing and writing 11.927578 ms.
        assert_eq!(measured.run, Some(993_964));
        assert_eq!(measured.load, Some(45_326_769));
    }

    #[test]
    fn a_server_without_requests_gives_no_times() {
        let nothing = Measured {
            load: None,
            run: None,
            cost: None,
        };
        assert_eq!(parse("longshore_models_loaded 0\n").unwrap(), nothing);
        assert!(parse("up 1\n").is_err());
    }
}
