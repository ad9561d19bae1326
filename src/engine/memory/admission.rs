//! Admission: compares a reservation request with the ledger, then with what is in use, and waits
//! for loads in progress when only they are in the way.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::ledger::MemoryLedger;
use super::position::{Decision, Position, ReservationRequest};
use super::{Budget, NoRoom};
use crate::engine::memory::allocator;

impl Budget {
    /// Like [`Self::wait_for_memory`]; if the memory is short, first frees what models can do
    /// without. Call it on a thread for loads, which may drop sessions.
    pub(super) fn make_room<T>(&self, timeout: Duration, admit: impl Fn() -> Result<T, NoRoom>) -> Result<T, NoRoom> {
        self.wait_for_memory(timeout, || {
            admit().or_else(|refused| {
                let has_freed = self.shared.spare.get().is_some_and(|free| free());
                if has_freed { admit() } else { Err(refused) }
            })
        })
    }

    /// Retries `admit` until it succeeds, no load in progress can make room, or `timeout` is over.
    pub(super) fn wait_for_memory<T>(
        &self,
        timeout: Duration,
        admit: impl Fn() -> Result<T, NoRoom>,
    ) -> Result<T, NoRoom> {
        let deadline = Instant::now() + timeout;
        loop {
            // Read before `admit`: a load that ends while `admit` refuses has made room.
            let ends = self.ledger().ends;
            let refused = match admit() {
                Ok(admitted) => return Ok(admitted),
                Err(refused) => refused,
            };
            let ledger = self.ledger();
            let left = deadline.saturating_duration_since(Instant::now());
            let nothing_ends = ledger.loading == 0 && ledger.ends == ends;
            if nothing_ends || left.is_zero() {
                return Err(refused);
            }
            let unchanged = |ledger: &mut MemoryLedger| ledger.ends == ends;
            drop(
                self.shared
                    .settled
                    .wait_timeout_while(ledger, left, unchanged)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }

    /// Calls `enter` if the request fits. The request depends on the state of the ledger.
    pub(super) fn admit<T>(
        &self,
        request: impl Fn(&MemoryLedger) -> ReservationRequest,
        enter: impl Fn(&mut MemoryLedger) -> T,
    ) -> Result<T, NoRoom> {
        let Some(limit) = &self.shared.config.limit else {
            return Ok(enter(&mut self.ledger()));
        };
        let mut seen: Option<(u64, Option<u64>)> = None;
        let mut purged = false;
        loop {
            let mut ledger = self.ledger();
            let position = self.position(&ledger, limit.bytes, request(&ledger));
            let decision = match (position.decide(), seen) {
                (Decision::Admit, _) => Ok(()),
                (Decision::CheckUsage, Some((epoch, used))) if epoch == ledger.epoch => match used {
                    Some(used) => position.decide_by_usage(used),
                    None => position.decide_without_usage(),
                },
                (Decision::CheckUsage, _) => {
                    let epoch = ledger.epoch;
                    drop(ledger);
                    seen = Some((epoch, limit.usage.now()));
                    continue;
                }
            };
            match decision {
                Ok(()) => {
                    ledger.epoch += 1;
                    return Ok(enter(&mut ledger));
                }
                Err(refused) if purged => return Err(refused),
                Err(_) => {
                    // Retry once: the allocator may still hold freed memory.
                    drop(ledger);
                    allocator::give_back();
                    purged = true;
                    seen = None;
                }
            }
        }
    }

    pub(super) fn position(&self, ledger: &MemoryLedger, limit: u64, request: ReservationRequest) -> Position {
        ledger.position(&self.shared.config, self.shared.base, limit, request)
    }
}
