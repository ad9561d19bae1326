//! What outlives a worker: which models are loaded, and which contents have killed workers before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::protocol::Refusal;
use super::signal_name;
use crate::catalog::Record;

/// Workers that a content may kill before it is refused. Once may be bad luck: a bit that flipped, a neighbour's fault.
const MOST_KILLS: u32 = 2;

#[derive(Debug)]
pub struct Ledger {
    models: BTreeMap<String, Arc<Record>>,
    kills: HashMap<u64, Kills>,
    /// How long kills are held against a content, from the last one on.
    ttl: Duration,
}

#[derive(Debug)]
struct Kills {
    count: u32,
    last: Instant,
    signal: i32,
}

impl Ledger {
    pub fn new(ttl: Duration) -> Self {
        Self {
            models: BTreeMap::new(),
            kills: HashMap::new(),
            ttl,
        }
    }

    pub fn loaded(&mut self, record: Record) {
        self.models.insert(record.name.clone(), Arc::new(record));
    }

    pub fn unloaded(&mut self, name: &str) {
        self.models.remove(name);
    }

    pub fn models(&self) -> Vec<Arc<Record>> {
        self.models.values().cloned().collect()
    }

    /// The names under which `content` is loaded.
    pub fn names(&self, content: u64) -> Vec<&str> {
        let with_content = self.models.values().filter(|model| model.content.short() == content);
        with_content.map(|model| model.name.as_str()).collect()
    }

    /// Notes that `content` has killed a worker, and returns whether it is refused from now on.
    pub fn killed(&mut self, content: u64, signal: i32, now: Instant) -> bool {
        self.forget(now);
        let count = self.kills.get(&content).map_or(0, |kills| kills.count) + 1;
        let last = now;
        self.kills.insert(content, Kills { count, last, signal });
        count >= MOST_KILLS
    }

    /// What a worker that starts now is to refuse.
    pub fn refusals(&mut self, now: Instant) -> Vec<Refusal> {
        self.forget(now);
        let refused = self.kills.iter().filter(|(_, kills)| kills.count >= MOST_KILLS);
        let refusals = refused.map(|(&content, kills)| {
            let left = self.ttl.saturating_sub(now.saturating_duration_since(kills.last));
            Refusal {
                content,
                reason: format!(
                    "it has ended the server's process {} times, the last time by {}",
                    kills.count,
                    signal_name(kills.signal)
                ),
                milliseconds: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            }
        });
        refusals.collect()
    }

    fn forget(&mut self, now: Instant) {
        let ttl = self.ttl;
        self.kills
            .retain(|_, kills| now.saturating_duration_since(kills.last) < ttl);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ContentHash;

    const TTL: Duration = Duration::from_secs(600);

    fn record(name: &str, digit: char) -> Record {
        Record {
            name: name.to_owned(),
            url: format!("/{name}"),
            target_model: None,
            content: ContentHash::parse(&digit.to_string().repeat(64)).unwrap(),
        }
    }

    #[test]
    fn the_models_are_those_that_were_loaded_and_not_unloaded() {
        let mut ledger = Ledger::new(TTL);
        for (name, digit) in [("a", '1'), ("b", '2'), ("c", '1')] {
            ledger.loaded(record(name, digit));
        }
        ledger.unloaded("b");
        ledger.unloaded("never");
        let names: Vec<String> = ledger.models().iter().map(|model| model.name.clone()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(ledger.names(record("", '1').content.short()), ["a", "c"]);
        assert_eq!(ledger.names(record("", '2').content.short()), [""; 0]);
    }

    #[test]
    fn a_content_is_refused_after_its_second_kill_until_its_time_is_over() {
        let (mut ledger, now) = (Ledger::new(TTL), Instant::now());
        assert!(!ledger.killed(1, libc::SIGFPE, now));
        assert!(!ledger.killed(2, libc::SIGSEGV, now));
        assert_eq!(ledger.refusals(now), []);
        assert!(ledger.killed(1, libc::SIGFPE, now + TTL / 2));
        let refusals = ledger.refusals(now + TTL);
        assert_eq!(refusals.len(), 1);
        assert_eq!((refusals[0].content, refusals[0].milliseconds), (1, 300_000));
        assert_eq!(
            refusals[0].reason,
            "it has ended the server's process 2 times, the last time by SIGFPE"
        );
        assert_eq!(ledger.refusals(now + TTL * 2), []);
        // It begins anew.
        assert!(!ledger.killed(1, libc::SIGFPE, now + TTL * 2));
    }
}
