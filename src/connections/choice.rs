//! Selects the connections to close: a pure function of their states.

use std::cmp::Reverse;
use std::time::Duration;

/// Time until a connection counts as idle: the client may be about to send its next request.
const SETTLED: Duration = Duration::from_millis(100);

/// Limits on the number of connections, and on the time to send a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Most connections at a time.
    pub places: usize,
    /// Places among these that only health checks may keep.
    pub reserved: usize,
    /// Time for the head of a request.
    pub header_timeout: Duration,
    /// Time for a whole request including its body. Every `body_rate` bytes that arrive add a
    /// second.
    pub body_timeout: Duration,
    /// Bytes for each added second.
    pub body_rate: u64,
    /// Time for a whole request when no place is free, and while the server stops.
    pub pressure_timeout: Duration,
}

impl ConnectionLimits {
    /// Places that any client may keep.
    pub fn general(&self) -> usize {
        self.places.saturating_sub(self.reserved).max(1)
    }
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionPhase {
    /// Nothing has arrived yet.
    Fresh,
    /// A request's head is arriving.
    Head,
    /// A request's body is arriving, and its handler waits for it.
    Body,
    /// A request is being answered.
    Answering,
    /// The last request is answered, and the next one has not begun to arrive.
    Idle,
}

/// The decision about a connection. Later values replace earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Stay,
    /// Ends once it is idle and all that has arrived is answered.
    Leave,
    /// Ends as soon as no request is being answered: the client sends too slowly.
    Overdue,
    /// Ends now; a request that is being answered gets a 503.
    Cut,
}

/// The properties of a connection on which the choice depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionState {
    pub phase: ConnectionPhase,
    pub fate: Fate,
    /// Time since the connection became idle, or the request began to arrive.
    pub age: Duration,
    /// Bytes of the request so far.
    pub received: u64,
}

/// The shortage of places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Idle connections to close in addition to those above the limit.
    pub wanted: usize,
    /// Whether the shortest deadlines apply, regardless of the number of connections.
    pub is_highest: bool,
}

/// Selects the connections whose fate changes, by their index.
///
/// Requests that arrive too slowly go first. If more than the general places are still taken, the
/// connections with the longest idle time go.
pub fn choose(limits: &ConnectionLimits, pressure: Pressure, seen: &[ConnectionState]) -> Vec<(usize, Fate)> {
    let staying = seen.iter().filter(|seen| seen.fate == Fate::Stay).count();
    let mut chosen: Vec<(usize, Fate)> = seen
        .iter()
        .enumerate()
        .filter(|(_, seen)| seen.fate < Fate::Overdue && is_overdue(limits, pressure, staying, seen))
        .map(|(index, _)| (index, Fate::Overdue))
        .collect();
    let going = chosen
        .iter()
        .filter(|(index, _)| seen[*index].fate == Fate::Stay)
        .count();
    let excess = (staying - going).saturating_sub(limits.general()) + pressure.wanted;
    if excess > 0 {
        let mut idle: Vec<usize> = seen
            .iter()
            .enumerate()
            .filter(|(_, seen)| seen.fate == Fate::Stay && seen.phase == ConnectionPhase::Idle && seen.age >= SETTLED)
            .map(|(index, _)| index)
            .collect();
        idle.sort_by_key(|&index| Reverse(seen[index].age));
        chosen.extend(idle.into_iter().take(excess).map(|index| (index, Fate::Leave)));
    }
    chosen
}

fn is_overdue(limits: &ConnectionLimits, pressure: Pressure, staying: usize, seen: &ConnectionState) -> bool {
    let full = match seen.phase {
        ConnectionPhase::Fresh | ConnectionPhase::Head => limits.header_timeout,
        ConnectionPhase::Body => limits.body_timeout,
        ConnectionPhase::Answering | ConnectionPhase::Idle => return false,
    };
    let taken = if pressure.is_highest { limits.general() } else { staying };
    let earned = match seen.phase {
        ConnectionPhase::Body => Duration::from_millis(seen.received.saturating_mul(1000) / limits.body_rate.max(1)),
        _ => Duration::ZERO,
    };
    seen.age >= tightened(full, limits.pressure_timeout, taken, limits.general()).saturating_add(earned)
}

/// The deadline when `taken` of `places` are taken: `full` up to one half, `least` when all are
/// taken, and linear in between.
fn tightened(full: Duration, least: Duration, taken: usize, places: usize) -> Duration {
    if full <= least || taken.saturating_mul(2) <= places {
        return full;
    }
    let free = places.saturating_sub(taken) as f64 / (places as f64 / 2.0);
    least + (full - least).mul_f64(free.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    const LIMITS: ConnectionLimits = ConnectionLimits {
        places: 5,
        reserved: 1,
        header_timeout: ms(10_000),
        body_timeout: ms(20_000),
        body_rate: 1000,
        pressure_timeout: ms(500),
    };

    fn seen(phase: ConnectionPhase, age: u64) -> ConnectionState {
        ConnectionState {
            phase,
            fate: Fate::Stay,
            age: ms(age),
            received: 0,
        }
    }

    fn idle(age: u64) -> ConnectionState {
        seen(ConnectionPhase::Idle, age)
    }

    #[test]
    fn deadlines_tighten_with_the_places_that_are_taken() {
        let table = [
            (0, 10_000),
            (50, 10_000),
            (75, 5_250),
            (90, 2_400),
            (100, 500),
            (120, 500),
        ];
        for (taken, expected) in table {
            assert_eq!(tightened(ms(10_000), ms(500), taken, 100), ms(expected), "{taken}");
        }
        // A deadline below the shortest one stays unchanged.
        assert_eq!(tightened(ms(100), ms(500), 100, 100), ms(100));
        assert_eq!(tightened(Duration::MAX, ms(500), 100, 100), ms(500));
    }

    #[test]
    fn only_the_longest_idle_connections_make_room() {
        use ConnectionPhase::{Answering, Fresh, Head};
        let busy = seen(Answering, 1_000_000);
        let leaving = ConnectionState {
            fate: Fate::Leave,
            ..idle(9_999)
        };
        type Case<'a> = (&'a str, Vec<ConnectionState>, Pressure, Vec<(usize, Fate)>);
        let table: [Case<'_>; 8] = [
            ("room for all", vec![idle(9_000); 4], Pressure::default(), vec![]),
            (
                "one too many",
                vec![idle(200), idle(900), busy, idle(300), idle(150)],
                Pressure::default(),
                vec![(1, Fate::Leave)],
            ),
            (
                "one is leaving already",
                vec![idle(200), leaving, busy, idle(300), idle(150)],
                Pressure::default(),
                vec![],
            ),
            ("all are busy", vec![busy; 7], Pressure::default(), vec![]),
            ("idle for a moment only", vec![idle(99); 6], Pressure::default(), vec![]),
            (
                "half-sent requests go before idle connections",
                vec![idle(200), seen(Head, 600), busy, seen(Fresh, 400), idle(150)],
                Pressure::default(),
                vec![(1, Fate::Overdue)],
            ),
            (
                "descriptors ran out below the limit",
                vec![idle(200), idle(300)],
                Pressure {
                    wanted: 1,
                    is_highest: true,
                },
                vec![(1, Fate::Leave)],
            ),
            (
                "half-sent requests of a server that stops",
                vec![
                    ConnectionState {
                        fate: Fate::Leave,
                        ..seen(Head, 500)
                    },
                    seen(Head, 499),
                ],
                Pressure {
                    wanted: 0,
                    is_highest: true,
                },
                vec![(0, Fate::Overdue)],
            ),
        ];
        for (what, seen, pressure, expected) in table {
            assert_eq!(choose(&LIMITS, pressure, &seen), expected, "{what}");
        }
    }

    #[test]
    fn only_a_body_below_the_minimum_rate_is_overdue() {
        let body = |age, received| ConnectionState {
            received,
            ..seen(ConnectionPhase::Body, age)
        };
        let highest = Pressure {
            wanted: 0,
            is_highest: true,
        };
        let table = [
            (body(400, 1), highest, false),
            (body(600, 1), highest, true),
            (body(100_000, 100_000), highest, false),
            (body(100_000, 90_000), highest, true),
            (body(19_999, 0), Pressure::default(), false),
            (body(20_000, 0), Pressure::default(), true),
            (body(30_000, 11_000), Pressure::default(), false),
        ];
        for (body, pressure, expected) in table {
            assert_eq!(!choose(&LIMITS, pressure, &[body]).is_empty(), expected, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn a_request_that_is_being_answered_is_never_chosen(
            connections in prop::collection::vec((0..5_u8, 0..30_000_u64, 0..1_000_000_u64), 0..30),
            wanted in 0..10_usize,
            is_highest: bool,
        ) {
            let phases = [ConnectionPhase::Fresh, ConnectionPhase::Head, ConnectionPhase::Body, ConnectionPhase::Answering, ConnectionPhase::Idle];
            let seen: Vec<ConnectionState> = connections
                .into_iter()
                .map(|(phase, age, received)| ConnectionState { received, ..seen(phases[usize::from(phase)], age) })
                .collect();
            let chosen = choose(&LIMITS, Pressure { wanted, is_highest }, &seen);
            let mut indices: Vec<usize> = chosen.iter().map(|(index, _)| *index).collect();
            for (index, fate) in chosen {
                prop_assert!(seen[index].phase != ConnectionPhase::Answering);
                prop_assert_eq!(fate == Fate::Leave, seen[index].phase == ConnectionPhase::Idle);
            }
            indices.sort_unstable();
            prop_assert!(indices.is_sorted_by(|a, b| a < b), "each connection is chosen at most once");
        }
    }
}
