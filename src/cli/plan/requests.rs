//! The traffic of a plan: options, access logs and exports of CloudWatch.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::BufReader;

use anyhow::{Context, Result, ensure};

use super::inputs::given_size;
use crate::cli::table::bytes;
use crate::config::{PlanArgs, TrafficArgs};
use crate::plan::{ClientRequests, Popularity, Random, Recorded, Traffic, access_log, cloudwatch, zipf};
use crate::store::ListedModel;

/// Longest file of CloudWatch's metrics: a hundred thousand models with a hundred values each.
const MOST_METRICS: u64 = 1 << 30;

pub fn recorded(args: &TrafficArgs) -> Result<Option<Recorded>> {
    if let Some(file) = &args.access_log {
        let failed = || format!("read the access log {}", file.display());
        let log = BufReader::new(File::open(file).with_context(failed)?);
        return Ok(Some(access_log(log).with_context(failed)?));
    }
    let Some(file) = &args.cloudwatch else { return Ok(None) };
    let failed = || format!("read the metrics {}", file.display());
    let length = fs::metadata(file).with_context(failed)?.len();
    ensure!(
        length <= MOST_METRICS,
        "{} has more than {}",
        file.display(),
        bytes(MOST_METRICS)
    );
    let text = fs::read(file).with_context(failed)?;
    Ok(Some(cloudwatch(&text).with_context(failed)?))
}

/// The weight of each model in the traffic. Adds models that only the recorded traffic names.
pub fn weights(recorded: Option<&Recorded>, listed: &mut Vec<ListedModel>, args: &PlanArgs) -> Result<Vec<f64>> {
    let Some(recorded) = recorded else {
        // The listing says nothing about which models are requested most.
        let mut weights = zipf(listed.len(), args.traffic.skew);
        Random::new(args.traffic.seed ^ 2).shuffle(&mut weights);
        return Ok(weights);
    };
    let mut indices: HashMap<String, usize> = HashMap::new();
    for (index, model) in listed.iter().enumerate() {
        indices.insert(model.name.clone(), index);
    }
    let mut sizes: Vec<u64> = listed.iter().map(|model| model.bytes).collect();
    sizes.sort_unstable();
    let usual = sizes
        .get(sizes.len() / 2)
        .copied()
        .unwrap_or_else(|| given_size(&args.models));
    let mut weights = vec![0.0; listed.len()];
    let mut count = |name: &str, number: f64| {
        let index = *indices.entry(name.to_owned()).or_insert_with(|| {
            listed.push(ListedModel {
                name: name.to_owned(),
                bytes: usual,
                content: None,
            });
            weights.push(0.0);
            listed.len() - 1
        });
        weights[index] += number;
    };
    match recorded {
        Recorded::Requests { requests, .. } => requests.iter().for_each(|request| count(&request.model, 1.0)),
        Recorded::Counts { models, .. } => models.iter().for_each(|(name, number)| count(name, *number)),
    }
    Ok(weights)
}

pub fn traffic(
    args: &PlanArgs,
    recorded: Option<Recorded>,
    listed: &[ListedModel],
    weights: &[f64],
    sources: &mut Vec<(&'static str, String)>,
) -> Result<Traffic> {
    let TrafficArgs {
        rate,
        clients,
        skew,
        log_share,
        ..
    } = args.traffic;
    let popularity = Popularity::of(weights).context("no model has a request")?;
    let speed = |rate: f64| format!("{rate:.1} requests a second");
    let (traffic, text) = match recorded {
        None => {
            let by = format!("over the models by Zipf's law with skew {skew}");
            match (clients, rate) {
                (Some(clients), _) => {
                    let requests = ClientRequests::Random(popularity);
                    (
                        Traffic::Clients { clients, requests },
                        format!("{clients} clients, {by}"),
                    )
                }
                (None, rate) => {
                    let rate = rate.context("the rate is unknown; give --rate")?;
                    (Traffic::Poisson { rate, popularity }, format!("{}, {by}", speed(rate)))
                }
            }
        }
        Some(Recorded::Requests {
            requests,
            without_model,
        }) if log_share == 1.0 && rate.is_none() => {
            let indices: HashMap<&str, u32> = listed.iter().map(|model| &*model.name).zip(0..).collect();
            let start = requests.first().map_or(0, |request| request.time);
            let index = |name: &str| indices.get(name).copied().unwrap_or_default();
            let lines = format!("{} requests of the access log", requests.len());
            let others = match without_model {
                0 => String::new(),
                count => format!("; {count} lines name no model"),
            };
            match clients {
                Some(clients) => {
                    let requests =
                        ClientRequests::Trace(requests.iter().map(|request| index(&request.model)).collect());
                    (
                        Traffic::Clients { clients, requests },
                        format!("{lines}, by {clients} clients{others}"),
                    )
                }
                None => {
                    let timed = requests
                        .iter()
                        .map(|request| (request.time - start, index(&request.model)));
                    (
                        Traffic::Trace(timed.collect()),
                        format!("{lines}, at their times{others}"),
                    )
                }
            }
        }
        Some(recorded) => {
            let (count, seconds) = match &recorded {
                Recorded::Requests { requests, .. } => {
                    let span = requests.last().map_or(0, |last| last.time - requests[0].time);
                    (
                        requests.len() as f64 / log_share.max(f64::MIN_POSITIVE),
                        span as f64 / 1e9,
                    )
                }
                Recorded::Counts { models, seconds } => (models.iter().map(|(_, count)| count).sum(), *seconds),
            };
            ensure!(
                rate.is_some() || clients.is_some() || seconds > 0.0,
                "all requests of the log have one time, so their rate is unknown; give --rate"
            );
            let own = if seconds > 0.0 { count / seconds } else { 0.0 };
            let by = "over the models as recorded";
            match clients {
                Some(clients) => {
                    let requests = ClientRequests::Random(popularity);
                    (
                        Traffic::Clients { clients, requests },
                        format!("{clients} clients, {by}"),
                    )
                }
                None => {
                    let rate = rate.unwrap_or(own);
                    (Traffic::Poisson { rate, popularity }, format!("{}, {by}", speed(rate)))
                }
            }
        }
    };
    sources.push(("traffic", text));
    Ok(traffic)
}
