//! The thread that accepts connections, enforces their deadlines, and ends them when the server
//! stops.
//!
//! The steps of a stop: the kernel takes no new connections (a filter on the listening socket drops
//! their packets). The thread accepts the waiting connections and closes the socket. Every
//! connection ends once all that has arrived is answered. At the end of the drain timeout, the
//! remaining requests get a 503.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{SockFilter, SockRef};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::choice::{Fate, Pressure};
use super::registry::{Registered, Registry};

/// Time between two sweeps of all connections; longer with thousands of connections.
const TICK: Duration = Duration::from_millis(200);
const TICK_FOR_EACH: Duration = Duration::from_micros(20);

/// Time between two sweeps when no place is free.
const SHORT_TICK: Duration = Duration::from_millis(10);

/// Pause after an error of the listener.
const BACKOFF: Duration = Duration::from_millis(20);

/// Time to write the last responses after the drain timeout.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// An accepted connection, on its way to the thread that serves it.
#[derive(Debug)]
pub struct Accepted {
    // Declared first, so that the socket is closed before its place is released.
    pub socket: TcpStream,
    pub peer: Option<SocketAddr>,
    pub registered: Registered,
    pub load: LoadShare,
}

/// A share of a thread's load, released on drop.
#[derive(Debug)]
pub struct LoadShare(Arc<AtomicUsize>);

impl Drop for LoadShare {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A thread that serves connections.
#[derive(Debug)]
pub struct ServingThread {
    pub queue: UnboundedSender<Accepted>,
    /// Number of the thread's connections.
    pub load: Arc<AtomicUsize>,
}

/// A request to stop the server.
#[derive(Debug)]
pub struct StopRequest {
    pub deadline: Instant,
    /// Whether waiting connections are left to another process.
    pub leaves_queue: bool,
    pub done: oneshot::Sender<()>,
}

#[derive(Debug)]
pub struct Acceptor {
    listener: Option<TcpListener>,
    registry: Arc<Registry>,
    workers: Vec<ServingThread>,
    stop: std::sync::mpsc::Receiver<StopRequest>,
    stopping: Option<StopRequest>,
    is_cut: bool,
    next_sweep: Instant,
    /// End of a pause during which the listener is not polled.
    paused_until: Option<Instant>,
}

impl Acceptor {
    pub fn new(
        listener: TcpListener,
        registry: Arc<Registry>,
        workers: Vec<ServingThread>,
        stop: std::sync::mpsc::Receiver<StopRequest>,
    ) -> Self {
        Self {
            listener: Some(listener),
            registry,
            workers,
            stop,
            stopping: None,
            is_cut: false,
            next_sweep: Instant::now(),
            paused_until: None,
        }
    }

    /// Accepts until the server is stopped and all connections have ended.
    pub fn run(mut self) {
        loop {
            self.wait();
            if self.stopping.is_none()
                && let Ok(stop) = self.stop.try_recv()
            {
                self.begin_to_stop(stop);
            }
            self.accept();
            let now = Instant::now();
            if now >= self.next_sweep {
                self.sweep(Pressure {
                    wanted: 0,
                    is_highest: self.stopping.is_some(),
                });
            }
            if self.has_ended(now) {
                break;
            }
        }
        if let Some(stop) = self.stopping {
            // Sending fails if nothing waits for the end.
            let _ = stop.done.send(());
        }
    }

    /// Waits for a connection, a wake-up, or the next sweep.
    fn wait(&mut self) {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| now >= until) {
            self.paused_until = None;
        }
        let is_listening = self.paused_until.is_none() && self.has_place();
        let timeout = if self.registry.live() == 0 && self.stopping.is_none() && is_listening {
            None
        } else {
            let until = self
                .paused_until
                .map_or(self.next_sweep, |until| until.min(self.next_sweep));
            Some(until.saturating_duration_since(now))
        };
        let wakeup = self.registry.wakeup();
        let mut sources = vec![PollFd::new(&wakeup, PollFlags::IN)];
        if let Some(listener) = self.listener.as_ref().filter(|_| is_listening) {
            sources.push(PollFd::new(listener, PollFlags::IN));
        }
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "wait for connections");
                std::thread::sleep(BACKOFF);
            }
        }
        self.registry.clear_wakeup();
    }

    /// Whether another connection may be accepted. During a stop, all waiting ones are, regardless
    /// of the limit.
    fn has_place(&self) -> bool {
        self.stopping.is_some() || self.registry.live() < self.registry.limits.places
    }

    fn accept(&mut self) {
        while self.paused_until.is_none() {
            let Some(listener) = &self.listener else { return };
            if !self.has_place() {
                // In this order, a connection that ends in between wakes this thread.
                self.registry.set_awaited(true);
                if !self.has_place() {
                    self.look_soon();
                    return;
                }
            }
            match acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    self.admit(TcpStream::from(socket), peer);
                }
                Err(Errno::AGAIN) => {
                    if self.stopping.is_some() {
                        self.listener = None;
                    } else {
                        self.registry.set_awaited(false);
                    }
                    return;
                }
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    self.sweep(Pressure {
                        wanted: 1,
                        is_highest: true,
                    });
                    self.pause();
                }
                // Errors of this connection alone (accept(2)).
                Err(
                    Errno::INTR
                    | Errno::CONNABORTED
                    | Errno::CONNRESET
                    | Errno::PROTO
                    | Errno::PERM
                    | Errno::NETDOWN
                    | Errno::NOPROTOOPT
                    | Errno::HOSTDOWN
                    | Errno::NONET
                    | Errno::HOSTUNREACH
                    | Errno::NETUNREACH,
                ) => {}
                Err(error) => {
                    tracing::error!(%error, "accept a connection");
                    self.pause();
                }
            }
        }
    }

    fn admit(&mut self, socket: TcpStream, peer: Option<SocketAddr>) {
        let registered = self.registry.add();
        if self.stopping.is_some() {
            registered.connection().set_fate(Fate::Leave);
        } else if self.registry.is_full() {
            let soon = Instant::now() + SHORT_TICK;
            if soon >= self.next_sweep {
                // Some more than needed, so that not every new connection causes a sweep.
                self.sweep(Pressure {
                    wanted: self.registry.limits.general() / 64,
                    is_highest: false,
                });
            }
            if self.registry.is_full() {
                registered.connection().set_takes_reserved_place();
                self.look_soon();
            }
        }
        let Some(worker) = self
            .workers
            .iter()
            .min_by_key(|worker| worker.load.load(Ordering::Relaxed))
        else {
            return;
        };
        worker.load.fetch_add(1, Ordering::Relaxed);
        let load = LoadShare(Arc::clone(&worker.load));
        let accepted = Accepted {
            socket,
            peer,
            registered,
            load,
        };
        if worker.queue.send(accepted).is_err() {
            tracing::error!("a thread that serves connections has ended");
        }
    }

    fn sweep(&mut self, pressure: Pressure) {
        let chosen = self.registry.sweep(pressure);
        let is_urgent = self.stopping.is_some() || self.registry.is_full();
        let tick = if is_urgent { SHORT_TICK } else { TICK };
        let connections = u32::try_from(self.registry.live()).unwrap_or(u32::MAX);
        self.next_sweep = Instant::now() + tick.max(TICK_FOR_EACH.saturating_mul(connections));
        if chosen > 0 {
            tracing::debug!(
                chosen,
                "closing connections: idle for long, or their request arrives too slowly"
            );
        }
    }

    fn look_soon(&mut self) {
        self.next_sweep = self.next_sweep.min(Instant::now() + SHORT_TICK);
    }

    fn pause(&mut self) {
        self.paused_until = Some(Instant::now() + BACKOFF);
    }

    fn begin_to_stop(&mut self, stop: StopRequest) {
        if stop.leaves_queue {
            self.listener = None;
        } else if let Some(listener) = &self.listener {
            refuse_new_connections(listener);
        }
        self.paused_until = None;
        self.stopping = Some(stop);
        self.registry.set_awaited(true);
        self.accept();
        self.registry.set_all_fates(Fate::Leave);
        self.look_soon();
    }

    fn has_ended(&mut self, now: Instant) -> bool {
        let Some(stop) = &self.stopping else { return false };
        let live = self.registry.live();
        if live == 0 && self.listener.is_none() {
            return true;
        }
        if now < stop.deadline {
            return false;
        }
        let is_first = !self.is_cut;
        self.is_cut = true;
        self.listener = None;
        // Repeated, because a request may have begun since.
        self.registry.set_all_fates(Fate::Cut);
        if is_first {
            tracing::warn!(
                connections = live,
                "requests are still in progress at the end of the drain timeout; they get a 503"
            );
        }
        now >= stop.deadline + LAST_WRITES
    }
}

/// Makes the kernel drop packets to `listener` from now on, so that it accepts no connection that
/// would then be reset. The clients try again, and find the socket closed.
pub fn refuse_new_connections(listener: &TcpListener) {
    /// `BPF_RET | BPF_K` with 0: keep no byte of the packet.
    const DROP: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    if let Err(error) = SockRef::from(&listener.as_fd()).attach_filter(&[DROP]) {
        tracing::debug!(%error, "connections that arrive during the stop may be reset");
    }
}

/// Starts the accepting thread.
pub fn start(acceptor: Acceptor) -> io::Result<()> {
    std::thread::Builder::new().name("acceptor".to_owned()).spawn(move || {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| acceptor.run()));
        if run.is_err() {
            // A process that accepts nothing is useless; the supervisor starts another.
            std::process::abort();
        }
    })?;
    Ok(())
}
