//! Content that did harm, remembered for a while.
//!
//! A model that crashed, hung or ate the memory of whoever tried it does so again under any other name, so what is
//! remembered is its content, not its name. Not for ever: the machine may have been short of something just then, and a
//! hash in a list that nobody can see is hard to explain a week later.
//!
//! What always holds: at most [`MOST`] are remembered; one that has run out of its time is as one that never was.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::content::ContentHash;

/// Contents that are remembered at once. Each was sent by somebody; whoever sends more makes the oldest forgotten.
const MOST: usize = 4096;

/// Longest reason, in bytes: reasons may quote what the content made a library say.
const MAX_REASON: usize = 512;

/// The content is refused at present.
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
    /// Locked to look one up or to write one down.
    entries: Mutex<HashMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    reason: String,
    until: Instant,
}

impl Quarantine {
    /// Remembers each content for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            entries: Mutex::default(),
        }
    }

    /// Refuses `content` (a [`ContentHash::short`]) from now on. The reason is said to whoever loads it.
    pub fn add(&self, content: u64, reason: String) {
        self.add_until(content, reason, Instant::now(), self.ttl);
    }

    /// As [`Quarantine::add`], for a content whose time began earlier.
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
        entries.insert(content, Entry { reason, until });
    }

    /// Whether `content` may be loaded.
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

    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        // Nothing panics under it.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rounded up: whoever comes back when he was told to is not sent away again.
fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(600);

    #[test]
    fn content_is_refused_with_the_reason_until_its_time_is_over() {
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
    fn the_last_reason_and_the_last_time_count() {
        let (quarantine, now) = (Quarantine::new(TTL), Instant::now());
        quarantine.add_until(1, "first".to_owned(), now, TTL);
        quarantine.add_until(1, "second".to_owned(), now + TTL / 2, TTL);
        let refused = quarantine.check_at(1, now + TTL).unwrap_err();
        assert_eq!((refused.reason.as_str(), refused.retry_after), ("second", TTL / 2));
    }

    #[test]
    fn when_too_many_are_remembered_the_oldest_is_forgotten() {
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
