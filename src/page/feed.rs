//! Reads the state of a server on a thread of its own, and sends it to those who watch.
//!
//! A request is never in the way of a watcher, nor the other way round: the threads that answer
//! requests only take bytes out of a channel. Without watchers, the thread reads a point of the
//! history every few seconds, and nothing else.
//!
//! Invariants:
//! - There are at most [`WATCHERS`] watchers.
//! - A watcher that does not take its events is dropped; no event waits for it.
//! - Every watcher gets a whole state, and then each change from that state on.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant as Deadline, sleep_until};

use super::history::{PointRing, STEP};
use super::pieces::Pieces;
use super::state::{Point, State};
use crate::background::{Background, BlockingWork};

/// Largest number of watchers at a time.
pub const WATCHERS: usize = 16;

/// Largest number of clients that read the state once at a time: a state of many models has
/// megabytes, and a slow client holds it for long.
pub const READERS: usize = 16;

/// Time between two changes.
const EVERY: Duration = Duration::from_secs(1);

/// A state takes at most this share of the thread's time: with very many models, changes come less
/// often.
const SHARE: u32 = 20;

/// Events that a watcher may leave behind before it is dropped.
const BACKLOG: usize = 8;

/// Reads the state of a server.
pub trait Source: Send + 'static {
    /// Returns the state, without a history.
    fn state(&mut self) -> State;

    /// Returns what happened since the last call.
    fn point(&mut self) -> Point;
}

/// The limit of watchers is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{WATCHERS} pages or programs watch this server already; close one of them, or read ui/state once")]
pub struct TooManyWatchers;

/// The thread stopped, because the server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server is stopping")]
pub struct FeedStopped;

/// The feed of a server. The thread ends when this is dropped.
#[derive(Debug)]
pub struct Feed {
    commands: mpsc::Sender<Command>,
    /// Places of watchers, and of clients that read the state once.
    places: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    _thread: Background,
}

#[derive(Debug)]
enum Command {
    Watch(mpsc::Sender<Bytes>),
    State(oneshot::Sender<Bytes>),
}

impl Feed {
    /// Starts the thread.
    pub fn start(source: impl Source) -> io::Result<Self> {
        // Each watcher and each reader has a place in it.
        let (commands, received) = mpsc::channel(WATCHERS + READERS);
        let thread = Background::start("page", 0, BlockingWork::Detached)?;
        thread.runtime().spawn(run(source, received));
        Ok(Self {
            commands,
            places: Arc::new(Semaphore::new(WATCHERS)),
            readers: Arc::new(Semaphore::new(READERS)),
            _thread: thread,
        })
    }

    /// Number of watchers.
    pub fn watchers(&self) -> usize {
        WATCHERS - self.places.available_permits()
    }

    /// Starts to watch.
    pub fn watch(&self) -> Result<Watcher, TooManyWatchers> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| TooManyWatchers)?;
        let (sender, events) = mpsc::channel(BACKLOG);
        self.commands
            .try_send(Command::Watch(sender))
            .map_err(|_| TooManyWatchers)?;
        Ok(Watcher {
            events,
            rest: Pieces(Bytes::new()),
            _place: place,
        })
    }

    /// Returns the state as JSON. Waits while [`READERS`] clients have not read theirs yet.
    pub async fn state(&self) -> Result<StateText, FeedStopped> {
        let place = Arc::clone(&self.readers)
            .acquire_owned()
            .await
            .map_err(|_| FeedStopped)?;
        let (reply, state) = oneshot::channel();
        self.commands
            .send(Command::State(reply))
            .await
            .map_err(|_| FeedStopped)?;
        let json = state.await.map_err(|_| FeedStopped)?;
        Ok(StateText {
            length: json.len() as u64,
            rest: Pieces(json),
            _place: place,
        })
    }
}

/// The state as JSON: a stream in pieces, which keeps its place until it is read.
#[derive(Debug)]
pub struct StateText {
    pub length: u64,
    rest: Pieces,
    _place: OwnedSemaphorePermit,
}

impl Stream for StateText {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.rest.next().map(Ok))
    }
}

/// A watcher: a stream of server-sent events, in pieces.
#[derive(Debug)]
pub struct Watcher {
    events: mpsc::Receiver<Bytes>,
    rest: Pieces,
    _place: OwnedSemaphorePermit,
}

impl Stream for Watcher {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.rest.0.is_empty() {
            match self.events.poll_recv(context) {
                Poll::Ready(Some(event)) => self.rest.0 = event,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(self.rest.next().map(Ok))
    }
}

/// The state that watchers have, and those who have it.
#[derive(Default)]
struct Shown {
    state: Option<State>,
    watchers: Vec<mpsc::Sender<Bytes>>,
}

async fn run(mut source: impl Source, mut commands: mpsc::Receiver<Command>) {
    let mut ring = PointRing::default();
    let mut shown = Shown::default();
    // The first point is the start from which the second one counts.
    source.point();
    let mut next_point = Instant::now() + STEP;
    let mut next_change = Instant::now() + EVERY;
    loop {
        let next = match shown.watchers.is_empty() {
            true => next_point,
            false => next_point.min(next_change),
        };
        let command = tokio::select! {
            command = commands.recv() => match command {
                Some(command) => Some(command),
                None => return,
            },
            () = sleep_until(Deadline::from_std(next)) => None,
        };
        if Instant::now() >= next_point {
            ring.push(source.point());
            // After a pause of the machine, the next point is a whole step away.
            next_point = (next_point + STEP).max(Instant::now());
        }
        match command {
            Some(command) => {
                // One reading answers all that wait.
                let (mut replies, mut watchers) = (Vec::new(), Vec::new());
                let mut next = Some(command);
                while let Some(command) = next {
                    match command {
                        Command::State(reply) => replies.push(reply),
                        Command::Watch(watcher) => watchers.push(watcher),
                    }
                    next = commands.try_recv().ok();
                }
                if !replies.is_empty() {
                    let state = json(&read(&mut source, &ring));
                    for reply in replies {
                        // An error means that the client hung up.
                        let _ = reply.send(state.clone());
                    }
                }
                for watcher in watchers {
                    shown.join(watcher, || read(&mut source, &ring));
                }
            }
            None if Instant::now() >= next_change && !shown.watchers.is_empty() => {
                let begun = Instant::now();
                shown.change(read(&mut source, &ring));
                next_change = Instant::now() + EVERY.max(begun.elapsed() * SHARE);
            }
            None => {}
        }
    }
}

fn read(source: &mut impl Source, ring: &PointRing) -> State {
    State {
        history: ring.history(),
        ..source.state()
    }
}

impl Shown {
    /// Sends the state that the other watchers have, or a new one, to a new watcher.
    fn join(&mut self, watcher: mpsc::Sender<Bytes>, read: impl FnOnce() -> State) {
        let state = self.state.get_or_insert_with(read);
        if watcher.try_send(event("state", state)).is_ok() {
            self.watchers.push(watcher);
        }
        if self.watchers.is_empty() {
            self.state = None;
        }
    }

    /// Sends the changes to all watchers, and drops those that do not take them.
    fn change(&mut self, state: State) {
        if let Some(before) = &self.state {
            let event = event("change", &state.change_since(before));
            self.watchers.retain(|watcher| watcher.try_send(event.clone()).is_ok());
        }
        // Without watchers, the state would only take memory.
        self.state = (!self.watchers.is_empty()).then_some(state);
    }
}

fn json(value: &impl Serialize) -> Bytes {
    // Cannot fail: the types have no keys other than strings.
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// Writes a server-sent event. JSON has no line breaks.
fn event(name: &str, value: &impl Serialize) -> Bytes {
    let mut text = format!("event: {name}\ndata: ").into_bytes();
    text.extend_from_slice(&json(value));
    text.extend_from_slice(b"\n\n");
    text.into()
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::page::state::{Change, ModelRow};

    fn state(requests: u64) -> State {
        let model = |number: u64| ModelRow {
            name: format!("{number}"),
            requests: if number == 0 { requests } else { 0 },
            ..ModelRow::default()
        };
        State {
            time: requests,
            models: (0..3).map(model).collect(),
            ..State::default()
        }
    }

    fn watcher() -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
        mpsc::channel(BACKLOG)
    }

    fn data(event: &Bytes, name: &str) -> String {
        let text = std::str::from_utf8(event).unwrap();
        let data = text.strip_prefix(&format!("event: {name}\ndata: ")).unwrap();
        data.strip_suffix("\n\n").unwrap().to_owned()
    }

    #[test]
    fn a_late_watcher_gets_the_state_that_the_others_have_and_then_the_same_changes() {
        let mut shown = Shown::default();
        let (first, mut of_first) = watcher();
        shown.join(first, || state(1));
        shown.change(state(2));
        let (second, mut of_second) = watcher();
        shown.join(second, || state(99));
        shown.change(state(3));
        of_first.try_recv().unwrap();
        of_first.try_recv().unwrap();
        let mut known: State = serde_json::from_str(&data(&of_second.try_recv().unwrap(), "state")).unwrap();
        assert_eq!(known.time, 2);
        let change = of_second.try_recv().unwrap();
        assert_eq!(change, of_first.try_recv().unwrap());
        let change: Change = serde_json::from_str(&data(&change, "change")).unwrap();
        assert_eq!(change.models.len(), 1);
        known.apply(change);
        assert_eq!(known.models, state(3).models);
    }

    #[test]
    fn a_watcher_that_takes_no_events_is_dropped() {
        let mut shown = Shown::default();
        let (slow, _of_slow) = watcher();
        let (quick, mut of_quick) = watcher();
        shown.join(slow, || state(0));
        shown.join(quick, || state(0));
        for number in 0..BACKLOG as u64 + 2 {
            shown.change(state(number));
            while of_quick.try_recv().is_ok() {}
        }
        assert_eq!(shown.watchers.len(), 1);
        drop(of_quick);
        shown.change(state(100));
        assert!(
            shown.watchers.is_empty() && shown.state.is_none(),
            "nothing is kept without watchers"
        );
    }

    struct Counter(u64);

    impl Source for Counter {
        fn state(&mut self) -> State {
            self.0 += 1;
            state(self.0)
        }

        fn point(&mut self) -> Point {
            Point::default()
        }
    }

    #[tokio::test]
    async fn the_number_of_watchers_is_bounded_and_a_place_becomes_free() {
        let feed = Feed::start(Counter(0)).unwrap();
        let mut watchers = Vec::new();
        for _ in 0..WATCHERS {
            let mut watcher = feed.watch().unwrap();
            let first = watcher.next().await.unwrap().unwrap();
            assert!(first.starts_with(b"event: state"));
            watchers.push(watcher);
        }
        assert_eq!(feed.watch().unwrap_err(), TooManyWatchers);
        watchers.pop();
        assert_eq!(feed.watchers(), WATCHERS - 1);
        feed.watch().unwrap();
        let pieces: Vec<_> = feed.state().await.unwrap().collect().await;
        let text = pieces.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat();
        let state: State = serde_json::from_slice(&text).unwrap();
        assert_eq!(state.models.len(), 3);
    }
}
