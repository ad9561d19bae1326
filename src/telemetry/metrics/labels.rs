//! The label values of the metrics: routes, outcomes of loads, reasons of unloads.
//!
//! Invariant: each enumeration is in the order of its `ALL`, because counters are indexed by it.

/// Route of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Ping,
    Invocations,
    ExecutionParameters,
    Metrics,
    Load,
    List,
    Invoke,
    Unload,
    Get,
    /// An inference of the Open Inference Protocol.
    Infer,
    /// Any other path of the Open Inference Protocol.
    Protocol,
    /// The page for browsers, and its data.
    Page,
    /// The profile of a model, and the level of the log.
    Debug,
    /// An unknown path.
    Other,
}

impl Route {
    pub const ALL: [Self; 14] = [
        Self::Ping,
        Self::Invocations,
        Self::ExecutionParameters,
        Self::Metrics,
        Self::Load,
        Self::List,
        Self::Invoke,
        Self::Unload,
        Self::Get,
        Self::Infer,
        Self::Protocol,
        Self::Page,
        Self::Debug,
        Self::Other,
    ];

    /// The label in the metrics. All routes for health and state share one.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ping | Self::ExecutionParameters | Self::Metrics | Self::List | Self::Get => HEALTH,
            Self::Invocations => "invocations",
            Self::Load => "load",
            Self::Invoke => "invoke",
            Self::Unload => "unload",
            Self::Infer => "v2-infer",
            Self::Protocol => "v2",
            Self::Page => "page",
            Self::Debug => "debug",
            Self::Other => "other",
        }
    }
}

/// Label of the routes for health and state.
pub const HEALTH: &str = "health";

/// Status of nearly all requests.
pub const OK: u16 = 200;

/// Outcome of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadOutcome {
    Ok,
    AlreadyLoaded,
    /// The name or the place of the model is not acceptable.
    Refused,
    /// The model does not fit into memory; the platform unloads another one and tries again.
    NoMemory,
    Failed,
}

impl LoadOutcome {
    pub const ALL: [Self; 5] = [
        Self::Ok,
        Self::AlreadyLoaded,
        Self::Refused,
        Self::NoMemory,
        Self::Failed,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::AlreadyLoaded => "already_loaded",
            Self::Refused => "refused",
            Self::NoMemory => "no_memory",
            Self::Failed => "failed",
        }
    }
}

/// Reason for an unload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnloadReason {
    /// A client or the platform requested it.
    Request,
    /// Other models needed the memory.
    Memory,
    /// The model had no requests for a long time.
    Idle,
    /// The store has a newer version.
    Replaced,
    /// The store no longer has the model.
    Gone,
}

impl UnloadReason {
    pub const ALL: [Self; 5] = [Self::Request, Self::Memory, Self::Idle, Self::Replaced, Self::Gone];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Memory => "memory",
            Self::Idle => "idle",
            Self::Replaced => "replaced",
            Self::Gone => "gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_enumeration_is_in_the_order_of_its_places() {
        for (index, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, index);
        }
        for (index, outcome) in LoadOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
        for (index, reason) in UnloadReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
