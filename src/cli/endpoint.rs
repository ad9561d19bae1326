//! `longshore endpoint`: reads the declared endpoints, starts their containers, and stops them in
//! order.

use std::fmt::Display;
use std::io::{IsTerminal, stderr};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use actix_web::rt::signal::unix::{SignalKind, signal};
use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::Handle;

use super::bounds;
use crate::config::{self, DealKind, EndpointArgs, RunnerKind};
use crate::connections::pages::Pages;
use crate::connections::{self, ConnectionLimits};
use crate::endpoint::control::{ACCOUNT, Arns};
use crate::endpoint::deal::Deal;
use crate::endpoint::declare::DeclaredEndpoints;
use crate::endpoint::fault::Faults;
use crate::endpoint::fleet::{self, Fleets, InvocationBounds, Runner};
use crate::endpoint::http;
use crate::endpoint::multi_model;
use crate::endpoint::provision::Provisioner;
use crate::endpoint::runtime::{self, Runtime};
use crate::endpoint::spec::Deployment;
use crate::endpoint::state::{self, ControlState};
use crate::engine;
use crate::store::{self, Environment};
use crate::telemetry;

/// Default AWS region.
const REGION: &str = "us-east-1";

/// Largest value of `InvocationTimeoutSeconds`.
const LONGEST_INVOCATION: Duration = Duration::from_secs(60 * 60);

/// Serves until SIGTERM or SIGINT, then ends all containers. Returns the exit code.
pub(super) async fn run(args: &EndpointArgs) -> Result<i32> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let environment: Environment = config::environment().collect();
    let region = region(args, &environment);
    let arns = Arns::new(&region);
    let faults = Faults::new(parsed("--fault", &args.faults)?, args.fault_seed);
    let declared = declared(args, &arns)?;
    let state = match &args.state {
        Some(path) => ControlState::open(path.clone(), arns).context("--state")?,
        None => ControlState::in_memory(arns),
    };

    let listener = TcpListener::bind((args.bind, args.port)).with_context(|| {
        format!(
            "listen on {}:{}; choose another --port if it is in use",
            args.bind, args.port
        )
    })?;
    let address = listener.local_addr().context("read the listener's address")?;
    let (faults, here) = (Arc::new(faults), Handle::current());
    let fleets = Fleets::start(fleet_settings(args, &environment, Arc::clone(&faults)))?;
    let fleets = Arc::new(fleets);
    let settings = runtime_settings(args, environment, region);
    let runtime = Runtime::new(settings, Arc::clone(&fleets), faults, here.clone())?;
    let provisioner = Provisioner::new(state, Arc::clone(&fleets), here, args.settle_wait);
    let settings = http::EndpointServerConfig {
        connections: connection_settings(args),
        pages: pages(args, address.ip()),
        has_page: !args.no_ui,
        allow_other_users: args.allow_other_users,
    };
    let server =
        http::start(listener, &settings, provisioner.clone(), &runtime, &fleets).context("start the HTTP server")?;
    announce(address);

    let started = async {
        let names: Vec<_> = declared.iter().map(|deployment| deployment.endpoint.clone()).collect();
        let outcomes = provisioner.start(declared).await?;
        for name in names {
            match outcomes.get(&name) {
                Some(Err(reason)) => bail!("the endpoint {name} could not be created: {reason}"),
                _ => {
                    tracing::info!(url = %format_args!("http://{address}/endpoints/{name}/invocations"), "endpoint in service");
                }
            }
        }
        // Endpoints that come only from --state may have failed; DescribeEndpoint reports those.
        // Wait for a signal.
        std::future::pending().await
    };
    let ended: Result<()> = tokio::select! {
        failed = started => failed,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tracing::info!("stopping all containers");
    let end = async {
        server.stop(args.drain_timeout).await;
        // After the requests that have arrived.
        provisioner.stop();
        runtime.finish(args.drain_timeout).await;
        fleets.shutdown().await;
        tracing::info!("stopped");
    };
    tokio::select! {
        // A second signal stops without waiting. The containers end with this process.
        _ = terminate.recv() => tracing::info!("stopped at once"),
        _ = interrupt.recv() => tracing::info!("stopped at once"),
        () = end => {}
    }
    ended.map(|()| 0)
}

/// Returns the policy for pages in browsers.
fn pages(args: &EndpointArgs, address: IpAddr) -> Pages {
    let pages = Pages::new(args.allow_origins.clone(), args.allow_hosts.clone(), address);
    match args.no_ui {
        true => pages,
        false => pages.with_own_page(args.allow_hosts.clone()),
    }
}

fn connection_settings(args: &EndpointArgs) -> connections::ConnectionConfig {
    let places = args.max_connections(engine::raise_open_files());
    connections::ConnectionConfig {
        threads: available_parallelism().map_or(1, usize::from),
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
    }
}

/// Logs the address, and prints the variables for AWS clients on a terminal.
fn announce(address: SocketAddr) {
    tracing::info!(target: telemetry::READY, %address, "listening");
    if stderr().is_terminal() {
        eprintln!(
            "\n  To connect code that was written for AWS:\n  export AWS_ENDPOINT_URL_SAGEMAKER=http://{address} \
             AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://{address}\n"
        );
    }
}

fn region(args: &EndpointArgs, environment: &Environment) -> String {
    let given = args.region.as_deref();
    let variable = |name| environment.get(name);
    let region = given.or_else(|| variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")));
    region.unwrap_or(REGION).to_owned()
}

/// Returns the deployments that the command line declares.
fn declared(args: &EndpointArgs, arns: &Arns) -> Result<Vec<Deployment>> {
    if let Some(folder) = &args.multi_model {
        // Objects below a URL may appear later, as on AWS; a missing directory is probably a
        // typing error.
        let exists = folder.contains("://") || Path::new(folder).is_dir();
        ensure!(exists, "--multi-model: no such directory: {folder}");
    }
    let declared = DeclaredEndpoints {
        multi_model: args.multi_model.clone(),
        model: args.model.clone(),
        containers: parsed("--container", &args.containers)?,
        direct: args.direct,
        endpoint_name: args.endpoint_name.clone(),
        configs: args.configs.clone(),
        instances: args.instances,
    };
    Ok(declared.deployments(arns, state::now())?)
}

fn parsed<T: FromStr<Err: Display>>(flag: &str, texts: &[String]) -> Result<Vec<T>> {
    let parse = |text: &String| match text.parse() {
        Ok(value) => Ok(value),
        Err(error) => bail!("{flag} {text}: {error}"),
    };
    texts.iter().map(parse).collect()
}

fn fleet_settings(args: &EndpointArgs, environment: &Environment, faults: Arc<Faults>) -> fleet::FleetConfig {
    fleet::FleetConfig {
        runner: match args.runner {
            RunnerKind::Process => Runner::Process,
            RunnerKind::Docker => Runner::Docker {
                command: args.docker.clone(),
            },
        },
        // The running program, even if its file on disk has been replaced.
        program: "/proc/self/exe".into(),
        environment: environment.clone(),
        folder: args.cache_dir(),
        prepared: args.cache_dir(),
        max_instances: args.max_instances,
        memory: args.container_memory.map(|memory| memory.as_u64()),
        allow_other_users: args.allow_other_users,
        asynchronous: InvocationBounds {
            bytes: args.max_async_object.as_u64(),
            time: args.async_timeout.max(LONGEST_INVOCATION),
        },
        faults,
        start_timeout: args.start_timeout,
        health_interval: args.health_interval,
        drain_timeout: args.drain_timeout,
        store: store_settings(args, environment.clone()),
        archive_bytes: args.fetch.archive_cache_size.as_u64(),
    }
}

fn runtime_settings(args: &EndpointArgs, environment: Environment, region: String) -> runtime::RuntimeConfig {
    let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    let archives = (args.cache_dir().join("models"), args.fetch.archive_cache_size.as_u64());
    runtime::RuntimeConfig {
        account: ACCOUNT.to_owned(),
        region,
        max_body: bytes(args.max_body),
        max_between: bytes(args.max_between),
        timeout: args.request_timeout,
        stream_timeout: args.stream_timeout,
        async_concurrency: usize::try_from(args.async_concurrency).unwrap_or(usize::MAX),
        async_queue: usize::try_from(args.async_queue).unwrap_or(usize::MAX),
        max_async_object: bytes(args.max_async_object),
        async_timeout: args.async_timeout,
        deal: match args.deal {
            DealKind::Random => Deal::random(args.deal_seed),
            DealKind::Even => Deal::Even,
        },
        down_wait: args.down_wait,
        multi_model: multi_model::MultiModelConfig {
            load_wait: args.load_wait,
            load_timeout: args.load_timeout,
            unload_timeout: args.unload_timeout,
        },
        ..runtime::RuntimeConfig::new(store_settings(args, environment), archives)
    }
}

fn store_settings(args: &EndpointArgs, environment: Environment) -> store::StoreConfig {
    store::StoreConfig {
        url: String::new(),
        environment,
        timeout: args.fetch.store_timeout,
        retries: args.fetch.store_retries,
        downloads: args.fetch.downloads,
        bounds: bounds(&args.fetch.archives),
        // Refuse archives that SageMaker would refuse, so that users find out locally.
        names_bind: true,
        // Each load uses the version that is in the bucket at that time.
        revalidate: Duration::ZERO,
    }
}
