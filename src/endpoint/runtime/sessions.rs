//! The instance of each session (SE-4).
//!
//! Containers open and close sessions, and report it in the headers of their responses. The
//! platform only routes each request to the instance of its session. A request with an unknown
//! session goes to any instance, whose container refuses it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use reqwest::header::HeaderMap;

use crate::endpoint::pipeline::{CLOSED_SESSION_ID, NEW_SESSION_ID};

/// The sessions of all endpoints.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<Key, Session>>);

/// The endpoint's name and the session's id.
type Key = (String, String);

/// The location of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub variant: String,
    /// The id of the instance.
    pub instance: u64,
    expires: Option<SystemTime>,
}

impl Sessions {
    /// The location of an open session that has not expired.
    pub fn find(&self, endpoint: &str, id: &str, now: SystemTime) -> Option<Session> {
        let sessions = self.lock();
        let session = sessions.get(&(endpoint.to_owned(), id.to_owned()))?;
        Some(session.clone()).filter(|session| !session.is_over(now))
    }

    /// Records the sessions that a response of this instance opens or closes.
    pub fn note(&self, endpoint: &str, variant: &str, instance: u64, reply: &HeaderMap, now: SystemTime) {
        let text = |name| reply.get(name).and_then(|value| value.to_str().ok());
        if let Some(closed) = text(CLOSED_SESSION_ID) {
            self.lock().remove(&(endpoint.to_owned(), closed.trim().to_owned()));
        }
        let Some((id, expires)) = text(NEW_SESSION_ID).map(opened) else {
            return;
        };
        let session = Session {
            variant: variant.to_owned(),
            instance,
            expires,
        };
        let mut sessions = self.lock();
        // The map grows only here, and opening a session is rare.
        sessions.retain(|_, session| !session.is_over(now));
        sessions.insert((endpoint.to_owned(), id.to_owned()), session);
    }

    /// Forgets the sessions of a removed endpoint.
    pub fn forget(&self, endpoint: &str) {
        self.lock().retain(|(of, _), _| of != endpoint);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Session>> {
        // No code panics while it holds the lock, so a poisoned value is consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn is_over(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// Parses `<id>; Expires=2026-01-01T00:00:00Z`. Ignores an invalid time.
fn opened(value: &str) -> (&str, Option<SystemTime>) {
    let (id, attributes) = value.split_once(';').unwrap_or((value, ""));
    let expires = attributes.split(';').find_map(|attribute| {
        let (name, time) = attribute.split_once('=')?;
        let time = humantime::parse_rfc3339_weak(time.trim()).ok()?;
        name.trim().eq_ignore_ascii_case("expires").then_some(time)
    });
    (id.trim(), expires)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn reply(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn a_session_stays_with_its_instance_until_it_expires_or_is_closed() {
        let now = humantime::parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
        let sessions = Sessions::default();
        let opened = reply(NEW_SESSION_ID, "s-1; Expires=2026-01-01T00:20:00Z");
        sessions.note("shop", "blue", 1, &opened, now);
        let instance = |id, now| sessions.find("shop", id, now).map(|session| session.instance);
        assert_eq!(instance("s-1", now), Some(1));
        assert_eq!(instance("s-1", now + Duration::from_secs(1200)), None);
        assert_eq!(instance("s-2", now), None);
        assert_eq!(sessions.find("other", "s-1", now), None);
        sessions.note("shop", "blue", 1, &reply(CLOSED_SESSION_ID, "s-1"), now);
        assert_eq!(instance("s-1", now), None);
        sessions.note("shop", "blue", 2, &reply(NEW_SESSION_ID, "s-3"), now);
        assert_eq!(instance("s-3", now), Some(2));
        sessions.forget("shop");
        assert_eq!(instance("s-3", now), None);
    }
}
