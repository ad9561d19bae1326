//! `longshore plan`: collects the models, the traffic and the servers, simulates them, and prints
//! a table.
//!
//! - `cost`: what a model of a size costs, from measured models. `measure` makes these
//!   measurements, `metrics` reads those of a running server.
//! - `inputs`: the models, and where each number comes from. `requests`: the traffic.
//! - `report`: the table, the JSON and the drawing.

mod cost;
mod inputs;
mod measure;
mod metrics;
mod report;
mod requests;

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result, bail, ensure};

use super::serve::WAIT_BEFORE_EVICTION;
use super::table::{counted, print};
use crate::config::{BalanceKind, PlanArgs, PlannedServerArgs, REQUEST_TIMEOUT, StartState, default_memory_reserve};
use crate::engine::ForecastConfig;
use crate::plan::{
    Balance, Candidate, FleetConfig, InstanceType, ServerConfig, Target, choice, counts, known_instances, search,
};
use crate::telemetry::recorder::nanoseconds;

use inputs::Inputs;

/// Instance types that are compared without `--instance`.
const USUAL_INSTANCES: [&str; 4] = ["m6i.large", "m6i.xlarge", "r6i.large", "r6i.xlarge"];

/// Runs the command.
pub async fn run(args: &PlanArgs) -> Result<()> {
    if args.instances {
        return Ok(print(report::instances(known_instances()))?);
    }
    let servers = candidates(&args.servers)?;
    // A file that cannot be written fails before the work.
    let drawing = match &args.svg {
        Some(file) => Some((
            file,
            File::create(file).with_context(|| format!("create {}", file.display()))?,
        )),
        None => None,
    };
    let inputs = inputs::collect(args).await?;
    let target = Target {
        p99: args.p99.map(nanoseconds),
        cold: args.cold,
    };
    let candidates: Vec<Candidate> = servers
        .into_iter()
        .map(|(instance, price, server)| Candidate {
            instance,
            price,
            fleet: fleet(args, &inputs, server),
        })
        .collect();
    let shown = match args.servers.only {
        true => vec![args.servers.servers],
        false => {
            let is_searched = target.is_set() && args.servers.balance == BalanceKind::RoundRobin;
            counts(args.servers.servers, args.servers.all || is_searched)
        }
    };
    let progress = |candidate: &Candidate, servers: u32| {
        let servers = counted(servers.into(), "server");
        super::progress(&format!("simulating {servers} {}", candidate.instance));
    };
    let rows = search(&candidates, &shown, &target, &inputs.models, &inputs.traffic, progress);
    let plan = report::Plan {
        args,
        inputs: &inputs,
        candidates: &candidates,
        choice: choice(&rows, &candidates).filter(|_| target.is_set()),
        rows: &rows,
        target,
    };
    if let Some((path, mut file)) = drawing {
        let written = file.write_all(plan.drawing().as_bytes());
        written.with_context(|| format!("write {}", path.display()))?;
    }
    if args.examine.json {
        return Ok(print(format_args!("{:#}\n", plan.json()))?);
    }
    Ok(print(plan.text())?)
}

/// The types of servers to compare, each with its price and its configuration.
fn candidates(args: &PlannedServerArgs) -> Result<Vec<(InstanceType, Option<f64>, ServerConfig)>> {
    let instances = match (args.memory_limit, args.cpus) {
        (Some(memory), Some(cores)) => vec![InstanceType {
            name: "custom".to_owned(),
            memory: memory.as_u64(),
            cores,
        }],
        _ if args.instance.is_empty() => USUAL_INSTANCES
            .iter()
            .filter_map(|name| InstanceType::find(name))
            .collect(),
        _ => {
            let find = |name: &String| {
                InstanceType::find(name).with_context(|| {
                    format!(
                        "the instance type \"{name}\" is unknown; longshore plan --instances lists the known ones, and \
                         --memory-limit with --cpus describes any other server"
                    )
                })
            };
            args.instance.iter().map(find).collect::<Result<_>>()?
        }
    };
    for (name, _) in &args.price {
        if !instances.iter().any(|instance| instance.name == *name) {
            bail!("--price names \"{name}\", which is not among the planned types; add --instance {name}");
        }
    }
    if !args.price.is_empty() {
        let has_price = |instance: &&InstanceType| args.price.iter().any(|(name, _)| *name == instance.name);
        let without: Vec<String> = instances
            .iter()
            .filter(|instance| !has_price(instance))
            .map(|instance| instance.name.clone())
            .collect();
        ensure!(
            without.is_empty(),
            "the price of {} is unknown, so the cheapest fleet is; give --price for all types or for none",
            without.join(", ")
        );
    }
    let share = if args.memory_limit.is_some() {
        1.0
    } else {
        args.usable_memory
    };
    let candidate = |instance: InstanceType| {
        let limit = (instance.memory as f64 * share) as u64;
        let server = ServerConfig {
            memory: ForecastConfig {
                limit,
                reserve: args
                    .memory_reserve
                    .map_or_else(|| default_memory_reserve(limit), |size| size.as_u64()),
                mapped_percent: args.mapped_weights,
                threads: instance.cores as usize,
            },
            cores: instance.cores,
            load_threads: args.load_threads as u32,
            patience: nanoseconds(WAIT_BEFORE_EVICTION),
            timeout: nanoseconds(REQUEST_TIMEOUT),
            disk: 0,
        };
        let price = args.price.iter().find(|(name, _)| *name == instance.name);
        (instance, price.map(|(_, price)| *price), server)
    };
    Ok(instances.into_iter().map(candidate).collect())
}

fn fleet(args: &PlanArgs, inputs: &Inputs, server: ServerConfig) -> FleetConfig {
    let balance = match args.servers.balance {
        BalanceKind::RoundRobin => Balance::RoundRobin,
        BalanceKind::Consistent => Balance::Consistent {
            points: args.servers.ring_points,
            factor: Some(args.servers.balance_factor).filter(|factor| *factor > 0),
            busy: args.servers.balance_from,
        },
    };
    let start = args.traffic.start.unwrap_or(match inputs.is_log {
        true => StartState::Empty,
        false => StartState::Full,
    });
    FleetConfig {
        servers: 1,
        server: ServerConfig {
            disk: args.fetch.archive_cache_size.as_u64(),
            ..server
        },
        balance,
        requests: args
            .traffic
            .requests
            .map_or(inputs.requests, |requests| requests as usize),
        warm_up: args.traffic.warm_up,
        order: (start == StartState::Full).then(|| inputs.order.clone()),
        seed: args.traffic.seed,
    }
}
