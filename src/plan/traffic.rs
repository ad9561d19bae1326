//! The requests of a simulation: which model comes next, and when.

use super::popularity::Popularity;
use super::random::Random;

/// When and for which model the requests arrive.
#[derive(Debug, Clone)]
pub enum Traffic {
    /// Requests that are independent of each other, at `rate` a second on average.
    Poisson { rate: f64, popularity: Popularity },
    /// Requests that were recorded: nanoseconds since the first, and the model.
    Trace(Vec<(u64, u32)>),
    /// `clients` clients, each of which sends its next request when it has its answer.
    Clients { clients: u32, requests: ClientRequests },
}

/// The models that clients request.
#[derive(Debug, Clone)]
pub enum ClientRequests {
    Random(Popularity),
    /// The models of recorded requests, in their order.
    Trace(Vec<u32>),
}

/// The requests of one run.
#[derive(Debug)]
pub struct Arrivals<'a> {
    traffic: &'a Traffic,
    random: Random,
    sent: usize,
    /// Number of requests of the run.
    most: usize,
    time: f64,
}

impl<'a> Arrivals<'a> {
    pub fn new(traffic: &'a Traffic, most: usize, seed: u64) -> Self {
        let recorded = match traffic {
            Traffic::Trace(requests) => requests.len(),
            Traffic::Clients {
                requests: ClientRequests::Trace(models),
                ..
            } => models.len(),
            Traffic::Poisson { .. } | Traffic::Clients { .. } => usize::MAX,
        };
        Self {
            traffic,
            random: Random::new(seed),
            sent: 0,
            most: most.min(recorded),
            time: 0.0,
        }
    }

    /// Number of requests of the run.
    pub fn len(&self) -> usize {
        self.most
    }

    /// The next request: its time and its model. Clients' requests come now.
    pub fn next(&mut self, now: u64) -> Option<(u64, u32)> {
        if self.sent == self.most {
            return None;
        }
        let index = self.sent;
        self.sent += 1;
        Some(match self.traffic {
            Traffic::Poisson { rate, popularity } => {
                self.time += self.random.gap(1e9 / rate);
                (self.time as u64, popularity.choose(&mut self.random))
            }
            Traffic::Trace(requests) => requests[index],
            Traffic::Clients { requests, .. } => match requests {
                ClientRequests::Random(popularity) => (now, popularity.choose(&mut self.random)),
                ClientRequests::Trace(models) => (now, models[index]),
            },
        })
    }

    /// Number of clients that wait for an answer before their next request; `None` if requests
    /// come by themselves.
    pub fn clients(&self) -> Option<u32> {
        match self.traffic {
            Traffic::Clients { clients, .. } => Some(*clients),
            Traffic::Poisson { .. } | Traffic::Trace(_) => None,
        }
    }
}
