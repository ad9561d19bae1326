//! From the options of `longshore serve` to the settings of the modules that they are for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::audio::AudioLimits;
use crate::catalog::{self, Demand};
use crate::cli::bounds;
use crate::cli::source::ModelSource;
use crate::codec::Format;
use crate::config::{self, MediaArgs, OnFull, Prepare, Provider, ServeArgs};
use crate::connections::pages::Pages;
use crate::connections::{self, ConnectionLimits};
use crate::contract::{self, Invocations, Pulse};
use crate::engine::{self, Engine};
use crate::handler::MediaLimits;
use crate::manifest::Overlay;
use crate::store::{self, Disk, Store};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::recorder::Recorder;
use crate::telemetry::request_log::RequestLog;
use crate::text;

/// Time that a load which does not fit waits for other loads to free memory. After a refusal, some
/// other model has to be unloaded: by the platform, which is expensive, or by our own eviction,
/// which is cheap.
const WAIT_BEFORE_REFUSAL: Duration = Duration::from_secs(5);
pub(in crate::cli) const WAIT_BEFORE_EVICTION: Duration = Duration::from_millis(100);

/// Parses the media type that `flag` sets.
pub(super) fn format(flag: &str, media_type: &str) -> Result<Format> {
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

/// Starts the engine with the limits of the options and the system. `has_store` means that evicted
/// models can be loaded again from a store.
pub(super) fn start_engine(args: &ServeArgs, has_store: bool, recorder: Arc<Recorder>) -> Result<Engine> {
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
        prepare: (args.prepare != Prepare::Off).then(|| engine::PrepareConfig {
            processes: args.prepare_processes(),
            timeout: args.prepare_timeout,
            memory: args.prepare_memory.as_u64(),
            folder: args.cache_dir(),
            folder_bytes: args.cache_size.as_u64(),
            large_constant: Some(args.shared_constants.as_u64()).filter(|&bytes| bytes > 0),
            later: args.prepare == Prepare::Later,
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

/// Returns the manifest keys from the command line and the environment.
fn overlay(args: &ServeArgs) -> Option<Arc<Overlay>> {
    match &args.task {
        Some(task) => Some(Arc::new(Overlay::with_task(args.manifest.as_deref(), task))),
        None => args.manifest.clone(),
    }
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

/// Opens the store at `url` for standalone mode.
pub(super) fn demand(args: &ServeArgs, url: &str, metrics: Arc<Metrics>) -> Result<Demand> {
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

/// Returns the options of the HTTP server.
pub(super) fn contract_config(
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
            .http
            .compress_above
            .map(|least| usize::try_from(least.as_u64()).unwrap_or(usize::MAX)),
        max_headers: usize::try_from(args.http.max_headers.as_u64()).unwrap_or(usize::MAX),
        request_timeout: args.request_timeout(),
        connections: connections::ConnectionConfig {
            threads: args.http_threads(),
            limits: ConnectionLimits {
                places,
                reserved: args.reserved_connections(places),
                header_timeout: args.http.header_timeout,
                body_timeout: args.http.body_timeout,
                body_rate: args.http.body_rate.as_u64(),
                pressure_timeout: args.http.pressure_timeout,
            },
            keep_alive: args.http.keep_alive,
            write_timeout: args.http.write_timeout,
        },
        pages: pages(args, address),
        page: (!args.http.no_ui).then(|| contract::PageConfig {
            mode: source.mode().to_owned(),
            example_url: args
                .models_roots()
                .first()
                .map(|root| root.join("NAME").display().to_string()),
        }),
        only_this_user: args.http.only_this_user,
        pulse,
        profiles: args.telemetry.profiles,
        log_control: args.traces.log_control,
        log_level: args.log_level.clone(),
        request_log,
        behind_balancer: args.http.behind_balancer,
        max_concurrent_transforms,
        max_payload_in_mb,
    }
}

/// Returns the policy for pages in browsers.
fn pages(args: &ServeArgs, address: IpAddr) -> Pages {
    let pages = Pages::new(args.http.allow_origins.clone(), args.http.allow_hosts.clone(), address);
    match args.http.no_ui {
        true => pages,
        false => pages.with_own_page(args.http.allow_hosts.clone()),
    }
}

/// Returns the limits on pictures, texts and sounds.
pub(super) fn media_limits(args: &MediaArgs) -> MediaLimits {
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
