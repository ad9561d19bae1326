//! `longshore serve` and its worker: builds the parts of a server from the options, and stops them
//! in order.
//!
//! The order at the start matters to the platform. The socket listens before ONNX Runtime is
//! loaded, so that no connection is refused, and `/ping` answers 503 until the model of
//! single-model mode can answer (PI-3). An error before that ends the process with a line that
//! says what to change (ST-12).

use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix_web::rt::signal::unix::{SignalKind, signal};
use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::Instrument;

use super::bounds;
use super::source::ModelSource;
use crate::audio::AudioLimits;
use crate::catalog::{self, Catalog, Demand, Journal, Operation};
use crate::codec::{Documents, Format};
use crate::config::{self, DurationOrOff, MediaArgs, MetricsSwitch, OnFull, Prepare, Provider, ServeArgs, TraceArgs};
use crate::connections::pages::Pages;
use crate::connections::{self, ConnectionLimits};
use crate::contract::{self, Health, Invocations, Pulse};
use crate::engine::{self, Engine};
use crate::handler::MediaLimits;
use crate::manifest::Overlay;
use crate::store::{self, Disk, Store};
use crate::supervisor::{self, Inheritance, SupervisorLink};
use crate::telemetry::emf::Emf;
use crate::telemetry::metrics::{Metrics, MetricsConfig};
use crate::telemetry::recorder::Recorder;
use crate::telemetry::request_log::RequestLog;
use crate::telemetry::traces::Traces;
use crate::telemetry::{self, READY};
use crate::text;

/// Smallest limit of open files: those of the process itself, of one connection and of one load.
const FEWEST_FILES: u64 = 40;

/// Time limit for loading the default model from a store at the start: the time that the platform
/// waits.
const LOAD_TIMEOUT: Duration = Duration::from_secs(360);

/// Time that a load which does not fit waits for other loads to free memory. After a refusal, some
/// other model has to be unloaded: by the platform, which is expensive, or by our own eviction,
/// which is cheap.
const WAIT_BEFORE_REFUSAL: Duration = Duration::from_secs(5);
pub(super) const WAIT_BEFORE_EVICTION: Duration = Duration::from_millis(100);

/// Most dimensions of all metrics that `--emf` writes.
const MOST_DIMENSIONS: usize = 8;

/// Exit code of a worker that has requested its replacement.
const REPLACED: i32 = 75;

/// Serves until SIGTERM or SIGINT, then drains. Returns the exit code.
pub(super) async fn serve(args: &ServeArgs, listener: TcpListener, inheritance: Inheritance) -> Result<i32> {
    let started = Instant::now();
    let formats = contract::Formats {
        default_content_type: args.default_content_type.clone(),
        default_accept: format("--default-accept", &args.default_accept)?,
        documents: if args.conventions.batch {
            Documents::Several
        } else {
            Documents::One
        },
    };
    format("--default-content-type", &args.default_content_type)?;
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
        () = server.stop(args.drain_timeout) => tracing::info!("stopped"),
    }
    end_telemetry(emf, &request_log).await;
    Ok(0)
}

/// Writes what a server has counted and traced until its end.
async fn end_telemetry(emf: Option<impl Future<Output = ()>>, request_log: &RequestLog) {
    if let Some(emf) = emf {
        emf.await;
    }
    request_log.stop().await;
}

/// Chooses the requests for the log and for traces, by the options.
fn request_log(args: &TraceArgs) -> Result<RequestLog> {
    let traces = match &args.otlp_endpoint {
        Some(url) => Some(Traces::start(url, args.otlp_service.clone())?),
        None => None,
    };
    Ok(RequestLog::new(args.access_log.0, traces, args.otlp_sample.0))
}

/// Writes metrics to standard output at each interval of `--emf`. The result writes those of an
/// interval that has not ended.
fn report_metrics(
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
        let (emf, catalog, engine) = (Arc::clone(&emf), Arc::clone(&catalog), Arc::clone(&engine));
        let written = tokio::task::spawn_blocking(move || {
            for line in emf.lines(&contract::facts(&catalog, &engine)) {
                // Like the log: a reader that has gone must not end the server.
                let _ = telemetry::write_output(line.as_bytes());
            }
        });
        async move {
            // A panic is in the log.
            let _ = written.await;
        }
    };
    let last = write.clone();
    actix_web::rt::spawn(async move {
        let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            write().await;
        }
    });
    Ok(Some(async move { last().await }))
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

/// Returns the manifest keys from the command line and the environment.
fn overlay(args: &ServeArgs) -> Option<Arc<Overlay>> {
    match &args.task {
        Some(task) => Some(Arc::new(Overlay::with_task(args.manifest.as_deref(), task))),
        None => args.manifest.clone(),
    }
}

/// Starts the engine with the limits of the options and the system. `has_store` means that evicted
/// models can be loaded again from a store.
fn start_engine(args: &ServeArgs, has_store: bool, recorder: Arc<Recorder>) -> Result<Engine> {
    let system = engine::system_limit();
    let memory = args
        .memory_limit(system.as_ref().map(|limit| limit.bytes))
        .map(|bytes| match system {
            Some(system) if system.bytes <= bytes => system,
            // Only the memory of this server's processes counts against the limit from the option.
            _ => engine::MemoryLimit {
                bytes,
                usage: engine::MemoryUsage::Processes,
            },
        });
    let memory_reserve = memory.as_ref().map_or(0, |limit| args.memory_reserve(limit.bytes));
    let engine = Engine::start(&engine::EngineConfig {
        libraries: engine::Libraries {
            onnxruntime: args.onnxruntime.clone(),
            operators: args.operators.clone(),
        },
        gpu: gpu(args),
        threads: args.threads(),
        load_threads: args.load_threads,
        queue: args.queue,
        max_batch: args.max_batch,
        manifest: overlay(args),
        memory,
        memory_reserve,
        mapped_percent: args.mapped_weights,
        load_patience: if has_store && args.on_full == OnFull::Evict {
            WAIT_BEFORE_EVICTION
        } else {
            WAIT_BEFORE_REFUSAL
        },
        http_threads: args.http_threads(),
        prepare: (args.prepare == Prepare::Auto).then(|| engine::PrepareConfig {
            processes: args.prepare_processes(),
            timeout: args.prepare_timeout,
            memory: args.prepare_memory.as_u64(),
            folder: args.cache_dir(),
            folder_bytes: args.cache_size.as_u64(),
            large_constant: Some(args.shared_constants.as_u64()).filter(|&bytes| bytes > 0),
        }),
        workplace: args.cache_dir(),
        bad_model_ttl: args.bad_model_ttl,
        stuck: engine::StuckLimits {
            after: args.stuck_after,
            most: args.max_stuck(),
        },
        recorder,
    })?;
    ensure!(
        engine.memory_for_models() > 0,
        "the memory limit leaves no memory for models: the process itself and the reserve for requests use all of it; \
         raise --memory-limit or lower --memory-reserve"
    );
    Ok(engine)
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

/// Returns the options of the HTTP server.
fn contract_config(
    args: &ServeArgs,
    source: &ModelSource,
    formats: contract::Formats,
    open_files: Option<u64>,
    address: IpAddr,
    (pulse, request_log): (Option<Arc<Pulse>>, Arc<RequestLog>),
) -> contract::ContractConfig {
    let places = args.max_connections(open_files);
    let (max_concurrent_transforms, max_payload_in_mb) = args.transform_parameters();
    contract::ContractConfig {
        formats,
        invocations: Invocations {
            by_target: source.store.is_some(),
            default: source.default.clone(),
        },
        loads: source.is_platform || source.store.is_some(),
        max_body: args.max_body(),
        compress_above: args
            .compress_above
            .map(|least| usize::try_from(least.as_u64()).unwrap_or(usize::MAX)),
        max_headers: usize::try_from(args.max_headers.as_u64()).unwrap_or(usize::MAX),
        request_timeout: args.request_timeout(),
        connections: connections::ConnectionConfig {
            threads: args.http_threads(),
            limits: ConnectionLimits {
                places,
                reserved: args.reserved_connections(places),
                header_timeout: args.header_timeout,
                body_timeout: args.body_timeout,
                body_rate: args.body_rate.as_u64(),
                pressure_timeout: args.pressure_timeout,
            },
            keep_alive: args.keep_alive,
            write_timeout: args.write_timeout,
        },
        pages: pages(args, address),
        page: (!args.no_ui).then(|| contract::PageConfig {
            mode: source.mode().to_owned(),
            example_url: args
                .models_roots()
                .first()
                .map(|root| root.join("NAME").display().to_string()),
        }),
        only_this_user: args.only_this_user,
        pulse,
        profiles: args.telemetry.profiles,
        log_control: args.traces.log_control,
        log_level: args.log_level.clone(),
        request_log,
        behind_balancer: args.behind_balancer,
        max_concurrent_transforms,
        max_payload_in_mb,
    }
}

/// Returns the policy for pages in browsers.
fn pages(args: &ServeArgs, address: IpAddr) -> Pages {
    let pages = Pages::new(args.allow_origins.clone(), args.allow_hosts.clone(), address);
    match args.no_ui {
        true => pages,
        false => pages.with_own_page(args.allow_hosts.clone()),
    }
}

/// Returns the limits on pictures, texts and sounds.
fn media_limits(args: &MediaArgs) -> MediaLimits {
    MediaLimits {
        pixels: args.max_pixels,
        text: text::TextLimits {
            text_bytes: usize::try_from(args.max_text.as_u64()).unwrap_or(usize::MAX),
            tokens: usize::try_from(args.max_tokens).unwrap_or(usize::MAX),
            ..text::TextLimits::default()
        },
        audio: AudioLimits {
            samples: args.max_samples,
            ..AudioLimits::default()
        },
    }
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

/// Opens the store at `url` for standalone mode.
fn demand(args: &ServeArgs, url: &str, metrics: Arc<Metrics>) -> Result<Demand> {
    let settings = store::StoreConfig {
        url: url.to_owned(),
        environment: config::environment().collect(),
        timeout: args.fetch.store_timeout,
        retries: args.fetch.store_retries,
        downloads: args.fetch.downloads,
        bounds: bounds(&args.fetch.archives),
        names_bind: false,
        revalidate: args.revalidate,
    };
    let store = Disk::open(&args.cache_dir(), args.fetch.archive_cache_size.as_u64())
        .and_then(|disk| Store::open(settings, &disk))
        .context("open the model store")?;
    let settings = catalog::DemandConfig {
        evict: args.on_full == OnFull::Evict,
        idle_unload: args.idle_unload,
        revalidate: args.revalidate,
        negative_ttl: args.negative_ttl,
        memory_timeout: args.request_timeout(),
    };
    Ok(Demand::new(store, settings, metrics))
}

/// Returns the options of the GPU, if models may run on one.
fn gpu(args: &ServeArgs) -> Option<engine::Gpu> {
    let provider = match args.provider {
        Provider::Cpu => return None,
        Provider::Cuda | Provider::Auto => engine::GpuProvider::Cuda,
        Provider::Tensorrt => engine::GpuProvider::TensorRt,
    };
    Some(engine::Gpu {
        provider,
        required: args.provider != Provider::Auto,
        device: args.device,
        memory_limit: args.gpu_memory_limit.map(|limit| limit.as_u64()),
    })
}

/// Parses the media type that `flag` sets.
fn format(flag: &str, media_type: &str) -> Result<Format> {
    let format = Format::from_media_type(media_type).filter(|format| format.is_written());
    format.with_context(|| {
        let written = Format::ALL.into_iter().filter(|format| format.is_written());
        let written: Vec<_> = written.map(Format::media_type).collect();
        format!(
            "{flag} {media_type} is not supported; choose one of {}",
            written.join(", ")
        )
    })
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
