//! The types of servers that a plan compares.

use std::collections::HashSet;

use anyhow::{Context, Result, bail, ensure};

use crate::cli::serve::WAIT_BEFORE_EVICTION;
use crate::cli::table::{bytes, counted};
use crate::config::{PlannedServerArgs, REQUEST_TIMEOUT, default_memory_reserve};
use crate::engine::{ForecastConfig, MemoryForecast};
use crate::plan::{Candidate, InstanceType, ServerConfig};
use crate::telemetry::recorder::nanoseconds;

/// Instance types that are compared without `--instance`.
const USUAL_INSTANCES: [&str; 4] = ["m6i.large", "m6i.xlarge", "r6i.large", "r6i.xlarge"];

/// Name of the type that `--memory-limit` and `--cpus` describe.
const CUSTOM: &str = "custom";

/// A number of servers with their type.
pub fn fleet_text(servers: u32, candidate: &Candidate) -> String {
    let servers = counted(servers.into(), "server");
    match &*candidate.instance.name {
        CUSTOM => servers,
        name => format!("{servers} {name}"),
    }
}

/// The types of servers to compare, each with its price and its configuration.
pub fn candidates(args: &PlannedServerArgs) -> Result<Vec<(InstanceType, Option<f64>, ServerConfig)>> {
    let instances = instances(args)?;
    let prices = prices(args, &instances)?;
    let candidate = |(instance, price): (InstanceType, Option<f64>)| {
        let server = server(args, &instance)?;
        Ok((instance, price, server))
    };
    instances.into_iter().zip(prices).map(candidate).collect()
}

fn instances(args: &PlannedServerArgs) -> Result<Vec<InstanceType>> {
    if let (Some(memory), Some(cores)) = (args.memory_limit, args.cpus) {
        return Ok(vec![InstanceType {
            name: CUSTOM.to_owned(),
            memory: memory.as_u64(),
            cores,
        }]);
    }
    if args.instance.is_empty() {
        let usual = USUAL_INSTANCES.iter();
        return Ok(usual.filter_map(|name| InstanceType::find(name)).collect());
    }
    let (mut seen, mut instances) = (HashSet::new(), Vec::new());
    for name in args.instance.iter().map(|name| name.trim()) {
        ensure!(seen.insert(name), "--instance names {name} twice; remove one");
        instances.push(InstanceType::find(name).with_context(|| {
            format!(
                "the instance type \"{name}\" is unknown; longshore plan --instances lists the known ones, and \
                 --memory-limit with --cpus describes any other server"
            )
        })?);
    }
    Ok(instances)
}

/// The price of each type. Without the prices of all types, the cheapest fleet is unknown.
fn prices(args: &PlannedServerArgs, instances: &[InstanceType]) -> Result<Vec<Option<f64>>> {
    let mut seen = HashSet::new();
    for (name, _) in &args.price {
        ensure!(seen.insert(name), "--price gives {name} twice; remove one");
        if !instances.iter().any(|instance| instance.name == *name) {
            bail!("--price names \"{name}\", which is not among the planned types; add --instance {name}");
        }
    }
    let price = |instance: &InstanceType| {
        let named = args.price.iter().find(|(name, _)| *name == instance.name);
        named.map(|(_, price)| *price)
    };
    let without = instances.iter().filter(|instance| price(instance).is_none());
    let without: Vec<&str> = without.map(|instance| &*instance.name).collect();
    ensure!(
        args.price.is_empty() || without.is_empty(),
        "the price of {} is unknown, so the cheapest fleet is; give --price for all types or for none",
        without.join(", ")
    );
    Ok(instances.iter().map(price).collect())
}

fn server(args: &PlannedServerArgs, instance: &InstanceType) -> Result<ServerConfig> {
    let share = match args.memory_limit {
        Some(_) => 1.0,
        None => args.usable_memory,
    };
    let limit = (instance.memory as f64 * share) as u64;
    let reserve = args.memory_reserve.map(|size| size.as_u64());
    let memory = ForecastConfig {
        limit,
        reserve: reserve.unwrap_or_else(|| default_memory_reserve(limit)),
        mapped_percent: args.mapped_weights,
        threads: instance.cores as usize,
    };
    ensure!(
        MemoryForecast::new(&memory).for_models() > 0,
        "a memory limit of {} leaves no memory for models; raise --memory-limit or --usable-memory, or lower \
         --memory-reserve",
        bytes(limit)
    );
    Ok(ServerConfig {
        memory,
        cores: instance.cores,
        load_threads: args.load_threads as u32,
        patience: nanoseconds(WAIT_BEFORE_EVICTION),
        timeout: nanoseconds(REQUEST_TIMEOUT),
        disk: 0,
    })
}
