//! Measures models of a store as a server gets them: it fetches, prepares, loads and runs them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task;

use super::cost::Sample;
use super::inputs::store_config;
use crate::config::PlanArgs;
use crate::engine::Examiner;
use crate::store::{Disk, ListedModel, Located, Store};
use crate::telemetry::recorder::nanoseconds;

/// Runs of each model that are timed.
const RUNS: usize = 50;

/// Indices of `count` of the models, spread over all sizes.
fn spread(models: &[ListedModel], count: usize) -> Vec<usize> {
    let mut by_size: Vec<usize> = (0..models.len()).collect();
    by_size.sort_by_key(|&index| (models[index].bytes, index));
    let count = count.min(by_size.len());
    let place = |index: usize| match count {
        1 => by_size.len() / 2,
        _ => index * (by_size.len() - 1) / (count - 1),
    };
    (0..count).map(|index| by_size[place(index)]).collect()
}

/// Measures `count` of the models. Those that cannot be loaded are left out, unless it is all of
/// them, and the text says why.
pub async fn measure(
    args: &PlanArgs,
    url: &str,
    models: &[ListedModel],
    count: usize,
) -> Result<(Vec<Sample>, Option<String>)> {
    let folder = tempfile::Builder::new()
        .prefix("longshore-")
        .tempdir()
        .context("create a folder for models; set TMPDIR to use another directory")?;
    let disk = Disk::open(folder.path(), u64::MAX)?;
    let store = Store::open(store_config(args, url), &disk).context("open the model store")?;
    let examiner = Arc::new(super::super::examiner(&args.examine)?);
    // Constants count as shared with the other samples, not with models of a cache.
    let no_cache = folder.path().join("prepared");
    let (mut samples, mut failed) = (Vec::new(), None);
    let chosen = spread(models, count);
    for (number, index) in (1..).zip(&chosen) {
        let model = &models[*index];
        super::super::progress(&format!("measuring model {number} of {}: {}", chosen.len(), model.name));
        match sample(&store, &examiner, model, &no_cache).await {
            Ok(sample) => samples.push(sample),
            Err(error) => failed = Some(error.context(format!("measure the model {}", model.name))),
        }
    }
    match failed {
        Some(error) if samples.is_empty() => Err(error),
        Some(error) => {
            let (failed, all) = (chosen.len() - samples.len(), chosen.len());
            let text = format!("{failed} of {all} chosen models failed; the last one: {error:#}");
            Ok((samples, Some(text)))
        }
        None => Ok((samples, None)),
    }
}

async fn sample(store: &Store, examiner: &Arc<Examiner>, model: &ListedModel, cache: &Path) -> Result<Sample> {
    let name = model.parsed().context("the name is not one that a request can have")?;
    let started = Instant::now();
    let lease = match store.find(&name).await? {
        Located::OnDisk(lease) => lease,
        Located::InStore(arrival) => store.fetch(arrival).await?,
    };
    let fetched = started.elapsed();
    let (examiner, cache, bytes) = (Arc::clone(examiner), cache.to_owned(), model.bytes);
    // The examiner blocks the thread.
    let examined = task::spawn_blocking(move || examined(&examiner, lease.path(), &cache, bytes, fetched));
    examined.await.context("the measurement failed")?
}

fn examined(examiner: &Examiner, path: &Path, cache: &Path, bytes: u64, fetched: Duration) -> Result<Sample> {
    let examination = examiner.examine(path, cache)?;
    let cost = examination.cost();
    let (loaded, cost) = match (examination.loaded, cost) {
        (Ok(loaded), Some(cost)) => (loaded, cost),
        (Err(error), _) => bail!("a server would refuse to load it: {error}"),
        (Ok(_), None) => bail!("its memory was not measured"),
    };
    let constants = loaded.constants.iter().filter(|constant| constant.is_read);
    Ok(Sample {
        bytes,
        cost,
        constants: constants
            .map(|constant| (constant.hash.clone(), constant.bytes))
            .collect(),
        first: nanoseconds(fetched + loaded.prepared_in),
        load: nanoseconds(loaded.opened_in),
        runs: loaded.time_runs(RUNS).into_iter().map(nanoseconds).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_models_are_spread_over_the_sizes() {
        let model = |bytes: &u64| ListedModel {
            name: bytes.to_string(),
            bytes: *bytes,
            content: None,
        };
        let models: Vec<ListedModel> = [5, 1, 9, 3, 7].iter().map(model).collect();
        let sizes = |count| -> Vec<u64> {
            spread(&models, count)
                .into_iter()
                .map(|index| models[index].bytes)
                .collect()
        };
        assert_eq!(sizes(0), [0; 0]);
        assert_eq!(sizes(1), [5]);
        assert_eq!(sizes(2), [1, 9]);
        assert_eq!(sizes(3), [1, 5, 9]);
        assert_eq!(sizes(9), [1, 3, 5, 7, 9]);
    }
}
