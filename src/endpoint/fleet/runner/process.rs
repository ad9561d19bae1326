//! Containers as processes of this program.

use std::ffi::OsStr;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::{ContainerLimits, this_program};
use crate::config::{DeathSignal, LogFormat};
use crate::endpoint::fleet::FleetConfig;
use crate::endpoint::fleet::environment::{self, Ports};
use crate::endpoint::fleet::home::Home;
use crate::endpoint::spec::Container;
use crate::endpoint::tether;
use crate::telemetry;

pub(super) fn command(
    settings: &FleetConfig,
    container: &Container,
    home: &Home,
    bounds: ContainerLimits,
    port: u16,
) -> Command {
    let serve = [settings.program.as_os_str(), OsStr::new("serve")];
    let mut command = this_program(settings, tether::arguments(DeathSignal::Kill, serve));
    let mut ours = vec![
        ("LONGSHORE_BIND", "127.0.0.1".to_owned()),
        // Requests that bypass the endpoint are refused for the same users.
        ("LONGSHORE_ONLY_THIS_USER", (!settings.allow_other_users).to_string()),
        // Its log becomes part of ours.
        ("LONGSHORE_LOG_FORMAT", name_of(telemetry::format()).to_owned()),
        ("LONGSHORE_CACHE_DIR", settings.prepared.display().to_string()),
        (
            "LONGSHORE_DRAIN_TIMEOUT",
            format!("{}ms", settings.drain_timeout.as_millis().max(1)),
        ),
    ];
    if let Some(invocations) = bounds.invocations {
        ours.extend(environment::bounds(container, invocations));
    }
    if let Some(bytes) = bounds.memory {
        ours.push(("LONGSHORE_MEMORY_LIMIT", bytes.to_string()));
    }
    // No other port is known to be free.
    let ports = Ports {
        main: port,
        safe: (port, port),
    };
    command
        .env_clear()
        .envs(environment::inherited(settings.environment.iter()))
        .envs(environment::set(container, ours, &ports))
        // The location of `/opt/ml` here, which the model must not change.
        .env("SAGEMAKER_BASE_DIR", home.ml());
    command
}

const fn name_of(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Auto => "auto",
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

pub(super) fn terminate(child: &Child) {
    // The id exists until the process has been waited for, so it cannot belong to another process.
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        tracing::warn!(%error, "the signal to end a container was not sent");
    }
}
