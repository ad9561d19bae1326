//! Decides whether a reservation fits. Pure arithmetic, so that the rule can be read and tested by
//! itself.

use super::NoRoom;

/// A request for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservationRequest {
    /// Peak bytes. The part that is released after loading may use the headroom; otherwise a model
    /// that fits could be refused because it cannot be prepared, or because its load needs a little
    /// more than the model. Requests wait until the load ends.
    pub peak: u64,
    /// The part that stays reserved; `None` for something short, such as a request.
    pub resident: Option<ResidentMemory>,
}

/// Memory that a model keeps while it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResidentMemory {
    pub bytes: u64,
    /// Bytes that must stay free next to it.
    pub headroom: u64,
}

/// The inputs of a decision, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    pub limit: u64,
    pub base: u64,
    /// Sum of the ledger.
    pub planned: u64,
    /// Bytes of sessions in the ledger, which the allocator rounds up.
    pub loaded: u64,
    /// Promised, and perhaps not in use yet: loads in progress, mapped weights.
    pub promised: u64,
    /// Bytes that no reservation may use. The kernel needs the last pages of a control group for
    /// file I/O and for its own data, and kills a process if there are none.
    pub margin: u64,
    pub request: ReservationRequest,
}

pub enum Decision {
    Admit,
    /// The ledger alone cannot decide: compare with what is in use.
    CheckUsage,
}

impl Position {
    /// Decides by the ledger. Sessions were measured to take up to a seventh more than they
    /// allocate. An eighth of the limit is left to what the ledger does not know: the supervisor,
    /// idle children, and the kernel's own memory for mapped files (30 MB for 500 MB of models).
    pub fn decide(&self) -> Decision {
        let ReservationRequest { peak, resident } = self.request;
        let resident = resident.map_or(0, |resident| resident.bytes.saturating_add(resident.headroom));
        let pessimistic = self
            .base
            .saturating_add(self.planned)
            .saturating_add(self.loaded / 4)
            .saturating_add(peak.max(resident));
        if pessimistic <= self.limit - self.limit / 8 {
            Decision::Admit
        } else {
            Decision::CheckUsage
        }
    }

    /// Decides by the bytes that are in use.
    pub fn decide_by_usage(&self, used: u64) -> Result<(), NoRoom> {
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
        if let Some(ResidentMemory { bytes, headroom }) = self.request.resident {
            fits(bytes, taken.saturating_add(headroom))?;
        }
        fits(self.request.peak, taken.saturating_add(self.margin))
    }

    /// Decides when the system does not report what is in use.
    pub fn decide_without_usage(&self) -> Result<(), NoRoom> {
        self.decide_by_usage(self.estimated_usage())
    }

    fn estimated_usage(&self) -> u64 {
        self.base
            .saturating_add(self.planned)
            .saturating_add(self.loaded / 8)
            .saturating_sub(self.promised)
    }

    /// Bytes that are left for models beside those that are in use, if the system reports them.
    pub fn free(&self, used: Option<u64>) -> u64 {
        let headroom = self.request.resident.map_or(0, |resident| resident.headroom);
        let taken = used
            .unwrap_or_else(|| self.estimated_usage())
            .saturating_add(self.promised);
        self.limit.saturating_sub(taken.saturating_add(headroom))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_the_limit_the_memory_in_use_decides() {
        let position = Position {
            limit: 1000,
            base: 100,
            planned: 700,
            loaded: 600,
            promised: 100,
            margin: 0,
            request: ReservationRequest {
                peak: 120,
                resident: None,
            },
        };
        assert!(matches!(position.decide(), Decision::CheckUsage));
        assert_eq!(position.decide_by_usage(780), Ok(()));
        let refused = position.decide_by_usage(781).unwrap_err();
        assert_eq!((refused.needed, refused.available), (120, 119));
        assert_eq!(position.free(Some(780)), 120);
        assert_eq!(position.free(None), 125, "an eighth of the sessions for the allocator");
        let roomy = Position {
            limit: 1223,
            ..position
        };
        assert!(matches!(roomy.decide(), Decision::Admit));
    }

    #[test]
    fn only_resident_memory_needs_headroom() {
        let position = |peak, bytes, headroom| Position {
            limit: 1000,
            base: 0,
            planned: 950,
            loaded: 0,
            promised: 0,
            margin: 10,
            request: ReservationRequest {
                peak,
                resident: Some(ResidentMemory { bytes, headroom }),
            },
        };
        let outcome = |peak, bytes, headroom| {
            let decided = position(peak, bytes, headroom).decide_by_usage(900);
            decided.map_err(|refused| (refused.needed, refused.available))
        };
        assert_eq!(outcome(90, 60, 40), Ok(()));
        assert_eq!(outcome(90, 60, 41), Err((60, 59)));
        assert_eq!(outcome(91, 60, 40), Err((91, 90)));
        assert_eq!(outcome(60, 60, 200), Err((60, 0)));
    }
}
