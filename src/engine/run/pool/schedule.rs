//! Chooses the next job: the waiting jobs of each lane, the running jobs, and the order of lanes.
//!
//! Pure data under the pool's lock, so that fairness can be read and tested without threads.
//!
//! Invariants:
//! - A lane is in the order exactly once while jobs wait in it, and otherwise not at all.
//! - The jobs of a lane are sorted by their numbers.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{CoreUse, PoolError, Threads};

/// A job with its number in the order of arrival.
pub struct Queued<J> {
    number: u64,
    pub job: J,
}

impl<J> Queued<J> {
    /// Replaces the job and keeps its number.
    pub fn map<K>(self, change: impl FnOnce(J) -> K) -> Queued<K> {
        Queued {
            number: self.number,
            job: change(self.job),
        }
    }

    /// Like [`Self::map`], if `change` returns a job.
    pub fn filter_map<K>(self, change: impl FnOnce(J) -> Option<K>) -> Option<Queued<K>> {
        let number = self.number;
        change(self.job).map(|job| Queued { number, job })
    }
}

pub(super) struct Schedule<J> {
    lanes: HashMap<u64, LaneQueue<J>>,
    /// Lanes with waiting jobs; the lane that has waited longest comes first.
    lane_order: VecDeque<u64>,
    next_lane: u64,
    next_job: u64,
    /// Threads that run a job.
    running: usize,
    /// Jobs that these threads have taken.
    in_hand: usize,
    recent: RecentStarts,
    pub(super) stopping: bool,
}

impl<J> Default for Schedule<J> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            lane_order: VecDeque::new(),
            next_lane: 0,
            next_job: 0,
            running: 0,
            in_hand: 0,
            recent: RecentStarts::default(),
            stopping: false,
        }
    }
}

/// If so many of the last eight starts found work for all cores, the cores count as busy while half
/// of them have work: clients leave short gaps between their requests.
const CROWDED_STARTS: u32 = 2;

/// Time after which starts say nothing about the present.
const RECENT: Duration = Duration::from_millis(100);

/// The last eight starts of jobs, if they were shortly one after the other.
#[derive(Default)]
struct RecentStarts {
    last: Option<Instant>,
    /// A bit for each start: other jobs ran or waited.
    shared: u8,
    /// A bit for each start: there was work for all cores.
    crowded: u8,
}

impl RecentStarts {
    fn add(&mut self, now: Instant, is_shared: bool, is_crowded: bool) {
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) >= RECENT)
        {
            (self.shared, self.crowded) = (0, 0);
        }
        self.last = Some(now);
        self.shared = self.shared << 1 | u8::from(is_shared);
        self.crowded = self.crowded << 1 | u8::from(is_crowded);
    }
}

struct LaneQueue<J> {
    /// Sorted by number.
    jobs: VecDeque<Queued<J>>,
    /// Threads that run a job of this lane.
    running: usize,
}

impl<J> Default for LaneQueue<J> {
    fn default() -> Self {
        Self {
            jobs: VecDeque::new(),
            running: 0,
        }
    }
}

/// Whether a lane with `lane_running` running jobs may start another when `running` jobs run in
/// total.
fn may_start(running: usize, lane_running: usize, threads: Threads) -> bool {
    running < threads.cores || (lane_running == 0 && running < threads.cores + threads.spare)
}

/// Maximum number of jobs in one dispatch of a lane when `waiting` more jobs wait: an equal share
/// for each core that is left after the `others` (running jobs of other lanes, and waiting lanes).
fn share(waiting: usize, cores: usize, others: usize) -> usize {
    (waiting + 1).div_ceil(cores.saturating_sub(others).max(1))
}

impl<J> Schedule<J> {
    pub(super) fn add_lane(&mut self) -> u64 {
        let id = self.next_lane;
        self.next_lane += 1;
        self.lanes.insert(id, LaneQueue::default());
        id
    }

    /// Removes a lane and returns its waiting jobs.
    pub(super) fn remove_lane(&mut self, id: u64) -> VecDeque<Queued<J>> {
        self.lane_order.retain(|other| *other != id);
        self.lanes.remove(&id).map(|lane| lane.jobs).unwrap_or_default()
    }

    /// Queues `job` in a lane in which up to `capacity` jobs may wait, and returns its number.
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
            self.lane_order.push_back(id);
        }
        Ok(number)
    }

    /// Takes the next job that may start `now` and counts it as running.
    pub(super) fn take(&mut self, threads: Threads, now: Instant) -> Option<(u64, Queued<J>)> {
        let position = self.next_startable(threads)?;
        let id = self.lane_order.remove(position)?;
        let lane = self.lanes.get_mut(&id)?;
        let job = lane.jobs.pop_front()?;
        lane.running += 1;
        self.running += 1;
        self.in_hand += 1;
        if !lane.jobs.is_empty() {
            self.lane_order.push_back(id);
        }
        let is_shared = self.running > 1 || !self.lane_order.is_empty();
        let is_crowded = self.keeps_busy(threads.cores);
        self.recent.add(now, is_shared, is_crowded);
        Some((id, job))
    }

    /// Counts the end of a dispatch with `jobs` jobs.
    pub(super) fn ended(&mut self, id: u64, jobs: usize) {
        self.running -= 1;
        self.in_hand -= jobs;
        // The lane is gone if the job itself dropped its model.
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.running -= 1;
        }
    }

    /// Counts the end of the jobs that a given-up dispatch took afterwards.
    pub(super) fn ended_late(&mut self, jobs: usize) {
        self.in_hand -= jobs;
    }

    /// Takes another waiting job for a thread that already runs a job of this lane.
    pub(super) fn take_next(&mut self, id: u64) -> Option<Queued<J>> {
        let lane = self.lanes.get_mut(&id)?;
        let job = lane.jobs.pop_front()?;
        self.in_hand += 1;
        if lane.jobs.is_empty() {
            self.leave_order(id);
        }
        Some(job)
    }

    pub(super) fn put_back(&mut self, id: u64, jobs: Vec<Queued<J>>) {
        self.in_hand -= jobs.len();
        // The lane is gone if its model was dropped meanwhile.
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let was_empty = lane.jobs.is_empty();
        for job in jobs {
            let place = lane.jobs.partition_point(|other| other.number < job.number);
            lane.jobs.insert(place, job);
        }
        if was_empty {
            self.lane_order.push_back(id);
        }
    }

    /// Removes a job from its lane if it still waits there.
    pub(super) fn remove(&mut self, id: u64, number: u64) -> Option<Queued<J>> {
        let lane = self.lanes.get_mut(&id)?;
        let place = lane.jobs.binary_search_by_key(&number, |job| job.number).ok()?;
        let job = lane.jobs.remove(place);
        if lane.jobs.is_empty() {
            self.leave_order(id);
        }
        job
    }

    fn leave_order(&mut self, id: u64) {
        // Search from the end, where a lane that has just started a job is.
        if let Some(position) = self.lane_order.iter().rposition(|other| *other == id) {
            self.lane_order.remove(position);
        }
    }

    /// Finds the first lane whose next job may start, as an index into `lane_order`.
    pub(super) fn next_startable(&self, threads: Threads) -> Option<usize> {
        let startable = |lane: &LaneQueue<J>| may_start(self.running, lane.running, threads);
        self.lane_order
            .iter()
            .position(|id| self.lanes.get(id).is_some_and(startable))
    }

    /// Stops the pool: no job starts after this. Returns the waiting jobs.
    pub(super) fn stop(&mut self) -> Vec<VecDeque<Queued<J>>> {
        self.stopping = true;
        self.lane_order.clear();
        self.lanes
            .values_mut()
            .map(|lane| std::mem::take(&mut lane.jobs))
            .collect()
    }

    /// Number of jobs that threads have taken, and of waiting jobs.
    pub(super) fn load(&self) -> (usize, usize) {
        let waiting = self
            .lane_order
            .iter()
            .filter_map(|id| self.lanes.get(id))
            .map(|lane| lane.jobs.len())
            .sum();
        (self.in_hand, waiting)
    }

    /// Returns the part of `cores` cores that the jobs use, now and when the last ones started.
    pub(super) fn core_use(&self, cores: usize) -> CoreUse {
        let was_crowded = self.recent.crowded.count_ones() >= CROWDED_STARTS;
        if cores < 2 {
            CoreUse::Part
        } else if self.keeps_busy(cores) || (was_crowded && 2 * self.running >= cores) {
            CoreUse::All
        } else if self.recent.shared == 0 && self.running == 1 && self.lane_order.is_empty() {
            CoreUse::Alone
        } else {
            CoreUse::Part
        }
    }

    /// Whether running and waiting jobs keep `cores` threads busy.
    fn keeps_busy(&self, cores: usize) -> bool {
        let mut left = cores.saturating_sub(self.running);
        for id in &self.lane_order {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(self.lanes.get(id).map_or(0, |lane| lane.jobs.len()));
        }
        left == 0
    }

    /// Maximum number of jobs in a dispatch of this lane, including the first, so that `cores`
    /// cores have equal work.
    pub(super) fn share(&self, id: u64, cores: usize) -> usize {
        let Some(lane) = self.lanes.get(&id) else {
            return 1;
        };
        let lanes_waiting = self.lane_order.len() - usize::from(!lane.jobs.is_empty());
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
    fn only_a_lane_without_a_running_job_gets_a_spare_thread() {
        let threads = Threads {
            cores: 2,
            spare: 1,
            ..ONE
        };
        let table = [
            // running in total, running in this lane, may start
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
    fn lanes_alternate_however_many_jobs_one_of_them_has() {
        let mut state: Schedule<Task> = Schedule::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        for (lane, jobs) in [(1u64, 4), (2, 1), (3, 2)] {
            let mut waiting: LaneQueue<Task> = LaneQueue::default();
            for number in 0..jobs {
                let order = Arc::clone(&order);
                waiting.jobs.push_back(Queued {
                    number,
                    job: Box::new(move || order.lock().unwrap().push(lane)),
                });
            }
            state.lanes.insert(lane, waiting);
            state.lane_order.push_back(lane);
        }
        while let Some((lane, job)) = state.take(ONE, Instant::now()) {
            (job.job)();
            state.ended(lane, 1);
        }
        assert_eq!(*order.lock().unwrap(), [1, 2, 3, 1, 3, 1, 1]);
    }

    #[test]
    fn the_share_of_a_dispatch_divides_the_waiting_jobs_by_the_cores_that_are_left() {
        let table = [
            // waiting besides this one, cores, others, share
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

    fn queue(state: &mut Schedule<u64>, lane: u64, jobs: impl IntoIterator<Item = u64>) {
        let waiting = state.lanes.entry(lane).or_default();
        waiting
            .jobs
            .extend(jobs.into_iter().map(|job| Queued { number: job, job }));
        if !state.lane_order.contains(&lane) {
            state.lane_order.push_back(lane);
        }
    }

    fn waiting(state: &Schedule<u64>, lane: u64) -> Vec<u64> {
        state.lanes[&lane].jobs.iter().map(|queued| queued.job).collect()
    }

    /// Starts a job of lane 1 at the time of the last one. Returns the use of the cores.
    fn start(state: &mut Schedule<u64>, cores: usize) -> CoreUse {
        queue(state, 1, [0]);
        let now = state.recent.last.unwrap_or_else(Instant::now);
        state.take(Threads { cores, ..ONE }, now).unwrap();
        state.core_use(cores)
    }

    /// The use of the cores at the next starts of jobs that run one after the other.
    fn one_by_one(state: &mut Schedule<u64>, cores: usize) -> Vec<CoreUse> {
        let starts = (0..9).map(|_| {
            let core_use = start(state, cores);
            state.ended(1, 1);
            core_use
        });
        starts.collect()
    }

    #[test]
    fn a_job_is_alone_when_none_of_the_last_eight_starts_found_another_job() {
        for cores in [2, 4, 16] {
            let mut state = Schedule::default();
            assert_eq!(start(&mut state, cores), CoreUse::Alone);
            assert_ne!(start(&mut state, cores), CoreUse::Alone);
            state.ended(1, 1);
            assert_eq!(state.core_use(cores), CoreUse::Part, "the other job has ended");
            assert_eq!(state.core_use(1), CoreUse::Part, "one core cannot be shared");
            state.ended(1, 1);
            let expected = [&[CoreUse::Part; 7][..], &[CoreUse::Alone; 2]].concat();
            assert_eq!(one_by_one(&mut state, cores), expected);
        }
    }

    #[test]
    fn cores_stay_busy_for_some_starts_after_two_with_work_for_all_if_half_of_them_still_have_work() {
        let crowded = |cores: usize| {
            let mut state = Schedule::default();
            for _ in 0..cores {
                start(&mut state, cores);
            }
            state.ended(1, 1);
            assert_eq!(start(&mut state, cores), CoreUse::All);
            (0..cores).for_each(|_| state.ended(1, 1));
            state
        };
        let expected = [&[CoreUse::All; 6][..], &[CoreUse::Part; 1], &[CoreUse::Alone; 2]].concat();
        assert_eq!(one_by_one(&mut crowded(2), 2), expected);
        assert_eq!(one_by_one(&mut crowded(16), 16)[..7], [CoreUse::Part; 7]);
        let mut later = crowded(2);
        queue(&mut later, 1, [0]);
        let now = later.recent.last.unwrap() + RECENT;
        later.take(Threads { cores: 2, ..ONE }, now).unwrap();
        assert_eq!(later.core_use(2), CoreUse::Alone, "the others started long ago");
    }

    #[test]
    fn jobs_that_are_put_back_keep_their_order() {
        let mut state = Schedule::default();
        queue(&mut state, 1, [10, 11, 12, 13, 14, 15]);
        let two_cores = Threads { cores: 2, ..ONE };
        let (_, first) = state.take(two_cores, Instant::now()).unwrap();
        let one: Vec<_> = (0..2).filter_map(|_| state.take_next(1)).collect();
        let (_, second) = state.take(two_cores, Instant::now()).unwrap();
        let other = vec![state.take_next(1).unwrap()];
        assert_eq!((first.job, second.job, state.in_hand), (10, 13, 5));
        let busy = [1, 2, 3, 4].map(|cores| state.keeps_busy(cores));
        assert_eq!(busy, [true, true, true, false], "two threads and one waiting job");
        assert_eq!(waiting(&state, 1), [15]);
        state.put_back(1, other);
        state.put_back(1, one);
        assert_eq!(waiting(&state, 1), [11, 12, 14, 15]);
        state.ended(1, 1);
        state.ended(1, 1);
        assert_eq!((state.running, state.in_hand), (0, 0));
    }

    #[test]
    fn a_lane_is_in_the_order_exactly_while_jobs_wait_in_it() {
        let mut state = Schedule::default();
        queue(&mut state, 1, [10, 11]);
        queue(&mut state, 2, [20]);
        let (lane, _) = state.take(ONE, Instant::now()).unwrap();
        assert_eq!((lane, &state.lane_order), (1, &VecDeque::from([2, 1])));
        let taken = state.take_next(1).unwrap();
        assert_eq!(state.lane_order, [2]);
        assert!(state.take_next(1).is_none());
        state.put_back(1, vec![taken]);
        assert_eq!(state.lane_order, [2, 1]);
        assert!(state.remove(2, 20).is_some());
        assert!(state.remove(2, 20).is_none());
        assert_eq!(state.lane_order, [1]);
        assert!(state.remove(1, 11).is_some());
        assert!(state.lane_order.is_empty());
    }
}
