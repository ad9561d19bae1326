//! A container as a process of this program.

use std::ffi::OsStr;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::{Bounds, tied};
use crate::config::DeathSignal;
use crate::endpoint::fleet::Settings;
use crate::endpoint::fleet::environment::{self, Ports};
use crate::endpoint::fleet::home::Home;
use crate::endpoint::spec::Container;
use crate::endpoint::tether;

pub(super) fn command(settings: &Settings, container: &Container, home: &Home, bounds: Bounds, port: u16) -> Command {
    let serve = [settings.program.as_os_str(), OsStr::new("serve")];
    let mut command = tied(settings, tether::arguments(DeathSignal::Kill, serve));
    let mut ours = vec![
        ("LONGSHORE_BIND", "127.0.0.1".to_owned()),
        // A request that goes around the endpoint meets the same refusal.
        ("LONGSHORE_ONLY_THIS_USER", (!settings.allow_other_users).to_string()),
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
    // There is no other port that is known to be free.
    let ports = Ports {
        main: port,
        safe: (port, port),
    };
    command
        .env_clear()
        .envs(environment::inherited(settings.environment.iter()))
        .envs(environment::set(container, ours, &ports))
        // Where `/opt/ml` is here, so not for the model to say.
        .env("SAGEMAKER_BASE_DIR", home.ml());
    command
}

pub(super) fn terminate(child: &Child) {
    // It has not been waited for as long as it has an id, so the id is still its own.
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        tracing::warn!(%error, "end a container");
    }
}
