//! `answerd health`: whether a running service can do its work, for what watches a container by running a program in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use crate::config::Config;

/// A service that takes longer than this to say how it is, is not well.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the service at `server`, or at the configured address, for `/readyz`.
///
/// # Errors
/// Why it is not ready, in its own words, or why it cannot be asked.
pub async fn run(config: &Config, server: Option<String>) -> Result<(), String> {
    let base = server.unwrap_or_else(|| format!("http://{}", reachable(config.server.bind)));
    let base = base.trim_end_matches('/');
    // It is next door: whatever proxy the environment names is for others.
    let http = crate::http::client_builder(None)?.no_proxy().build().map_err(|error| error.to_string())?;
    let response = http.get(format!("{base}/readyz")).timeout(PATIENCE).send().await;
    let response = response.map_err(|error| format!("no answerd at {base}: {error}"))?;
    let status = response.status();
    let body: Value = response.json().await.unwrap_or_default();
    if !status.is_success() {
        let why = body["detail"].as_str().map_or_else(|| status.to_string(), str::to_owned);
        return Err(format!("{base} is not ready: {why}"));
    }
    let degraded: Vec<&str> = body["degraded"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    println!("ready{}{}", if degraded.is_empty() { "" } else { ", without: " }, degraded.join("; "));
    Ok(())
}

/// Where a service that listens everywhere is found from here.
fn reachable(bind: SocketAddr) -> SocketAddr {
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bind.port())
}
