//! Chooses the models that have series of their own: the busiest ones, few enough to pay for.
//!
//! The busiest models are those with most requests in the last minutes. The choice is sticky: a
//! model gives up its place to one that is twice as busy, or with its unload. Otherwise two models
//! of equal traffic would take turns, and a collector would be charged for both.
//!
//! Everything else is in one series, `other`. Its counts only grow: they are the requests that no
//! chosen model had between two readings. A model that is chosen later starts with its count of all
//! time, so that its rate is right from its second reading on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::window::Window;
use crate::telemetry::latency::LatencySnapshot;
use crate::telemetry::models::ModelStats;

/// Shortest time between two rankings of all models.
const RANKING: Duration = Duration::from_secs(60);

/// Longest value of a label, in bytes.
const LABEL_BYTES: usize = 128;

/// Label of all models without series of their own.
pub const OTHER: &str = "other";

/// A listed model.
#[derive(Debug, Clone)]
pub struct ListedModel {
    pub name: String,
    /// The client's name for the model.
    pub target_model: Option<String>,
    /// Private bytes in memory; `None` if the model is not in memory.
    pub memory: Option<u64>,
    pub stats: Arc<ModelStats>,
}

/// A model with series of its own.
#[derive(Debug)]
pub struct ChosenModel {
    /// Values of the labels `model` and `target_model`.
    pub label: String,
    pub target: String,
    pub memory: Option<u64>,
    stats: Arc<ModelStats>,
    window: Window<LatencySnapshot>,
    /// Counts that have been taken from those of all models.
    counted: Counted,
    /// Figures of the last report.
    reported: (LatencySnapshot, u64),
    /// The current figures.
    pub latency: LatencySnapshot,
    pub recent: LatencySnapshot,
    pub errors: u64,
}

/// Figures of a model since the last report.
#[derive(Debug, Clone)]
pub struct ModelReport {
    /// The client's name for the model if it is known, otherwise its own.
    pub label: String,
    /// Durations of the answered requests. Those of the other models together have only a count.
    pub latency: LatencySnapshot,
    pub errors: u64,
    pub memory: Option<u64>,
}

/// Counts of requests to models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub answers: u64,
    pub nanoseconds: u64,
    pub errors: u64,
}

impl Counted {
    /// The growth since `earlier`.
    fn since(self, earlier: Self) -> Self {
        Self {
            answers: self.answers.saturating_sub(earlier.answers),
            nanoseconds: self.nanoseconds.saturating_sub(earlier.nanoseconds),
            errors: self.errors.saturating_sub(earlier.errors),
        }
    }
}

/// The choice, and the counts of all other models.
#[derive(Debug)]
pub struct Busiest {
    most: usize,
    ranked: Option<Instant>,
    chosen: Vec<ChosenModel>,
    all: Counted,
    other: Counted,
    /// The counts of the others in the last report.
    reported: Counted,
}

impl Busiest {
    /// Chooses `most` models.
    pub const fn new(most: usize) -> Self {
        const NOTHING: Counted = Counted {
            answers: 0,
            nanoseconds: 0,
            errors: 0,
        };
        Self {
            most,
            ranked: None,
            chosen: Vec::new(),
            all: NOTHING,
            other: NOTHING,
            reported: NOTHING,
        }
    }

    /// Takes the current figures of `models`, which are all listed ones. `all` counts the requests
    /// to all models, including those that are unloaded.
    pub fn update(&mut self, now: Instant, models: &[ListedModel], all: Counted) {
        self.drop_unlisted(models);
        let is_first = self.ranked.is_none();
        let is_due = self
            .ranked
            .is_none_or(|ranked| now.saturating_duration_since(ranked) >= RANKING);
        if is_due {
            self.ranked = Some(now);
        }
        self.choose(now, models, (is_first, is_due));
        // Read after the totals: own requests in between are in the totals of the next time.
        let mut own = Counted::default();
        for chosen in &mut self.chosen {
            let grown = chosen.read(now);
            own.answers += grown.answers;
            own.nanoseconds += grown.nanoseconds;
            own.errors += grown.errors;
        }
        let other = all.since(self.all).since(own);
        // The requests that are counted now, whichever was read first.
        self.all.answers += own.answers + other.answers;
        self.all.nanoseconds += own.nanoseconds + other.nanoseconds;
        self.all.errors += own.errors + other.errors;
        self.other.answers += other.answers;
        self.other.nanoseconds += other.nanoseconds;
        self.other.errors += other.errors;
    }

    pub fn chosen(&self) -> &[ChosenModel] {
        &self.chosen
    }

    /// The counts of all other models.
    pub const fn other(&self) -> Counted {
        self.other
    }

    /// The figures of all models that had requests since the last report.
    pub fn report(&mut self) -> Vec<ModelReport> {
        let own = self.chosen.iter_mut().map(ChosenModel::report);
        let mut models: Vec<_> = own.filter(|model| model.latency.count + model.errors > 0).collect();
        let other = self.other.since(self.reported);
        self.reported = self.other;
        if other.answers + other.errors > 0 {
            models.push(ModelReport {
                label: OTHER.to_owned(),
                latency: LatencySnapshot::counting(other.answers),
                errors: other.errors,
                memory: None,
            });
        }
        models
    }

    fn drop_unlisted(&mut self, models: &[ListedModel]) {
        let listed: HashMap<_, _> = models
            .iter()
            .map(|model| (Arc::as_ptr(&model.stats), model.memory))
            .collect();
        self.chosen
            .retain_mut(|chosen| match listed.get(&Arc::as_ptr(&chosen.stats)) {
                Some(memory) => {
                    chosen.memory = *memory;
                    true
                }
                None => false,
            });
    }

    /// Fills free places. When a ranking is due, also gives places to models that are much busier.
    fn choose(&mut self, now: Instant, models: &[ListedModel], (is_first, is_due): (bool, bool)) {
        let own: HashSet<_> = self.chosen.iter().map(|chosen| Arc::as_ptr(&chosen.stats)).collect();
        let mut candidates: Vec<(u64, &ListedModel)> = models
            .iter()
            .map(|model| (model.stats.activity(is_due), model))
            .filter(|(activity, model)| *activity > 0 && !own.contains(&Arc::as_ptr(&model.stats)))
            .collect();
        let places = self.most.min(candidates.len());
        if places == 0 {
            return;
        }
        candidates.select_nth_unstable_by(places - 1, |one, other| other.0.cmp(&one.0));
        candidates.truncate(places);
        candidates.sort_unstable_by_key(|candidate| std::cmp::Reverse(candidate.0));
        if is_due {
            self.chosen
                .sort_by_key(|chosen| std::cmp::Reverse(chosen.stats.activity(false)));
        }
        for (activity, model) in candidates {
            if self.chosen.len() >= self.most {
                let least = self.chosen.last().map_or(0, |chosen| chosen.stats.activity(false));
                if !is_due || activity < least.saturating_mul(2).max(1) {
                    break;
                }
                self.chosen.pop();
            }
            let chosen = ChosenModel::new(now, model, is_first);
            // The least busy one stays the last.
            let place = self
                .chosen
                .iter()
                .position(|chosen| chosen.stats.activity(false) < activity)
                .unwrap_or(self.chosen.len());
            self.chosen.insert(place, chosen);
        }
    }
}

impl ChosenModel {
    /// Chooses `model`. Its requests so far have been counted with those of the others, unless this
    /// `is_first`.
    fn new(now: Instant, model: &ListedModel, is_first: bool) -> Self {
        let (latency, errors) = match is_first {
            true => (LatencySnapshot::default(), 0),
            false => (model.stats.latency(), model.stats.failures()),
        };
        Self {
            label: label(&model.name),
            target: label(model.target_model.as_deref().unwrap_or_default()),
            memory: model.memory,
            stats: Arc::clone(&model.stats),
            window: Window::new(now, LatencySnapshot::default()),
            counted: counted(&latency, errors),
            reported: (latency, errors),
            latency: LatencySnapshot::default(),
            recent: LatencySnapshot::default(),
            errors: 0,
        }
    }

    /// The figures since the last report.
    fn report(&mut self) -> ModelReport {
        let (latency, errors) = std::mem::replace(&mut self.reported, (self.latency.clone(), self.errors));
        ModelReport {
            label: if self.target.is_empty() {
                &self.label
            } else {
                &self.target
            }
            .clone(),
            latency: self.latency.since(&latency),
            errors: self.errors.saturating_sub(errors),
            memory: self.memory,
        }
    }

    /// Reads the current figures. Returns their growth.
    fn read(&mut self, now: Instant) -> Counted {
        self.latency = self.stats.latency();
        self.errors = self.stats.failures();
        let (earlier, _) = self.window.advance(now, &self.latency);
        self.recent = self.latency.since(earlier);
        let counted = counted(&self.latency, self.errors);
        let grown = counted.since(self.counted);
        self.counted = counted;
        grown
    }
}

fn counted(latency: &LatencySnapshot, errors: u64) -> Counted {
    Counted {
        answers: latency.count,
        nanoseconds: u64::try_from(latency.sum.as_nanos()).unwrap_or(u64::MAX),
        errors,
    }
}

/// The value of a label: the name, or its beginning and a hash. Two long names stay apart.
fn label(name: &str) -> String {
    if name == OTHER {
        return "other (model)".to_owned();
    }
    if name.len() <= LABEL_BYTES {
        return name.to_owned();
    }
    let hash = blake3::hash(name.as_bytes()).to_hex();
    let end = name.floor_char_boundary(LABEL_BYTES - 12);
    format!("{}…{}", &name[..end], &hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::cause::Cause;

    struct Server {
        models: Vec<ListedModel>,
        busiest: Busiest,
        all: Counted,
        now: Instant,
    }

    impl Server {
        fn new<const N: usize>(most: usize, names: [&str; N]) -> Self {
            let models = names.map(|name| ListedModel {
                name: name.to_owned(),
                target_model: None,
                memory: None,
                stats: Arc::default(),
            });
            Self {
                models: models.into(),
                busiest: Busiest::new(most),
                all: Counted::default(),
                now: Instant::now(),
            }
        }

        fn answer(&mut self, name: &str, requests: u64) {
            let model = self.models.iter().find(|model| model.name == name).unwrap();
            for _ in 0..requests {
                model.stats.answered(Instant::now(), Duration::from_millis(1));
            }
            self.all.answers += requests;
            self.all.nanoseconds += requests * 1_000_000;
        }

        /// The chosen models with their counts, after this many seconds, and that of the others.
        fn read(&mut self, seconds: u64) -> (Vec<(String, u64)>, u64) {
            self.now += Duration::from_secs(seconds);
            self.busiest.update(self.now, &self.models, self.all);
            let mut chosen: Vec<_> = self
                .busiest
                .chosen()
                .iter()
                .map(|chosen| (chosen.label.clone(), chosen.latency.count))
                .collect();
            chosen.sort();
            (chosen, self.busiest.other().answers)
        }
    }

    fn own<const N: usize>(models: [(&str, u64); N]) -> Vec<(String, u64)> {
        models.map(|(name, count)| (name.to_owned(), count)).into()
    }

    #[test]
    fn only_models_with_requests_are_chosen() {
        let mut server = Server::new(10, ["a", "b", "c"]);
        assert_eq!(server.read(1), (own([]), 0));
        server.answer("b", 3);
        assert_eq!(server.read(1), (own([("b", 3)]), 3));
        server.answer("b", 1);
        assert_eq!(
            server.read(1),
            (own([("b", 4)]), 3),
            "the first ones were counted as others"
        );
    }

    #[test]
    fn the_busiest_models_have_places_and_the_others_are_counted_together() {
        let mut server = Server::new(2, ["a", "b", "c", "d"]);
        server.read(1);
        for (name, requests) in [("a", 1), ("b", 30), ("c", 20), ("d", 10)] {
            server.answer(name, requests);
        }
        assert_eq!(server.read(1).0, own([("b", 30), ("c", 20)]));
        let other = server.busiest.other().answers;
        for name in ["a", "b", "c", "d"] {
            server.answer(name, 5);
        }
        assert_eq!(server.read(1), (own([("b", 35), ("c", 25)]), other + 10));
    }

    #[test]
    fn a_model_keeps_its_place_until_another_one_is_twice_as_busy() {
        let mut server = Server::new(1, ["a", "b"]);
        server.answer("a", 10);
        server.read(1);
        for _ in 0..5 {
            server.answer("a", 10);
            server.answer("b", 15);
            assert_eq!(server.read(61).0[0].0, "a");
        }
        server.answer("b", 100);
        assert_eq!(server.read(1).0[0].0, "a", "a ranking is due once a minute");
        assert_eq!(server.read(61).0[0].0, "b");
    }

    #[test]
    fn an_unloaded_model_gives_its_place_to_another_one() {
        let mut server = Server::new(1, ["a", "b"]);
        server.answer("a", 10);
        server.answer("b", 1);
        assert_eq!(server.read(1).0, own([("a", 10)]));
        server.models.remove(0);
        assert_eq!(server.read(1).0, own([("b", 1)]));
        server.models.clear();
        assert_eq!(server.read(1).0, own([]));
    }

    #[test]
    fn the_counts_of_the_others_never_shrink() {
        let mut server = Server::new(2, ["a", "b", "c", "d", "e"]);
        let mut before = 0;
        for round in 0..50_u64 {
            for (index, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
                server.answer(name, (round * 7 + index as u64 * 13) % 31);
            }
            let (_, other) = server.read(round % 70);
            assert!(other >= before);
            before = other;
        }
    }

    #[test]
    fn errors_make_a_model_busy_too() {
        let mut server = Server::new(1, ["a"]);
        server.models[0].stats.failed(Cause::Internal, "no");
        server.all.errors = 1;
        server.read(1);
        assert_eq!(server.busiest.chosen()[0].errors, 1);
    }

    #[test]
    fn labels_are_bounded_and_stay_apart() {
        let (one, other) = ("x".repeat(4096) + "1", "x".repeat(4096) + "2");
        assert!(label(&one).len() <= LABEL_BYTES && label(&one) != label(&other));
        assert_eq!(label("ab.tar.gz"), "ab.tar.gz");
        assert_ne!(label(OTHER), OTHER);
    }
}
