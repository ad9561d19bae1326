//! Finds out what a session makes of its large constants: which it copies, and which it reads.
//!
//! ONNX Runtime unmaps a constant when all of its kernels read a copy in their own order. A
//! constant that is also read by another operator stays mapped, although there is a copy: a table
//! that rows are looked up in, and that scores are computed with. Two sessions that share their
//! copies tell how large all copies are together.

use std::fs::File;
use std::path::Path;

use ort::session::builder::PrepackedWeights;

use super::mapping;
use super::protocol::{ConstantUse, PrepareJob};
use crate::engine::load::constants::constants_in;
use crate::engine::load::onnx_file::placed::{MOST_GRAPH, Place, PlacedConstant, placed_constants};
use crate::engine::memory::allocator;
use crate::engine::onnxruntime::runtime::Environment;
use crate::engine::onnxruntime::session::Session;

/// The large constants of a session.
pub(super) struct UsedConstants {
    pub(super) uses: Vec<ConstantUse>,
    /// Bytes of those that runs read.
    pub(super) mapped: u64,
}

/// The large constants of a graph; `None` if they cannot be read, or if the graph is too large.
pub(super) fn placed(graph: &Path) -> Option<Vec<PlacedConstant>> {
    let bytes = std::fs::metadata(graph).ok()?.len();
    (bytes <= MOST_GRAPH).then(|| placed_constants(&std::fs::read(graph).ok()?).ok())?
}

/// Looks at the session of the job's `graph` and `constants`, which must be alive. Its creation
/// took `created` bytes.
pub(super) fn of(
    environment: &Environment,
    job: &PrepareJob,
    graph: &Path,
    constants: &Path,
    created: u64,
) -> UsedConstants {
    let parts = mapping::mapped_offsets(constants);
    let is_read = |place: &Place| {
        parts.as_ref().is_none_or(|parts| {
            let mut inside = parts.iter();
            inside.any(|&(start, end)| start <= place.offset && place.offset + place.bytes <= end)
        })
    };
    let placed = placed(graph).unwrap_or_default();
    let mut uses: Vec<ConstantUse> = Vec::with_capacity(placed.len());
    for constant in &placed {
        let is_read = is_read(&constant.place);
        uses.push(ConstantUse {
            name: constant.name.clone(),
            copy: if is_read { 0 } else { constant.place.bytes },
            is_read,
        });
    }
    let read = || placed.iter().zip(&uses).filter(|(_, used)| used.is_read);
    let mapped = read().map(|(constant, _)| constant.place.bytes).sum();
    let copied: u64 = uses.iter().map(|used| used.copy).sum();
    let smallest = read().map(|(constant, _)| constant.place.bytes).min();
    // Otherwise there is no room for the copy of a constant that is also read.
    if smallest.is_some_and(|smallest| created.saturating_sub(copied) >= smallest) {
        let copies = copies(environment, job, graph, constants, &placed).unwrap_or(copied);
        let sizes: Vec<u64> = placed.iter().map(|constant| constant.place.bytes).collect();
        attribute(&mut uses, &sizes, copies.saturating_sub(copied));
    }
    UsedConstants { uses, mapped }
}

/// Bytes of all copies: the difference between a session that makes them and one that finds them.
fn copies(
    environment: &Environment,
    job: &PrepareJob,
    graph: &Path,
    constants: &Path,
    placed: &[PlacedConstant],
) -> Option<u64> {
    let packed = PrepackedWeights::new();
    let file = File::open(constants).ok()?;
    let create = || {
        let given = constants_in(&file, placed, &packed).ok()?;
        let before = allocator::thread_balance();
        let session = Session::open_shared(environment, graph, job.weights, given).ok()?;
        let taken = u64::try_from(allocator::thread_balance() - before).unwrap_or(0);
        Some((session, taken))
    };
    let (_first, alone) = create()?;
    let (_second, shared) = create()?;
    Some(alone.saturating_sub(shared))
}

/// Attributes `bytes` of copies to the constants that are read, the largest first. A copy has about
/// the size of its constant, so a remainder of less than half is the padding of other copies.
fn attribute(uses: &mut [ConstantUse], sizes: &[u64], mut bytes: u64) {
    let mut order: Vec<usize> = (0..uses.len()).filter(|&index| uses[index].is_read).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(sizes[index]));
    for index in order {
        if bytes >= sizes[index] / 2 {
            uses[index].copy = bytes.min(sizes[index]);
            bytes -= uses[index].copy;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_attributed_to_the_largest_constants_that_are_read() {
        let table: [(u64, [u64; 3]); 6] = [
            (0, [0, 0, 0]),
            (1000, [1000, 0, 0]),
            (990, [990, 0, 0]),
            (1100, [1000, 0, 100]),
            (100, [0, 0, 100]),
            (40, [0, 0, 0]),
        ];
        for (bytes, expected) in table {
            let used = |is_read| ConstantUse {
                name: String::new(),
                copy: 0,
                is_read,
            };
            let mut uses = [used(true), used(false), used(true)];
            attribute(&mut uses, &[1000, 5000, 100], bytes);
            assert_eq!(uses.map(|used| used.copy), expected, "{bytes}");
        }
    }
}
