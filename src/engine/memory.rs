//! The memory budget: a ledger of what models and requests may take, so that "no room" is known before memory is touched.
//!
//! Asking the kernel alone answers too late and everybody at once: two loads that each fit would both pass and together be
//! killed. A ledger alone drifts: allocators round up, other processes share the limit. So there are both. Whoever wants
//! memory holds a reservation, from before it is touched until it is free again. While the reservations leave plenty of
//! room, they decide; nearer to the limit, what is really in use is looked at, and to that is added what was promised
//! and is not in use yet: loads under way, and the floor that requests are to find.
//!
//! What always holds: what was admitted was within the limit when it was; a reservation that is refused leaves nothing
//! behind (MM-18); the ledger is locked to move numbers, never while the system is asked.

mod limits;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::allocator;

pub use limits::{DataBound, Limit, MappedFile, Usage, bound_data, raise_open_files, resident_anonymous, system_limit};

/// Refused: it would not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed} bytes are needed and {available} of {limit} are free; unload a model and try again, or raise \
     --memory-limit"
)]
pub struct NoRoom {
    pub needed: u64,
    pub available: u64,
    pub limit: u64,
}

/// What a budget is made with.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Bytes for everything, and where to see how much is used; `None` for no limit.
    pub limit: Option<Limit>,
    /// Bytes that requests are to find free whatever is loaded.
    pub reserve: u64,
    /// Percent of mapped weights that must fit into memory. The system can drop them and read them again, which makes
    /// runs wait for the disk.
    pub mapped_percent: u64,
    /// Runs that may go on at once.
    pub runs: u64,
}

/// The ledger. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bounds: Bounds,
    data_bound: Arc<DataBound>,
    /// What the process took before there was any model.
    base: u64,
    ledger: Mutex<Ledger>,
    /// A load has ended, one way or the other.
    settled: Condvar,
}

/// Bytes, by what they are for.
#[derive(Debug, Default)]
struct Ledger {
    /// Sessions that exist.
    loaded: u64,
    /// Loads under way, at their peak.
    loading: u64,
    /// Mapped weights of sessions that exist.
    mapped: u64,
    /// Requests under way beyond what every thread may take.
    requests: u64,
    /// Working memories of one run of the models that are loaded, with how many models have it.
    workspaces: BTreeMap<u64, u64>,
    /// Raised whenever something above grows or moves: whoever has looked at the system before then has to look again.
    epoch: u64,
}

/// What a loaded model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Bytes that are this process's alone.
    pub private: u64,
    /// Bytes of weights that are mapped from a file.
    pub mapped: u64,
    /// Bytes that a run takes.
    pub workspace: u64,
}

/// Where the budget stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// For models: loaded, and being loaded.
    pub models: u64,
    /// Mapped weights, not in `models`.
    pub mapped: u64,
    pub requests: u64,
    /// `u64::MAX` when there is none.
    pub limit: u64,
}

/// How long a load that does not fit waits for loads under way, which may turn out to take less than they reserved.
const PATIENCE: Duration = Duration::from_secs(5);

impl Ledger {
    /// What all of it comes to, with `floor` bytes for requests.
    fn planned(&self, bounds: &Bounds, floor: u64) -> u64 {
        self.loaded
            .saturating_add(self.loading)
            .saturating_add(self.mapped_charge(bounds))
            .saturating_add(floor.max(self.requests))
    }

    fn mapped_charge(&self, bounds: &Bounds) -> u64 {
        percent(self.mapped, bounds.mapped_percent)
    }

    /// What requests are to find: the largest run, on every thread that may run one.
    fn floor(&self, bounds: &Bounds) -> u64 {
        let largest = self.workspaces.last_key_value().map_or(0, |(&bytes, _)| bytes);
        bounds.reserve.max(largest.saturating_mul(bounds.runs))
    }

    fn add_workspace(&mut self, bytes: u64) {
        *self.workspaces.entry(bytes).or_default() += 1;
    }

    fn remove_workspace(&mut self, bytes: u64) {
        if let Some(count) = self.workspaces.get_mut(&bytes) {
            *count -= 1;
            if *count == 0 {
                self.workspaces.remove(&bytes);
            }
        }
    }
}

fn percent(bytes: u64, percent: u64) -> u64 {
    (bytes / 100).saturating_mul(percent)
}

/// What memory is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A model, which leaves the floor to requests.
    Model,
    /// What is over in a moment and may have the floor: requests, and the preparation of a model. Else a model that will fit
    /// would be refused because it cannot be prepared; requests wait for that to end ([`Budget::request`]).
    Passing,
}

/// What a decision is made of. Pure numbers, so that the rule can be read and tested by itself.
#[derive(Debug, Clone, Copy)]
struct Position {
    limit: u64,
    base: u64,
    /// See [`Ledger::planned`], without what is asked for.
    planned: u64,
    /// Bytes of sessions in it: what the allocator's rounding applies to.
    loaded: u64,
    /// Promised and perhaps not in use yet: loads under way, mapped weights, what requests are still to find.
    promised: u64,
    asked: u64,
}

enum Decision {
    Admit,
    /// The ledger alone cannot say.
    Look,
}

impl Position {
    /// By the ledger: sessions have been seen to take up to a seventh more than they allocate. Of the rest an eighth is left
    /// to what the ledger does not know of: the supervisor, children that wait for work, the kernel's own memory for files
    /// that are mapped (30 MB of it for 500 MB of models).
    fn decide(&self) -> Decision {
        let pessimistic = self
            .base
            .saturating_add(self.planned)
            .saturating_add(self.loaded / 4)
            .saturating_add(self.asked);
        if pessimistic <= self.limit - self.limit / 8 {
            Decision::Admit
        } else {
            Decision::Look
        }
    }

    /// By what is in use.
    fn decide_by(&self, used: u64) -> Result<(), NoRoom> {
        let taken = used.saturating_add(self.promised);
        if taken.saturating_add(self.asked) <= self.limit {
            Ok(())
        } else {
            Err(NoRoom {
                needed: self.asked,
                available: self.limit.saturating_sub(taken),
                limit: self.limit,
            })
        }
    }

    /// Where the system says nothing.
    fn decide_blindly(&self) -> Result<(), NoRoom> {
        let used = self
            .base
            .saturating_add(self.planned)
            .saturating_add(self.loaded / 8)
            .saturating_sub(self.promised);
        self.decide_by(used)
    }
}

impl Budget {
    /// A budget with nothing reserved, of a process that takes `base` bytes as it is.
    pub fn new(bounds: Bounds, data_bound: DataBound, base: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                bounds,
                data_bound: Arc::new(data_bound),
                base,
                ledger: Mutex::default(),
                settled: Condvar::new(),
            }),
        }
    }

    /// Reserves what a load takes at its peak, of private memory and of `mapped` weights, or says why not. Waits a while for
    /// other loads when only they are in the way: call it on a thread that may wait.
    pub fn load(&self, private: u64, mapped: u64) -> Result<Loading, NoRoom> {
        let peak = private.saturating_add(percent(mapped, self.shared.bounds.mapped_percent));
        self.loading(Purpose::Model, peak)
    }

    /// As [`Self::load`], for the preparation of a model.
    pub fn prepare(&self, peak: u64) -> Result<Loading, NoRoom> {
        self.loading(Purpose::Passing, peak)
    }

    fn loading(&self, purpose: Purpose, peak: u64) -> Result<Loading, NoRoom> {
        self.patiently(|| self.admit(purpose, peak, |ledger| ledger.loading += peak))?;
        Ok(Loading {
            budget: self.clone(),
            peak,
        })
    }

    /// Tries `admit` until nothing is in the way that will be out of it by itself, or too long.
    fn patiently<T>(&self, admit: impl Fn() -> Result<T, NoRoom>) -> Result<T, NoRoom> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let refused = match admit() {
                Ok(admitted) => return Ok(admitted),
                Err(refused) => refused,
            };
            let ledger = self.ledger();
            let left = deadline.saturating_duration_since(Instant::now());
            if ledger.loading == 0 || left.is_zero() {
                return Err(refused);
            }
            let epoch = ledger.epoch;
            let unchanged = |ledger: &mut Ledger| ledger.epoch == epoch;
            drop(
                self.shared
                    .settled
                    .wait_timeout_while(ledger, left, unchanged)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }

    /// As much of `most` bytes for a preparation as there is, but no less than `least`; says how much. Waits as
    /// [`Self::prepare`] does.
    pub fn prepare_up_to(&self, least: u64, most: u64) -> Result<(Loading, u64), NoRoom> {
        let admit = |peak| self.admit(Purpose::Passing, peak, |ledger| ledger.loading += peak);
        let peak = self.patiently(|| {
            std::iter::successors(Some(most), |size| Some(size - size.div_ceil(4)))
                .take_while(|&size| size > least)
                .find(|&size| admit(size).is_ok())
                .map_or_else(|| admit(least).map(|()| least), Ok)
        })?;
        let budget = self.clone();
        Ok((Loading { budget, peak }, peak))
    }

    /// Makes room for a file of so many bytes to be mapped, however much of it will be in memory.
    pub fn map_file(&self, bytes: u64) -> MappedFile {
        self.shared.data_bound.map(bytes)
    }

    /// Reserves the memory of a request, or says why not at once.
    pub fn request_now(&self, bytes: u64) -> Result<Working, NoRoom> {
        let mut working = Working {
            budget: self.clone(),
            bytes: 0,
        };
        working.grow(bytes)?;
        Ok(working)
    }

    /// Reserves the memory of a request. Waits a while for loads when only they are in the way: call it on a thread that may
    /// wait.
    pub fn request(&self, bytes: u64) -> Result<Working, NoRoom> {
        self.patiently(|| self.enter_request(bytes))?;
        Ok(Working {
            budget: self.clone(),
            bytes,
        })
    }

    fn enter_request(&self, bytes: u64) -> Result<(), NoRoom> {
        let mut ledger = self.ledger();
        let floor = ledger.floor(&self.shared.bounds);
        // Kept free for this, unless a preparation has it.
        if ledger.requests.saturating_add(bytes) <= floor && ledger.loading == 0 {
            ledger.requests += bytes;
            return Ok(());
        }
        drop(ledger);
        self.admit(Purpose::Passing, bytes, |ledger| ledger.requests += bytes)
    }

    pub fn reserved(&self) -> Reserved {
        let ledger = self.ledger();
        Reserved {
            models: ledger.loaded + ledger.loading,
            mapped: ledger.mapped,
            requests: ledger.requests,
            limit: self.limit(),
        }
    }

    /// Bytes for everything that is not the process itself.
    pub fn for_models(&self) -> u64 {
        self.limit()
            .saturating_sub(self.shared.base)
            .saturating_sub(self.shared.bounds.reserve)
    }

    fn limit(&self) -> u64 {
        self.shared.bounds.limit.as_ref().map_or(u64::MAX, |limit| limit.bytes)
    }

    /// Does `enter` when `asked` bytes more fit.
    fn admit(&self, purpose: Purpose, asked: u64, enter: impl Fn(&mut Ledger)) -> Result<(), NoRoom> {
        let Some(limit) = &self.shared.bounds.limit else {
            enter(&mut self.ledger());
            return Ok(());
        };
        let mut seen: Option<(u64, Option<u64>)> = None;
        let mut purged = false;
        loop {
            let mut ledger = self.ledger();
            let position = self.position(&ledger, limit.bytes, purpose, asked);
            let decision = match (position.decide(), seen) {
                (Decision::Admit, _) => Ok(()),
                (Decision::Look, Some((epoch, used))) if epoch == ledger.epoch => match used {
                    Some(used) => position.decide_by(used),
                    None => position.decide_blindly(),
                },
                (Decision::Look, _) => {
                    let epoch = ledger.epoch;
                    drop(ledger);
                    seen = Some((epoch, limit.usage.now()));
                    continue;
                }
            };
            match decision {
                Ok(()) => {
                    enter(&mut ledger);
                    ledger.epoch += 1;
                    return Ok(());
                }
                Err(refused) if purged => return Err(refused),
                Err(_) => {
                    // Freed memory that the allocator still holds is no reason to refuse.
                    drop(ledger);
                    allocator::give_back();
                    purged = true;
                    seen = None;
                }
            }
        }
    }

    fn position(&self, ledger: &Ledger, limit: u64, purpose: Purpose, asked: u64) -> Position {
        let bounds = &self.shared.bounds;
        let floor = match purpose {
            Purpose::Model => ledger.floor(bounds),
            Purpose::Passing => 0,
        };
        Position {
            limit,
            base: self.shared.base,
            planned: ledger.planned(bounds, floor),
            loaded: ledger.loaded,
            promised: ledger
                .loading
                .saturating_add(ledger.mapped_charge(bounds))
                .saturating_add(floor.saturating_sub(ledger.requests)),
            asked,
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing panics while the ledger is locked, and every state of it is a valid one.
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A load under way; given back on drop.
#[derive(Debug)]
pub struct Loading {
    budget: Budget,
    peak: u64,
}

impl Loading {
    /// The load has ended with a model that takes `footprint`. When that turns out not to fit beside the others, the caller
    /// is told to give the model up; the reservation tells the truth until then.
    pub fn settle(mut self, footprint: Footprint) -> Result<Loaded, (NoRoom, Loaded)> {
        let budget = self.budget.clone();
        let reserved = std::mem::take(&mut self.peak);
        let taken = footprint
            .private
            .saturating_add(percent(footprint.mapped, budget.shared.bounds.mapped_percent));
        let mut ledger = budget.ledger();
        ledger.loading -= reserved;
        ledger.loaded += footprint.private;
        ledger.mapped += footprint.mapped;
        ledger.add_workspace(footprint.workspace);
        ledger.epoch += 1;
        drop(ledger);
        // Tells those who wait, too.
        drop(self);
        let loaded = Loaded { budget, footprint };
        if taken <= reserved {
            return Ok(loaded);
        }
        match loaded.budget.admit(Purpose::Model, 0, |_| ()) {
            Ok(()) => Ok(loaded),
            Err(refused) => Err((
                NoRoom {
                    needed: taken,
                    ..refused
                },
                loaded,
            )),
        }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        let mut ledger = self.budget.ledger();
        ledger.loading -= self.peak;
        ledger.epoch += 1;
        drop(ledger);
        self.budget.shared.settled.notify_all();
    }
}

/// What a loaded model takes; given back on drop, so it is dropped after the model.
#[derive(Debug)]
pub struct Loaded {
    budget: Budget,
    footprint: Footprint,
}

impl Loaded {
    pub fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// What it counts for against the limit.
    pub fn charge(&self) -> u64 {
        let mapped = percent(self.footprint.mapped, self.budget.shared.bounds.mapped_percent);
        self.footprint.private.saturating_add(mapped)
    }

    /// Reserves the memory of a request to the model.
    pub fn request(&self, bytes: u64) -> Result<Working, NoRoom> {
        self.budget.request(bytes)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let mut ledger = self.budget.ledger();
        ledger.loaded -= self.footprint.private;
        ledger.mapped -= self.footprint.mapped;
        ledger.remove_workspace(self.footprint.workspace);
        ledger.epoch += 1;
        drop(ledger);
        self.budget.shared.settled.notify_all();
    }
}

/// What a request takes; given back on drop.
#[derive(Debug)]
pub struct Working {
    budget: Budget,
    bytes: u64,
}

impl Working {
    /// Takes `more` bytes.
    pub fn grow(&mut self, more: u64) -> Result<(), NoRoom> {
        self.budget.enter_request(more)?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.budget.ledger().requests -= self.bytes;
    }
}

/// What a load is expected to take at its peak, before anything is known but the file.
///
/// The factors are measured with ONNX Runtime 1.31 over models from 27 KB to 100 MB: loading a model from ONNX takes up to
/// three times its file, tree ensembles 5.3 times.
pub fn load_estimate(weights: u64, has_trees: bool) -> u64 {
    const FIXED: u64 = 100 << 10;
    percent(weights, if has_trees { 530 } else { 300 }).saturating_add(FIXED)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// No system to ask, and nobody else.
    fn budget(limit: u64, reserve: u64) -> Budget {
        let bounds = Bounds {
            limit: Some(Limit {
                bytes: limit,
                usage: Usage::Group2("nowhere".into()),
            }),
            reserve,
            mapped_percent: 50,
            runs: 4,
        };
        Budget::new(bounds, DataBound::new(None).unwrap(), 0)
    }

    fn private(bytes: u64) -> Footprint {
        Footprint {
            private: bytes,
            ..Footprint::default()
        }
    }

    #[test]
    fn a_load_reserves_its_peak_and_keeps_what_it_took() {
        let budget = budget(1000, 0);
        let loading = budget.load(900, 0).unwrap();
        assert_eq!(budget.reserved().models, 900);
        let loaded = loading.settle(private(400)).unwrap();
        assert_eq!(budget.reserved().models, 400);
        assert_eq!(
            budget.load(700, 0).unwrap_err().available,
            550,
            "an eighth is lost to rounding"
        );
        drop(loaded);
        assert_eq!(budget.reserved().models, 0);
        drop(budget.load(1000, 0).unwrap());
        assert_eq!(budget.reserved().models, 0);
    }

    #[test]
    fn what_there_is_can_be_asked_for() {
        let budget = budget(1000, 0);
        let (all, bytes) = budget.prepare_up_to(100, 800).unwrap();
        assert_eq!(bytes, 800);
        drop(all);
        let _loaded = budget.load(700, 0).unwrap().settle(private(700)).unwrap();
        let (rest, bytes) = budget.prepare_up_to(50, 800).unwrap();
        assert_eq!(bytes, 189, "three quarters of three quarters ...");
        drop(rest);
        let (least, bytes) = budget.prepare_up_to(205, 800).unwrap();
        assert_eq!(bytes, 205);
        drop(least);
        let refused = budget.prepare_up_to(300, 800).unwrap_err();
        assert_eq!(
            (refused.needed, refused.available),
            (300, 213),
            "what was asked for last, and what there was"
        );
    }

    #[test]
    fn whoever_asks_for_what_there_is_waits_for_others() {
        let budget = budget(1000, 0);
        let other = budget.prepare(800).unwrap();
        thread::scope(|scope| {
            let more = scope.spawn(|| budget.prepare_up_to(400, 900));
            drop(other);
            let (_more, bytes) = more.join().unwrap().unwrap();
            assert_eq!(bytes, 900);
        });
    }

    #[test]
    fn a_model_that_takes_more_than_there_is_has_to_be_given_up() {
        let budget = budget(1000, 0);
        let (refused, loaded) = budget.load(100, 0).unwrap().settle(private(1200)).unwrap_err();
        assert_eq!((refused.needed, refused.available), (1200, 0));
        assert_eq!(budget.load(1, 0).unwrap_err().available, 0);
        drop(loaded);
        assert!(budget.load(1, 0).is_ok());
    }

    #[test]
    fn mapped_weights_count_for_their_part() {
        let budget = budget(1000, 0);
        let footprint = Footprint {
            mapped: 1600,
            ..private(80)
        };
        assert!(budget.load(80, 1900).is_err());
        let _loaded = budget.load(80, 1600).unwrap().settle(footprint).unwrap();
        assert_eq!(budget.reserved().mapped, 1600);
        assert_eq!(budget.load(200, 0).unwrap_err().available, 110);
    }

    #[test]
    fn requests_find_the_largest_run_on_every_thread_free() {
        let budget = budget(1000, 100);
        let footprint = Footprint {
            workspace: 50,
            ..private(80)
        };
        let loaded = budget.load(80, 0).unwrap().settle(footprint).unwrap();
        assert_eq!(budget.load(800, 0).unwrap_err().available, 710);
        let loading = budget.load(700, 0).unwrap();
        // What was kept free is theirs, and no more.
        let mut working = budget.request(150).unwrap();
        working.grow(50).unwrap();
        assert!(working.grow(50).is_err());
        assert_eq!(budget.reserved().requests, 200);
        drop(loading);
        working.grow(50).unwrap();
        drop((working, loaded));
        assert_eq!(budget.reserved().requests, 0);
        assert!(budget.load(900, 0).is_ok());
    }

    #[test]
    fn a_preparation_may_have_what_is_kept_for_requests_and_they_wait_for_it() {
        let budget = budget(1000, 100);
        let _loaded = budget.load(720, 0).unwrap().settle(private(720)).unwrap();
        assert_eq!(budget.load(100, 0).unwrap_err().available, 90);
        let preparing = budget.prepare(150).unwrap();
        assert!(budget.request_now(60).is_err());
        thread::scope(|scope| {
            let request = scope.spawn(|| budget.request(60));
            drop(preparing);
            assert!(request.join().unwrap().is_ok());
        });
        assert!(budget.request_now(60).is_ok());
    }

    #[test]
    fn a_load_waits_for_another_that_turns_out_to_take_less() {
        let budget = budget(1000, 0);
        let first = budget.load(900, 0).unwrap();
        thread::scope(|scope| {
            let second = scope.spawn(|| budget.load(500, 0));
            let _first = first.settle(private(100)).unwrap();
            drop(second.join().unwrap().unwrap());
        });
    }

    #[test]
    fn what_is_really_used_decides_near_the_limit() {
        let position = Position {
            limit: 1000,
            base: 100,
            planned: 700,
            loaded: 600,
            promised: 100,
            asked: 120,
        };
        assert!(matches!(position.decide(), Decision::Look));
        assert_eq!(position.decide_by(780), Ok(()));
        assert_eq!(position.decide_by(781).unwrap_err().available, 119);
        let roomy = Position {
            limit: 1223,
            ..position
        };
        assert!(matches!(roomy.decide(), Decision::Admit));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Load(u64),
        Settle(u64, u64, u64),
        Unload(usize),
        Request(u64),
        Answer(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..400).prop_map(Step::Load),
            (0u64..400, 0u64..400, 0u64..50).prop_map(|(private, mapped, run)| Step::Settle(private, mapped, run)),
            any::<usize>().prop_map(Step::Unload),
            (0u64..300).prop_map(Step::Request),
            any::<usize>().prop_map(Step::Answer),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn the_ledger_equals_the_sum_of_what_is_held(steps in proptest::collection::vec(step(), 0..60)) {
            let budget = budget(1000, 50);
            let mut loading: Option<Loading> = None;
            let mut loaded: Vec<Loaded> = Vec::new();
            let mut working: Vec<Working> = Vec::new();
            for step in steps {
                match step {
                    // One at a time: a second one would wait for the first.
                    Step::Load(peak) if loading.is_none() => loading = budget.load(peak, 0).ok(),
                    Step::Settle(private, mapped, workspace) => {
                        if let Some(load) = loading.take()
                            && let Ok(model) = load.settle(Footprint { private, mapped, workspace })
                        {
                            loaded.push(model);
                        }
                    }
                    Step::Unload(which) if !loaded.is_empty() => drop(loaded.swap_remove(which % loaded.len())),
                    Step::Request(bytes) => working.extend(budget.request_now(bytes)),
                    Step::Answer(which) if !working.is_empty() => drop(working.swap_remove(which % working.len())),
                    Step::Load(_) | Step::Unload(_) | Step::Answer(_) => {}
                }
                let reserved = budget.reserved();
                let private: u64 = loaded.iter().map(|model| model.footprint.private).sum();
                let mapped: u64 = loaded.iter().map(|model| model.footprint.mapped).sum();
                let under_way = loading.as_ref().map_or(0, |load| load.peak);
                prop_assert_eq!(reserved.models, private + under_way);
                prop_assert_eq!(reserved.mapped, mapped);
                prop_assert_eq!(reserved.requests, working.iter().map(|request| request.bytes).sum::<u64>());
                prop_assert!(private + mapped / 100 * 50 <= 1000);
            }
            drop((loading, loaded, working));
            prop_assert!(budget.ledger().workspaces.is_empty());
            prop_assert!(budget.load(950, 0).is_ok());
        }
    }

    #[test]
    fn an_estimate_grows_with_the_weights_and_with_trees() {
        assert_eq!(load_estimate(0, false), 100 << 10);
        assert_eq!(load_estimate(1_000_000, false), 3_000_000 + (100 << 10));
        assert_eq!(load_estimate(1_000_000, true), 5_300_000 + (100 << 10));
        assert!(load_estimate(u64::MAX, true) > u64::MAX / 2);
    }
}
