//! The states of a name, and what each operation does in each of them, as pure functions.
//!
//! The catalog asks [`action`] under the lock of the name, does the work, and hands the end of the
//! work to [`settle`], which says what becomes of the entry and what the journal records. All
//! decisions are here; `catalog.rs`, `restore.rs` and `retire.rs` do the work.
//!
//! Two states of the table in [`super`] do not occur here. While a name is loading, its lock is
//! held, so that others wait and find what came of the load; lookups without the lock find it
//! absent. A name that is held by stuck runs after an unload is unloading: only the unload's answer
//! differs.
//!
//! Invariant: the journal holds the names that are listed, and no others.

use std::sync::Arc;

use super::entry::CatalogEntry;
use super::model_engine::LoadedModel;

/// The state of a name under its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelState {
    Absent,
    Loaded,
    /// Listed after a restart, and not loaded yet.
    Restored,
    /// Closed to requests; an unload has begun and has not freed the model yet.
    Unloading,
}

impl ModelState {
    /// The state of a name with this entry.
    pub fn of<M: LoadedModel>(entry: Option<&Arc<CatalogEntry<M>>>) -> Self {
        entry.map_or(Self::Absent, |entry| entry.state())
    }

    /// Whether the list of models shows the name.
    pub const fn is_listed(self) -> bool {
        match self {
            Self::Loaded | Self::Restored => true,
            Self::Absent | Self::Unloading => false,
        }
    }
}

/// An operation on a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelOperation {
    Load,
    Unload,
    /// A request to the model.
    Invoke,
    Describe,
    /// The load of a model that is listed since a restart.
    Restore,
    /// The load of a newer version, or of the prepared form, in the place of the loaded model.
    Refresh,
}

/// The work that an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Loads the artifact.
    Load,
    /// Finishes the unload that has begun, then loads the artifact.
    FinishUnloadThenLoad,
    /// Hands out the model, or its description.
    Answer,
    /// Loads the model again, and then does what was asked for.
    LoadAgain,
    /// Closes the entry, waits for its requests and frees the model.
    Unload,
    /// Answers 409.
    RefuseLoaded,
    /// Answers 404; in standalone mode a request loads the model.
    RefuseAbsent,
    /// Does nothing: there is nothing left to do.
    Nothing,
}

/// The work that `operation` takes in `state`.
pub(super) const fn action(state: ModelState, operation: ModelOperation) -> Action {
    use ModelOperation::{Describe, Invoke, Load, Refresh, Restore, Unload};
    use ModelState::{Absent, Loaded, Restored, Unloading};
    match (operation, state) {
        (Load, Absent) => Action::Load,
        (Load, Loaded | Restored) => Action::RefuseLoaded,
        (Load, Unloading) => Action::FinishUnloadThenLoad,
        (Unload, Absent) => Action::RefuseAbsent,
        (Unload, Loaded | Restored | Unloading) => Action::Unload,
        (Invoke | Describe, Absent | Unloading) => Action::RefuseAbsent,
        (Invoke, Loaded) | (Describe, Loaded | Restored) => Action::Answer,
        (Invoke | Restore, Restored) => Action::LoadAgain,
        (Restore, Absent | Loaded | Unloading) => Action::Nothing,
        (Refresh, Loaded) => Action::Load,
        (Refresh, Absent | Restored | Unloading) => Action::Nothing,
    }
}

/// The end of the work of an operation. Work that ends with another error leaves everything as it
/// is: a refresh that fails, and a restore that may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Loaded,
    LoadFailed,
    /// A newer version takes the place of the old one.
    Refreshed,
    /// The prepared model takes the place of the unprepared one, in the same entry.
    Prepared,
    Restored,
    /// The model can never be loaded again.
    RestoreFailedForGood,
    Unloaded,
    /// Requests or stuck runs still hold the model of a closed entry.
    StillHeld,
}

/// The change of a name's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Keep,
    /// A new entry takes its place.
    Put,
    Remove,
}

/// A line of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JournalLine {
    Loaded,
    Unloaded,
}

/// The change of the entry at the end of the work, and what the journal records before the caller
/// gets its answer.
pub(super) const fn settle(end: End) -> (Change, Option<JournalLine>) {
    match end {
        End::Loaded => (Change::Put, Some(JournalLine::Loaded)),
        // Removes the entry that an earlier unload left behind; the journal knows of that unload.
        End::LoadFailed => (Change::Remove, None),
        // Standalone mode has no journal; the name stays listed in any case.
        End::Refreshed => (Change::Put, None),
        End::Prepared | End::Restored => (Change::Keep, None),
        End::RestoreFailedForGood | End::Unloaded => (Change::Remove, Some(JournalLine::Unloaded)),
        // A restarted process must not list it again.
        End::StillHeld => (Change::Keep, Some(JournalLine::Unloaded)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATES: [ModelState; 4] = [
        ModelState::Absent,
        ModelState::Loaded,
        ModelState::Restored,
        ModelState::Unloading,
    ];
    const OPERATIONS: [ModelOperation; 6] = [
        ModelOperation::Load,
        ModelOperation::Unload,
        ModelOperation::Invoke,
        ModelOperation::Describe,
        ModelOperation::Restore,
        ModelOperation::Refresh,
    ];

    #[test]
    fn every_operation_has_its_action_in_every_state() {
        use Action::{Answer, FinishUnloadThenLoad, Load, LoadAgain, Nothing, RefuseAbsent, RefuseLoaded, Unload};
        // The columns are those of `STATES`.
        let table = [
            [Load, RefuseLoaded, RefuseLoaded, FinishUnloadThenLoad],
            [RefuseAbsent, Unload, Unload, Unload],
            [RefuseAbsent, Answer, LoadAgain, RefuseAbsent],
            [RefuseAbsent, Answer, Answer, RefuseAbsent],
            [Nothing, Nothing, LoadAgain, Nothing],
            [Nothing, Load, Nothing, Nothing],
        ];
        for (operation, row) in OPERATIONS.into_iter().zip(table) {
            for (state, expected) in STATES.into_iter().zip(row) {
                assert_eq!(
                    action(state, operation),
                    expected,
                    "{operation:?} of a name that is {state:?}"
                );
            }
        }
    }

    /// A name as the catalog keeps it, with everything that it was asked to record.
    struct Name {
        state: ModelState,
        journal: Vec<JournalLine>,
        /// The journal records the unload of a closed entry once.
        unload_is_recorded: bool,
    }

    impl Name {
        fn end(&mut self, end: End, next: ModelState) {
            let (change, line) = settle(end);
            let before = self.state;
            self.state = match (change, end) {
                (Change::Remove, _) => ModelState::Absent,
                (Change::Put, _) => ModelState::Loaded,
                (Change::Keep, _) => next,
            };
            match line {
                Some(JournalLine::Loaded) => self.unload_is_recorded = false,
                Some(JournalLine::Unloaded) if before == ModelState::Unloading && self.unload_is_recorded => return,
                Some(JournalLine::Unloaded) => self.unload_is_recorded = true,
                None => {}
            }
            self.journal.extend(line);
        }

        /// Does an operation; `succeeds` decides how its work ends.
        fn run(&mut self, operation: ModelOperation, succeeds: bool, lasts: bool) {
            let pick = |ok, failed| if succeeds { ok } else { failed };
            match action(self.state, operation) {
                Action::Answer | Action::RefuseLoaded | Action::RefuseAbsent | Action::Nothing => {}
                // Requests still hold the entry that the unload has closed.
                Action::FinishUnloadThenLoad if lasts => self.end(End::StillHeld, ModelState::Unloading),
                Action::FinishUnloadThenLoad | Action::Load if operation == ModelOperation::Load => {
                    self.end(pick(End::Loaded, End::LoadFailed), ModelState::Absent);
                }
                Action::FinishUnloadThenLoad | Action::Load if succeeds => self.end(End::Refreshed, self.state),
                Action::FinishUnloadThenLoad | Action::Load => {}
                Action::LoadAgain => match (succeeds, lasts) {
                    (true, _) => self.end(End::Restored, ModelState::Loaded),
                    (false, true) => self.end(End::RestoreFailedForGood, ModelState::Absent),
                    (false, false) => {}
                },
                Action::Unload => self.end(pick(End::Unloaded, End::StillHeld), ModelState::Unloading),
            }
        }
    }

    proptest! {
        #[test]
        fn the_journal_holds_a_name_exactly_while_it_is_listed(
            starts_restored in any::<bool>(),
            steps in prop::collection::vec((0..OPERATIONS.len(), any::<bool>(), any::<bool>()), 0..40),
        ) {
            let mut name = Name { state: ModelState::Absent, journal: Vec::new(), unload_is_recorded: false };
            if starts_restored {
                // The process before recorded the load.
                (name.state, name.journal) = (ModelState::Restored, vec![JournalLine::Loaded]);
            }
            for (operation, succeeds, lasts) in steps {
                name.run(OPERATIONS[operation], succeeds, lasts);
                let is_recorded = name.journal.last() == Some(&JournalLine::Loaded);
                prop_assert_eq!(is_recorded, name.state.is_listed());
                prop_assert!(name.journal.windows(2).all(|pair| pair[0] != pair[1]), "{:?}", name.journal);
            }
        }
    }
}
