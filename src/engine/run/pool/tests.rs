use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;

pub const ONE: Threads = Threads {
    cores: 1,
    spare: 0,
    stack: DEFAULT_STACK,
    arena: None,
    nice: 0,
    is_batch: false,
};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

#[test]
fn a_full_lane_refuses_at_once_and_another_lane_does_not() {
    let pool = Pool::start("test", ONE).unwrap();
    let (busy, idle) = (pool.lane(1), pool.lane(1));
    let (release, gate) = mpsc::channel::<()>();
    let (started, has_started) = mpsc::channel::<()>();
    runtime().block_on(async {
        let blocker = busy.run(move || {
            started.send(()).unwrap();
            gate.recv().unwrap();
        });
        let rest = async {
            while has_started.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
            let waiting = busy.run(|| 1);
            let refused = async {
                while pool.load().1 == 0 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(busy.run(|| 2).await, Err(PoolError::QueueFull { waiting: 1 }));
                release.send(()).unwrap();
                assert_eq!(idle.run(|| 3).await, Ok(3));
            };
            let (waited, ()) = futures_util::future::join(waiting, refused).await;
            assert_eq!(waited, Ok(1));
        };
        let (blocked, ()) = futures_util::future::join(blocker, rest).await;
        assert_eq!(blocked, Ok(()));
    });
}

#[test]
fn the_end_of_one_job_starts_all_jobs_that_may_start() {
    let pool = Pool::start(
        "test",
        Threads {
            cores: 2,
            spare: 2,
            ..ONE
        },
    )
    .unwrap();
    let (slow, other) = (pool.lane(8), pool.lane(8));
    let (release, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let blocked = || {
        let gate = Arc::clone(&gate);
        move || {
            let _ = gate.lock().unwrap().recv();
        }
    };
    let (end_first, first_ends) = mpsc::channel::<()>();
    runtime().block_on(async {
        use futures_util::future::{join, join3};
        // Both cores are taken, and each lane has one more job waiting.
        let waiting = async {
            while pool.load() != (2, 2) {
                tokio::task::yield_now().await;
            }
            end_first.send(()).unwrap();
        };
        let first = other.run(move || first_ends.recv().unwrap());
        let slow_ones = join(slow.run(blocked()), slow.run(blocked()));
        let second = async {
            // Ends although both jobs of the slow lane are blocked.
            let ended = other.run(|| 1).await;
            drop(release);
            ended
        };
        // The order matters: after both slow jobs, the first one would get a spare thread.
        let ((first, slow_ones), second, ()) = join3(join(first, slow_ones), second, waiting).await;
        assert_eq!((slow_ones, first, second), ((Ok(()), Ok(())), Ok(()), Ok(1)));
    });
}

#[test]
fn a_job_without_a_caller_frees_its_place_and_never_starts() {
    let pool = Pool::start("test", ONE).unwrap();
    let lane = pool.lane(1);
    let (ran, has_run) = mpsc::channel::<()>();
    let (release, gate) = mpsc::channel::<()>();
    runtime().block_on(async {
        let blocker = lane.run(move || gate.recv().unwrap());
        let rest = async {
            while pool.load() != (1, 0) {
                tokio::task::yield_now().await;
            }
            let given_up = lane.submit(Box::new(move || ran.send(()).unwrap()) as Task).unwrap();
            assert_eq!(pool.load(), (1, 1));
            drop(given_up);
            assert_eq!(pool.load(), (1, 0));
            let next = lane.run(|| 7);
            release.send(()).unwrap();
            assert_eq!(next.await, Ok(7));
        };
        let (blocked, ()) = futures_util::future::join(blocker, rest).await;
        assert_eq!(blocked, Ok(()));
    });
    assert!(has_run.recv().is_err());
}

#[test]
fn a_result_is_waited_for_until_its_deadline() {
    let pool: Pool = Pool::start("test", ONE).unwrap();
    let lane = pool.lane(1);
    runtime().block_on(async {
        let soon = Instant::now() + Duration::from_millis(1);
        let (_sender, receiver) = oneshot::channel::<()>();
        assert_eq!(lane.result(receiver, soon).await, Err(PoolError::Deadline));
        let (sender, receiver) = oneshot::channel::<()>();
        drop(sender);
        let late = Instant::now() + Duration::from_secs(3600);
        assert_eq!(lane.result(receiver, late).await, Err(PoolError::Panicked));
    });
}

#[test]
fn a_panic_is_an_error_and_the_thread_continues() {
    let pool = Pool::start("test", ONE).unwrap();
    let lane = pool.lane(8);
    runtime().block_on(async {
        assert_eq!(
            lane.run(|| panic!("by a test")).await,
            Err::<(), _>(PoolError::Panicked)
        );
        assert_eq!(lane.run(|| 7).await, Ok(7));
    });
}

/// A job that hands out its slot.
struct SlotJob(Box<dyn FnOnce(Arc<Slot<Self>>) + Send>);

impl Job for SlotJob {
    fn run(queued: Queued<Self>, dispatch: &Dispatch<Self>) {
        (queued.job.0)(Arc::clone(dispatch.slot()));
    }
}

/// A job that sends its slot and its thread, and ends when it is released.
fn held(slots: &mpsc::Sender<(Arc<Slot<SlotJob>>, thread::ThreadId)>) -> (SlotJob, mpsc::Sender<()>) {
    let (release, gate) = mpsc::channel();
    let slots = slots.clone();
    let job = SlotJob(Box::new(move |slot| {
        slots.send((slot, thread::current().id())).unwrap();
        let _ = gate.recv();
    }));
    (job, release)
}

#[test]
fn a_given_up_dispatch_is_not_counted_and_a_replacement_thread_starts() {
    let pool = Pool::start("test", ONE).unwrap();
    let (lane, other) = (pool.lane(8), pool.lane(8));
    let (slots, received) = mpsc::channel();
    let (stuck, release_stuck) = held(&slots);
    let stuck_place = lane.submit(stuck).unwrap();
    let (slot, stuck_thread) = received.recv().unwrap();
    let (next, release_next) = held(&slots);
    let next_place = other.submit(next).unwrap();
    assert_eq!(pool.load(), (1, 1));
    assert!(slot.give_up(true));
    let (_next_slot, next_thread) = received.recv().unwrap();
    assert_ne!(next_thread, stuck_thread);
    assert_eq!(pool.load(), (1, 0));
    // The old thread ends with its job; all later jobs run on the replacement.
    release_stuck.send(()).unwrap();
    release_next.send(()).unwrap();
    for _ in 0..20 {
        let (job, release) = held(&slots);
        let place = lane.submit(job).unwrap();
        let (_slot, thread) = received.recv().unwrap();
        assert_eq!(thread, next_thread);
        release.send(()).unwrap();
        drop(place);
    }
    drop((stuck_place, next_place));
}

#[test]
fn a_dispatch_given_up_without_a_replacement_keeps_its_thread_for_the_next_job() {
    let pool = Pool::start("test", ONE).unwrap();
    let lane = pool.lane(8);
    let (slots, received) = mpsc::channel();
    let (stuck, release) = held(&slots);
    let stuck_place = lane.submit(stuck).unwrap();
    let (slot, stuck_thread) = received.recv().unwrap();
    assert!(!slot.give_up(false));
    assert_eq!(pool.load(), (0, 0));
    let (next, release_next) = held(&slots);
    let next_place = lane.submit(next).unwrap();
    assert_eq!(pool.load(), (0, 1));
    release.send(()).unwrap();
    let (_slot, thread) = received.recv().unwrap();
    assert_eq!(thread, stuck_thread);
    assert_eq!(pool.load(), (1, 0));
    release_next.send(()).unwrap();
    drop((stuck_place, next_place));
}
