//! The traffic of a plan: options, access logs and exports of CloudWatch.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::BufReader;

use anyhow::{Context, Result, bail, ensure};

use super::inputs::given_size;
use crate::cli::table::{bytes, counted};
use crate::config::{PlanArgs, TrafficArgs};
use crate::plan::{ClientRequests, LogRequest, Popularity, Random, Recorded, Traffic, access_log, cloudwatch, zipf};
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

/// The weights of models by Zipf's law, in a random order: the listing says nothing about which
/// models are requested most.
pub fn random_weights(models: usize, args: &TrafficArgs) -> Vec<f64> {
    let mut weights = zipf(models, args.skew);
    Random::new(args.seed ^ 2).shuffle(&mut weights);
    weights
}

/// The number of requests of each model. Adds the models that only the recorded traffic names, and
/// gives each recorded request the index of its listed model.
pub fn recorded_weights(recorded: &mut Recorded, listed: &mut Vec<ListedModel>, args: &PlanArgs) -> Vec<f64> {
    let mut sizes: Vec<u64> = listed.iter().map(|model| model.bytes).collect();
    sizes.sort_unstable();
    let middle = sizes.get(sizes.len() / 2).copied();
    let usual = middle.unwrap_or_else(|| given_size(&args.models));
    let known: HashMap<String, usize> = listed.iter().map(|model| model.name.clone()).zip(0..).collect();
    let mut place = |name: &str| {
        known.get(name).copied().unwrap_or_else(|| {
            listed.push(ListedModel {
                name: name.to_owned(),
                bytes: usual,
                content: None,
            });
            listed.len() - 1
        })
    };
    match recorded {
        Recorded::Requests { models, requests, .. } => {
            let places: Vec<usize> = models.iter().map(|name| place(name)).collect();
            let mut weights = vec![0.0; listed.len()];
            for request in requests {
                let place = places[request.model as usize];
                request.model = place as u32;
                weights[place] += if request.is_sampled {
                    1.0 / args.traffic.log_share
                } else {
                    1.0
                };
            }
            weights
        }
        Recorded::Counts { models, .. } => {
            let places: Vec<usize> = models.iter().map(|(name, _)| place(name)).collect();
            let mut weights = vec![0.0; listed.len()];
            for (place, (_, count)) in places.into_iter().zip(models) {
                weights[place] += *count;
            }
            weights
        }
    }
}

/// Requests a second of recorded traffic with `count` requests.
fn recorded_rate(recorded: &Recorded, count: f64) -> Result<f64> {
    let seconds = match recorded {
        Recorded::Requests { requests, .. } => {
            let (first, last) = (requests.first(), requests.last());
            let span = first.zip(last).map(|(first, last)| last.time - first.time);
            span.filter(|span| *span > 0).map(|span| span as f64 / 1e9)
        }
        Recorded::Counts { seconds, .. } => *seconds,
    };
    let seconds = seconds.context(
        "all recorded requests are of one time, so their rate is unknown; give --rate, or for metrics at least two periods",
    )?;
    Ok(count / seconds)
}

/// A rate in words.
fn rate_text(rate: f64) -> String {
    match rate {
        ..0.1 => format!("{:.1} requests an hour", rate * 3600.0),
        _ => format!("{rate:.1} requests a second"),
    }
}

/// The traffic of a log, one request after the other.
fn single(requests: &[LogRequest], others: usize, clients: Option<u32>) -> (Traffic, String) {
    let lines = format!("{} of the access log", counted(requests.len() as u64, "request"));
    let others = match others {
        0 => String::new(),
        count => format!("; {} about other things left out", counted(count as u64, "line")),
    };
    let Some(clients) = clients else {
        let start = requests.first().map_or(0, |request| request.time);
        let timed = requests.iter().map(|request| (request.time - start, request.model));
        return (
            Traffic::Trace(timed.collect()),
            format!("{lines}, at their times{others}"),
        );
    };
    let requests = ClientRequests::Trace(requests.iter().map(|request| request.model).collect());
    let by = counted(clients.into(), "client");
    (
        Traffic::Clients { clients, requests },
        format!("{lines}, by {by}{others}"),
    )
}

pub fn traffic(
    args: &TrafficArgs,
    recorded: Option<Recorded>,
    weights: &[f64],
    sources: &mut Vec<(&'static str, String)>,
) -> Result<Traffic> {
    let popularity = Popularity::of(weights).context("no model has a request")?;
    let by = match &recorded {
        Some(_) => "over the models as recorded".to_owned(),
        None => format!("over the models by Zipf's law with skew {}", args.skew),
    };
    let (traffic, text) = match (recorded, args.clients, args.rate) {
        (Some(Recorded::Requests { requests, others, .. }), clients, None) if args.log_share == 1.0 => {
            single(&requests, others, clients)
        }
        (_, Some(clients), _) => {
            let requests = ClientRequests::Random(popularity);
            let text = format!("{}, {by}", counted(clients.into(), "client"));
            (Traffic::Clients { clients, requests }, text)
        }
        (recorded, None, rate) => {
            let rate = match (rate, recorded) {
                (Some(rate), _) => rate,
                (None, Some(recorded)) => recorded_rate(&recorded, weights.iter().sum())?,
                (None, None) => bail!("the rate is unknown; give --rate"),
            };
            (
                Traffic::Poisson { rate, popularity },
                format!("{}, {by}", rate_text(rate)),
            )
        }
    };
    sources.push(("traffic", text));
    Ok(traffic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_rate_needs_a_time() {
        let counts = |seconds| Recorded::Counts {
            models: vec![("a".to_owned(), 10.0)],
            seconds,
        };
        assert_eq!(recorded_rate(&counts(Some(5.0)), 10.0).unwrap(), 2.0);
        assert!(
            recorded_rate(&counts(None), 10.0)
                .unwrap_err()
                .to_string()
                .contains("--rate")
        );
        assert_eq!(rate_text(7.0 / 3600.0), "7.0 requests an hour");
        assert_eq!(rate_text(7.0), "7.0 requests a second");
    }
}
