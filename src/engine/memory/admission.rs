//! How a reservation comes about: what is asked for is held against the ledger, then against what is in use, and waits for
//! what is out of the way in a moment.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::position::{Asked, Decision, Position};
use super::{Budget, NoRoom};
use crate::engine::allocator;

impl Budget {
    /// Tries `admit` until nothing is in the way that will be out of it by itself, or too long.
    pub(super) fn patiently<T>(&self, patience: Duration, admit: impl Fn() -> Result<T, NoRoom>) -> Result<T, NoRoom> {
        let deadline = Instant::now() + patience;
        loop {
            // From before: a load that ends while another one is refused has made room for it.
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
            let unchanged = |ledger: &mut Ledger| ledger.ends == ends;
            drop(
                self.shared
                    .settled
                    .wait_timeout_while(ledger, left, unchanged)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }

    /// Does `enter` when what is asked for, which depends on where the ledger stands, fits.
    pub(super) fn admit<T>(
        &self,
        asked: impl Fn(&Ledger) -> Asked,
        enter: impl Fn(&mut Ledger) -> T,
    ) -> Result<T, NoRoom> {
        let Some(limit) = &self.shared.bounds.limit else {
            return Ok(enter(&mut self.ledger()));
        };
        let mut seen: Option<(u64, Option<u64>)> = None;
        let mut purged = false;
        loop {
            let mut ledger = self.ledger();
            let position = self.position(&ledger, limit.bytes, asked(&ledger));
            let decision = match (position.decide(), seen) {
                (Decision::Admit, _) => Ok(()),
                (Decision::Look, Some((epoch, used))) if epoch == ledger.epoch => match used {
                    Some(used) => position.decide_by(used),
                    None => position.decide_blindly(),
                },
                (Decision::Look, _) => {
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
                    // Freed memory that the allocator still holds is no reason to refuse.
                    drop(ledger);
                    allocator::give_back();
                    purged = true;
                    seen = None;
                }
            }
        }
    }

    fn position(&self, ledger: &Ledger, limit: u64, asked: Asked) -> Position {
        let bounds = &self.shared.bounds;
        Position {
            limit,
            base: self.shared.base,
            planned: ledger.planned(bounds),
            loaded: ledger.loaded,
            promised: ledger.loading.saturating_add(ledger.mapped_charge(bounds)),
            margin: bounds.margin(),
            asked,
        }
    }
}
