//! From a request to a response.
//!
//! `model` is the entry: `placement` decides whether the request runs inline, under the eyes of the
//! `watchdog`, or waits in the model's lane of the `pool`, from where `turn` takes it, alone or in
//! a `batch` whose size `batch_limit` learns. `records` divides a request into runs. `stuck` keeps
//! account of runs that do not end, `crash` names the content that a thread is running in case the
//! process dies, and `division` keeps a trap of an integer division from ending the process.

pub(in crate::engine) mod batch;
pub(in crate::engine) mod batch_limit;
pub(in crate::engine) mod crash;
pub(in crate::engine) mod division;
pub(in crate::engine) mod model;
pub(in crate::engine) mod placement;
pub(in crate::engine) mod pool;
pub(in crate::engine) mod profile;
pub(in crate::engine) mod records;
pub(in crate::engine) mod stuck;
pub(in crate::engine) mod turn;
pub(in crate::engine) mod watchdog;
