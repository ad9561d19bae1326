//! The results of a plan: as a table, as JSON, and as a drawing.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::inputs::{Inputs, shown};
use crate::cli::table::{Table, bytes};
use crate::config::{BalanceKind, PlanArgs};
use crate::plan::{Candidate, Curve, InstanceType, Row, Target, svg};

/// A finished plan.
pub struct Plan<'a> {
    pub args: &'a PlanArgs,
    pub inputs: &'a Inputs,
    pub candidates: &'a [Candidate],
    pub rows: &'a [Row],
    pub target: Target,
    /// The row that meets the target for the least.
    pub choice: Option<&'a Row>,
}

/// The known instance types as a table.
pub fn instances(known: impl Iterator<Item = InstanceType>) -> String {
    let mut text = String::new();
    for InstanceType { name, memory, cores } in known {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<20}{cores:>4} cores {:>10}", bytes(memory));
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.*} %", if share < 0.0995 { 2 } else { 1 }, share * 100.0)
}

/// A number with commas between thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Plan<'_> {
    fn balance(&self) -> String {
        let servers = &self.args.servers;
        match (servers.balance, servers.balance_factor) {
            (BalanceKind::RoundRobin, _) => "round robin".to_owned(),
            (BalanceKind::Consistent, 0) => "consistent hashing, without a bound".to_owned(),
            (BalanceKind::Consistent, factor) => {
                let from = match servers.balance_from {
                    0 => String::new(),
                    requests => format!(" from {requests} requests at a time"),
                };
                format!("consistent hashing, each server up to {factor} % of the mean load{from}")
            }
        }
    }

    fn target(&self) -> String {
        let p99 = self.target.p99.map(|time| format!("p99 up to {}", shown(time as f64)));
        let cold = self
            .target
            .cold
            .map(|share| format!("cold requests up to {}", percent(share)));
        let parts: Vec<String> = [p99, cold].into_iter().flatten().collect();
        parts.join(", ")
    }

    /// The table for people.
    pub fn text(&self) -> Table {
        let mut table = Table::default();
        for (name, text) in &self.inputs.sources {
            table.line(name, text);
        }
        table.line("balancer", self.balance());
        if self.target.is_set() {
            table.line("target", self.target());
        }
        for (index, candidate) in self.candidates.iter().enumerate() {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.candidate == index).collect();
            table.text(self.rows_of(candidate, &rows).trim_end());
        }
        if self.target.is_set() {
            table.text(&self.conclusion());
        }
        table
    }

    fn rows_of(&self, candidate: &Candidate, rows: &[&Row]) -> String {
        let (instance, server) = (&candidate.instance, &candidate.fleet.server);
        let mut text = format!(
            "{instance}: {} cores, a memory limit of {} each\n",
            server.cores,
            bytes(server.memory.limit)
        );
        let price = if candidate.price.is_some() { "an hour" } else { "" };
        let width = if candidate.price.is_some() { 10 } else { 0 };
        let target = if self.target.is_set() { "target" } else { "" };
        let header = format!(
            "{:>7}{:>11}{:>10}{:>11}{:>11}{:>12}{:>9}{price:>width$}{target:>9}",
            "servers", "resident", "cold", "p50", "p99", "requests/s", "cores"
        );
        let _ = writeln!(text, "{}", header.trim_end());
        for row in rows {
            let outcome = &row.outcome;
            let target = match (self.target.is_set(), row.is_met) {
                (false, _) => "",
                (true, true) => "met",
                (true, false) => "missed",
            };
            let price = row.price.map_or_else(String::new, |price| format!("{price:.3}"));
            let (p50, p99) = match outcome.is_overloaded {
                true => ("overload".to_owned(), "overload".to_owned()),
                false => (shown(outcome.p50 as f64), shown(outcome.p99 as f64)),
            };
            // Requests that are not answered yet are neither warm nor cold.
            let counted = |text: String| match outcome.requests {
                0 => "-".to_owned(),
                _ => text,
            };
            let line = format!(
                "{:>7}{:>11}{:>10}{p50:>11}{p99:>11}{:>12}{:>9}{price:>width$}{target:>9}",
                row.servers,
                grouped(outcome.resident),
                counted(percent(outcome.cold_share())),
                counted(grouped(outcome.rate)),
                counted(percent(outcome.busy)),
            );
            let _ = writeln!(text, "{}", line.trim_end());
            if outcome.failed > 0 {
                let failed = grouped(outcome.failed as f64);
                let _ = writeln!(
                    text,
                    "        {failed} requests were refused, because their model does not fit into memory"
                );
            }
        }
        text
    }

    fn conclusion(&self) -> String {
        let Some(row) = self.choice else {
            return format!(
                "No number of servers up to {} meets the target. Raise --servers, or compare larger instances.",
                self.args.servers.servers
            );
        };
        let instance = &self.candidates[row.candidate].instance;
        let noun = if row.servers == 1 { "server" } else { "servers" };
        match row.price {
            Some(price) => format!(
                "Cheapest that meets the target: {} {noun} {instance}, {price:.3} an hour.",
                row.servers
            ),
            None => format!("Smallest that meets the target: {} {noun} {instance}.", row.servers),
        }
    }

    fn row(&self, row: &Row) -> Value {
        let (outcome, candidate) = (&row.outcome, &self.candidates[row.candidate]);
        let seconds = |nanoseconds: u64| (!outcome.is_overloaded).then(|| nanoseconds as f64 / 1e9);
        json!({
            "instance": candidate.instance.name,
            "servers": row.servers,
            "cores": candidate.fleet.server.cores,
            "memory_limit_bytes": candidate.fleet.server.memory.limit,
            "resident_models": outcome.resident,
            "cold_share": outcome.cold_share(),
            "p50_seconds": seconds(outcome.p50),
            "p99_seconds": seconds(outcome.p99),
            "requests_per_second": outcome.rate,
            "core_share": outcome.busy,
            "busiest_server_share": outcome.imbalance,
            "evictions": outcome.evictions,
            "counted_requests": outcome.requests,
            "refused_requests": outcome.failed,
            "overloaded": outcome.is_overloaded,
            "price_per_hour": row.price,
            "meets_target": self.target.is_set().then_some(row.is_met),
        })
    }

    /// All results for programs.
    pub fn json(&self) -> Value {
        let sources = self
            .inputs
            .sources
            .iter()
            .map(|(name, text)| (name.replace(' ', "_"), json!(text)));
        json!({
            "sources": serde_json::Map::from_iter(sources),
            "models": self.inputs.models.names(),
            "contents": self.inputs.models.costs.len(),
            "balance": self.balance(),
            "target": {
                "p99_seconds": self.target.p99.map(|time| time as f64 / 1e9),
                "cold_share": self.target.cold,
            },
            "rows": self.rows.iter().map(|row| self.row(row)).collect::<Vec<_>>(),
            "choice": self.choice.map(|row| self.row(row)),
        })
    }

    /// The drawing. Overloaded fleets have no latency, and are left out.
    pub fn drawing(&self) -> String {
        let curve = |(index, candidate): (usize, &Candidate)| {
            let own = || self.rows.iter().filter(move |row| row.candidate == index);
            let answering = || own().filter(|row| !row.outcome.is_overloaded);
            Curve {
                name: candidate.instance.name.clone(),
                cold: answering()
                    .map(|row| (row.servers, row.outcome.cold_share() * 100.0))
                    .collect(),
                p99: answering()
                    .map(|row| (row.servers, row.outcome.p99 as f64 / 1e6))
                    .collect(),
            }
        };
        let curves: Vec<Curve> = self.candidates.iter().enumerate().map(curve).collect();
        let cold = self.target.cold.map(|share| share * 100.0);
        svg(&curves, cold, self.target.p99.map(|time| time as f64 / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0.0, 999.4, 1000.0, 1_234_567.0]
                .map(grouped)
                .each_ref()
                .map(|text| &**text)
        );
        assert_eq!(
            ["0.12 %", "9.90 %", "12.3 %"],
            [0.0012, 0.099, 0.123].map(percent).each_ref().map(|text| &**text)
        );
    }
}
