//! The rows of the table: sorted, filtered and formatted.

use std::cmp::Ordering;

use crate::cli::table::{bytes, millis, plain_table};
use crate::config::TopSort;
use crate::page::state::{ModelRow, ServerKind, State};
use crate::telemetry::escape::plain;

/// Titles of the columns, and whether their cells are numbers.
pub const COLUMNS: [(&str, bool); 9] = [
    ("MODEL", false),
    ("STATE", false),
    ("MEMORY", true),
    ("MAPPED", true),
    ("REQUESTS", true),
    ("ERRORS", true),
    ("P50", true),
    ("P99", true),
    ("LAST ERROR", false),
];

/// The order of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub by: TopSort,
    /// Whether the largest comes first.
    pub is_down: bool,
}

impl Order {
    /// The order by a column: names from A to Z, and the largest numbers first.
    pub const fn of(by: TopSort) -> Self {
        Self {
            by,
            is_down: !matches!(by, TopSort::Name | TopSort::State),
        }
    }

    /// The order after a column was chosen: reversed if it was chosen already.
    pub const fn chosen(self, by: TopSort) -> Self {
        match self.by as u8 == by as u8 {
            true => Self {
                is_down: !self.is_down,
                ..self
            },
            false => Self::of(by),
        }
    }

    /// The index of the column.
    pub const fn column(self) -> usize {
        match self.by {
            TopSort::Name => 0,
            TopSort::State => 1,
            TopSort::Memory => 2,
            TopSort::Requests => 4,
            TopSort::Errors => 5,
            TopSort::P50 => 6,
            TopSort::P99 => 7,
            TopSort::Last => 8,
        }
    }

    fn compare(self, one: &ModelRow, other: &ModelRow) -> Ordering {
        let float = |of: fn(&ModelRow) -> Option<f64>| of(one).unwrap_or(-1.0).total_cmp(&of(other).unwrap_or(-1.0));
        let time = |row: &ModelRow| row.error.as_ref().map(|error| error.time);
        let order = match self.by {
            TopSort::Name => shown(one).cmp(shown(other)),
            TopSort::State => one.state.label().cmp(other.state.label()),
            TopSort::Memory => one.memory.cmp(&other.memory),
            TopSort::Requests => one.requests.cmp(&other.requests),
            TopSort::Errors => one.errors.cmp(&other.errors),
            TopSort::P50 => float(|row| row.p50),
            TopSort::P99 => float(|row| row.p99),
            TopSort::Last => time(one).cmp(&time(other)),
        };
        let order = if self.is_down { order.reverse() } else { order };
        order.then_with(|| one.name.cmp(&other.name))
    }
}

/// The name that people know: the client's, if the load request had it.
pub fn shown(model: &ModelRow) -> &str {
    model.target.as_deref().unwrap_or(&model.name)
}

/// The models whose names contain all words of `filter`, in order.
pub fn select<'a>(models: &'a [ModelRow], order: Order, filter: &str) -> Vec<&'a ModelRow> {
    let words: Vec<String> = filter.split_whitespace().map(str::to_lowercase).collect();
    let matches = |model: &&ModelRow| {
        let name = format!("{} {}", model.name, shown(model)).to_lowercase();
        words.iter().all(|word| name.contains(word))
    };
    let mut selected: Vec<&ModelRow> = models.iter().filter(matches).collect();
    selected.sort_by(|one, other| order.compare(one, other));
    selected
}

/// The cells of a model, in the order of [`COLUMNS`].
pub fn cells(model: &ModelRow) -> [String; COLUMNS.len()] {
    let error = model.error.as_ref();
    [
        plain(shown(model)).into_owned(),
        model.state.label().to_owned(),
        model.memory.map(bytes).unwrap_or_default(),
        match model.mapped {
            0 => String::new(),
            mapped => bytes(mapped),
        },
        model.requests.to_string(),
        model.errors.to_string(),
        model.p50.map(millis).unwrap_or_default(),
        model.p99.map(millis).unwrap_or_default(),
        error.map_or_else(String::new, |error| {
            plain(&format!("{}: {}", error.cause, error.message)).into_owned()
        }),
    ]
}

/// The containers of a local endpoint: label, state, models, starts.
pub fn containers(state: &State) -> Vec<[String; 5]> {
    let variants = state.endpoints.iter().flat_map(|endpoint| {
        let variants = endpoint.variants.iter();
        variants.map(move |variant| (endpoint, variant))
    });
    let mut rows = Vec::new();
    for (endpoint, variant) in variants {
        for instance in &variant.instances {
            for container in &instance.containers {
                rows.push([
                    plain(&container.label).into_owned(),
                    plain(&container.state).into_owned(),
                    container.models.len().to_string(),
                    instance.outstanding.to_string(),
                    container.starts.to_string(),
                ]);
            }
        }
        if variant.instances.is_empty() {
            let label = format!("{}/{}", endpoint.name, variant.name);
            rows.push([
                plain(&label).into_owned(),
                plain(&endpoint.phase).into_owned(),
                String::new(),
                String::new(),
                String::new(),
            ]);
        }
    }
    rows
}

/// Titles of [`containers`].
pub const CONTAINER_COLUMNS: [(&str, bool); 5] = [
    ("CONTAINER", false),
    ("STATE", false),
    ("MODELS", true),
    ("RUNNING", true),
    ("STARTS", true),
];

/// The line above the table.
pub fn summary(state: &State) -> String {
    let point = state.history.points.last();
    let step = state.history.step.max(1) as f64;
    let rate = point.map_or(0.0, |point| point.requests as f64 / step);
    let quantile = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), millis);
    let what = match state.server.kind {
        ServerKind::Serve => format!("{} models", state.models.len()),
        ServerKind::Endpoint => format!("{} endpoints", state.endpoints.len()),
    };
    let memory = state.memory.as_ref().map(|memory| match memory.limit {
        Some(limit) => {
            let room = limit.saturating_sub(memory.kept);
            format!(
                ", memory {} of {}",
                bytes(room.saturating_sub(memory.free)),
                bytes(room)
            )
        }
        None => format!(", memory {}", bytes(memory.own + memory.shared + memory.mapped)),
    });
    format!(
        "{what}, {rate:.1} requests/s, p50 {}, p99 {}, {} running, {} waiting, {} refused{}",
        quantile(point.and_then(|point| point.p50)),
        quantile(point.and_then(|point| point.p99)),
        state.totals.running,
        state.totals.waiting,
        state.totals.refused,
        memory.unwrap_or_default()
    )
}

/// The summary and the table, for `--once`.
pub fn printed(state: &State, order: Order, filter: &str) -> String {
    let table = match state.server.kind {
        ServerKind::Serve => {
            let rows: Vec<_> = select(&state.models, order, filter).into_iter().map(cells).collect();
            plain_table(&COLUMNS, &rows)
        }
        ServerKind::Endpoint => plain_table(&CONTAINER_COLUMNS, &containers(state)),
    };
    format!("{}\n\n{table}", summary(state))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::page::state::{EndpointRow, ModelError, ModelState, VariantRow};

    pub fn models() -> Vec<ModelRow> {
        let model = |name: &str, requests, p99| ModelRow {
            name: name.to_owned(),
            requests,
            p99,
            memory: Some(requests * 1024),
            ..ModelRow::default()
        };
        let mut models = vec![
            model("alpha", 5, Some(2.5)),
            model("beta", 50, None),
            model("gamma", 7, Some(31.0)),
        ];
        models[1].target = Some("team/berlin.tar.gz".to_owned());
        models[1].state = ModelState::Stuck;
        models[2].error = Some(ModelError {
            time: 3,
            cause: "queue_full".to_owned(),
            message: "a\u{1b}[2Jb".to_owned(),
        });
        models
    }

    fn names(order: Order, filter: &str) -> Vec<String> {
        let models = models();
        let selected = select(&models, order, filter);
        selected.iter().map(|model| model.name.clone()).collect()
    }

    #[test]
    fn rows_are_sorted_by_any_column_and_a_column_chosen_twice_is_reversed() {
        let by = |column| names(Order::of(column), "");
        assert_eq!(
            by(TopSort::Name),
            ["alpha", "gamma", "beta"],
            "by the name that people know"
        );
        assert_eq!(by(TopSort::Requests), ["beta", "gamma", "alpha"]);
        assert_eq!(by(TopSort::P99), ["gamma", "alpha", "beta"]);
        assert_eq!(by(TopSort::Last), ["gamma", "alpha", "beta"]);
        let reversed = Order::of(TopSort::Requests).chosen(TopSort::Requests);
        assert_eq!(names(reversed, ""), ["alpha", "gamma", "beta"]);
        assert_eq!(reversed.chosen(TopSort::Name), Order::of(TopSort::Name));
    }

    #[test]
    fn a_filter_matches_both_names_of_a_model_in_any_case() {
        let order = Order::of(TopSort::Name);
        assert_eq!(names(order, "BERLIN team"), ["beta"]);
        assert_eq!(names(order, "bet"), ["beta"]);
        assert_eq!(names(order, "berlin alpha"), [""; 0]);
    }

    #[test]
    fn the_plain_table_is_aligned_and_cannot_control_the_terminal() {
        let state = State {
            models: models(),
            ..State::default()
        };
        let text = printed(&state, Order::of(TopSort::Requests), "");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("3 models, 0.0 requests/s"), "{text}");
        assert_eq!(
            lines[2],
            "MODEL               STATE     MEMORY  MAPPED  REQUESTS  ERRORS  P50      P99  LAST ERROR"
        );
        assert_eq!(
            lines[4],
            "gamma               loaded   7.0 KiB                 7       0       31.0 ms  queue_full: a\\u{1b}[2Jb"
        );
    }

    #[test]
    fn an_endpoint_without_instances_is_listed_with_its_phase() {
        let endpoint = EndpointRow {
            name: "shop".to_owned(),
            phase: "Failed".to_owned(),
            variants: vec![VariantRow {
                name: "blue".to_owned(),
                ..VariantRow::default()
            }],
            ..EndpointRow::default()
        };
        let mut state = State {
            endpoints: vec![endpoint],
            ..State::default()
        };
        state.server.kind = ServerKind::Endpoint;
        assert!(printed(&state, Order::of(TopSort::Name), "").contains("shop/blue  Failed"));
    }
}
