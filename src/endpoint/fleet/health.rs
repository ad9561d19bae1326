//! The platform's health checks of a container (PI-1, PI-5).

use std::time::Duration;

use reqwest::{Client, StatusCode, redirect};

use crate::tls;

/// Maximum time for a container's response (PI-1).
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Healthy,
    /// The container answers with a status other than 200, or not in time.
    Unhealthy,
    /// The connection was refused.
    Unreachable,
}

/// Sends health checks to containers.
#[derive(Debug, Clone)]
pub(super) struct Prober(Client);

impl Prober {
    pub fn new() -> reqwest::Result<Self> {
        tls::provide();
        let client = Client::builder()
            .timeout(CHECK_TIMEOUT)
            // Containers are on this machine or close to it.
            .no_proxy()
            .redirect(redirect::Policy::none())
            // An idle connection would outlive its container.
            .pool_max_idle_per_host(0)
            // Plain HTTP needs no certificates, and a small image has none.
            .tls_certs_only([])
            .build()?;
        Ok(Self(client))
    }

    /// Checks the health of the container at `address`.
    pub async fn ping(&self, address: &str) -> Health {
        self.get(address, "/ping").await
    }

    /// Whether a starting container is ready for requests. In multi-model mode the platform also
    /// checks the list of models (PI-5).
    pub async fn is_ready(&self, address: &str, multi_model: bool) -> bool {
        self.ping(address).await == Health::Healthy
            && (!multi_model || self.get(address, "/models").await == Health::Healthy)
    }

    async fn get(&self, address: &str, path: &str) -> Health {
        match self.0.get(format!("{address}{path}")).send().await {
            Ok(answer) if answer.status() == StatusCode::OK => Health::Healthy,
            Err(error) if error.is_connect() => Health::Unreachable,
            Ok(_) | Err(_) => Health::Unhealthy,
        }
    }
}
