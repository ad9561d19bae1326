//! Whether what is asked for fits: pure numbers, so that the rule can be read and tested by itself.

use super::NoRoom;

/// What memory is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The most that it comes to. What of it is over in a moment may have what is kept free: else a model that will fit would
    /// be refused because it cannot be prepared, or because its load takes a little more than it does. Requests wait for that
    /// to end.
    pub peak: u64,
    /// What of it is there to stay; `None` for what is over in a moment, such as a request.
    pub stays: Option<Stays>,
}

/// What a model asks for as long as it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stays {
    pub bytes: u64,
    /// What has to be free beside it.
    pub spare: u64,
}

/// What a decision is made of.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    pub limit: u64,
    pub base: u64,
    /// All that is in the ledger.
    pub planned: u64,
    /// Bytes of sessions in it: what the allocator's rounding applies to.
    pub loaded: u64,
    /// Promised and perhaps not in use yet: loads under way, mapped weights.
    pub promised: u64,
    /// What nobody gets: the last pages of a control group are the kernel's, for files that are read and written and for its
    /// own books, and without any it ends a process.
    pub margin: u64,
    pub asked: Asked,
}

pub enum Decision {
    Admit,
    /// The ledger alone cannot say.
    Look,
}

impl Position {
    /// By the ledger: sessions have been seen to take up to a seventh more than they allocate. Of the rest an eighth is left
    /// to what the ledger does not know of: the supervisor, children that wait for work, the kernel's own memory for files
    /// that are mapped (30 MB of it for 500 MB of models).
    pub fn decide(&self) -> Decision {
        let Asked { peak, stays } = self.asked;
        let stays = stays.map_or(0, |stays| stays.bytes.saturating_add(stays.spare));
        let pessimistic = self
            .base
            .saturating_add(self.planned)
            .saturating_add(self.loaded / 4)
            .saturating_add(peak.max(stays));
        if pessimistic <= self.limit - self.limit / 8 {
            Decision::Admit
        } else {
            Decision::Look
        }
    }

    /// By what is in use.
    pub fn decide_by(&self, used: u64) -> Result<(), NoRoom> {
        let fits = |needed: u64, beside: u64| {
            if needed.saturating_add(beside) <= self.limit {
                return Ok(());
            }
            Err(NoRoom {
                needed,
                available: self.limit.saturating_sub(beside),
                limit: self.limit,
            })
        };
        let taken = used.saturating_add(self.promised);
        if let Some(Stays { bytes, spare }) = self.asked.stays {
            fits(bytes, taken.saturating_add(spare))?;
        }
        fits(self.asked.peak, taken.saturating_add(self.margin))
    }

    /// Where the system says nothing.
    pub fn decide_blindly(&self) -> Result<(), NoRoom> {
        let used = self
            .base
            .saturating_add(self.planned)
            .saturating_add(self.loaded / 8)
            .saturating_sub(self.promised);
        self.decide_by(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_really_used_decides_near_the_limit() {
        let position = Position {
            limit: 1000,
            base: 100,
            planned: 700,
            loaded: 600,
            promised: 100,
            margin: 0,
            asked: Asked { peak: 120, stays: None },
        };
        assert!(matches!(position.decide(), Decision::Look));
        assert_eq!(position.decide_by(780), Ok(()));
        let refused = position.decide_by(781).unwrap_err();
        assert_eq!((refused.needed, refused.available), (120, 119));
        let roomy = Position {
            limit: 1223,
            ..position
        };
        assert!(matches!(roomy.decide(), Decision::Admit));
    }

    #[test]
    fn what_stays_leaves_something_free_and_what_passes_may_have_that() {
        let position = |peak, bytes, spare| Position {
            limit: 1000,
            base: 0,
            planned: 950,
            loaded: 0,
            promised: 0,
            margin: 10,
            asked: Asked {
                peak,
                stays: Some(Stays { bytes, spare }),
            },
        };
        let outcome = |peak, bytes, spare| {
            let decided = position(peak, bytes, spare).decide_by(900);
            decided.map_err(|refused| (refused.needed, refused.available))
        };
        assert_eq!(outcome(90, 60, 40), Ok(()));
        assert_eq!(outcome(90, 60, 41), Err((60, 59)));
        assert_eq!(outcome(91, 60, 40), Err((91, 90)));
        assert_eq!(outcome(60, 60, 200), Err((60, 0)));
    }
}
