//! The memory that outlives a worker: the loaded models, their order of use, and the contents that
//! have killed workers.
//!
//! Content that has killed a worker is refused from its first kill on, because each kill interrupts
//! the requests of all tenants for the time of a restart. The first refusal is short, since one
//! kill may be bad luck (a flipped bit, another model's fault). Each further refusal is twice as
//! long, up to a limit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::protocol::ContentRefusal;
use super::signal_name;
use crate::catalog::Record;

/// Times for which content that has killed workers is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalTimes {
    /// After the first kill; doubled after each further one.
    pub first: Duration,
    /// The longest refusal.
    pub longest: Duration,
}

impl RefusalTimes {
    /// The time after so many kills.
    fn after(self, kills: u32) -> Duration {
        let doublings = kills.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

#[derive(Debug)]
pub struct Ledger {
    models: BTreeMap<String, Arc<Record>>,
    /// The number of the last use report that named a content.
    used: HashMap<u64, u64>,
    /// Number of use reports so far.
    reports: u64,
    kills: HashMap<u64, KillRecord>,
    /// `None` when nothing is refused.
    times: Option<RefusalTimes>,
}

#[derive(Debug)]
struct KillRecord {
    count: u32,
    cause: KillCause,
    /// End of the refusal.
    until: Instant,
    /// When the kills are forgotten.
    forgotten: Instant,
}

/// The way in which content ended a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillCause {
    /// The worker crashed with this signal.
    Signal(i32),
    /// Runs were stuck, and the worker was replaced.
    Stuck,
}

impl fmt::Display for KillCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => f.write_str(&signal_name(*signal)),
            Self::Stuck => f.write_str("runs that could not be ended"),
        }
    }
}

impl Ledger {
    pub fn new(times: Option<RefusalTimes>) -> Self {
        Self {
            models: BTreeMap::new(),
            used: HashMap::new(),
            reports: 0,
            kills: HashMap::new(),
            times,
        }
    }

    pub fn loaded(&mut self, record: Record) {
        self.used(&[record.content.short()]);
        self.models.insert(record.name.clone(), Arc::new(record));
    }

    pub fn unloaded(&mut self, name: &str) {
        self.models.remove(name);
    }

    /// Records that models of these contents were used since the last report.
    pub fn used(&mut self, contents: &[u64]) {
        self.reports += 1;
        self.used
            .extend(contents.iter().map(|&content| (content, self.reports)));
        // Bounds the contents that are no longer loaded.
        if self.used.len() > 2 * self.models.len() + 1024 {
            let loaded: HashSet<u64> = self.models.values().map(|model| model.content.short()).collect();
            self.used.retain(|content, _| loaded.contains(content));
        }
    }

    /// The loaded models in the order for the next worker: recently used ones first, refused ones
    /// last.
    pub fn models(&mut self, now: Instant) -> Vec<Arc<Record>> {
        self.forget(now);
        let mut models: Vec<Arc<Record>> = self.models.values().cloned().collect();
        models.sort_by_cached_key(|model| {
            let content = model.content.short();
            let is_refused = self.kills.get(&content).is_some_and(|kills| kills.until > now);
            (is_refused, Reverse(self.used.get(&content).copied()))
        });
        models
    }

    /// The names under which `content` is loaded.
    pub fn names(&self, content: u64) -> Vec<&str> {
        self.with_content(content).map(|model| model.name.as_str()).collect()
    }

    /// The clients' names of the models with `content`, as far as the load requests had them.
    pub fn target_models(&self, content: u64) -> Vec<&str> {
        let targets = self.with_content(content).map(|model| model.target_model.as_deref());
        targets.flatten().collect()
    }

    fn with_content(&self, content: u64) -> impl Iterator<Item = &Record> {
        let models = self.models.values().map(|model| &**model);
        models.filter(move |model| model.content.short() == content)
    }

    /// Records that `content` has ended a worker. Returns the length of its refusal, unless nothing
    /// is refused.
    pub fn killed(&mut self, content: u64, cause: KillCause, now: Instant) -> Option<Duration> {
        self.forget(now);
        let times = self.times?;
        let count = self.kills.get(&content).map_or(0, |kills| kills.count) + 1;
        let refused = times.after(count);
        let until = now + refused;
        self.kills.insert(
            content,
            KillRecord {
                count,
                cause,
                until,
                // A while without kills has to pass before they are forgotten.
                forgotten: until + times.longest,
            },
        );
        Some(refused)
    }

    /// The contents that a worker which starts now has to refuse.
    pub fn refusals(&mut self, now: Instant) -> Vec<ContentRefusal> {
        self.forget(now);
        let refused = self.kills.iter().filter(|(_, kills)| kills.until > now);
        let refusals = refused.map(|(&content, kills)| {
            let left = kills.until.saturating_duration_since(now);
            ContentRefusal {
                content,
                reason: format!(
                    "it has ended the server's process {}, the last time by {}",
                    times(kills.count),
                    kills.cause
                ),
                milliseconds: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            }
        });
        refusals.collect()
    }

    fn forget(&mut self, now: Instant) {
        self.kills.retain(|_, kills| kills.forgotten > now);
    }
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ContentHash;

    const FIRST: Duration = Duration::from_secs(60);
    const TIMES: RefusalTimes = RefusalTimes {
        first: FIRST,
        longest: Duration::from_secs(600),
    };

    fn record(name: &str, digit: char) -> Record {
        Record {
            name: name.to_owned(),
            url: format!("/{name}"),
            target_model: None,
            content: ContentHash::parse(&digit.to_string().repeat(64)).unwrap(),
            manifest: None,
        }
    }

    fn content(digit: char) -> u64 {
        record("", digit).content.short()
    }

    fn names(ledger: &mut Ledger, now: Instant) -> Vec<String> {
        ledger.models(now).iter().map(|model| model.name.clone()).collect()
    }

    #[test]
    fn content_whose_runs_were_stuck_is_refused_with_that_reason() {
        let (mut ledger, now) = (Ledger::new(Some(TIMES)), Instant::now());
        assert_eq!(ledger.killed(1, KillCause::Stuck, now), Some(FIRST));
        assert_eq!(
            ledger.refusals(now)[0].reason,
            "it has ended the server's process once, the last time by runs that could not be ended"
        );
    }

    #[test]
    fn the_models_are_those_that_were_loaded_and_not_unloaded() {
        let mut ledger = Ledger::new(Some(TIMES));
        for (name, digit) in [("a", '1'), ("b", '2'), ("c", '1')] {
            ledger.loaded(record(name, digit));
        }
        ledger.unloaded("b");
        ledger.unloaded("never");
        assert_eq!(names(&mut ledger, Instant::now()), ["a", "c"]);
        assert_eq!(ledger.names(content('1')), ["a", "c"]);
        assert_eq!(ledger.names(content('2')), [""; 0]);
    }

    #[test]
    fn recently_used_models_are_loaded_first_and_refused_ones_last() {
        let (mut ledger, now) = (Ledger::new(Some(TIMES)), Instant::now());
        for (name, digit) in [("a", '1'), ("b", '2'), ("c", '3'), ("d", '4'), ("e", '2')] {
            ledger.loaded(record(name, digit));
        }
        assert_eq!(names(&mut ledger, now), ["b", "e", "d", "c", "a"]);
        ledger.used(&[content('3'), content('1')]);
        ledger.used(&[content('1')]);
        assert_eq!(names(&mut ledger, now), ["a", "c", "b", "e", "d"]);
        ledger.killed(content('1'), KillCause::Signal(libc::SIGSEGV), now);
        assert_eq!(names(&mut ledger, now), ["c", "b", "e", "d", "a"]);
        assert_eq!(names(&mut ledger, now + FIRST), ["a", "c", "b", "e", "d"]);
    }

    #[test]
    fn contents_that_are_no_longer_loaded_are_forgotten() {
        let mut ledger = Ledger::new(Some(TIMES));
        ledger.loaded(record("a", '1'));
        for content in 0..100_000 {
            ledger.used(&[content]);
        }
        assert!(ledger.used.len() < 2000, "{}", ledger.used.len());
    }

    #[test]
    fn a_content_is_refused_from_its_first_kill_and_longer_after_each() {
        let (mut ledger, now) = (Ledger::new(Some(TIMES)), Instant::now());
        assert_eq!(ledger.refusals(now), []);
        assert_eq!(ledger.killed(1, KillCause::Signal(libc::SIGFPE), now), Some(FIRST));
        let refusals = ledger.refusals(now + FIRST / 2);
        assert_eq!((refusals[0].content, refusals[0].milliseconds), (1, 30_000));
        assert_eq!(
            refusals[0].reason,
            "it has ended the server's process once, the last time by SIGFPE"
        );
        assert_eq!(ledger.refusals(now + FIRST), []);
        let mut at = now + FIRST;
        for (kills, expected) in [(2u64, 120), (3, 240), (4, 480), (5, 600), (6, 600)] {
            let refused = ledger.killed(1, KillCause::Signal(libc::SIGSEGV), at).unwrap();
            assert_eq!(refused, Duration::from_secs(expected), "{kills}");
            let reason = ledger.refusals(at).remove(0).reason;
            assert!(
                reason.contains(&format!("{kills} times")) && reason.ends_with("SIGSEGV"),
                "{reason}"
            );
            // Kills of other contents do not count.
            assert_eq!(
                ledger.killed(100 + kills, KillCause::Signal(libc::SIGSEGV), at),
                Some(FIRST)
            );
            at += refused;
        }
        // After a quiet time of the longest refusal, the count starts again.
        at += TIMES.longest;
        assert_eq!(ledger.killed(1, KillCause::Signal(libc::SIGFPE), at), Some(FIRST));
    }

    #[test]
    fn refusals_are_limited_for_any_setting() {
        let second = Duration::from_secs(1);
        let table = [
            (second, second, 1, second),
            // A limit below the first time applies to that, too.
            (60 * second, 3 * second, 1, 3 * second),
            (second, 600 * second, 100, 600 * second),
            (Duration::MAX, Duration::MAX, 3, Duration::MAX),
            (Duration::ZERO, second, 9, Duration::ZERO),
        ];
        for (first, longest, kills, expected) in table {
            assert_eq!(RefusalTimes { first, longest }.after(kills), expected);
        }
    }

    #[test]
    fn without_times_nothing_is_refused() {
        let (mut ledger, now) = (Ledger::new(None), Instant::now());
        for _ in 0..3 {
            assert_eq!(ledger.killed(1, KillCause::Signal(libc::SIGFPE), now), None);
        }
        assert_eq!(ledger.refusals(now), []);
    }
}
