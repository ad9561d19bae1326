//! The simulation of a fleet: the clock, the events, and the way of a request.
//!
//! | event | what follows |
//! |---|---|
//! | a request arrives | the balancer chooses a server; a loaded model runs, another one is loaded first |
//! | a preparation ends | the model is on the server's disk, and its load begins |
//! | a load ends | the requests that waited for it run |
//! | a run ends | the request is answered, and the next one in the queue runs |
//!
//! Cores are shared as the system shares them: a load has a third of the weight of a run, because
//! the server's load threads are nice. A step's duration is fixed when it begins.
//!
//! Nothing is allocated for an event: requests and loads are in vectors whose places are used
//! again.

mod loading;
mod outcome;
mod slab;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::models::FleetModels;
use super::random::Random;
use super::ring::{Balance, Balancer};
use super::server::{Server, ServerConfig};
use super::times::Histogram;
use super::traffic::{Arrivals, Traffic};

use loading::Load;
pub use outcome::Outcome;
use slab::Slab;

/// Weight of a load against that of a run when both want a core.
const LOAD_WEIGHT: f64 = 1.0 / 3.0;

/// Requests between two readings of the number of resident models.
const READ_EVERY: usize = 64;

/// A fleet to simulate.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    pub servers: u32,
    pub server: ServerConfig,
    pub balance: Balance,
    /// Most requests of the run; a trace may have fewer.
    pub requests: usize,
    /// Share of them, from the start, that is not counted.
    pub warm_up: f64,
    /// Models from the least to the most requested, if the servers begin with full memory.
    pub order: Option<Vec<u32>>,
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Request {
    arrival: u64,
    model: u32,
    server: u32,
    /// The next request in a list, plus one.
    next: u32,
    is_cold: bool,
    is_counted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    RunEnd(u32),
    PreparationEnd(u32),
    LoadEnd(u32),
    /// A load tries again to get memory, if it is still its turn.
    Retry(u32, u64),
}

/// Speeds of a run and of a load, next to `running` runs and `loading` loads on `cores` cores: 1
/// if each has a core.
fn speeds(cores: u32, running: u32, loading: u32) -> (f64, f64) {
    let (cores, running, loading) = (f64::from(cores), f64::from(running), f64::from(loading));
    if running + loading <= cores {
        return (1.0, 1.0);
    }
    let weight = running + loading * LOAD_WEIGHT;
    let run = (cores / weight).min(1.0);
    let left = (cores - running * run).max(0.0);
    let load = if loading > 0.0 { (left / loading).min(1.0) } else { 1.0 };
    (run, load)
}

/// A simulation in progress.
struct Fleet<'a> {
    config: &'a FleetConfig,
    models: &'a FleetModels,
    arrivals: Arrivals<'a>,
    balancer: Balancer,
    servers: Vec<Server>,
    /// Requests of each server that are not answered.
    open: Vec<u32>,
    all_open: u32,
    /// Requests of each server that were counted and not refused.
    shares: Vec<u64>,
    requests: Slab<Request>,
    loads: Slab<Load>,
    /// Loads of each server that wait for other loads.
    patient: Vec<Vec<u32>>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    turns: u64,
    now: u64,
    random: Random,
    arrived: usize,
    /// Time at which counting began.
    since: Option<u64>,
    /// Time of the last arrival, and the requests without an answer then.
    last: (u64, u32),
    latencies: Histogram,
    cold: u64,
    failed: u64,
    /// Answers, and nanoseconds of runs, since counting began. Clients may have sent all requests
    /// that count by then, so both are of any request.
    answered: u64,
    busy: u64,
    /// Time of the last answer.
    answered_at: u64,
    evicted_before: u64,
    readings: (u64, u64),
}

/// Simulates a fleet.
pub fn simulate(config: &FleetConfig, models: &FleetModels, traffic: &Traffic) -> Outcome {
    let mut fleet = Fleet::new(config, models, traffic);
    if let Some(order) = &config.order {
        fleet.fill(order);
    }
    fleet.run()
}

impl<'a> Fleet<'a> {
    fn new(config: &'a FleetConfig, models: &'a FleetModels, traffic: &'a Traffic) -> Self {
        let servers = config.servers as usize;
        Self {
            config,
            models,
            arrivals: Arrivals::new(traffic, config.requests, config.seed),
            balancer: Balancer::new(config.balance, config.servers, models.names(), config.seed),
            servers: (0..servers).map(|_| Server::new(&config.server, models)).collect(),
            open: vec![0; servers],
            all_open: 0,
            shares: vec![0; servers],
            requests: Slab::new(),
            loads: Slab::new(),
            patient: vec![Vec::new(); servers],
            events: BinaryHeap::new(),
            order: 0,
            turns: 0,
            now: 0,
            random: Random::new(config.seed ^ 1),
            arrived: 0,
            since: None,
            last: (0, 0),
            latencies: Histogram::default(),
            cold: 0,
            failed: 0,
            answered: 0,
            busy: 0,
            answered_at: 0,
            evicted_before: 0,
            readings: (0, 0),
        }
    }

    /// Fills each server with the models that belong to it.
    fn fill(&mut self, order: &[u32]) {
        let Self {
            servers,
            balancer,
            models,
            config,
            ..
        } = self;
        let mut belonging = vec![Vec::new(); servers.len()];
        for &name in order {
            match balancer.home(name) {
                Some(server) => belonging[server as usize].push(name),
                None => belonging.iter_mut().for_each(|names| names.push(name)),
            }
        }
        for (server, names) in servers.iter_mut().zip(&belonging) {
            // No load of other models succeeds.
            let can_load = |name: &u32| server.counted(*name, models) <= server.for_models();
            let names: Vec<u32> = names.iter().copied().filter(can_load).collect();
            // Models before these would be unloaded again.
            let mut bytes = 0u64;
            let fitting = names.iter().rev().take_while(|name| {
                bytes = bytes.saturating_add(server.counted(**name, models));
                bytes <= config.server.memory.limit
            });
            let first = names.len() - fitting.count();
            for &name in &names[..first] {
                server.put_on_disk(name, models);
            }
            server.fill(names[first..].iter().copied(), models);
        }
    }

    fn at(&mut self, delay: f64, event: Event) {
        self.order += 1;
        let time = self.now.saturating_add(delay as u64);
        self.events.push(Reverse((time, self.order, event)));
    }

    fn run(mut self) -> Outcome {
        let warm_up = (self.arrivals.len() as f64 * self.config.warm_up) as usize;
        let clients = self.arrivals.clients();
        let mut next = match clients {
            Some(clients) => {
                for _ in 0..clients {
                    self.send(warm_up);
                }
                None
            }
            None => self.arrivals.next(0),
        };
        loop {
            let due = self.events.peek().map(|Reverse((time, ..))| *time);
            match (next, due) {
                (None, None) => break,
                (Some((time, model)), due) if due.is_none_or(|due| time <= due) => {
                    self.now = time;
                    self.arrive(model, warm_up);
                    next = self.arrivals.next(self.now);
                }
                _ => {
                    let Some(Reverse((time, _, event))) = self.events.pop() else {
                        break;
                    };
                    self.now = time;
                    let answered = self.handle(event);
                    if clients.is_some() {
                        for _ in 0..answered {
                            self.send(warm_up);
                        }
                    }
                }
            }
        }
        self.outcome()
    }

    /// Has a client send its next request, if there is one.
    fn send(&mut self, warm_up: usize) {
        if let Some((_, model)) = self.arrivals.next(self.now) {
            self.arrive(model, warm_up);
        }
    }

    fn arrive(&mut self, model: u32, warm_up: usize) {
        let server = self.balancer.choose(model, &self.open, self.all_open);
        let is_counted = self.arrived >= warm_up;
        if is_counted && self.since.is_none() {
            self.since = Some(self.now);
            self.evicted_before = self.servers.iter().map(|server| server.evictions).sum();
        }
        self.arrived += 1;
        if is_counted && self.arrived.is_multiple_of(READ_EVERY) {
            self.readings.0 += 1;
            self.readings.1 += self.servers.iter().map(|server| server.resident() as u64).sum::<u64>();
        }
        self.last = (self.now, self.all_open);
        self.open[server as usize] += 1;
        self.all_open += 1;
        let place = self.requests.add(Request {
            arrival: self.now,
            model,
            server,
            next: 0,
            is_cold: false,
            is_counted,
        });
        if is_counted {
            self.shares[server as usize] += 1;
        }
        let state = &mut self.servers[server as usize];
        if state.is_loaded(model) {
            state.hold(model);
            return self.begin_run(place);
        }
        let request = &mut self.requests.items[place as usize];
        request.is_cold = true;
        if state.wait_for(model, place, &mut request.next) {
            self.queue_load(server, model);
        }
    }

    /// Handles an event. Returns the number of requests that were answered.
    fn handle(&mut self, event: Event) -> u32 {
        match event {
            Event::RunEnd(place) => self.end_run(place),
            Event::Retry(place, turn) => {
                if self.loads.items[place as usize].turn != turn {
                    return 0;
                }
                return self.step(place);
            }
            Event::PreparationEnd(place) => {
                let load = &mut self.loads.items[place as usize];
                load.is_on_disk = true;
                let (server, model) = (load.server, load.model);
                let state = &mut self.servers[server as usize];
                state.end_preparation(model, self.models);
                state.put_on_disk(model, self.models);
                self.wake(server);
                return self.step(place);
            }
            Event::LoadEnd(place) => return self.end_load(place),
        }
        1
    }

    /// Runs a request, or queues it if no core is free.
    fn begin_run(&mut self, place: u32) {
        let request = self.requests.items[place as usize];
        let server = &mut self.servers[request.server as usize];
        let cores = self.config.server.cores;
        if server.running == cores {
            return server.queue.push_back(place);
        }
        server.running += 1;
        let (speed, _) = speeds(cores, server.running, server.loading);
        let duration = self.models.times.run.choose(&mut self.random);
        if self.since.is_some() {
            self.busy = self.busy.saturating_add(duration);
        }
        self.at(duration as f64 / speed, Event::RunEnd(place));
    }

    fn end_run(&mut self, place: u32) {
        let request = self.requests.remove(place);
        let server = &mut self.servers[request.server as usize];
        server.release(request.model);
        server.running -= 1;
        self.open[request.server as usize] -= 1;
        self.all_open -= 1;
        self.answered += u64::from(self.since.is_some());
        self.answered_at = self.now;
        if request.is_counted {
            self.latencies.record(self.now - request.arrival);
            self.cold += u64::from(request.is_cold);
        }
        if let Some(next) = server.queue.pop_front() {
            self.begin_run(next);
        }
    }
}
