//! The models and the traffic of a plan, and where each number comes from.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::cost::{CostCurve, Sample};
use super::metrics::Measured;
use super::{measure, metrics, requests};
use crate::cli::table::{bytes, counted, millis};
use crate::config::{self, PlanArgs, PlannedModelArgs};
use crate::engine::ModelCost;
use crate::plan::{ClientRequests, ContentCost, FleetModels, ModelTimes, Times, Traffic};
use crate::store::{ListedModel, StoreConfig};
use crate::telemetry::recorder::nanoseconds;

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
    let mut recorded = requests::recorded(&args.traffic)?;
    ensure!(
        recorded.is_some() || args.traffic.rate.is_some() || args.traffic.clients.is_some(),
        "the traffic is unknown; give --rate such as 500/s, --clients, --access-log or --cloudwatch"
    );
    let mut listed = match &args.store {
        Some(url) => {
            let store = store_config(args, url);
            let shown = store.shown()?;
            crate::cli::progress(&format!("listing {shown}"));
            let listed = store.inventory().await?;
            ensure!(
                !listed.is_empty(),
                "{shown} has no model: no archive (.tar.gz, .tgz, .tar, .tar.zst) and no .onnx or .ort file"
            );
            listed
        }
        None => named(&args.models)?,
    };
    let in_store = listed.len();
    let weights = match &mut recorded {
        Some(recorded) => requests::recorded_weights(recorded, &mut listed, args),
        None => requests::random_weights(listed.len(), &args.traffic),
    };
    sources.push(("models", models_text(args, &listed, in_store)?));
    let models = costs(args, &listed, in_store, &mut sources).await?;
    let traffic = requests::traffic(&args.traffic, recorded, &weights, &mut sources)?;
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

/// The sum of sizes, of which each may be any number.
fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// The mean of sizes; 0 without any.
fn mean(sizes: impl ExactSizeIterator<Item = u64>) -> f64 {
    let count = sizes.len().max(1);
    sizes.map(|size| size as f64).sum::<f64>() / count as f64
}

fn models_text(args: &PlanArgs, listed: &[ListedModel], in_store: usize) -> Result<String> {
    let Some(url) = &args.store else {
        let origin = if in_store == 0 { " in the recorded traffic" } else { "" };
        let size = bytes(given_size(&args.models));
        return Ok(format!("{}{origin}, {size} each, as given", listed.len()));
    };
    let mut text = format!("{in_store} in {}", store_config(args, url).shown()?);
    let files = bytes(sum(listed[..in_store].iter().map(|model| model.bytes)));
    text.push_str(&format!(", {files} of files"));
    let unknown = listed[..in_store]
        .iter()
        .filter(|model| model.content.is_none())
        .count();
    if unknown > 0 {
        text.push_str(&format!(
            "; {unknown} of them were not compared with others, and count as different"
        ));
    }
    if in_store < listed.len() {
        let added = listed.len() - in_store;
        text.push_str(&format!("; {added} more in the recorded traffic, with the usual size"));
    }
    Ok(text)
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
            let (samples, failed) = measure::measure(args, url, &listed[..in_store], given.measure).await?;
            sources.extend(failed.map(|text| ("unmeasured", text)));
            samples
        }
        _ => Vec::new(),
    };
    let times = times(given, server.as_ref(), &samples, sources)?;
    let curve = CostCurve::of(&samples);
    let size = mean(listed.iter().map(|model| model.bytes));
    let share = |bytes: u64| if size > 0.0 { bytes as f64 / size } else { 1.0 };
    let cost = |bytes: u64| match (given.model_memory, &server, &curve) {
        (Some(memory), ..) => ModelCost {
            private: 0,
            mapped: memory.as_u64(),
            ..ModelCost::estimated(memory.as_u64())
        },
        (None, Some(Measured { cost: Some(cost), .. }), _) => scaled(*cost, share(bytes)),
        (None, _, Some(curve)) => curve.at(bytes),
        (None, _, None) => ModelCost::estimated(bytes),
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
    let resident = mean(costs.iter().map(|cost| cost.memory.resident())) as u64;
    let origin = match (given.model_memory, &server, samples.len()) {
        (Some(_), ..) => "as given".to_owned(),
        (None, Some(Measured { cost: Some(_), .. }), _) => "the mean of the server's loaded models".to_owned(),
        (None, _, 0) => "estimated from the size of the files".to_owned(),
        (None, _, 1) => "from one model that was measured here".to_owned(),
        (None, _, count) => format!("from {count} models of different sizes that were measured here"),
    };
    let mut text = format!("{} for a loaded model on average, {origin}", bytes(resident));
    if costs.len() < contents.len() {
        let copies = counted((contents.len() - costs.len()) as u64, "duplicate");
        text.push_str(&format!("; equal files count once, without {copies}"));
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

fn times(
    given: &PlannedModelArgs,
    server: Option<&Measured>,
    samples: &[Sample],
    sources: &mut Vec<(&'static str, String)>,
) -> Result<ModelTimes> {
    let constant = |time: Duration| (Times::constant(nanoseconds(time)), "as given");
    let of_server = |time: Option<u64>| time.map(|time| (Times::constant(time), "the mean of the server's metrics"));
    let of_samples = |durations: Vec<u64>| Times::measured(durations).map(|times| (times, "measured here"));
    let load = given
        .load_time
        .map(constant)
        .or_else(|| of_server(server?.load))
        .or_else(|| of_samples(samples.iter().map(|sample| sample.load).collect()));
    let run = given
        .run_time
        .map(constant)
        .or_else(|| of_server(server?.run))
        .or_else(|| of_samples(samples.iter().flat_map(|sample| sample.runs.clone()).collect()));
    let (load, run) = match (load, run) {
        (Some(load), Some(run)) => (load, run),
        (load, run) => bail!(
            "the time of a {} is unknown; give {}, or name a store of which --measure models are measured, or a running \
             server with --server",
            match (&load, &run) {
                (None, None) => "load and of a run",
                (None, Some(_)) => "load",
                (Some(_), _) => "run",
            },
            match (&load, &run) {
                (None, None) => "--load-time and --run-time",
                (None, Some(_)) => "--load-time",
                (Some(_), _) => "--run-time",
            }
        ),
    };
    let first = given
        .first_load_time
        .map(constant)
        .or_else(|| of_samples(samples.iter().map(|sample| sample.first).collect()))
        .unwrap_or_else(|| (load.0.clone(), "as a load"));
    let text = |(times, origin): &(Times, &str)| format!("{} on average, {origin}", millis(times.mean() / 1e6));
    sources.push(("first load", text(&first)));
    sources.push(("load", text(&load)));
    sources.push(("run", text(&run)));
    Ok(ModelTimes {
        first: first.0,
        load: load.0,
        run: run.0,
    })
}
