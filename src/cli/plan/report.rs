//! The results of a plan: as a table, as JSON, and as a drawing.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::inputs::Inputs;
use super::servers::fleet_text;
use crate::cli::table::{Table, bytes, counted, millis, plain_table};
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

const COLUMNS: [(&str, bool); 7] = [
    ("servers", true),
    ("resident", true),
    ("cold", true),
    ("p50", true),
    ("p99", true),
    ("requests/s", true),
    ("cores", true),
];

/// The cells of a row, in the order of [`COLUMNS`].
fn cells(row: &Row) -> Vec<String> {
    let outcome = &row.outcome;
    let latency = |time: Option<u64>| match (outcome.is_overloaded, time) {
        (true, _) => "overload".to_owned(),
        (false, Some(time)) => millis(time as f64 / 1e6),
        (false, None) => "-".to_owned(),
    };
    let known = |text: String| if outcome.requests == 0 { "-".to_owned() } else { text };
    let rate = match outcome.rate {
        ..0.1 => format!("{:.4}", outcome.rate),
        ..10.0 => format!("{:.2}", outcome.rate),
        rate => grouped(rate),
    };
    vec![
        row.servers.to_string(),
        grouped(outcome.resident),
        known(percent(outcome.cold_share())),
        latency(outcome.p50),
        latency(outcome.p99),
        known(rate),
        known(percent(outcome.busy)),
    ]
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
                    requests => format!(" from {} at a time", counted(requests.into(), "request")),
                };
                format!("consistent hashing, each server up to {factor} % of the mean load{from}")
            }
        }
    }

    fn target(&self) -> String {
        let p99 = self
            .target
            .p99
            .map(|time| format!("p99 up to {}", millis(time as f64 / 1e6)));
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
        let mut columns: Vec<(&str, bool)> = COLUMNS.into();
        columns.extend(candidate.price.map(|_| ("an hour", true)));
        columns.extend(self.target.is_set().then_some(("target", false)));
        let cells = |row: &&Row| {
            let mut cells = cells(row);
            cells.extend(row.price.map(|price| format!("{price:.3}")));
            let target = if row.is_met { "met" } else { "missed" };
            cells.extend(self.target.is_set().then(|| target.to_owned()));
            cells
        };
        let mut text = format!(
            "{instance}: {}, a memory limit of {} each\n{}",
            counted(server.cores.into(), "core"),
            bytes(server.memory.limit),
            plain_table(&columns, &rows.iter().map(cells).collect::<Vec<_>>())
        );
        for row in rows.iter().filter(|row| row.outcome.failed > 0) {
            let servers = counted(row.servers.into(), "server");
            let failed = counted(row.outcome.failed, "request");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "With {servers}, {failed} got no memory for the model and failed.");
        }
        text
    }

    /// Whether more servers do not help this candidate: the last row is colder than the first, or
    /// has requests without memory.
    fn is_no_help(&self, candidate: usize) -> bool {
        let mut rows = self
            .rows
            .iter()
            .filter(|row| row.candidate == candidate)
            .map(|row| &row.outcome);
        let (first, last) = (rows.next(), rows.next_back());
        let is_colder = first
            .zip(last)
            .is_some_and(|(first, last)| last.cold_share() > first.cold_share());
        is_colder || last.or(first).is_some_and(|last| last.failed > 0)
    }

    fn conclusion(&self) -> String {
        let only = self.args.servers.only;
        let most = counted(self.args.servers.servers.into(), "server");
        let Some(row) = self.choice else {
            return match (only, (0..self.candidates.len()).all(|index| self.is_no_help(index))) {
                (true, _) => format!("The target is missed with {most}."),
                (false, true) => {
                    format!("The target is missed up to {most}, and more do not help. Compare larger instances.")
                }
                (false, false) => {
                    format!("The target is missed up to {most}. Raise --servers, or compare larger instances.")
                }
            };
        };
        let fleet = fleet_text(row.servers, &self.candidates[row.candidate]);
        let price = row
            .price
            .map_or_else(String::new, |price| format!(", {price:.3} an hour"));
        let what = match (only, self.candidates.len(), row.price) {
            (true, 1, _) => "This meets the target",
            (_, _, Some(_)) => "Cheapest that meets the target",
            (_, _, None) => "Smallest that meets the target",
        };
        format!("{what}: {fleet}{price}.")
    }

    fn row(&self, row: &Row) -> Value {
        let (outcome, candidate) = (&row.outcome, &self.candidates[row.candidate]);
        let seconds = |time: Option<u64>| Some(time? as f64 / 1e9).filter(|_| !outcome.is_overloaded);
        let known = |number: f64| (outcome.requests > 0).then_some(number);
        json!({
            "instance": candidate.instance.name,
            "servers": row.servers,
            "cores": candidate.fleet.server.cores,
            "memory_limit_bytes": candidate.fleet.server.memory.limit,
            "resident_models": outcome.resident,
            "cold_share": known(outcome.cold_share()),
            "p50_seconds": seconds(outcome.p50),
            "p99_seconds": seconds(outcome.p99),
            "requests_per_second": known(outcome.rate),
            "core_share": known(outcome.busy),
            "busiest_server_over_mean": known(outcome.imbalance),
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

    /// The drawing. Fleets without a latency are left out.
    pub fn drawing(&self) -> String {
        let curve = |(index, candidate): (usize, &Candidate)| {
            let own = || self.rows.iter().filter(move |row| row.candidate == index);
            let answering = || own().filter(|row| !row.outcome.is_overloaded && row.outcome.p99.is_some());
            Curve {
                name: candidate.instance.name.clone(),
                cold: answering()
                    .map(|row| (row.servers, row.outcome.cold_share() * 100.0))
                    .collect(),
                p99: answering()
                    .filter_map(|row| Some((row.servers, row.outcome.p99? as f64 / 1e6)))
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
