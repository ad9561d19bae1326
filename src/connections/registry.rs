//! All connections of a server.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use tokio::time::{Duration, Instant, sleep};

use super::choice::{Fate, Limits, Phase, Pressure, choose};
use super::connection::{Connection, now};

/// How many connections there are.
#[derive(Debug)]
pub struct Crowd {
    pub live: AtomicUsize,
    /// Of these, those that end soon.
    pub leaving: AtomicUsize,
    general: usize,
    /// For a client to send a request when no place is left.
    pressure_timeout: Duration,
    /// Whether requests under way take all general places, as far as the last sweep has seen.
    is_busy: AtomicBool,
}

impl Crowd {
    /// Whether more than the general places are taken.
    pub fn is_full(&self) -> bool {
        self.staying() > self.general
    }

    /// Waits for a general place to become free. Returns at once when requests take all of them:
    /// each of those may take long, and whoever waits keeps a reserved place from a health check.
    pub async fn wait_for_place(&self) {
        /// The accepting thread looks as often.
        const PAUSE: Duration = Duration::from_millis(10);
        // Idle connections and half-sent requests are gone by then.
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

/// All connections, by the order of their arrival.
#[derive(Debug)]
pub struct Registry {
    pub limits: Limits,
    /// Held for as long as it takes to add, to remove, or to list.
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    crowd: Arc<Crowd>,
    next: AtomicU64,
    /// Whether the accepting thread waits for connections to end.
    is_awaited: AtomicBool,
    /// Wakes the accepting thread.
    bell: OwnedFd,
}

impl Registry {
    pub fn new(limits: Limits) -> io::Result<Self> {
        Ok(Self {
            limits,
            connections: Mutex::default(),
            crowd: Arc::new(Crowd {
                live: AtomicUsize::new(0),
                leaving: AtomicUsize::new(0),
                general: limits.general(),
                pressure_timeout: limits.pressure_timeout,
                is_busy: AtomicBool::new(false),
            }),
            next: AtomicU64::new(0),
            is_awaited: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Adds a connection.
    pub fn add(self: &Arc<Self>) -> Registered {
        let connection = Arc::new(Connection::new(Arc::clone(&self.crowd)));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.crowd.live.fetch_add(1, Ordering::Relaxed);
        self.connections().insert(number, Arc::clone(&connection));
        Registered {
            connection,
            number,
            registry: Arc::clone(self),
        }
    }

    pub fn live(&self) -> usize {
        self.crowd.live.load(Ordering::Relaxed)
    }

    pub fn is_full(&self) -> bool {
        self.crowd.is_full()
    }

    /// Ends connections that must go. Returns how many were chosen.
    pub fn sweep(&self, pressure: Pressure) -> usize {
        let connections = self.all();
        let now = now();
        let seen: Vec<_> = connections.iter().map(|connection| connection.seen(now)).collect();
        let chosen = choose(&self.limits, pressure, &seen);
        let answering = seen
            .iter()
            .filter(|seen| seen.fate == Fate::Stay && seen.phase == Phase::Answering)
            .count();
        let is_busy = answering >= self.crowd.general;
        self.crowd.is_busy.store(is_busy, Ordering::Relaxed);
        for &(index, fate) in &chosen {
            connections[index].doom(fate);
        }
        chosen.len()
    }

    /// Gives all connections this fate. Returns how many there are.
    pub fn doom_all(&self, fate: Fate) -> usize {
        let connections = self.all();
        for connection in &connections {
            connection.doom(fate);
        }
        connections.len()
    }

    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub fn ring(&self) {
        // Full means that it rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    pub fn silence(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    /// Says whether the bell is to ring when a connection ends.
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
        self.crowd.live.fetch_sub(1, Ordering::SeqCst);
        if self.is_awaited.load(Ordering::SeqCst) {
            self.ring();
        }
    }
}

/// A connection's place, which it gives back when it is dropped.
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
