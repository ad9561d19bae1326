//! The balancer in front of the servers: a ring of hashes with bounded loads, as
//! HAProxy's `hash-type consistent` with `hash-balance-factor`, or one server after the other.
//!
//! Each server has points on a ring. A model belongs to the server of the nearest point, so a
//! server that is added takes models from all others and moves none between them. A server is
//! passed over while it has more requests than its part of all requests times the factor. Then
//! the next server on the ring answers.
//!
//! The bound holds while the fleet is busy, as in `container/deploy/fleet/haproxy.cfg`. With few
//! requests, it would take the second of two requests for a model away from the server that has
//! the model.
//!
//! The hashes are our own. The rules are the same, but the models of a server are others than with
//! HAProxy.

use super::random::mix;

/// The rule by which requests are spread over servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    Consistent {
        /// Points of each server on the ring.
        points: u32,
        /// Most requests of a server, in percent of the mean of all; `None` for no bound.
        factor: Option<u32>,
        /// Mean of the requests that a server has at a time, from which the bound holds.
        busy: u32,
    },
    RoundRobin,
}

/// The balancer of a fleet.
#[derive(Debug)]
pub struct Balancer {
    /// Hashes and their servers, in the order of the hashes; empty for round robin.
    ring: Vec<(u32, u32)>,
    /// For each model, the place on the ring where the search begins.
    places: Vec<u32>,
    factor: Option<u32>,
    busy: u32,
    servers: u32,
    next: u32,
}

/// The hash of the model that is number `model`.
fn model_hash(model: u32, seed: u64) -> u32 {
    (mix(seed ^ mix(u64::from(model) + 1)) >> 32) as u32
}

fn point_hash(server: u32, point: u32) -> u32 {
    (mix((u64::from(server) + 1) << 32 | u64::from(point)) >> 32) as u32
}

impl Balancer {
    /// A balancer for `servers` servers, of which there is at least one.
    pub fn new(balance: Balance, servers: u32, models: usize, seed: u64) -> Self {
        let (points, factor, busy) = match balance {
            Balance::Consistent { points, factor, busy } => (points.max(1), factor, busy),
            Balance::RoundRobin => (0, None, 0),
        };
        let all = (0..servers).flat_map(|server| (0..points).map(move |point| (point_hash(server, point), server)));
        let mut ring: Vec<(u32, u32)> = all.collect();
        ring.sort_unstable();
        let place = |model| nearest(&ring, model_hash(model, seed)) as u32;
        let places = match ring.is_empty() {
            true => Vec::new(),
            false => (0..).take(models).map(place).collect(),
        };
        Self {
            ring,
            places,
            factor,
            busy,
            servers,
            next: 0,
        }
    }

    /// The server that a model belongs to; `None` for round robin.
    pub fn home(&self, model: u32) -> Option<u32> {
        let place = *self.places.get(model as usize)?;
        Some(self.ring[place as usize].1)
    }

    /// Chooses the server of a request. `requests` has the requests of each server that are not
    /// answered yet, `all` their sum.
    pub fn choose(&mut self, model: u32, requests: &[u32], all: u32) -> u32 {
        let Some(&place) = self.places.get(model as usize) else {
            let server = self.next;
            self.next = (server + 1) % self.servers;
            return server;
        };
        let home = self.ring[place as usize].1;
        let is_busy = u64::from(all) >= u64::from(self.busy) * u64::from(self.servers);
        let Some(factor) = self.factor.filter(|_| is_busy) else {
            return home;
        };
        let slots = ((u64::from(all) + 1) * u64::from(factor)).div_ceil(100);
        let is_free = |server: u32| u64::from(requests[server as usize]) < self.slots_of(server, slots);
        let (before, from) = self.ring.split_at(place as usize);
        let servers = from.iter().chain(before).map(|(_, server)| *server);
        servers.into_iter().find(|&server| is_free(server)).unwrap_or(home)
    }

    /// The part of `slots` that belongs to a server: all parts together are `slots`, or one each.
    fn slots_of(&self, server: u32, slots: u64) -> u64 {
        let (server, servers) = (u64::from(server), u64::from(self.servers));
        ((server + 1) * slots / servers - server * slots / servers).max(1)
    }
}

/// The index of the point nearest to `hash` on the ring, which is not empty.
fn nearest(ring: &[(u32, u32)], hash: u32) -> usize {
    let next = ring.partition_point(|(point, _)| *point < hash) % ring.len();
    let previous = (next + ring.len() - 1) % ring.len();
    let distance = (hash.wrapping_sub(ring[previous].0), ring[next].0.wrapping_sub(hash));
    if distance.0 <= distance.1 { previous } else { next }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODELS: u32 = 20_000;

    fn consistent(servers: u32, factor: Option<u32>) -> Balancer {
        let (points, busy) = (160, 0);
        let balance = Balance::Consistent { points, factor, busy };
        Balancer::new(balance, servers, MODELS as usize, 1)
    }

    #[test]
    fn a_further_server_takes_its_part_of_the_models_and_moves_no_others() {
        for servers in [1, 2, 3, 9, 49] {
            let (before, after) = (consistent(servers, None), consistent(servers + 1, None));
            let moved: Vec<u32> = (0..MODELS)
                .filter(|&model| before.home(model) != after.home(model))
                .collect();
            assert!(moved.iter().all(|&model| after.home(model) == Some(servers)));
            let (share, part) = (moved.len() as f64 / f64::from(MODELS), 1.0 / f64::from(servers + 1));
            assert!(
                (share / part - 1.0).abs() < 0.35,
                "{servers}: {share} of the models moved"
            );
        }
    }

    #[test]
    fn round_robin_takes_one_server_after_the_other() {
        let mut balancer = Balancer::new(Balance::RoundRobin, 3, 10, 1);
        let chosen: Vec<u32> = (0..6).map(|model| balancer.choose(model, &[0; 3], 0)).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
        assert_eq!(balancer.home(0), None);
    }

    #[test]
    fn a_busy_server_is_passed_over_and_an_idle_one_is_not() {
        let mut balancer = consistent(3, Some(150));
        let home = balancer.home(5).unwrap();
        assert_eq!(balancer.choose(5, &[0; 3], 0), home);
        let mut requests = [2; 3];
        requests[home as usize] = 6;
        assert_ne!(balancer.choose(5, &requests, 10), home);
        assert_eq!(consistent(3, None).choose(5, &requests, 10), home);
    }

    #[test]
    fn the_bound_holds_while_the_fleet_is_busy() {
        let (points, factor) = (160, Some(150));
        let mut balancer = Balancer::new(
            Balance::Consistent {
                points,
                factor,
                busy: 4,
            },
            3,
            100,
            1,
        );
        let home = balancer.home(5).unwrap();
        let mut requests = [0; 3];
        requests[home as usize] = 11;
        assert_eq!(balancer.choose(5, &requests, 11), home);
        requests[home as usize] = 12;
        assert_ne!(balancer.choose(5, &requests, 12), home);
    }

    proptest! {
        #[test]
        fn no_server_gets_more_than_its_bound(
            servers in 1u32..8,
            factor in 101u32..300,
            models in prop::collection::vec(0u32..3, 1..200),
        ) {
            let mut balancer = consistent(servers, Some(factor));
            let mut requests = vec![0u32; servers as usize];
            for (all, model) in (0u32..).zip(models) {
                let server = balancer.choose(model, &requests, all);
                requests[server as usize] += 1;
                let slots = ((all + 1) * factor).div_ceil(100);
                prop_assert!(requests[server as usize] <= slots.div_ceil(servers).max(1));
            }
        }
    }
}
