//! The outputs of a server besides its log: the metrics of `--emf`, and traces.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, MissedTickBehavior};

use crate::background::{Background, BlockingWork};
use crate::catalog::Catalog;
use crate::config::{DurationOrOff, ServeArgs, TraceArgs};
use crate::contract;
use crate::engine::Engine;
use crate::telemetry;
use crate::telemetry::emf::Emf;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::request_log::RequestLog;
use crate::telemetry::traces::Traces;

/// Most dimensions of all metrics that `--emf` writes.
const MOST_DIMENSIONS: usize = 8;

/// Writes what a server has counted and traced until its end.
pub(super) async fn end_telemetry(emf: Option<impl Future<Output = ()>>, request_log: &RequestLog) {
    if let Some(emf) = emf {
        emf.await;
    }
    request_log.stop().await;
}

/// Chooses the requests for the log and for traces, by the options.
pub(super) fn request_log(args: &TraceArgs) -> Result<RequestLog> {
    let traces = match &args.otlp_endpoint {
        Some(url) => Some(Traces::start(url, args.otlp_service.clone())?),
        None => None,
    };
    Ok(RequestLog::new(args.access_log.0, traces, args.otlp_sample.0))
}

/// Writes metrics to standard output at each interval of `--emf`. The result writes those of an
/// interval that has not ended.
pub(super) fn report_metrics(
    args: &ServeArgs,
    metrics: &Arc<Metrics>,
    catalog: &Arc<Catalog>,
    engine: &Arc<Engine>,
) -> Result<Option<impl Future<Output = ()> + use<>>> {
    let DurationOrOff(Some(interval)) = args.telemetry.emf else {
        return Ok(None);
    };
    ensure!(metrics.is_on(), "--emf needs --metrics on");
    ensure!(
        args.telemetry.emf_dimensions.len() <= MOST_DIMENSIONS,
        "--emf-dimension is given {} times, but CloudWatch allows {MOST_DIMENSIONS} dimensions besides that of the model",
        args.telemetry.emf_dimensions.len()
    );
    let dimensions = args.telemetry.emf_dimensions.iter();
    let dimensions = dimensions.map(|dimension| (dimension.name.clone(), dimension.value.clone()));
    let namespace = args.telemetry.emf_namespace.clone();
    let emf = Arc::new(Emf::new(namespace, dimensions.collect(), Arc::clone(metrics)));
    let (catalog, engine) = (Arc::clone(catalog), Arc::clone(engine));
    let write = move || {
        for line in emf.lines(&contract::facts(&catalog, &engine)) {
            // Like the log: a reader that has gone must not end the server.
            let _ = telemetry::write_output(line.as_bytes());
        }
    };
    // A thread, because standard output may block.
    let thread = Background::start("emf", 0, BlockingWork::Detached).context("start the thread of --emf")?;
    let write_each = write.clone();
    thread.runtime().spawn(async move {
        let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let write = write_each.clone();
            // A task of its own, so that a panic, which is in the log, ends only this interval.
            let _ = tokio::spawn(async move { write() }).await;
        }
    });
    Ok(Some(async move {
        // A panic is in the log.
        let _ = thread.runtime().spawn(async move { write() }).await;
    }))
}
