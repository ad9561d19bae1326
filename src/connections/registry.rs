//! The registry of all connections of a server.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use tokio::time::{Duration, Instant, sleep};

use super::choice::{ConnectionLimits, ConnectionPhase, Fate, Pressure, choose};
use super::connection::{Connection, now};

/// Counts of connections.
#[derive(Debug)]
pub struct Occupancy {
    pub live: AtomicUsize,
    /// Connections among these that end soon.
    pub leaving: AtomicUsize,
    general: usize,
    /// Time for a client to send a request when no place is free.
    pressure_timeout: Duration,
    /// Whether requests in progress took all general places at the last sweep.
    is_busy: AtomicBool,
}

impl Occupancy {
    /// Whether more than the general places are taken.
    pub fn is_full(&self) -> bool {
        self.staying() > self.general
    }

    /// Waits for a free general place. Returns at once when requests take all of them: they may
    /// take long, and the waiting connection holds a reserved place that a health check may need.
    pub async fn wait_for_place(&self) {
        /// The interval of the accepting thread's sweeps.
        const PAUSE: Duration = Duration::from_millis(10);
        // By then, idle connections and half-sent requests are gone.
        let until = Instant::now() + self.pressure_timeout + 4 * PAUSE;
        while self.is_full() && !self.is_busy.load(Ordering::Relaxed) && Instant::now() < until {
            sleep(PAUSE).await;
        }
    }

    fn staying(&self) -> usize {
        let live = self.live.load(Ordering::Relaxed);
        live.saturating_sub(self.leaving.load(Ordering::Relaxed))
    }
}

/// All connections, numbered in the order of their arrival.
#[derive(Debug)]
pub struct Registry {
    pub limits: ConnectionLimits,
    /// Locked only to add, remove or list connections.
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    occupancy: Arc<Occupancy>,
    next: AtomicU64,
    /// Whether the accepting thread waits for connections to end.
    is_awaited: AtomicBool,
    /// Wakes the accepting thread.
    wakeup: OwnedFd,
}

impl Registry {
    pub fn new(limits: ConnectionLimits) -> io::Result<Self> {
        Ok(Self {
            limits,
            connections: Mutex::default(),
            occupancy: Arc::new(Occupancy {
                live: AtomicUsize::new(0),
                leaving: AtomicUsize::new(0),
                general: limits.general(),
                pressure_timeout: limits.pressure_timeout,
                is_busy: AtomicBool::new(false),
            }),
            next: AtomicU64::new(0),
            is_awaited: AtomicBool::new(false),
            wakeup: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Adds a connection.
    pub fn add(self: &Arc<Self>) -> Registered {
        let connection = Arc::new(Connection::new(Arc::clone(&self.occupancy)));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.occupancy.live.fetch_add(1, Ordering::Relaxed);
        self.connections().insert(number, Arc::clone(&connection));
        Registered {
            connection,
            number,
            registry: Arc::clone(self),
        }
    }

    pub fn live(&self) -> usize {
        self.occupancy.live.load(Ordering::Relaxed)
    }

    pub fn is_full(&self) -> bool {
        self.occupancy.is_full()
    }

    /// Ends the connections that have to go. Returns their number.
    pub fn sweep(&self, pressure: Pressure) -> usize {
        let connections = self.all();
        let now = now();
        let seen: Vec<_> = connections.iter().map(|connection| connection.seen(now)).collect();
        let chosen = choose(&self.limits, pressure, &seen);
        let answering = seen
            .iter()
            .filter(|seen| seen.fate == Fate::Stay && seen.phase == ConnectionPhase::Answering)
            .count();
        let is_busy = answering >= self.occupancy.general;
        self.occupancy.is_busy.store(is_busy, Ordering::Relaxed);
        for &(index, fate) in &chosen {
            connections[index].set_fate(fate);
        }
        chosen.len()
    }

    /// Gives all connections this fate. Returns their number.
    pub fn set_all_fates(&self, fate: Fate) -> usize {
        let connections = self.all();
        for connection in &connections {
            connection.set_fate(fate);
        }
        connections.len()
    }

    pub fn wakeup(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }

    pub fn wake(&self) {
        // The counter is full, so the thread wakes anyway.
        let _ = rustix::io::write(&self.wakeup, &1_u64.to_ne_bytes());
    }

    pub fn clear_wakeup(&self) {
        let _ = rustix::io::read(&self.wakeup, &mut [0; 8]);
    }

    /// Sets whether the end of a connection wakes the accepting thread.
    pub fn set_awaited(&self, is_awaited: bool) {
        self.is_awaited.store(is_awaited, Ordering::SeqCst);
    }

    fn all(&self) -> Vec<Arc<Connection>> {
        self.connections().values().cloned().collect()
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, number: u64) {
        let removed = self.connections().remove(&number);
        drop(removed);
        self.occupancy.live.fetch_sub(1, Ordering::SeqCst);
        if self.is_awaited.load(Ordering::SeqCst) {
            self.wake();
        }
    }
}

/// A connection's place, released on drop.
#[derive(Debug)]
pub struct Registered {
    connection: Arc<Connection>,
    number: u64,
    registry: Arc<Registry>,
}

impl Registered {
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.remove(self.number);
    }
}
