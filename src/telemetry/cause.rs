//! The causes by which errors are counted.
//!
//! A status alone does not say what to do: 503 is a full queue, a store that does not answer, or a
//! server that stops. The causes are few, because each is a series that a monitoring system may
//! charge for, and they are finer than the statuses where the remedy differs.

/// Cause of a refused or failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cause {
    /// The request is malformed, or its data does not fit the model.
    BadRequest,
    /// The method, the content type or the accepted types are not supported.
    Unsupported,
    /// The body, the headers or a part of the body is too large.
    TooLarge,
    /// A page in a browser that the server does not serve sent the request.
    Forbidden,
    /// Unknown path or model.
    NotFound,
    /// The model is already loaded.
    Conflict,
    /// The body arrived too slowly or not at all.
    SlowBody,
    /// The client hung up before the response.
    HungUp,
    /// The artifact is not a model that the server can load.
    InvalidModel,
    /// The model is refused because it crashed a process.
    Quarantined,
    /// The queue of the model is full.
    QueueFull,
    /// The deadline passed in the queue, in the run or in a load.
    Deadline,
    /// The model refuses requests because of runs that cannot be ended, or still holds memory.
    Stuck,
    /// The store of models does not answer, or has no room on disk for an answer.
    Store,
    /// No memory.
    Memory,
    /// No connections or file descriptors are left.
    Exhausted,
    /// The server starts or stops.
    Unready,
    /// Everything else.
    Internal,
}

impl Cause {
    pub const ALL: [Self; 18] = [
        Self::BadRequest,
        Self::Unsupported,
        Self::TooLarge,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::SlowBody,
        Self::HungUp,
        Self::InvalidModel,
        Self::Quarantined,
        Self::QueueFull,
        Self::Deadline,
        Self::Stuck,
        Self::Store,
        Self::Memory,
        Self::Exhausted,
        Self::Unready,
        Self::Internal,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too_large",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::SlowBody => "slow_body",
            Self::HungUp => "hung_up",
            Self::InvalidModel => "invalid_model",
            Self::Quarantined => "quarantined",
            Self::QueueFull => "queue_full",
            Self::Deadline => "deadline",
            Self::Stuck => "stuck",
            Self::Store => "store",
            Self::Memory => "memory",
            Self::Exhausted => "exhausted",
            Self::Unready => "unready",
            Self::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_cause_has_its_place_and_its_own_label() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
        }
        let labels: BTreeSet<_> = Cause::ALL.into_iter().map(Cause::label).collect();
        assert_eq!(labels.len(), Cause::ALL.len());
    }
}
