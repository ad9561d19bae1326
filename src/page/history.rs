//! The last fifteen minutes, so that a page that is opened late shows what happened before.

use std::collections::VecDeque;
use std::time::Duration;

use super::state::{History, Point};

/// Time between two points.
pub const STEP: Duration = Duration::from_secs(5);

/// Number of points: fifteen minutes, some 15 KB.
pub const POINTS: usize = 180;

/// The points, the newest last.
#[derive(Debug, Default)]
pub struct PointRing(VecDeque<Point>);

impl PointRing {
    pub fn push(&mut self, point: Point) {
        if self.0.len() == POINTS {
            self.0.pop_front();
        }
        self.0.push_back(point);
    }

    pub fn history(&self) -> History {
        History {
            points: self.0.iter().cloned().collect(),
            ..History::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_holds_fifteen_minutes() {
        assert_eq!(STEP * POINTS as u32, Duration::from_secs(15 * 60));
        let mut ring = PointRing::default();
        for time in 0..POINTS as u64 + 5 {
            ring.push(Point {
                time,
                ..Point::default()
            });
        }
        let history = ring.history();
        assert_eq!((history.points.len(), history.points[0].time), (POINTS, 5));
    }
}
