//! `longshore serve` and its worker: builds the parts of a server from the options, and stops them
//! in order.
//!
//! The order at the start matters to the platform. The socket listens before ONNX Runtime is
//! loaded, so that no connection is refused, and `/ping` answers 503 until the model of
//! single-model mode can answer (PI-3). An error before that ends the process with a line that
//! says what to change (ST-12).

mod options;
mod telemetry;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix_web::rt::signal::unix::{SignalKind, signal};
use anyhow::{Context, Result, ensure};
use tokio::time::Instant;
use tracing::Instrument;

use super::source::ModelSource;
use crate::catalog::{self, Catalog, Demand, Journal, Operation};
use crate::codec::Documents;
use crate::config::{DurationOrOff, MetricsSwitch, ServeArgs};
use crate::contract::{self, Health, Pulse};
use crate::engine;
use crate::supervisor::{self, Inheritance, SupervisorLink};
use crate::telemetry::READY;
use crate::telemetry::metrics::{Metrics, MetricsConfig};

use options::{contract_config, demand, format, media_limits, start_engine};
use telemetry::{end_telemetry, report_metrics, request_log};

pub(super) use options::WAIT_BEFORE_EVICTION;

/// Smallest limit of open files: those of the process itself, of one connection and of one load.
const FEWEST_FILES: u64 = 40;

/// Time limit for loading the default model from a store at the start: the time that the platform
/// waits.
const LOAD_TIMEOUT: Duration = Duration::from_secs(360);

/// Exit code of a worker that has requested its replacement.
const REPLACED: i32 = 75;

/// Serves until SIGTERM or SIGINT, then drains. Returns the exit code.
pub(super) async fn serve(args: &ServeArgs, listener: TcpListener, inheritance: Inheritance) -> Result<i32> {
    let started = Instant::now();
    let formats = contract::Formats {
        default_content_type: args.http.default_content_type.clone(),
        default_accept: format("--default-accept", &args.http.default_accept)?,
        documents: if args.conventions.batch {
            Documents::Several
        } else {
            Documents::One
        },
    };
    format("--default-content-type", &args.http.default_content_type)?;
    // Installed first: the kernel ignores signals without a handler for PID 1 (ST-2).
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;

    let address = listener.local_addr().context("read the listener's address")?;
    let source = ModelSource::of(args)?;
    ensure!(
        args.manifest.is_none() || source.single.is_some(),
        "LONGSHORE_MANIFEST (--manifest) applies to a single model, but this server has several; put a longshore.json into \
         each archive"
    );
    ensure!(
        args.task.is_none() || source.single.is_some(),
        "HF_TASK (--task) applies to a single model, but this server has several; put {{\"task\": ...}} into the \
         longshore.json of each archive"
    );
    let request_log = Arc::new(request_log(&args.traces)?);
    let metrics = Arc::new(Metrics::new(MetricsConfig {
        is_on: args.telemetry.metrics == MetricsSwitch::On,
        models: args.telemetry.metrics_models.into(),
    }));
    // Before the engine, which measures the memory of the process at its start as the memory
    // without models.
    let demand = match &source.store {
        Some(url) => Some(demand(args, url, Arc::clone(&metrics))?),
        None => None,
    };

    let store = demand.as_ref().map(Demand::url);
    let open_files = open_files()?;
    let engine = Arc::new(start_engine(args, demand.is_some(), Arc::clone(metrics.recorder()))?);
    let memory_for_models_bytes = engine.memory_for_models();
    for refused in inheritance.refused {
        engine.refuse(refused.content, refused.reason, refused.remaining);
    }
    let link = inheritance.link;
    // Only for the platform's models: models of a store are loaded again at their next request.
    let journal = link.clone().filter(|_| source.is_platform);
    let catalog = Arc::new(Catalog::new(
        Arc::clone(&engine),
        catalog::CatalogConfig {
            roots: args.models_roots(),
            unload_timeout: args.unload_timeout,
            rehearsal_timeout: args.request_timeout(),
            media: media_limits(&args.media),
            preparations: args.prepare_processes(),
            restores: args.load_threads,
            journal: journal.map(|link| link as Arc<dyn Journal>),
        },
        demand,
    ));
    // Before the first request, so that clients see the same list as before the restart.
    let listed = catalog.list_again(inheritance.models).await;
    metrics.set_worker_restarts(inheritance.restarts);
    let health = Arc::new(Health::new(inheritance.restarts > 0));
    if source.default.is_none() {
        // No model has to be loaded first, so the server is ready for the first request.
        health.set_ready();
    }
    let pulse = keep_alive(args, link.as_ref())?;
    let emf = report_metrics(args, &metrics, &catalog, &engine)?;
    let server = contract::start(
        listener,
        contract_config(
            args,
            &source,
            formats,
            open_files,
            address.ip(),
            (pulse, Arc::clone(&request_log)),
        ),
        Arc::clone(&catalog),
        Arc::clone(&engine),
        Arc::clone(&metrics),
        Arc::clone(&health),
    )?;
    tracing::info!(
        target: READY,
        %address,
        mode = source.mode(),
        store,
        memory_for_models_bytes,
        threads = args.threads(),
        request_timeout = ?args.request_timeout(),
        start_ms = millis(started),
        "listening"
    );

    if source.is_platform {
        // Leave half of the load threads to loads that a request waits for.
        actix_web::rt::spawn(Arc::clone(&catalog).restore_all(listed, args.load_threads.div_ceil(2)));
        actix_web::rt::spawn(Arc::clone(&catalog).report_use());
    }
    if source.store.is_some() {
        actix_web::rt::spawn(Arc::clone(&catalog).unload_idle());
    }
    if let Some(name) = &source.default {
        let is_loaded = tokio::select! {
            loaded = load_default(args, &catalog, name, source.single.as_deref()) => loaded.map(|()| true)?,
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
        };
        if !is_loaded {
            health.set_draining();
            if let Some(link) = &link {
                link.stopping();
            }
            // The load was cancelled, so waiting requests cannot be answered.
            server.stop(Duration::ZERO).await;
            return Ok(0);
        }
    }
    health.set_ready();
    if let Some(link) = &link {
        link.ready();
    }

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM, draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT, draining"),
        culprits = engine.too_many_stuck(), if link.is_some() => {
            // New connections wait in the socket, which the supervisor holds.
            if let Some(link) = &link {
                link.replace(culprits);
            }
            server.leave_to_another(args.replace_timeout).await;
            end_telemetry(emf, &request_log).await;
            return Ok(REPLACED);
        }
    }
    health.set_draining();
    if let Some(link) = &link {
        link.stopping();
    }
    tokio::select! {
        // A second signal stops the server without waiting.
        _ = terminate.recv() => tracing::info!("stopped at once"),
        _ = interrupt.recv() => tracing::info!("stopped at once"),
        () = server.stop(args.http.drain_timeout) => tracing::info!("stopped"),
    }
    end_telemetry(emf, &request_log).await;
    Ok(0)
}

/// Raises the limit of open files to the system's maximum, and returns it.
fn open_files() -> Result<Option<u64>> {
    let open_files = engine::raise_open_files();
    ensure!(
        open_files.is_none_or(|files| files >= FEWEST_FILES),
        "the limit of {} open files is too low to serve; raise it (ulimit -n) to {FEWEST_FILES} at least",
        open_files.unwrap_or_default()
    );
    Ok(open_files)
}

/// Sends heartbeats to the supervisor, if it expects them, for as long as the returned pulse
/// counts.
fn keep_alive(args: &ServeArgs, link: Option<&Arc<SupervisorLink>>) -> Result<Option<Arc<Pulse>>> {
    let (Some(link), DurationOrOff(Some(timeout))) = (link, args.worker_timeout) else {
        return Ok(None);
    };
    // Twice as often as heartbeats, so that there is progress between any two.
    let pulse = Arc::new(Pulse::new(supervisor::heartbeat(timeout) / 2));
    let counted = Arc::clone(&pulse);
    link.keep_alive(timeout, move || counted.count())
        .context("start the heartbeat")?;
    Ok(Some(pulse))
}

/// Loads the default model, which answers requests that do not name a model.
async fn load_default(args: &ServeArgs, catalog: &Arc<Catalog>, name: &str, path: Option<&Path>) -> Result<()> {
    let begun = Instant::now();
    let failed = || {
        format!(
            "load the model in {}; set --model-dir to the model's directory, or SAGEMAKER_MULTI_MODEL=true to start \
             without a model",
            args.model_dir().display()
        )
    };
    let Some(path) = path else {
        return catalog
            .get(name, begun + LOAD_TIMEOUT)
            .await
            .map(drop)
            .with_context(failed);
    };
    let span = catalog::model_span(Operation::Load, name, None);
    let load = catalog.load_trusted(name, path).instrument(span.clone());
    let memory = load.await.with_context(failed)?;
    let _guard = span.entered();
    tracing::info!(path = %path.display(), memory_bytes = memory.own, load_ms = millis(begun), "model loaded");
    Ok(())
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
