//! The state of one connection.
//!
//! The task that serves the connection writes the phase. The accepting thread reads it and sets the
//! fate. All fields are atomics without a lock: an outdated read does no harm, because the task
//! judges the fate by its own, current phase.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use rustix::time::{ClockId, clock_gettime};

use super::choice::{ConnectionPhase, ConnectionState, Fate};
use super::registry::Occupancy;

const PHASES: [ConnectionPhase; 5] = [
    ConnectionPhase::Fresh,
    ConnectionPhase::Head,
    ConnectionPhase::Body,
    ConnectionPhase::Answering,
    ConnectionPhase::Idle,
];
const FATES: [Fate; 4] = [Fate::Stay, Fate::Leave, Fate::Overdue, Fate::Cut];

/// Milliseconds of a clock that is read from memory and lags by some milliseconds.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    u64::try_from(time.tv_sec * 1000 + time.tv_nsec / 1_000_000).unwrap_or_default()
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    phase: AtomicU8,
    /// The time when the request began to arrive, or the connection became idle.
    since: AtomicU64,
    /// Bytes of the request so far.
    received: AtomicU64,
    fate: AtomicU8,
    /// Whether the connection was accepted while the general places were taken.
    takes_reserved_place: AtomicBool,
    /// The task that serves the connection, while it waits for bytes.
    waker: AtomicWaker,
    occupancy: Arc<Occupancy>,
}

impl Connection {
    pub fn new(occupancy: Arc<Occupancy>) -> Self {
        Self {
            phase: AtomicU8::new(ConnectionPhase::Fresh as u8),
            since: AtomicU64::new(now()),
            received: AtomicU64::new(0),
            fate: AtomicU8::new(Fate::Stay as u8),
            takes_reserved_place: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            occupancy,
        }
    }

    pub fn seen(&self, now: u64) -> ConnectionState {
        ConnectionState {
            phase: self.phase(),
            fate: self.fate(),
            age: Duration::from_millis(now.saturating_sub(self.since.load(Ordering::Relaxed))),
            received: self.received.load(Ordering::Relaxed),
        }
    }

    pub fn phase(&self) -> ConnectionPhase {
        PHASES[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    fn enter(&self, phase: ConnectionPhase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub fn fate(&self) -> Fate {
        FATES[usize::from(self.fate.load(Ordering::Acquire))]
    }

    /// Changes the fate, unless a stronger one is set, and wakes the task.
    pub fn set_fate(&self, fate: Fate) {
        let before = self.fate.fetch_max(fate as u8, Ordering::AcqRel);
        if before == Fate::Stay as u8 && fate > Fate::Stay {
            self.occupancy.leaving.fetch_add(1, Ordering::Relaxed);
        }
        self.waker.wake();
    }

    pub fn set_takes_reserved_place(&self) {
        self.takes_reserved_place.store(true, Ordering::Relaxed);
    }

    pub fn wake_on_fate(&self, context: &Context<'_>) {
        self.waker.register(context.waker());
    }

    /// Records that bytes have arrived.
    pub fn received(&self, bytes: usize) {
        match self.phase() {
            ConnectionPhase::Fresh => self.enter(ConnectionPhase::Head),
            ConnectionPhase::Idle => {
                self.since.store(now(), Ordering::Relaxed);
                self.received.store(0, Ordering::Relaxed);
                self.enter(ConnectionPhase::Head);
            }
            ConnectionPhase::Head | ConnectionPhase::Body | ConnectionPhase::Answering => {}
        }
        let received = self.received.load(Ordering::Relaxed);
        self.received
            .store(received.saturating_add(bytes as u64), Ordering::Relaxed);
    }

    /// Whether the connection ends, given that nothing is left to read.
    pub fn ends(&self) -> bool {
        match (self.fate(), self.phase()) {
            (Fate::Stay, _) | (_, ConnectionPhase::Answering) => false,
            (_, ConnectionPhase::Idle) | (Fate::Overdue, _) => true,
            (Fate::Leave, ConnectionPhase::Fresh | ConnectionPhase::Head | ConnectionPhase::Body)
            | (Fate::Cut, ConnectionPhase::Body) => false,
            (Fate::Cut, ConnectionPhase::Fresh | ConnectionPhase::Head) => true,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if *self.fate.get_mut() != Fate::Stay as u8 {
            self.occupancy.leaving.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A request in progress. Its connection is not closed for lack of places.
#[derive(Debug)]
pub struct InFlight(Arc<Connection>);

impl InFlight {
    /// The request's connection, unless the request came without one, as in unit tests.
    pub fn of(request: &ServiceRequest) -> Option<Self> {
        let connection = request.conn_data::<Arc<Connection>>()?;
        connection.enter(ConnectionPhase::Answering);
        Some(Self(Arc::clone(connection)))
    }

    /// Whether the request must be refused: its connection holds one of the reserved places, which
    /// only health checks may keep, and no general place becomes free. The connection then ends
    /// after the request.
    pub async fn is_crowded_out(request: Option<&Self>) -> bool {
        let Some(Self(connection)) = request.filter(|request| request.0.takes_reserved_place.load(Ordering::Relaxed))
        else {
            return false;
        };
        connection.occupancy.wait_for_place().await;
        let is_crowded = connection.occupancy.is_full();
        match is_crowded {
            true => connection.set_fate(Fate::Leave),
            false => connection.takes_reserved_place.store(false, Ordering::Relaxed),
        }
        is_crowded
    }

    fn is_cut(&self) -> bool {
        self.0.fate() == Fate::Cut
    }

    /// Returns the future's output, or `None` when the server stops first, which drops the future.
    ///
    /// Needs neither a timer nor a list of waiting tasks: the task that polls this is the
    /// connection's, and `Connection::set_fate` wakes it.
    pub async fn unless_cut<F: Future>(request: Option<&Self>, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if request.is_some_and(Self::is_cut) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Keeps the request in progress until the body of its response is written. Marks the response
    /// when it is the connection's last.
    pub fn track(request: Option<Self>, mut response: ServiceResponse<BoxBody>) -> ServiceResponse<Tracked> {
        if request.as_ref().is_some_and(|request| request.0.fate() != Fate::Stay) {
            response
                .response_mut()
                .head_mut()
                .set_connection_type(ConnectionType::Close);
        }
        // The body of a watcher has no end. Its connection counts as idle, so that it makes room
        // for requests, and does not delay a stop.
        let is_watched = response.response().extensions().contains::<Watched>();
        let request = request.filter(|_| !is_watched);
        response.map_body(|_, body| Tracked {
            body,
            _request: request,
        })
    }
}

/// Marks a response, in its extensions, whose body lasts until the client or the server ends it,
/// such as a stream of events.
#[derive(Debug, Clone, Copy)]
pub struct Watched;

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.since.store(now(), Ordering::Relaxed);
        self.0.enter(ConnectionPhase::Idle);
    }
}

/// A response's body, which keeps its request in progress until it is written.
#[derive(Debug)]
pub struct Tracked {
    body: BoxBody,
    _request: Option<InFlight>,
}

impl MessageBody for Tracked {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(context)
    }
}

/// A handler that waits for its request's body, while the client has deadlines.
#[derive(Debug)]
pub struct Receiving<'a>(Option<&'a Connection>);

impl<'a> Receiving<'a> {
    pub fn of(request: &'a HttpRequest) -> Self {
        let connection = request.conn_data::<Arc<Connection>>().map(|connection| &**connection);
        if let Some(connection) = connection {
            connection.enter(ConnectionPhase::Body);
        }
        Self(connection)
    }

    /// Whether the body broke off because the client sent it too slowly.
    pub fn is_overdue(&self) -> bool {
        self.0.is_some_and(|connection| connection.fate() == Fate::Overdue)
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            connection.enter(ConnectionPhase::Answering);
        }
    }
}
