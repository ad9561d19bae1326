//! The models and the traffic of a plan, and where each number comes from.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::cost::{CostCurve, Sample};
use super::metrics::Measured;
use super::{measure, metrics, requests};
use crate::cli::table::bytes;
use crate::config::{self, PlanArgs, PlannedModelArgs};
use crate::engine::ModelCost;
use crate::plan::{ClientRequests, ContentCost, FleetModels, ModelTimes, Times, Traffic};
use crate::store::{ListedModel, StoreConfig};

/// The inputs of a simulation.
#[derive(Debug)]
pub struct Inputs {
    pub models: FleetModels,
    pub traffic: Traffic,
    /// Models from the least to the most requested.
    pub order: Vec<u32>,
    /// Number of requests to simulate without `--requests`.
    pub requests: usize,
    /// Whether the requests are those of a log, one by one.
    pub is_log: bool,
    /// Origin of each number: what it is, and how it is known.
    pub sources: Vec<(&'static str, String)>,
}

pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The configuration of the store at `url`.
pub fn store_config(args: &PlanArgs, url: &str) -> StoreConfig {
    StoreConfig {
        url: url.to_owned(),
        environment: config::environment().collect(),
        timeout: args.fetch.store_timeout,
        retries: args.fetch.store_retries,
        downloads: args.fetch.downloads,
        bounds: crate::cli::bounds(&args.fetch.archives),
        names_bind: false,
        revalidate: Duration::MAX,
    }
}

/// Collects all inputs.
pub async fn collect(args: &PlanArgs) -> Result<Inputs> {
    let mut sources = Vec::new();
    let recorded = requests::recorded(&args.traffic)?;
    ensure!(
        recorded.is_some() || args.traffic.rate.is_some() || args.traffic.clients.is_some(),
        "the traffic is unknown; give --rate such as 500/s, --clients, --access-log or --cloudwatch"
    );
    let mut listed = match &args.store {
        Some(url) => {
            crate::cli::progress(&format!("listing {url}"));
            let listed = store_config(args, url).inventory().await?;
            ensure!(
                !listed.is_empty(),
                "{url} has no model: no archive (.tar.gz, .tgz, .tar, .tar.zst) and no folder with a .onnx or .ort file"
            );
            listed
        }
        None => named(&args.models)?,
    };
    let in_store = listed.len();
    let weights = requests::weights(recorded.as_ref(), &mut listed, args)?;
    let added = listed.len() - in_store;
    sources.push(("models", models_text(args, &listed, added)));
    let models = costs(args, &listed, in_store, &mut sources).await?;
    let traffic = requests::traffic(args, recorded, &listed, &weights, &mut sources)?;
    let mut order: Vec<u32> = (0..).take(listed.len()).collect();
    order.sort_by(|&one, &other| weights[one as usize].total_cmp(&weights[other as usize]));
    let (is_log, requests) = match &traffic {
        Traffic::Trace(requests) => (true, requests.len()),
        Traffic::Clients {
            requests: ClientRequests::Trace(models),
            ..
        } => (true, models.len()),
        Traffic::Poisson { .. } | Traffic::Clients { .. } => {
            (false, listed.len().saturating_mul(20).clamp(200_000, 2_000_000))
        }
    };
    Ok(Inputs {
        models,
        traffic,
        order,
        requests,
        is_log,
        sources,
    })
}

/// Models that have no store: `--models` of them, or only those of the log.
fn named(args: &PlannedModelArgs) -> Result<Vec<ListedModel>> {
    ensure!(
        args.model_size.is_some() || args.model_memory.is_some(),
        "the size of the models is unknown; give --model-size such as 5MB, or --model-memory"
    );
    let model = |index: usize| ListedModel {
        name: format!("model-{index}"),
        bytes: given_size(args),
        content: None,
    };
    Ok((0..args.models.unwrap_or_default()).map(model).collect())
}

pub fn given_size(args: &PlannedModelArgs) -> u64 {
    let size = args.model_size.or(args.model_memory);
    size.map_or(0, |size| size.as_u64())
}

fn models_text(args: &PlanArgs, listed: &[ListedModel], added: usize) -> String {
    let sum = bytes(listed.iter().map(|model| model.bytes).sum());
    let added = match added {
        0 => String::new(),
        added => format!("; {added} of them only in the recorded traffic, with the usual size"),
    };
    match &args.store {
        Some(url) => format!("{} in {}, {sum} of files{added}", listed.len(), without_query(url)),
        None => format!(
            "{} of {} each, as given{added}",
            listed.len(),
            bytes(given_size(&args.models))
        ),
    }
}

fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// The costs of the models, of which the first `in_store` are in the store.
async fn costs(
    args: &PlanArgs,
    listed: &[ListedModel],
    in_store: usize,
    sources: &mut Vec<(&'static str, String)>,
) -> Result<FleetModels> {
    let given = &args.models;
    let is_all_given = given.model_memory.is_some() && given.load_time.is_some() && given.run_time.is_some();
    let server = match &given.server {
        Some(url) => Some(metrics::read(url).await?),
        None => None,
    };
    let samples = match &args.store {
        Some(url) if !is_all_given && server.is_none() && given.measure > 0 => {
            measure::measure(args, url, &listed[..in_store], given.measure).await?
        }
        _ => Vec::new(),
    };
    let times = times(given, server.as_ref(), &samples, sources)?;
    let curve = CostCurve::of(&samples);
    let sum: u64 = listed.iter().map(|model| model.bytes).sum();
    let mean = sum as f64 / listed.len() as f64;
    let cost = |size: u64| match (given.model_memory, &server, &curve) {
        (Some(memory), ..) => ModelCost {
            private: 0,
            mapped: memory.as_u64(),
            ..ModelCost::estimated(memory.as_u64())
        },
        (None, Some(Measured { cost: Some(cost), .. }), _) => scaled(*cost, size as f64 / mean),
        (None, _, Some(curve)) => curve.at(size),
        (None, _, None) => ModelCost::estimated(size),
    };
    let (mut contents, mut costs) = (Vec::new(), Vec::new());
    let mut known: HashMap<&str, u32> = HashMap::new();
    let shared = curve.as_ref().map_or(0, |curve| curve.shared);
    for model in listed {
        let next = costs.len() as u32;
        let content = match &model.content {
            Some(content) => *known.entry(content).or_insert(next),
            None => next,
        };
        contents.push(content);
        if content == next {
            costs.push(ContentCost {
                memory: cost(model.bytes),
                disk: model.bytes,
                family: (shared > 0).then_some(0),
            });
        }
    }
    let resident = costs.iter().map(|cost| cost.memory.resident()).sum::<u64>() / costs.len().max(1) as u64;
    let origin = match (given.model_memory, &server, samples.len()) {
        (Some(_), ..) => "as given".to_owned(),
        (None, Some(Measured { cost: Some(_), .. }), _) => "the mean of the server's loaded models".to_owned(),
        (None, _, 0) => "estimated from the size of the files".to_owned(),
        (None, _, 1) => "from one model that was measured here".to_owned(),
        (None, _, count) => format!("from {count} models of different sizes that were measured here"),
    };
    let mut text = format!("{} for a loaded model on average, {origin}", bytes(resident));
    if costs.len() < contents.len() {
        let equal = contents.len() - costs.len();
        text.push_str(&format!(
            "; {equal} models have the content of another one, which counts once"
        ));
    }
    if shared > 0 {
        text.push_str(&format!(
            "; {} are common to the measured models and count once",
            bytes(shared)
        ));
    }
    sources.insert(1, ("memory", text));
    Ok(FleetModels {
        contents,
        costs,
        families: Vec::from_iter((shared > 0).then_some(shared)),
        times,
    })
}

fn scaled(cost: ModelCost, factor: f64) -> ModelCost {
    let scale = |bytes: u64| (bytes as f64 * factor) as u64;
    ModelCost {
        private: scale(cost.private),
        mapped: scale(cost.mapped),
        load_peak: scale(cost.load_peak),
        run: scale(cost.run),
        prepare: scale(cost.prepare),
    }
}

/// A time in words.
pub fn shown(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        ..1e6 => (nanoseconds / 1e3, "us"),
        ..1e9 => (nanoseconds / 1e6, "ms"),
        _ => (nanoseconds / 1e9, "s"),
    };
    match value {
        ..9.95 => format!("{value:.2} {unit}"),
        ..99.5 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

fn times(
    given: &PlannedModelArgs,
    server: Option<&Measured>,
    samples: &[Sample],
    sources: &mut Vec<(&'static str, String)>,
) -> Result<ModelTimes> {
    let constant = |time: Duration| (Times::constant(nanoseconds(time)), "as given");
    let of_server = |times: Option<Times>| times.map(|times| (times, "from the server's metrics"));
    let of_samples = |durations: Vec<u64>| Times::measured(durations).map(|times| (times, "measured here"));
    let load = given
        .load_time
        .map(constant)
        .or_else(|| of_server(server?.load.clone()))
        .or_else(|| of_samples(samples.iter().map(|sample| sample.load).collect()));
    let run = given
        .run_time
        .map(constant)
        .or_else(|| of_server(server?.run.clone()))
        .or_else(|| of_samples(samples.iter().flat_map(|sample| sample.runs.clone()).collect()));
    let (Some(load), Some(run)) = (load, run) else {
        bail!(
            "the time of a {} is unknown; give --load-time and --run-time, or name a store of which --measure models are \
             measured, or a running server with --server",
            if samples.is_empty() { "load and of a run" } else { "run" }
        );
    };
    let first = given
        .first_load_time
        .map(constant)
        .or_else(|| of_samples(samples.iter().map(|sample| sample.first).collect()))
        .unwrap_or_else(|| (load.0.clone(), "as a load"));
    let text = |(times, origin): &(Times, &str)| format!("{} on average, {origin}", shown(times.mean()));
    sources.push(("first load", text(&first)));
    sources.push(("load", text(&load)));
    sources.push(("run", text(&run)));
    Ok(ModelTimes {
        first: first.0,
        load: load.0,
        run: run.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_with_three_digits() {
        let table = [
            (950.0, "0.95 us"),
            (12_340.0, "12.3 us"),
            (4.56e6, "4.56 ms"),
            (250e6, "250 ms"),
            (1.5e9, "1.50 s"),
        ];
        for (nanoseconds, expected) in table {
            assert_eq!(shown(nanoseconds), expected);
        }
    }
}
