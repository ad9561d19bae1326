//! Keeps a container running: starts it, checks its health, restarts it and ends it.
//!
//! ```text
//!  start -> checked until healthy -> up: checked at intervals -> ended or unhealthy
//!    ^                                                               |
//!    +---------------------- after a growing delay ------------------+
//! ```
//!
//! Invariants:
//! - The address is published only while a process of the current generation runs and has passed a
//!   health check.
//! - The keeper waits for every process that it starts to end.

mod attached;

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Child;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::container::RunningContainer;
use super::health::{Health, Prober};
use super::logs;
use super::row::{ContainerRestarts, FinishedRun, RestartDecision};
use super::runner::{ContainerControl, LaunchedContainer, Launcher};

pub(super) use attached::watch_attached;

/// The delay between health checks during a start: short at first, growing to the platform's.
const MIN_CHECK_DELAY: Duration = Duration::from_millis(10);
const MAX_CHECK_DELAY: Duration = Duration::from_secs(1);

/// The interval between log messages about a container that is still starting.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// Consecutive failed health checks after which a container counts as unhealthy: half a minute at
/// the default interval. A busy machine must not cost a container its loaded models.
const MAX_FAILED_CHECKS: u32 = 6;

/// Time that a container may take to end after its drain timeout.
const GRACE: Duration = Duration::from_secs(3);

/// Maximum time to read the rest of an ended container's output.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// The timing of health checks and of the end of a container.
#[derive(Debug, Clone)]
pub(super) struct KeeperConfig {
    pub prober: Prober,
    /// Maximum time from a start to the first passed health check.
    pub start_timeout: Duration,
    /// The interval between later health checks.
    pub interval: Duration,
    pub drain_timeout: Duration,
}

/// Keeps `container` running until `stop`, or gives it up.
pub(super) struct Keeper {
    pub container: Arc<RunningContainer>,
    pub launcher: Launcher,
    pub config: KeeperConfig,
    pub stop: CancellationToken,
}

/// The reason why a run of a container ended.
enum RunEnd {
    /// The process ended by itself.
    Exited(ExitStatus),
    /// The container was killed on demand.
    Killed,
    /// The process could not be started.
    NotStarted(String),
    /// The container did not become healthy in time, or became unhealthy, and was ended.
    Unhealthy,
    Stopped,
}

impl Keeper {
    pub async fn run(self) {
        let mut restarts = ContainerRestarts::default();
        let reason = loop {
            let started = Instant::now();
            let (end, was_healthy) = self.run_once().await;
            let (reason, hopeless) = match &end {
                RunEnd::Stopped => break "it was stopped".to_owned(),
                RunEnd::Killed => ("it was killed".to_owned(), false),
                RunEnd::Exited(status) => {
                    let code = status.code();
                    let hopeless = code.is_some_and(|code| self.launcher.is_hopeless(code));
                    (format!("it ended ({status})"), hopeless)
                }
                RunEnd::NotStarted(reason) => (format!("it could not be started: {reason}"), false),
                RunEnd::Unhealthy if was_healthy => ("it stopped answering /ping".to_owned(), false),
                RunEnd::Unhealthy => {
                    let seconds = self.config.start_timeout.as_secs_f64();
                    (format!("it did not answer /ping with 200 within {seconds} s"), false)
                }
            };
            let next = restarts.next(FinishedRun {
                was_healthy,
                lived: started.elapsed(),
                // The deployment has already waited for the whole start timeout.
                hopeless: hopeless || matches!(end, RunEnd::Unhealthy),
                on_demand: matches!(end, RunEnd::Killed),
            });
            let container = self.container.label();
            let reason = self.with_last_line(reason);
            match next {
                RestartDecision::GiveUp => {
                    tracing::error!(container, "the container failed and is not restarted: {reason}");
                    break reason;
                }
                RestartDecision::Restart { after } => {
                    let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                    tracing::warn!(container, after_ms, "the container is restarted: {reason}");
                    tokio::select! {
                        () = self.stop.cancelled() => break "it was stopped".to_owned(),
                        () = sleep(after) => {}
                    }
                }
            }
        };
        self.container.state.send_modify(|state| state.failure = Some(reason));
    }

    fn with_last_line(&self, reason: String) -> String {
        match self.container.tail.last(|line| self.launcher.explains_failure(line)) {
            Some(line) => format!("{reason}; its last log line: {line}"),
            None => reason,
        }
    }

    /// Starts the container and waits until it has ended. Also returns whether it was ever
    /// healthy.
    async fn run_once(&self) -> (RunEnd, bool) {
        let mut generation = 0;
        self.container.state.send_modify(|state| {
            state.generation += 1;
            generation = state.generation;
        });
        let LaunchedContainer { mut child, control } = match self.launcher.launch(generation).await {
            Ok(launched) => launched,
            Err(error) => return (RunEnd::NotStarted(error.to_string()), false),
        };
        tracing::info!(
            container = self.container.label(),
            process = child.id(),
            generation,
            "container started"
        );
        let mut output = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            output.spawn(logs::follow(stdout, Arc::clone(&self.container)));
        }
        if let Some(stderr) = child.stderr.take() {
            output.spawn(logs::follow(stderr, Arc::clone(&self.container)));
        }
        let mut was_healthy = false;
        let end = self.supervise(&mut child, &control, &mut was_healthy).await;
        self.container.withdraw_address();
        control.clear().await;
        // Processes that the container started may keep its output open for longer.
        let _ = timeout(OUTPUT_TIMEOUT, async { while output.join_next().await.is_some() {} }).await;
        (end, was_healthy)
    }

    async fn supervise(&self, child: &mut Child, control: &ContainerControl, was_healthy: &mut bool) -> RunEnd {
        let health = self.watch(control, was_healthy);
        let killed = self.container.killed.notified();
        let end = tokio::select! {
            () = self.stop.cancelled() => RunEnd::Stopped,
            status = child.wait() => match status {
                Ok(status) => return RunEnd::Exited(status),
                Err(error) => RunEnd::NotStarted(error.to_string()),
            },
            () = killed => {
                control.kill(child).await;
                let _ = child.wait().await;
                return RunEnd::Killed;
            }
            () = health => RunEnd::Unhealthy,
        };
        self.container.withdraw_address();
        self.end(child, control).await;
        end
    }

    /// Returns when the container is unhealthy: after a failed start or failed health checks.
    async fn watch(&self, control: &ContainerControl, was_healthy: &mut bool) {
        let started = Instant::now();
        let starting = self.wait_for_start(control);
        let Ok(address) = timeout(self.config.start_timeout, starting).await else {
            return;
        };
        *was_healthy = true;
        self.publish(&address, started);
        let mut failed = 0;
        while failed < MAX_FAILED_CHECKS {
            sleep(self.config.interval).await;
            failed = match self.config.prober.ping(&address).await {
                Health::Healthy => 0,
                Health::Unhealthy | Health::Unreachable => failed + 1,
            };
        }
    }

    async fn wait_for_start(&self, control: &ContainerControl) -> Arc<str> {
        let multi_model = self.container.spec().is_multi_model();
        let (mut pause, mut logged) = (MIN_CHECK_DELAY, Instant::now());
        loop {
            if let Some(address) = control.address().await
                && self.config.prober.is_ready(&address, multi_model).await
            {
                return address;
            }
            if logged.elapsed() >= PROGRESS_INTERVAL {
                logged = Instant::now();
                tracing::info!(container = self.container.label(), "waiting for /ping to answer 200");
            }
            sleep(pause).await;
            pause = (2 * pause).min(MAX_CHECK_DELAY);
        }
    }

    fn publish(&self, address: &Arc<str>, started: Instant) {
        let start_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(container = self.container.label(), %address, start_ms, "container in service");
        let address = Arc::clone(address);
        self.container.state.send_modify(|state| state.address = Some(address));
    }

    /// Asks the container to end, as the platform does (ST-3), and kills it after a grace period.
    async fn end(&self, child: &mut Child, control: &ContainerControl) {
        let patience = self.config.drain_timeout + GRACE;
        control.terminate(child, self.config.drain_timeout).await;
        if timeout(patience, child.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(
            container = self.container.label(),
            "the container did not end in time and is killed"
        );
        control.kill(child).await;
        let _ = child.wait().await;
    }
}
