//! The way of a load: a load thread, memory for the preparation, memory for the model.
//!
//! A load without memory first waits for loads in progress, then evicts idle models, and after some
//! pauses a busy one.

use super::{Event, Fleet, speeds};
use crate::catalog::{EVICTION_PAUSE, EVICTION_PAUSES};
use crate::engine::ForecastLoad;
use crate::plan::server::{Admission, Pressure};

/// A load in progress.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) server: u32,
    pub(super) model: u32,
    pauses: usize,
    /// Time at which a load that waits for others becomes impatient.
    patient_until: Option<u64>,
    /// Number of the only event that may continue the load; others are out of date.
    pub(super) turn: u64,
    pub(super) is_on_disk: bool,
    reserved: Option<ForecastLoad>,
}

impl Fleet<'_> {
    pub(super) fn queue_load(&mut self, server: u32, model: u32) {
        let state = &mut self.servers[server as usize];
        if state.loading == self.config.server.load_threads {
            return state.load_queue.push_back(model);
        }
        state.loading += 1;
        let is_on_disk = state.is_on_disk(model);
        let place = self.loads.add(Load {
            server,
            model,
            pauses: 0,
            patient_until: None,
            turn: 0,
            is_on_disk,
            reserved: None,
        });
        // A load that fails at once is found again at its first retry.
        self.retry(place, 0.0);
    }

    /// Begins the next step of a load: its preparation, or the load itself. Returns the number of
    /// requests that were refused.
    pub(super) fn step(&mut self, place: u32) -> u32 {
        self.loads.items[place as usize].turn = 0;
        let load = self.loads.items[place as usize];
        self.patient[load.server as usize].retain(|other| *other != place);
        let server = &mut self.servers[load.server as usize];
        let pressure = match load.patient_until {
            _ if load.pauses >= EVICTION_PAUSES => Pressure::Pressing,
            Some(until) if until <= self.now => Pressure::Evicting,
            Some(_) | None => Pressure::Patient,
        };
        let (_, speed) = speeds(self.config.server.cores, server.running, server.loading);
        let times = &self.models.times;
        let admission = match load.is_on_disk {
            false => {
                let admitted = server.admit_preparation(load.model, self.models, pressure);
                admitted.map(|()| (&times.first, Event::PreparationEnd(place)))
            }
            true => {
                let admitted = server.admit_load(load.model, self.models, pressure);
                let reserved = &mut self.loads.items[place as usize].reserved;
                admitted.map(|admitted| {
                    *reserved = admitted;
                    (&times.load, Event::LoadEnd(place))
                })
            }
        };
        match admission {
            Admission::Admitted((times, event)) => {
                let duration = times.choose(&mut self.random) as f64;
                let load = &mut self.loads.items[place as usize];
                (load.pauses, load.patient_until) = (0, None);
                self.at(duration / speed, event);
                0
            }
            Admission::InTheWay => {
                let patience = self.config.server.patience;
                let until = *self.loads.items[place as usize]
                    .patient_until
                    .get_or_insert(self.now.saturating_add(patience));
                self.patient[load.server as usize].push(place);
                self.retry(place, (until - self.now) as f64);
                0
            }
            Admission::Wait if load.pauses as u128 * EVICTION_PAUSE.as_nanos() < self.config.server.timeout.into() => {
                self.loads.items[place as usize].pauses += 1;
                self.retry(place, EVICTION_PAUSE.as_nanos() as f64);
                0
            }
            Admission::Wait | Admission::TooLarge => self.refuse(place),
        }
    }

    /// Ends a load without a model. Returns the number of requests that waited for it.
    fn refuse(&mut self, place: u32) -> u32 {
        let load = self.loads.remove(place);
        let mut waiting = self.servers[load.server as usize].end_pending(load.model);
        let mut refused = 0;
        while let Some(place) = waiting.checked_sub(1) {
            let request = self.requests.remove(place);
            waiting = request.next;
            self.open[load.server as usize] -= 1;
            self.all_open -= 1;
            self.failed += u64::from(request.is_counted);
            // They take no core.
            self.shares[load.server as usize] -= u64::from(request.is_counted);
            refused += 1;
        }
        self.wake(load.server);
        self.next_load(load.server);
        refused
    }

    pub(super) fn end_load(&mut self, place: u32) -> u32 {
        let load = self.loads.items[place as usize];
        let server = &mut self.servers[load.server as usize];
        server.end_load(load.model, load.reserved, self.models);
        if !server.is_loaded(load.model) {
            return self.step(place);
        }
        self.loads.remove(place);
        let mut waiting = server.end_pending(load.model);
        self.wake(load.server);
        // The list has the last request first.
        let mut first = 0;
        while let Some(place) = waiting.checked_sub(1) {
            let request = &mut self.requests.items[place as usize];
            (waiting, request.next, first) = (request.next, first, waiting);
            self.servers[load.server as usize].hold(load.model);
        }
        while let Some(place) = first.checked_sub(1) {
            first = self.requests.items[place as usize].next;
            self.begin_run(place);
        }
        self.next_load(load.server);
        0
    }

    /// Gives a load thread that is free to the next model.
    fn next_load(&mut self, server: u32) {
        let state = &mut self.servers[server as usize];
        state.loading -= 1;
        if let Some(model) = state.load_queue.pop_front() {
            self.queue_load(server, model);
        }
    }

    /// Has a load try again to get memory, after `delay` or before.
    fn retry(&mut self, place: u32, delay: f64) {
        let load = &mut self.loads.items[place as usize];
        if load.turn == 0 {
            self.turns += 1;
            load.turn = self.turns;
        }
        let turn = load.turn;
        self.at(delay, Event::Retry(place, turn));
    }

    /// Wakes the loads of a server that wait for others, because one has ended.
    pub(super) fn wake(&mut self, server: u32) {
        let mut patient = std::mem::take(&mut self.patient[server as usize]);
        for place in patient.drain(..) {
            self.retry(place, 0.0);
        }
        self.patient[server as usize] = patient;
    }
}
