//! The last steps in the lives of a container's models, for the page. The log has all of them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::page::state::LifeEvent;
use crate::page::time::now;
use crate::store::Name;

/// Number of steps that are kept.
const KEPT: usize = 100;

/// A step in the life of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LifeStep {
    Download,
    Load,
    Loaded,
    /// The container answered 507.
    Full,
    Retry,
    Unload,
    Unloaded,
    /// The container does not know the model any more.
    Lost,
    Failed,
}

impl LifeStep {
    const fn label(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Load => "load",
            Self::Loaded => "loaded",
            Self::Full => "full",
            Self::Retry => "retry",
            Self::Unload => "unload",
            Self::Unloaded => "unloaded",
            Self::Lost => "lost",
            Self::Failed => "failed",
        }
    }
}

/// The last steps, the newest last.
#[derive(Debug, Default)]
pub(super) struct Life(Mutex<VecDeque<LifeEvent>>);

impl Life {
    pub fn note(&self, model: &Name, step: LifeStep, detail: Option<String>) {
        let mut events = self.events();
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(LifeEvent {
            time: now(),
            model: model.to_string(),
            step: step.label().to_owned(),
            detail,
        });
    }

    pub fn last(&self) -> Vec<LifeEvent> {
        self.events().iter().cloned().collect()
    }

    fn events(&self) -> MutexGuard<'_, VecDeque<LifeEvent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_steps_are_kept() {
        let (life, name) = (Life::default(), Name::parse("a.tar.gz").unwrap());
        for number in 0..KEPT + 2 {
            life.note(&name, LifeStep::Load, Some(number.to_string()));
        }
        let events = life.last();
        assert_eq!((events.len(), events[0].detail.as_deref()), (KEPT, Some("2")));
        assert_eq!((&*events[0].model, &*events[0].step), ("a.tar.gz", "load"));
    }
}
