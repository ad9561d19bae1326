//! A simulation of a fleet of servers that share many models, for `longshore plan`.
//!
//! Formulas exist for one cache with models of one size, and for one queue. A fleet has both at
//! once: which models a server has in memory decides how long its cores work, and the bound of
//! the balancer moves models to other servers when one is busy. So the requests are simulated one
//! by one, with the server's own decisions about memory and eviction.
//!
//! The module is pure: models, traffic and servers are numbers, and the same seed gives the same
//! result. `cli/plan.rs` collects the numbers.
//!
//! - `models`, `traffic`, `instances`: the inputs. `popularity`, `times`, `random`: distributions.
//! - `ring`: the balancer. `server`, `recency`: one server. `fleet`: the simulation.
//! - `search`: how many servers meet a target. `svg`: a drawing of the results.

mod fleet;
mod instances;
mod models;
mod popularity;
mod random;
mod recency;
mod recorded;
mod ring;
mod search;
mod server;
mod svg;
#[cfg(test)]
mod tests;
mod times;
mod traffic;

pub use fleet::{FleetConfig, Outcome, simulate};
pub use instances::{InstanceType, known as known_instances};
pub use models::{ContentCost, FleetModels, ModelTimes};
pub use popularity::{Popularity, zipf};
pub use random::Random;
pub use recorded::{LogRequest, Recorded, RecordedError, access_log, cloudwatch};
pub use ring::Balance;
pub use search::{Candidate, Row, Target, choice, counts, search};
pub use server::ServerConfig;
pub use svg::{Curve, svg};
pub use times::Times;
pub use traffic::{ClientRequests, Traffic};
