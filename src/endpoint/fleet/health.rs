//! Whether a container is well: what the platform asks it (PI-1, PI-5).

use std::time::Duration;

use reqwest::{Client, StatusCode, redirect};

/// What a container has to answer within (PI-1).
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Healthy,
    /// It answers something else than 200, or not in time.
    Unhealthy,
    /// Nobody listens.
    Unreachable,
}

/// Asks containers.
#[derive(Debug, Clone)]
pub(super) struct Prober(Client);

impl Prober {
    pub fn new() -> reqwest::Result<Self> {
        // An error says that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .timeout(PATIENCE)
            // Containers are on this machine, or as near to it.
            .no_proxy()
            .redirect(redirect::Policy::none())
            // A connection that is kept would outlive its container.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self(client))
    }

    /// Whether the container at `address` is well.
    pub async fn ping(&self, address: &str) -> Health {
        self.get(address, "/ping").await
    }

    /// Whether a container that starts has come so far as to be used: in multi-model mode the platform looks at the list of
    /// models, too (PI-5).
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
