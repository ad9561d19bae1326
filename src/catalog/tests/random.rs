//! Random sequences of operations that end one after another: a simple model of each name predicts
//! every result.

use proptest::prelude::*;

use super::*;
use crate::engine::{ArtifactError, LoadError, SessionError};

pub const NAMES: [&str; 3] = ["a", "b", "c"];

pub fn block_on<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.unwrap().block_on(test)
}

/// A server that has an artifact for each name and lists the first `restored` names since a
/// restart.
pub async fn server(unload_timeout: Duration, restored: usize) -> Server {
    let server = Server::start(NAMES, unload_timeout);
    let records: Vec<_> = NAMES.into_iter().take(restored).map(record).collect();
    for record in &records {
        server.journal.loaded(record.clone());
    }
    server.journal.clear_lines();
    server.catalog.list_again(records).await;
    server
}

/// The end of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadEnd {
    Success,
    PassingFailure,
    LastingFailure,
}

impl LoadEnd {
    pub fn error(self) -> Option<LoadError> {
        match self {
            Self::Success => None,
            Self::PassingFailure => Some(SessionError::NoDescriptors.into()),
            Self::LastingFailure => Some(ArtifactError::Missing { path: "x".to_owned() }.into()),
        }
    }
}

pub fn load_end() -> impl Strategy<Value = LoadEnd> {
    prop_oneof![
        3 => Just(LoadEnd::Success),
        1 => Just(LoadEnd::PassingFailure),
        1 => Just(LoadEnd::LastingFailure),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Load(usize, LoadEnd),
    Unload(usize),
    /// A request that goes on. A restored model is loaded first.
    Request(usize, LoadEnd),
    /// The end of one of the requests to the name.
    End(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        (name.clone(), load_end()).prop_map(|(name, end)| Step::Load(name, end)),
        name.clone().prop_map(Step::Unload),
        (name.clone(), load_end()).prop_map(|(name, end)| Step::Request(name, end)),
        name.prop_map(Step::End),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NameState {
    Absent,
    Loaded,
    Restored,
    /// Unloaded while requests held the model.
    Closed,
}

/// A name, and the requests that hold its model.
struct Name {
    state: NameState,
    requests: Vec<Handle<TestModel>>,
}

impl Name {
    fn is_listed(&self) -> bool {
        matches!(self.state, NameState::Loaded | NameState::Restored)
    }

    fn is_in_memory(&self) -> bool {
        self.state == NameState::Loaded || !self.requests.is_empty()
    }
}

/// Does a step, and checks that it ends as the model of the name says.
async fn check(server: &Server, names: &mut [Name; NAMES.len()], step: Step) {
    use NameState::{Absent, Closed, Loaded, Restored};
    let (Step::Load(index, _) | Step::Unload(index) | Step::Request(index, _) | Step::End(index)) = step;
    let (text, name) = (NAMES[index], &mut names[index]);
    let script = |end: LoadEnd| {
        if let Some(error) = end.error() {
            server.engine.fail_load(&path(text), error);
        }
    };
    let is_held = !name.requests.is_empty();
    match (step, name.state) {
        (Step::Load(..), Loaded | Restored) => assert!(is_already_loaded(&server.load(text).await.unwrap_err())),
        (Step::Load(..), Closed) if is_held => assert!(is_still_busy(&server.load(text).await.unwrap_err())),
        (Step::Load(_, end), Absent | Closed) => {
            script(end);
            assert_eq!(server.load(text).await.is_ok(), end == LoadEnd::Success);
            name.state = if end == LoadEnd::Success { Loaded } else { Absent };
        }
        (Step::Unload(_), Absent) => assert!(is_not_loaded(&server.unload(text).await.unwrap_err())),
        (Step::Unload(_), Loaded | Closed) if is_held => {
            assert!(is_still_busy(&server.unload(text).await.unwrap_err()));
            name.state = Closed;
        }
        (Step::Unload(_), state) => {
            let freed = if state == Restored { 0 } else { 100 };
            assert_eq!(server.unload(text).await.unwrap(), freed);
            name.state = Absent;
        }
        (Step::Request(..), Absent | Closed) => assert!(is_not_loaded(&server.get(text).await.unwrap_err())),
        (Step::Request(..), Loaded) => name.requests.push(server.get(text).await.unwrap()),
        (Step::Request(_, end), Restored) => {
            script(end);
            match (end, server.get(text).await) {
                (LoadEnd::Success, Ok(handle)) => {
                    name.state = Loaded;
                    name.requests.push(handle);
                }
                (LoadEnd::PassingFailure, Err(CatalogError::Load { .. })) => {}
                (LoadEnd::LastingFailure, Err(CatalogError::NotLoaded { .. })) => name.state = Absent,
                (_, result) => panic!("{result:?}"),
            }
        }
        (Step::End(_), _) => drop(name.requests.pop()),
    }
    settle().await;
    let listed: Vec<_> = NAMES
        .iter()
        .zip(&*names)
        .filter(|(_, name)| name.is_listed())
        .map(|(text, _)| *text)
        .collect();
    assert_eq!(server.list(), listed);
    assert_eq!(server.journal.names(), listed);
    let in_memory = names.iter().filter(|name| name.is_in_memory()).count();
    let counts = server.engine.counts();
    assert_eq!(counts.bytes, 100 * in_memory as u64);
    assert_eq!((counts.loaded - counts.unloaded, counts.dropped), (in_memory, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn every_operation_ends_as_the_state_of_its_name_says(
        restored in 0..=NAMES.len(),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        block_on(async {
            let server = server(Duration::ZERO, restored).await;
            let mut names = std::array::from_fn(|index| Name {
                state: if index < restored { NameState::Restored } else { NameState::Absent },
                requests: Vec::new(),
            });
            for step in steps {
                check(&server, &mut names, step).await;
            }
        });
    }
}
