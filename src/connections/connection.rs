//! The state of one connection.
//!
//! The task that serves the connection writes the phase; the accepting thread reads it and sets the
//! fate. All of it are atomics without a lock: a wrong look costs nothing, because the task judges
//! the fate by the phase that it has itself.

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

use super::choice::{Fate, Phase, Seen};
use super::registry::Crowd;

const PHASES: [Phase; 5] = [Phase::Fresh, Phase::Head, Phase::Body, Phase::Answering, Phase::Idle];
const FATES: [Fate; 4] = [Fate::Stay, Fate::Leave, Fate::Overdue, Fate::Cut];

/// Milliseconds of a clock that costs a memory read and is some milliseconds late.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    u64::try_from(time.tv_sec * 1000 + time.tv_nsec / 1_000_000).unwrap_or_default()
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    phase: AtomicU8,
    /// When the request began to arrive, or the connection became idle.
    since: AtomicU64,
    /// Bytes of the request so far.
    received: AtomicU64,
    fate: AtomicU8,
    /// Whether it was accepted when the general places were taken.
    is_extra: AtomicBool,
    /// The task that serves the connection, while it waits for bytes.
    waker: AtomicWaker,
    crowd: Arc<Crowd>,
}

impl Connection {
    pub fn new(crowd: Arc<Crowd>) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Fresh as u8),
            since: AtomicU64::new(now()),
            received: AtomicU64::new(0),
            fate: AtomicU8::new(Fate::Stay as u8),
            is_extra: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            crowd,
        }
    }

    pub fn seen(&self, now: u64) -> Seen {
        Seen {
            phase: self.phase(),
            fate: self.fate(),
            age: Duration::from_millis(now.saturating_sub(self.since.load(Ordering::Relaxed))),
            received: self.received.load(Ordering::Relaxed),
        }
    }

    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub fn fate(&self) -> Fate {
        FATES[usize::from(self.fate.load(Ordering::Acquire))]
    }

    /// Changes the fate, unless a later one is set, and wakes the task.
    pub fn doom(&self, fate: Fate) {
        let before = self.fate.fetch_max(fate as u8, Ordering::AcqRel);
        if before == Fate::Stay as u8 && fate > Fate::Stay {
            self.crowd.leaving.fetch_add(1, Ordering::Relaxed);
        }
        self.waker.wake();
    }

    pub fn set_extra(&self) {
        self.is_extra.store(true, Ordering::Relaxed);
    }

    pub fn wake_on_doom(&self, context: &Context<'_>) {
        self.waker.register(context.waker());
    }

    /// Notes that bytes have arrived.
    pub fn received(&self, bytes: usize) {
        match self.phase() {
            Phase::Fresh => self.enter(Phase::Head),
            Phase::Idle => {
                self.since.store(now(), Ordering::Relaxed);
                self.received.store(0, Ordering::Relaxed);
                self.enter(Phase::Head);
            }
            Phase::Head | Phase::Body | Phase::Answering => {}
        }
        let received = self.received.load(Ordering::Relaxed);
        self.received
            .store(received.saturating_add(bytes as u64), Ordering::Relaxed);
    }

    /// Whether the connection ends now that nothing is left to read.
    pub fn ends(&self) -> bool {
        match (self.fate(), self.phase()) {
            (Fate::Stay, _) | (_, Phase::Answering) => false,
            (_, Phase::Idle) | (Fate::Overdue, _) => true,
            (Fate::Leave, Phase::Fresh | Phase::Head | Phase::Body) | (Fate::Cut, Phase::Body) => false,
            (Fate::Cut, Phase::Fresh | Phase::Head) => true,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if *self.fate.get_mut() != Fate::Stay as u8 {
            self.crowd.leaving.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A request under way. Its connection is not closed for want of a place.
#[derive(Debug)]
pub struct InFlight(Arc<Connection>);

impl InFlight {
    /// The request's connection, unless the request came without one, as in unit tests.
    pub fn of(request: &ServiceRequest) -> Option<Self> {
        let connection = request.conn_data::<Arc<Connection>>()?;
        connection.enter(Phase::Answering);
        Some(Self(Arc::clone(connection)))
    }

    /// Whether the request must be refused: its connection keeps one of the reserved places, which
    /// only health checks may, and no other becomes free. The connection ends after the request
    /// then.
    pub async fn is_crowded_out(request: Option<&Self>) -> bool {
        let Some(Self(connection)) = request.filter(|request| request.0.is_extra.load(Ordering::Relaxed)) else {
            return false;
        };
        connection.crowd.wait_for_place().await;
        let is_crowded = connection.crowd.is_full();
        match is_crowded {
            true => connection.doom(Fate::Leave),
            false => connection.is_extra.store(false, Ordering::Relaxed),
        }
        is_crowded
    }

    fn is_cut(&self) -> bool {
        self.0.fate() == Fate::Cut
    }

    /// The future's output, or `None` when the server stops before there is one. The future is
    /// dropped then.
    ///
    /// No timer and no list of waiters: the task that polls this is the connection's, which
    /// `Connection::doom` wakes.
    pub async fn unless_cut<F: Future>(request: Option<&Self>, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if request.is_some_and(Self::is_cut) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// The response, which keeps the request under way until its body is written. It says so when
    /// it is the connection's last.
    pub fn track(request: Option<Self>, mut response: ServiceResponse<BoxBody>) -> ServiceResponse<Tracked> {
        if request.as_ref().is_some_and(|request| request.0.fate() != Fate::Stay) {
            response
                .response_mut()
                .head_mut()
                .set_connection_type(ConnectionType::Close);
        }
        response.map_body(|_, body| Tracked {
            body,
            _request: request,
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.since.store(now(), Ordering::Relaxed);
        self.0.enter(Phase::Idle);
    }
}

/// A response's body, and the request that is under way until it is written.
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

/// A handler that waits for its request's body. Meanwhile deadlines hold for the client.
#[derive(Debug)]
pub struct Receiving<'a>(Option<&'a Connection>);

impl<'a> Receiving<'a> {
    pub fn of(request: &'a HttpRequest) -> Self {
        let connection = request.conn_data::<Arc<Connection>>().map(|connection| &**connection);
        if let Some(connection) = connection {
            connection.enter(Phase::Body);
        }
        Self(connection)
    }

    /// Whether the body broke off because the client took too long to send it.
    pub fn is_overdue(&self) -> bool {
        self.0.is_some_and(|connection| connection.fate() == Fate::Overdue)
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            connection.enter(Phase::Answering);
        }
    }
}
