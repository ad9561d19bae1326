//! The cryptography of TLS connections.

use std::sync::Once;

/// Selects the cryptography of rustls, which has to happen once in a process. reqwest requires it
/// also for plain HTTP.
pub fn provide() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that a provider was selected before.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
