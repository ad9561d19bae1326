//! An attached container, which runs outside this program: only its health is checked.

use std::sync::Arc;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{KeeperConfig, MAX_CHECK_DELAY, MAX_FAILED_CHECKS, MIN_CHECK_DELAY};
use crate::endpoint::fleet::container::RunningContainer;
use crate::endpoint::fleet::health::Health;

/// Follows the health of the container at `address` until `stop`. Gives it up if it does not
/// become healthy within the start timeout.
pub async fn watch_attached(
    container: Arc<RunningContainer>,
    address: Arc<str>,
    config: KeeperConfig,
    stop: CancellationToken,
) {
    let following = async {
        let ready = wait_until_ready(&container, &address, &config);
        if timeout(config.start_timeout, ready).await.is_err() {
            let seconds = config.start_timeout.as_secs_f64();
            return format!("nothing at {address} answered /ping with 200 within {seconds} s");
        }
        loop {
            publish(&container, &address);
            wait_until_lost(&address, &config).await;
            container.state.send_modify(|state| state.address = None);
            tracing::warn!(container = container.label(), %address, "the container stopped responding");
            wait_until_ready(&container, &address, &config).await;
        }
    };
    let reason = tokio::select! {
        () = stop.cancelled() => "it was stopped".to_owned(),
        reason = following => reason,
    };
    container.state.send_modify(|state| {
        state.address = None;
        state.failure = Some(reason);
    });
}

/// Publishes the address with a new generation, because the container may have restarted and lost
/// its models.
fn publish(container: &RunningContainer, address: &Arc<str>) {
    tracing::info!(container = container.label(), %address, "container in service");
    container.state.send_modify(|state| {
        state.generation += 1;
        state.address = Some(Arc::clone(address));
    });
}

async fn wait_until_ready(container: &RunningContainer, address: &str, config: &KeeperConfig) {
    let mut pause = MIN_CHECK_DELAY;
    while !config.prober.is_ready(address, container.spec().is_multi_model()).await {
        sleep(pause).await;
        pause = (2 * pause).min(MAX_CHECK_DELAY);
    }
}

/// Waits until the container is lost. A refused connection is enough, because there is no process
/// to watch.
async fn wait_until_lost(address: &str, config: &KeeperConfig) {
    let mut failed = 0;
    while failed < MAX_FAILED_CHECKS {
        sleep(config.interval).await;
        failed = match config.prober.ping(address).await {
            Health::Healthy => 0,
            Health::Unhealthy => failed + 1,
            Health::Unreachable => MAX_FAILED_CHECKS,
        };
    }
}
