//! The name in a `Host` header: which machine it is for certain.

use std::net::{IpAddr, Ipv6Addr};

/// Whether `allowed` has the name, the name with its port, or `*`.
pub fn is_listed(allowed: &[String], name: &str, host: &str) -> bool {
    allowed
        .iter()
        .any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(name) || allowed.eq_ignore_ascii_case(host))
}

/// The name that SageMaker, and programs that play its part, use for a container (ST-5). No page
/// can have it: names below `.local` are not in the DNS.
const PLATFORM_HOST: &str = "model.aws.local";

/// Whether `host` is a name or an address of the loopback interface, the platform's name, or empty.
pub fn is_own(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    name.is_empty()
        || name.eq_ignore_ascii_case(PLATFORM_HOST)
        || is_localhost(name)
        || address(name).is_some_and(|address| address.to_canonical().is_loopback())
}

/// Whether `host` is `localhost` or a name below it.
pub fn is_localhost(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_below_localhost = || {
        name.len() > ".localhost".len()
            && name.is_char_boundary(name.len() - ".localhost".len())
            && name[name.len() - ".localhost".len()..].eq_ignore_ascii_case(".localhost")
    };
    name.eq_ignore_ascii_case("localhost") || is_below_localhost()
}

/// Whether `host` is an IP address. Browsers connect to it without a name that could be rebound.
pub fn is_address(host: &str) -> bool {
    address(host).is_some()
}

fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (name.ends_with(']') || !name.contains(':')) =>
        {
            name
        }
        _ => host,
    }
}
