//! `/ping`: whether requests should come here.
//!
//! 503 until the one model of single-model mode can answer (PI-3), 200 from the first moment in multi-model mode
//! (PI-4). Broken models do not make a container unhealthy. While the process drains, new connections are refused, and
//! whoever still has one gets 503 (PI-6).

use std::sync::atomic::{AtomicU8, Ordering};

use actix_web::{HttpResponse, web};

use super::State;
use super::error::Error;

/// The process's phase, set by whoever starts and stops it.
#[derive(Debug, Default)]
pub struct Health(AtomicU8);

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Health {
    pub fn set_ready(&self) {
        self.0.store(READY, Ordering::Release);
    }

    pub fn set_draining(&self) {
        self.0.store(DRAINING, Ordering::Release);
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        match self.0.load(Ordering::Acquire) {
            STARTING => Err(Error::Starting),
            DRAINING => Err(Error::Draining),
            _ => Ok(()),
        }
    }
}

pub(super) async fn ping(state: web::Data<State>) -> Result<HttpResponse, Error> {
    state.health.check()?;
    Ok(HttpResponse::Ok().finish())
}
