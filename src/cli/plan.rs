//! `longshore plan`: collects the models, the traffic and the servers, simulates them, and prints
//! a table.
//!
//! - `cost`: what a model of a size costs, from measured models. `measure` makes these
//!   measurements, `metrics` reads those of a running server.
//! - `inputs`: the models, and where each number comes from. `requests`: the traffic. `servers`:
//!   the types of servers.
//! - `report`: the table, the JSON and the drawing.

mod cost;
mod inputs;
mod measure;
mod metrics;
mod report;
mod requests;
mod servers;

use std::fs::{self, OpenOptions};

use anyhow::{Context, Result};

use super::table::print;
use crate::config::{BalanceKind, PlanArgs, StartState};
use crate::plan::{Balance, Candidate, FleetConfig, ServerConfig, Target, choice, counts, known_instances, search};
use crate::telemetry::recorder::nanoseconds;

use inputs::Inputs;

/// Runs the command.
pub async fn run(args: &PlanArgs) -> Result<()> {
    if args.instances {
        return Ok(print(report::instances(known_instances()))?);
    }
    let servers = servers::candidates(&args.servers)?;
    if let Some(file) = &args.svg {
        // A file that cannot be written fails before the work, and an older drawing stays until
        // the new one is ready.
        let opened = OpenOptions::new().append(true).create(true).open(file);
        opened.with_context(|| format!("create {}", file.display()))?;
    }
    let inputs = inputs::collect(args).await?;
    let target = Target {
        p99: args.p99.map(nanoseconds),
        cold: args.cold,
    };
    let candidates: Vec<Candidate> = servers
        .into_iter()
        .map(|(instance, price, server)| Candidate {
            fleet: fleet(args, &inputs, server),
            instance,
            price,
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
        let fleet = servers::fleet_text(servers, candidate);
        super::progress(&format!("simulating {fleet}"));
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
    if let Some(file) = &args.svg {
        fs::write(file, plan.drawing()).with_context(|| format!("write {}", file.display()))?;
    }
    if args.examine.json {
        return Ok(print(format_args!("{:#}\n", plan.json()))?);
    }
    Ok(print(plan.text())?)
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
