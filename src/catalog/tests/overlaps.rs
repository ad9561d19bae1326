//! Random operations that overlap, and some of which are dropped before they end.
//!
//! At any time, lookups agree with the list, the journal has each listed name, and one call at most
//! loads an artifact. In the end, each model was given back, or dropped with its operation.

use std::collections::BTreeSet;

use futures_util::future::{BoxFuture, join_all};
use proptest::prelude::*;

use super::random::{LoadEnd, NAMES, block_on, load_end, server};
use super::*;
use crate::catalog::Lookup;
use engine::HeldCall;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Holds a later load or restore of the name.
    HoldLoad(usize),
    HoldUnload,
    /// Ends one of the held calls.
    EndCall(usize, LoadEnd),
    Load(usize),
    Unload(usize),
    Request(usize),
    /// Continues one of the operations.
    Poll(usize),
    /// Drops one of the operations.
    Cancel(usize),
    /// Ends one of the requests that have a handle.
    EndRequest(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (name, any) = (0..NAMES.len(), 0..usize::MAX);
    prop_oneof![
        2 => name.clone().prop_map(Step::HoldLoad),
        1 => Just(Step::HoldUnload),
        4 => (any.clone(), load_end()).prop_map(|(call, end)| Step::EndCall(call, end)),
        4 => name.clone().prop_map(Step::Load),
        4 => name.clone().prop_map(Step::Unload),
        3 => name.prop_map(Step::Request),
        8 => any.clone().prop_map(Step::Poll),
        2 => any.clone().prop_map(Step::Cancel),
        3 => any.prop_map(Step::EndRequest),
    ]
}

/// An operation that has begun.
struct Operation {
    name: &'static str,
    future: BoxFuture<'static, Ended>,
}

enum Ended {
    Load(Result<LoadedMemory, CatalogError>),
    Unload(Result<u64, CatalogError>),
    Request(Result<Handle<TestModel>, CatalogError>),
}

/// A server with the operations and requests in progress.
struct Run {
    server: Server,
    operations: Vec<Operation>,
    calls: Vec<HeldCall>,
    requests: Vec<Handle<TestModel>>,
    /// Names that an operation may have closed without a line in the journal yet: it waits, or it
    /// was dropped.
    closing: BTreeSet<&'static str>,
    /// Loads that succeeded.
    loads: usize,
    cancelled: usize,
}

impl Run {
    fn new(server: Server) -> Self {
        Self {
            server,
            operations: Vec::new(),
            calls: Vec::new(),
            requests: Vec::new(),
            closing: BTreeSet::new(),
            loads: 0,
            cancelled: 0,
        }
    }

    fn step(&mut self, step: Step) {
        let catalog = Arc::clone(&self.server.catalog);
        match step {
            Step::HoldLoad(name) => self.calls.push(self.server.engine.hold_load(&path(NAMES[name]))),
            Step::HoldUnload => self.calls.push(self.server.engine.hold_unload()),
            Step::EndCall(call, end) => {
                if let Some(call) = index(&self.calls, call) {
                    let call = self.calls.swap_remove(call);
                    match end.error() {
                        None => call.succeed(),
                        Some(error) => call.fail(error),
                    }
                }
            }
            Step::Load(name) => {
                let name = NAMES[name];
                self.begin(name, async move {
                    Ended::Load(catalog.load_trusted(name, Path::new(&path(name))).await)
                });
            }
            Step::Unload(name) => self.begin(
                NAMES[name],
                async move { Ended::Unload(catalog.unload(NAMES[name]).await) },
            ),
            Step::Request(name) => self.begin(NAMES[name], async move {
                Ended::Request(catalog.get(NAMES[name], Instant::now() + NEVER).await)
            }),
            Step::Poll(operation) => {
                if let Some(operation) = index(&self.operations, operation) {
                    self.poll(operation);
                }
            }
            Step::Cancel(operation) => {
                if let Some(operation) = index(&self.operations, operation) {
                    self.operations.swap_remove(operation);
                    self.cancelled += 1;
                }
            }
            Step::EndRequest(request) => {
                if let Some(request) = index(&self.requests, request) {
                    self.requests.swap_remove(request);
                }
            }
        }
    }

    fn begin(&mut self, name: &'static str, operation: impl Future<Output = Ended> + Send + 'static) {
        let future = operation.boxed();
        self.operations.push(Operation { name, future });
        self.poll(self.operations.len() - 1);
    }

    fn poll(&mut self, index: usize) {
        let operation = &mut self.operations[index];
        let name = operation.name;
        match (&mut operation.future).now_or_never() {
            Some(ended) => {
                self.operations.swap_remove(index);
                self.end(name, ended);
            }
            None => drop(self.closing.insert(name)),
        }
    }

    fn end(&mut self, name: &'static str, ended: Ended) {
        // A load or an unload ends under the lock of its name, with everything recorded.
        if !matches!(ended, Ended::Request(_)) {
            self.closing.remove(name);
        }
        match ended {
            Ended::Load(Ok(_)) => self.loads += 1,
            Ended::Request(Ok(handle)) => self.requests.push(handle),
            Ended::Load(Err(
                CatalogError::AlreadyLoaded { .. } | CatalogError::StillBusy { .. } | CatalogError::Load { .. },
            ))
            | Ended::Unload(Ok(_) | Err(CatalogError::NotLoaded { .. } | CatalogError::StillBusy { .. }))
            | Ended::Request(Err(CatalogError::NotLoaded { .. } | CatalogError::Load { .. })) => {}
            Ended::Load(Err(error)) | Ended::Unload(Err(error)) | Ended::Request(Err(error)) => {
                panic!("{name}: {error}")
            }
        }
    }

    /// Checks what holds at any time.
    async fn check(&self) {
        let (listed, recorded) = (self.server.list(), self.server.journal.names());
        for name in NAMES {
            let is_listed = listed.iter().any(|listed| listed == name);
            let can_answer = !matches!(self.server.catalog.lookup(name).await, Lookup::Nothing);
            assert_eq!(is_listed, can_answer, "{name}");
            assert_eq!(is_listed, self.server.catalog.describe(name).await.is_ok(), "{name}");
            let is_recorded = recorded.iter().any(|recorded| recorded == name);
            assert!(
                is_listed == is_recorded || (is_recorded && self.closing.contains(name)),
                "{name}: listed {is_listed}, recorded {is_recorded}"
            );
        }
        let lines = self.server.journal.lines();
        let loads = lines.iter().filter(|line| line.starts_with('+')).count();
        assert_eq!(loads, self.loads);
        for name in NAMES {
            let lines: Vec<_> = lines.iter().filter(|line| line[1..] == *name).collect();
            assert!(lines.windows(2).all(|pair| pair[0] != pair[1]), "{lines:?}");
        }
    }

    /// Ends everything, and unloads all models.
    async fn finish(mut self) {
        self.requests.clear();
        for call in self.calls.drain(..) {
            call.succeed();
        }
        let operations = self.operations.drain(..).map(|Operation { name, future }| async move {
            match future.await {
                // An unload among the others may wait for the handle.
                Ended::Request(Ok(handle)) => drop(handle),
                ended => return Some((name, ended)),
            }
            None
        });
        for (name, ended) in join_all(operations).await.into_iter().flatten() {
            self.end(name, ended);
        }
        // Also completes unloads that were dropped.
        for name in NAMES {
            assert!(self.server.unload(name).await.as_ref().err().is_none_or(is_not_loaded));
        }
        self.closing.clear();
        settle().await;
        self.check().await;
        let counts = self.server.engine.counts();
        assert_eq!(self.server.list(), [""; 0]);
        assert_eq!((counts.bytes, counts.loaded), (0, counts.unloaded + counts.dropped));
        assert!(counts.dropped <= self.cancelled, "{counts:?}");
    }
}

/// The item that `number` chooses.
fn index<T>(items: &[T], number: usize) -> Option<usize> {
    number.checked_rem(items.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn operations_on_a_name_run_in_order_and_leave_nothing_behind(
        is_patient in any::<bool>(),
        restored in 0..=NAMES.len(),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        block_on(async {
            let unload_timeout = if is_patient { NEVER } else { Duration::ZERO };
            let mut run = Run::new(server(unload_timeout, restored).await);
            for step in steps {
                run.step(step);
                settle().await;
                run.check().await;
            }
            run.finish().await;
        });
    }
}
