//! Times and memory of the models of a running server, from its `/metrics`.

use anyhow::{Context, Result, bail};

use super::super::top::client::Client;
use crate::engine::ModelCost;
use crate::plan::Times;

/// Measurements of a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Loads, with the first ones of a model; `None` if there was none.
    pub load: Option<Times>,
    /// Requests without waiting; `None` if there was none.
    pub run: Option<Times>,
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

/// Quantiles of a summary with this label, in nanoseconds; its mean if it has none.
fn summary(text: &str, metric: &str, label: &str) -> Option<Vec<(f64, f64)>> {
    let quantile = |labels: &str| {
        labels
            .split("quantile=\"")
            .nth(1)?
            .split('"')
            .next()?
            .parse::<f64>()
            .ok()
    };
    let of_metric = text.lines().filter_map(|text| line(text, metric));
    let mut quantiles: Vec<(f64, f64)> = of_metric
        .filter(|(labels, _)| labels.contains(label))
        .filter_map(|(labels, value)| Some((quantile(labels)?, value * 1e9)))
        .collect();
    quantiles.sort_by(|one, other| one.0.total_cmp(&other.0));
    if quantiles.is_empty() {
        quantiles.push((0.5, mean(text, metric, label)?));
    }
    Some(quantiles)
}

/// Mean of a summary with this label, in nanoseconds.
fn mean(text: &str, metric: &str, label: &str) -> Option<f64> {
    let sum = value(text, &format!("{metric}_sum"), label)?;
    let count = value(text, &format!("{metric}_count"), label)?;
    (count > 0.0).then(|| sum / count * 1e9)
}

fn times(quantiles: &[(f64, f64)], more: f64) -> Option<Times> {
    let quantiles: Vec<(f64, u64)> = quantiles
        .iter()
        .map(|(share, time)| (*share, (time + more) as u64))
        .collect();
    Times::of_quantiles(&quantiles)
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
    let run = summary(text, PHASES, &phase("run")).and_then(|quantiles| times(&quantiles, around));
    let load = summary(text, "longshore_load_seconds", "").and_then(|quantiles| times(&quantiles, 0.0));
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
    use crate::plan::Random;

    const PAGE: &str = "\
# TYPE longshore_load_seconds summary
longshore_load_seconds{quantile=\"0.5\"} 0.002
longshore_load_seconds{quantile=\"0.99\"} 0.3
longshore_load_seconds_sum 9
longshore_load_seconds_count 100
longshore_phase_seconds_sum{phase=\"parse\"} 0.002
longshore_phase_seconds_count{phase=\"parse\"} 20
longshore_phase_seconds_sum{phase=\"run\"} 0.02
longshore_phase_seconds_count{phase=\"run\"} 20
longshore_phase_seconds_sum{phase=\"queue\"} 7
longshore_phase_seconds_count{phase=\"queue\"} 20
longshore_models_loaded 4
longshore_memory_reserved_bytes 4000
longshore_memory_mapped_bytes 8000
";

    #[test]
    fn times_and_memory_are_read_from_metrics() {
        let measured = parse(PAGE).unwrap();
        let cost = measured.cost.unwrap();
        assert_eq!((cost.private, cost.mapped), (1000, 2000));
        // Without quantiles, the run is its mean, and the parsing comes on top.
        let mut random = Random::new(1);
        assert_eq!(measured.run.unwrap().choose(&mut random), 1_100_000);
        let load = measured.load.unwrap();
        let mut loads: Vec<u64> = (0..1000).map(|_| load.choose(&mut random)).collect();
        loads.sort_unstable();
        assert!(loads[400] == 2_000_000 && loads[999] > 250_000_000, "{loads:?}");
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
