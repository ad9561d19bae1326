//! The state of a server as the page and `longshore top` show it, and the difference of two states.
//!
//! A watcher gets the whole state once and then only differences: a server may have ten thousand
//! models, of which few change in a second. [`State::apply`] undoes [`State::change_since`], which
//! a property test checks.
//!
//! Times are milliseconds since 1970, durations milliseconds, sizes bytes. Names of fields are part
//! of the interface (`docs/page.md`): fields may be added, but keep their meaning.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::{milliseconds, now};

/// Version of the form of [`State`]. A field that changes its meaning raises it.
pub const FORM: u32 = 1;

/// Everything that the page shows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    pub form: u32,
    pub server: ServerFacts,
    pub time: u64,
    pub totals: Totals,
    /// `None` for a local endpoint, whose containers have ledgers of their own.
    pub memory: Option<Ledger>,
    /// Sorted by name.
    pub models: Vec<ModelRow>,
    /// The newest first.
    pub refusals: Vec<Refusal>,
    pub history: History,
    /// The endpoints of a local endpoint, sorted by name.
    pub endpoints: Vec<EndpointRow>,
}

/// The changes from one state to a later one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Change {
    pub server: Option<ServerFacts>,
    pub time: u64,
    pub totals: Totals,
    pub memory: Option<Ledger>,
    /// Models that are new or differ.
    pub models: Vec<ModelRow>,
    /// Names of the models that are gone.
    pub gone: Vec<String>,
    /// The whole list, if it differs.
    pub refusals: Option<Vec<Refusal>>,
    /// The newest points of the history.
    pub points: Vec<Point>,
    /// The whole list, if it differs.
    pub endpoints: Option<Vec<EndpointRow>>,
}

/// Facts about the process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServerFacts {
    pub kind: ServerKind,
    pub version: String,
    /// The mode, in words.
    pub mode: String,
    /// Time of the start.
    pub started: u64,
    /// Whether clients may load models.
    pub loads: bool,
    /// Whether a header names the model of a request, which loads it.
    pub by_target: bool,
    /// A `url` for an example of a load.
    pub example_url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    #[default]
    Serve,
    Endpoint,
}

/// Sums over all models.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Requests that are being answered.
    pub running: u64,
    /// Requests that wait for a thread.
    pub waiting: u64,
    /// Loads in progress.
    pub loading: u64,
    /// Refused and failed requests since the start.
    pub refused: u64,
}

/// The memory ledger. The parts add up to the limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    pub limit: Option<u64>,
    /// Private memory of models and of loads in progress.
    pub own: u64,
    /// Large constants that models share.
    pub shared: u64,
    /// Weights that are mapped from files.
    pub mapped: u64,
    /// Requests in progress.
    pub requests: u64,
    /// The process itself and the headroom for requests.
    pub kept: u64,
    /// Free for models.
    pub free: u64,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ModelRow {
    pub name: String,
    /// The client's name for the model, if the load request had one.
    pub target: Option<String>,
    pub state: ModelState,
    /// Private memory; `None` while the model is not in memory.
    pub memory: Option<u64>,
    /// Weights that are mapped from files.
    pub mapped: u64,
    /// Constants that other models had in memory before.
    pub shared: u64,
    /// Answered and failed requests since the load.
    pub requests: u64,
    pub errors: u64,
    /// Failed requests by cause.
    pub causes: BTreeMap<String, u64>,
    /// Requests that waited until the model was loaded.
    pub cold: u64,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// Time of the last answer.
    pub last: Option<u64>,
    pub error: Option<ModelError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelState {
    #[default]
    Loaded,
    /// Being loaded.
    Loading,
    /// Listed after a restart, and not loaded again yet.
    Restored,
    /// Refuses requests until its stuck runs end.
    Stuck,
    /// Failed to load a moment ago.
    Failed,
}

impl ModelState {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Loading => "loading",
            Self::Restored => "restored",
            Self::Stuck => "stuck",
            Self::Failed => "failed",
        }
    }
}

/// The last failed request of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModelError {
    pub time: u64,
    pub cause: String,
    pub message: String,
}

/// A refused or failed request, or several equal ones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Refusal {
    /// Time of the last one.
    pub time: u64,
    pub status: Option<u16>,
    pub cause: String,
    pub operation: String,
    pub model: Option<String>,
    pub message: String,
    pub count: u64,
}

/// Points in time, the newest last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Seconds between two points.
    pub step: u64,
    /// Largest number of points.
    pub most: usize,
    pub points: Vec<Point>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            step: super::history::STEP.as_secs(),
            most: super::history::POINTS,
            points: Vec::new(),
        }
    }
}

/// The requests since the point before, and the memory at this time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Point {
    pub time: u64,
    pub requests: u64,
    /// Refused and failed requests.
    pub errors: u64,
    /// Latency of the requests since the point before; `None` without any.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// Reserved bytes at this time.
    pub memory: Option<u64>,
    pub mapped: Option<u64>,
}

impl Point {
    /// The point of now, without the memory: the numbers of answered requests and of the others,
    /// and the quantiles of the latency.
    pub fn of(answered: u64, errors: u64, quantile: impl Fn(f64) -> Option<Duration>) -> Self {
        Self {
            time: now(),
            requests: answered.saturating_add(errors),
            errors,
            p50: quantile(0.5).map(milliseconds),
            p99: quantile(0.99).map(milliseconds),
            memory: None,
            mapped: None,
        }
    }
}

/// An endpoint of a local endpoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EndpointRow {
    pub name: String,
    /// SageMaker's `EndpointStatus`.
    pub phase: String,
    /// SageMaker's `FailureReason`.
    pub reason: Option<String>,
    pub variants: Vec<VariantRow>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct VariantRow {
    pub name: String,
    pub model: String,
    pub weight: f64,
    pub desired_weight: f64,
    pub desired_instances: u32,
    pub instances: Vec<InstanceRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InstanceRow {
    pub name: String,
    /// Requests in progress.
    pub outstanding: usize,
    pub containers: Vec<ContainerRow>,
}

/// A container of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerRow {
    /// `endpoint/variant/instance/hostname`, as in the log.
    pub label: String,
    pub hostname: String,
    /// `up`, `starting` or `down`.
    pub state: String,
    pub address: Option<String>,
    /// Number of starts.
    pub starts: u64,
    /// The reason why the container will never respond again.
    pub reason: Option<String>,
    pub multi_model: bool,
    pub models: Vec<HeldModel>,
    /// The newest last.
    pub life: Vec<LifeEvent>,
    /// Number of lines of its log so far.
    pub lines: u64,
}

/// A model that a container of a multi-model endpoint holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeldModel {
    pub name: String,
    /// `loading`, `loaded` or `unloading`.
    pub state: String,
    /// Requests that use the model.
    pub users: usize,
}

/// A step in the life of a model of a multi-model endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LifeEvent {
    pub time: u64,
    pub model: String,
    pub step: String,
    pub detail: Option<String>,
}

impl State {
    /// Returns the changes that turn `before` into this state. Both are sorted.
    pub fn change_since(&self, before: &Self) -> Change {
        let mut old = before.models.iter().peekable();
        let (mut models, mut gone) = (Vec::new(), Vec::new());
        for model in &self.models {
            while let Some(missing) = old.next_if(|old| old.name < model.name) {
                gone.push(missing.name.clone());
            }
            match old.next_if(|old| old.name == model.name) {
                Some(same) if same == model => {}
                Some(_) | None => models.push(model.clone()),
            }
        }
        gone.extend(old.map(|missing| missing.name.clone()));
        let newest = before.history.points.last().map(|point| point.time);
        let points = self.history.points.iter();
        let points = points.filter(|point| newest.is_none_or(|newest| point.time > newest));
        Change {
            server: (self.server != before.server).then(|| self.server.clone()),
            time: self.time,
            totals: self.totals.clone(),
            memory: self.memory.clone(),
            models,
            gone,
            refusals: (self.refusals != before.refusals).then(|| self.refusals.clone()),
            points: points.cloned().collect(),
            endpoints: (self.endpoints != before.endpoints).then(|| self.endpoints.clone()),
        }
    }

    /// Makes the changes.
    pub fn apply(&mut self, change: Change) {
        let Change {
            server,
            time,
            totals,
            memory,
            models,
            gone,
            refusals,
            points,
            endpoints,
        } = change;
        (self.time, self.totals, self.memory) = (time, totals, memory);
        if let Some(server) = server {
            self.server = server;
        }
        if let Some(refusals) = refusals {
            self.refusals = refusals;
        }
        if let Some(endpoints) = endpoints {
            self.endpoints = endpoints;
        }
        if !models.is_empty() || !gone.is_empty() {
            let rows = std::mem::take(&mut self.models).into_iter();
            let mut rows: BTreeMap<String, ModelRow> = rows.map(|row| (row.name.clone(), row)).collect();
            for name in gone {
                rows.remove(&name);
            }
            rows.extend(models.into_iter().map(|row| (row.name.clone(), row)));
            self.models = rows.into_values().collect();
        }
        self.history.points.extend(points);
        let excess = self.history.points.len().saturating_sub(self.history.most);
        self.history.points.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn states() -> impl Strategy<Value = State> {
        let models = prop::collection::btree_map(0..12u8, (0..3u64, any::<bool>()), 0..12);
        (models, 0..4u64, any::<bool>()).prop_map(|(models, refusals, is_named)| State {
            models: models
                .into_iter()
                .map(|(name, (requests, is_stuck))| ModelRow {
                    name: format!("{name:02}"),
                    requests,
                    state: if is_stuck {
                        ModelState::Stuck
                    } else {
                        ModelState::Loaded
                    },
                    ..ModelRow::default()
                })
                .collect(),
            refusals: (0..refusals)
                .map(|time| Refusal {
                    time,
                    ..Refusal::default()
                })
                .collect(),
            server: ServerFacts {
                mode: if is_named { "a".to_owned() } else { "b".to_owned() },
                ..ServerFacts::default()
            },
            ..State::default()
        })
    }

    proptest! {
        #[test]
        fn a_state_and_a_change_make_the_next_state(mut before in states(), mut after in states()) {
            for (time, state) in [(1, &mut before), (2, &mut after)] {
                state.time = time;
                state.history.points = (0..time).map(|time| Point { time, ..Point::default() }).collect();
            }
            let change = after.change_since(&before);
            before.apply(change);
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn only_models_that_differ_are_in_a_change() {
        let row = |name: &str, requests| ModelRow {
            name: name.to_owned(),
            requests,
            ..ModelRow::default()
        };
        let state = |models: &[ModelRow]| State {
            models: models.to_vec(),
            ..State::default()
        };
        let before = state(&[row("a", 1), row("b", 1), row("d", 1)]);
        let change = state(&[row("a", 1), row("b", 2), row("c", 1)]).change_since(&before);
        assert_eq!(change.models, [row("b", 2), row("c", 1)]);
        assert_eq!(change.gone, ["d"]);
        assert_eq!((change.server, change.refusals, change.endpoints), (None, None, None));
    }

    #[test]
    fn the_history_keeps_its_length() {
        let point = |time| Point {
            time,
            ..Point::default()
        };
        let mut state = State::default();
        for time in 0..state.history.most as u64 + 3 {
            state.apply(Change {
                points: vec![point(time)],
                ..Change::default()
            });
        }
        assert_eq!(state.history.points.len(), state.history.most);
        assert_eq!(state.history.points[0].time, 3);
    }
}
