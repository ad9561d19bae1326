//! Whose job is next: what waits in each lane, what runs, and in which order lanes have their turns.
//!
//! Pure moves under the pool's lock, so that fairness can be read and tested without threads. What always holds: a lane has
//! exactly one turn to come while jobs wait in it and none otherwise; the jobs of a lane are in the order of their numbers.

use std::collections::{HashMap, VecDeque};

use super::{PoolError, Threads};

/// A job and its number in the order of arrival.
pub struct Queued<J> {
    number: u64,
    pub job: J,
}

impl<J> Queued<J> {
    /// Another job in the same place.
    pub fn map<K>(self, change: impl FnOnce(J) -> K) -> Queued<K> {
        Queued {
            number: self.number,
            job: change(self.job),
        }
    }

    /// As [`Self::map`], when there is another one.
    pub fn filter_map<K>(self, change: impl FnOnce(J) -> Option<K>) -> Option<Queued<K>> {
        let number = self.number;
        change(self.job).map(|job| Queued { number, job })
    }
}

pub(super) struct State<J> {
    lanes: HashMap<u64, Waiting<J>>,
    /// Lanes with waiting jobs, the one that waited longest first.
    turns: VecDeque<u64>,
    next_lane: u64,
    next_job: u64,
    /// Threads that have a job.
    running: usize,
    /// The jobs that they have.
    in_hand: usize,
    pub(super) stopping: bool,
}

impl<J> Default for State<J> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            next_lane: 0,
            next_job: 0,
            running: 0,
            in_hand: 0,
            stopping: false,
        }
    }
}

struct Waiting<J> {
    /// In the order of their numbers.
    jobs: VecDeque<Queued<J>>,
    /// Threads that have a job of this lane.
    running: usize,
}

impl<J> Default for Waiting<J> {
    fn default() -> Self {
        Self {
            jobs: VecDeque::new(),
            running: 0,
        }
    }
}

/// Whether a lane with `lane_running` jobs running may start one more when `running` run in all.
fn may_start(running: usize, lane_running: usize, threads: Threads) -> bool {
    running < threads.cores || (lane_running == 0 && running < threads.cores + threads.spare)
}

/// How many jobs one turn of a lane may have when `waiting` more wait: an equal share of them for each core, less the
/// cores that `others` (jobs of other lanes that run, and lanes that wait) have or will have.
fn share(waiting: usize, cores: usize, others: usize) -> usize {
    (waiting + 1).div_ceil(cores.saturating_sub(others).max(1))
}

impl<J> State<J> {
    pub(super) fn add_lane(&mut self) -> u64 {
        let id = self.next_lane;
        self.next_lane += 1;
        self.lanes.insert(id, Waiting::default());
        id
    }

    /// Takes a lane out, with the jobs that wait in it.
    pub(super) fn remove_lane(&mut self, id: u64) -> VecDeque<Queued<J>> {
        self.turns.retain(|other| *other != id);
        self.lanes.remove(&id).map(|lane| lane.jobs).unwrap_or_default()
    }

    /// Lets `job` wait in a lane where `capacity` may, and returns its number.
    pub(super) fn push(&mut self, id: u64, capacity: usize, job: J) -> Result<u64, PoolError> {
        if self.stopping {
            return Err(PoolError::Stopping);
        }
        let number = self.next_job;
        let lane = self.lanes.entry(id).or_default();
        let waiting = lane.jobs.len();
        if waiting >= capacity {
            return Err(PoolError::QueueFull { waiting });
        }
        lane.jobs.push_back(Queued { number, job });
        self.next_job += 1;
        if waiting == 0 {
            self.turns.push_back(id);
        }
        Ok(number)
    }

    /// The next job that may start, counted as running.
    pub(super) fn take(&mut self, threads: Threads) -> Option<(u64, Queued<J>)> {
        let turn = self.next_turn(threads)?;
        let id = self.turns.remove(turn)?;
        let lane = self.lanes.get_mut(&id)?;
        let job = lane.jobs.pop_front()?;
        lane.running += 1;
        self.running += 1;
        self.in_hand += 1;
        if !lane.jobs.is_empty() {
            self.turns.push_back(id);
        }
        Some((id, job))
    }

    /// A thread has done its job, `jobs` of them in all.
    pub(super) fn ended(&mut self, id: u64, jobs: usize) {
        self.running -= 1;
        self.in_hand -= jobs;
        // The lane is gone when its model was dropped by the job itself.
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.running -= 1;
        }
    }

    /// Jobs of a turn that was given up are over, too.
    pub(super) fn ended_late(&mut self, jobs: usize) {
        self.in_hand -= jobs;
    }

    /// One more job for a thread that has one of this lane.
    pub(super) fn take_next(&mut self, id: u64) -> Option<Queued<J>> {
        let lane = self.lanes.get_mut(&id)?;
        let job = lane.jobs.pop_front()?;
        self.in_hand += 1;
        if lane.jobs.is_empty() {
            self.leave_turns(id);
        }
        Some(job)
    }

    pub(super) fn put_back(&mut self, id: u64, jobs: Vec<Queued<J>>) {
        self.in_hand -= jobs.len();
        // Jobs keep their lane.
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let was_empty = lane.jobs.is_empty();
        for job in jobs {
            let place = lane.jobs.partition_point(|other| other.number < job.number);
            lane.jobs.insert(place, job);
        }
        if was_empty {
            self.turns.push_back(id);
        }
    }

    /// Takes a job out of its lane when it still waits there.
    pub(super) fn remove(&mut self, id: u64, number: u64) -> Option<Queued<J>> {
        let lane = self.lanes.get_mut(&id)?;
        let place = lane.jobs.binary_search_by_key(&number, |job| job.number).ok()?;
        let job = lane.jobs.remove(place);
        if lane.jobs.is_empty() {
            self.leave_turns(id);
        }
        job
    }

    fn leave_turns(&mut self, id: u64) {
        // From the end, where a lane that has just had its turn is.
        if let Some(turn) = self.turns.iter().rposition(|other| *other == id) {
            self.turns.remove(turn);
        }
    }

    /// The first lane whose next job may start, as an index into `turns`.
    pub(super) fn next_turn(&self, threads: Threads) -> Option<usize> {
        let startable = |lane: &Waiting<J>| may_start(self.running, lane.running, threads);
        self.turns
            .iter()
            .position(|id| self.lanes.get(id).is_some_and(startable))
    }

    /// Nothing is started any more. Returns the jobs that wait.
    pub(super) fn stop(&mut self) -> Vec<VecDeque<Queued<J>>> {
        self.stopping = true;
        self.turns.clear();
        self.lanes
            .values_mut()
            .map(|lane| std::mem::take(&mut lane.jobs))
            .collect()
    }

    /// Jobs that threads have, and jobs that wait.
    pub(super) fn load(&self) -> (usize, usize) {
        let waiting = self
            .turns
            .iter()
            .filter_map(|id| self.lanes.get(id))
            .map(|lane| lane.jobs.len())
            .sum();
        (self.in_hand, waiting)
    }

    /// How many jobs a turn of this lane may have at most, the first one included, for `cores` to have equal work.
    pub(super) fn share(&self, id: u64, cores: usize) -> usize {
        let Some(lane) = self.lanes.get(&id) else {
            return 1;
        };
        let lanes_waiting = self.turns.len() - usize::from(!lane.jobs.is_empty());
        let others = lanes_waiting + self.running - lane.running;
        share(lane.jobs.len(), cores, others)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::Task;
    use super::super::tests::ONE;
    use super::*;

    #[test]
    fn a_lane_that_runs_nothing_gets_a_spare_thread_and_no_other_does() {
        let threads = Threads {
            cores: 2,
            spare: 1,
            ..ONE
        };
        let table = [
            // running in all, of this lane, may start
            (0, 0, true),
            (1, 1, true),
            (2, 0, true),
            (2, 1, false),
            (2, 2, false),
            (3, 0, false),
        ];
        for (running, lane_running, expected) in table {
            assert_eq!(
                may_start(running, lane_running, threads),
                expected,
                "{running} {lane_running}"
            );
        }
    }

    #[test]
    fn lanes_take_turns_however_many_jobs_one_of_them_has() {
        let mut state: State<Task> = State::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        for (lane, jobs) in [(1u64, 4), (2, 1), (3, 2)] {
            let mut waiting: Waiting<Task> = Waiting::default();
            for number in 0..jobs {
                let order = Arc::clone(&order);
                waiting.jobs.push_back(Queued {
                    number,
                    job: Box::new(move || order.lock().unwrap().push(lane)),
                });
            }
            state.lanes.insert(lane, waiting);
            state.turns.push_back(lane);
        }
        while let Some((lane, job)) = state.take(ONE) {
            (job.job)();
            state.ended(lane, 1);
        }
        assert_eq!(*order.lock().unwrap(), [1, 2, 3, 1, 3, 1, 1]);
    }

    #[test]
    fn a_turns_share_leaves_an_equal_one_to_the_cores_that_others_do_not_have() {
        let table = [
            // waiting beside this one, cores, others, share
            (0, 2, 0, 1),
            (1, 2, 0, 1),
            (7, 2, 0, 4),
            (7, 2, 1, 8),
            (7, 2, 5, 8),
            (7, 1, 0, 8),
            (7, 8, 0, 1),
            (8, 8, 0, 2),
            (15, 8, 4, 4),
        ];
        for (waiting, cores, others, expected) in table {
            assert_eq!(share(waiting, cores, others), expected, "{waiting} {cores} {others}");
        }
    }

    fn queue(state: &mut State<u64>, lane: u64, jobs: impl IntoIterator<Item = u64>) {
        let waiting = state.lanes.entry(lane).or_default();
        waiting
            .jobs
            .extend(jobs.into_iter().map(|job| Queued { number: job, job }));
        if !state.turns.contains(&lane) {
            state.turns.push_back(lane);
        }
    }

    fn waiting(state: &State<u64>, lane: u64) -> Vec<u64> {
        state.lanes[&lane].jobs.iter().map(|queued| queued.job).collect()
    }

    #[test]
    fn what_a_turn_puts_back_waits_where_it_was() {
        let mut state = State::default();
        queue(&mut state, 1, [10, 11, 12, 13, 14, 15]);
        let two_cores = Threads { cores: 2, ..ONE };
        let (_, first) = state.take(two_cores).unwrap();
        let one: Vec<_> = (0..2).filter_map(|_| state.take_next(1)).collect();
        let (_, second) = state.take(two_cores).unwrap();
        let other = vec![state.take_next(1).unwrap()];
        assert_eq!((first.job, second.job, state.in_hand), (10, 13, 5));
        assert_eq!(waiting(&state, 1), [15]);
        state.put_back(1, other);
        state.put_back(1, one);
        assert_eq!(waiting(&state, 1), [11, 12, 14, 15]);
        state.ended(1, 1);
        state.ended(1, 1);
        assert_eq!((state.running, state.in_hand), (0, 0));
    }

    #[test]
    fn a_lane_has_a_turn_to_come_exactly_while_jobs_wait_in_it() {
        let mut state = State::default();
        queue(&mut state, 1, [10, 11]);
        queue(&mut state, 2, [20]);
        let (lane, _) = state.take(ONE).unwrap();
        assert_eq!((lane, &state.turns), (1, &VecDeque::from([2, 1])));
        let taken = state.take_next(1).unwrap();
        assert_eq!(state.turns, [2]);
        assert!(state.take_next(1).is_none());
        state.put_back(1, vec![taken]);
        assert_eq!(state.turns, [2, 1]);
        assert!(state.remove(2, 20).is_some());
        assert!(state.remove(2, 20).is_none());
        assert_eq!(state.turns, [1]);
        assert!(state.remove(1, 11).is_some());
        assert!(state.turns.is_empty());
    }
}
