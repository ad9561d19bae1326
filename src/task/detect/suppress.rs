//! Non-maximum suppression: keeps only the best of overlapping boxes of one class.

use super::Candidate;

/// Returns the boxes that overlap no box of their class with a higher score by more than
/// `most_overlap`, best first, at most `most`.
///
/// A box is compared only with kept boxes of its class, which are few.
pub(super) fn suppress(mut candidates: Vec<Candidate>, most_overlap: f32, most: usize) -> Vec<Candidate> {
    // A stable sort keeps the order of equal scores.
    candidates.sort_by(|one, other| other.score.total_cmp(&one.score));
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if kept.len() == most {
            break;
        }
        let is_covered = kept
            .iter()
            .filter(|other| other.class == candidate.class)
            .any(|other| overlap(&other.corners, &candidate.corners) > most_overlap);
        if !is_covered {
            kept.push(candidate);
        }
    }
    kept
}

/// The intersection over union of two boxes.
pub(super) fn overlap(one: &[f32; 4], other: &[f32; 4]) -> f32 {
    let area = |corners: &[f32; 4]| (corners[2] - corners[0]) * (corners[3] - corners[1]);
    let width = one[2].min(other[2]) - one[0].max(other[0]);
    let height = one[3].min(other[3]) - one[1].max(other[1]);
    let both = width.max(0.0) * height.max(0.0);
    both / (area(one) + area(other) - both)
}
