//! The levels of the log, which can change while the process runs.
//!
//! ONNX Runtime's log is off unless ours is at `debug`, and other libraries log warnings at most.
//! A level that is off costs a request nothing: `tracing` remembers at each place of the code that
//! it is off.

use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::reload;

use crate::config::LogLevel;

/// Target of the record with the address on which a server listens. It is logged at every level
/// except `off`, because scripts wait for it, and it is the only source for a port that the system
/// chose.
pub const READY: &str = "longshore::ready";

static LEVELS: OnceLock<Levels> = OnceLock::new();

struct Levels {
    handle: reload::Handle<Targets, Registry>,
    level: Mutex<LogLevel>,
}

/// Creates the layer that lets records of `level` pass, and that [`set`] changes.
pub(super) fn layer(level: &LogLevel) -> reload::Layer<Targets, Registry> {
    let (layer, handle) = reload::Layer::new(targets(level));
    let level = Mutex::new(level.clone());
    let _ = LEVELS.set(Levels { handle, level });
    layer
}

/// Changes the level of the log.
pub fn set(level: &LogLevel) {
    let Some(levels) = LEVELS.get() else { return };
    let mut current = levels.level.lock().unwrap_or_else(PoisonError::into_inner);
    // Fails only when the log has ended.
    if levels.handle.reload(targets(level)).is_ok() {
        *current = level.clone();
    }
}

/// The level of the log; `None` before it starts.
pub fn current() -> Option<LogLevel> {
    let level = &LEVELS.get()?.level;
    Some(level.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

fn targets(level: &LogLevel) -> Targets {
    let onnx_runtime = if level.level >= LevelFilter::DEBUG {
        LevelFilter::WARN
    } else {
        LevelFilter::OFF
    };
    let ready = match level.level {
        LevelFilter::OFF => LevelFilter::OFF,
        level => level.max(LevelFilter::INFO),
    };
    let targets = Targets::new()
        .with_default(LevelFilter::WARN.min(level.level))
        .with_target("longshore", level.level)
        .with_target(READY, ready)
        .with_target("ort", onnx_runtime);
    let modules = level.modules.iter();
    targets.with_targets(modules.map(|(module, level)| (format!("longshore::{module}"), *level)))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_module_has_its_own_level_and_libraries_log_warnings() {
        let table = [
            ("info", "longshore::store", Level::INFO, true),
            ("info", "longshore::store", Level::DEBUG, false),
            ("info,store=debug", "longshore::store::cache", Level::DEBUG, true),
            ("info,store=debug", "longshore::engine", Level::DEBUG, false),
            ("debug,store=error", "longshore::store", Level::WARN, false),
            ("error", "ort", Level::WARN, false),
            ("debug", "ort", Level::WARN, true),
            ("trace", "reqwest", Level::INFO, false),
            ("error", READY, Level::INFO, true),
            ("off", READY, Level::INFO, false),
        ];
        for (level, target, of, passes) in table {
            let targets = targets(&level.parse().unwrap());
            assert_eq!(targets.would_enable(target, &of), passes, "{level} {target} {of}");
        }
    }
}
