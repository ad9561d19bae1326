//! Remembers harmful content for a while.
//!
//! A model that crashed, hung or exhausted the memory does so again under any other name, so the
//! quarantine stores its content, not its name. An entry expires, because the machine may just have
//! been short of memory, and a hidden entry is hard to explain a week later.
//!
//! Invariants: there are at most [`MOST`] entries; an expired entry has no effect.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::load::content::ContentHash;

/// Maximum number of entries. A new one beyond it replaces the oldest.
const MOST: usize = 4096;

/// Maximum length of a reason in bytes: a reason may quote text that the content controls.
const MAX_REASON: usize = 512;

/// Error for content that is refused at present.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; it may be tried again in {}", humantime::format_duration(whole_seconds(*.retry_after)))]
pub struct Quarantined {
    pub reason: String,
    pub retry_after: Duration,
}

/// The contents that are refused at present.
#[derive(Debug)]
pub struct Quarantine {
    ttl: Duration,
    /// Locked to look up or to add an entry.
    entries: Mutex<HashMap<u64, QuarantineEntry>>,
}

#[derive(Debug)]
struct QuarantineEntry {
    reason: String,
    until: Instant,
}

impl Quarantine {
    /// Creates an empty quarantine with entries that last for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            entries: Mutex::default(),
        }
    }

    /// Refuses `content` (a [`ContentHash::short`]) from now on. Clients that load it get `reason`.
    pub fn add(&self, content: u64, reason: String) {
        self.add_until(content, reason, Instant::now(), self.ttl);
    }

    /// Like [`Quarantine::add`], for a content that was quarantined earlier.
    pub fn add_for(&self, content: u64, reason: String, remaining: Duration) {
        self.add_until(content, reason, Instant::now(), remaining);
    }

    fn add_until(&self, content: u64, mut reason: String, now: Instant, ttl: Duration) {
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        let mut entries = self.entries();
        if entries.len() >= MOST && !entries.contains_key(&content) {
            entries.retain(|_, entry| entry.until > now);
            let oldest = entries
                .iter()
                .min_by_key(|(_, entry)| entry.until)
                .map(|(&content, _)| content);
            if let Some(oldest) = oldest.filter(|_| entries.len() >= MOST) {
                entries.remove(&oldest);
            }
        }
        let until = now + ttl;
        entries.insert(content, QuarantineEntry { reason, until });
    }

    /// Fails if `content` is quarantined.
    pub fn check(&self, content: &ContentHash) -> Result<(), Quarantined> {
        self.check_at(content.short(), Instant::now())
    }

    fn check_at(&self, content: u64, now: Instant) -> Result<(), Quarantined> {
        let mut entries = self.entries();
        let Some(entry) = entries.get(&content) else {
            return Ok(());
        };
        let retry_after = entry.until.saturating_duration_since(now);
        if retry_after.is_zero() {
            entries.remove(&content);
            return Ok(());
        }
        Err(Quarantined {
            reason: entry.reason.clone(),
            retry_after,
        })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<u64, QuarantineEntry>> {
        // Nothing panics while the lock is held.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rounds up, so that a client that waits as long as reported is not refused again.
fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(600);

    #[test]
    fn content_is_refused_with_the_reason_until_its_entry_expires() {
        let (quarantine, now) = (Quarantine::new(TTL), Instant::now());
        quarantine.add_until(1, "it crashed".to_owned(), now, TTL);
        let refused = quarantine.check_at(1, now + Duration::from_millis(500)).unwrap_err();
        assert_eq!(refused.to_string(), "it crashed; it may be tried again in 10m");
        assert_eq!(quarantine.check_at(2, now), Ok(()));
        quarantine.add(2, String::new());
        assert!(quarantine.check_at(2, now).is_err());
        assert_eq!(quarantine.check_at(1, now + TTL), Ok(()));
        assert_eq!(quarantine.entries().len(), 1);
    }

    #[test]
    fn a_later_entry_replaces_the_reason_and_the_time() {
        let (quarantine, now) = (Quarantine::new(TTL), Instant::now());
        quarantine.add_until(1, "first".to_owned(), now, TTL);
        quarantine.add_until(1, "second".to_owned(), now + TTL / 2, TTL);
        let refused = quarantine.check_at(1, now + TTL).unwrap_err();
        assert_eq!((refused.reason.as_str(), refused.retry_after), ("second", TTL / 2));
    }

    #[test]
    fn beyond_the_maximum_the_oldest_entry_is_dropped() {
        let (quarantine, now) = (Quarantine::new(TTL), Instant::now());
        for content in 0..=MOST as u64 {
            let then = now + Duration::from_millis(content);
            quarantine.add_until(content, String::new(), then, TTL);
        }
        assert_eq!(quarantine.entries().len(), MOST);
        assert_eq!(quarantine.check_at(0, now), Ok(()));
        assert!(quarantine.check_at(1, now).is_err());
        assert!(quarantine.check_at(MOST as u64, now).is_err());
    }
}
