//! `answerd health`: whether a running service can do its work, for what watches a container by running a program in it.

use std::time::Duration;

use serde_json::Value;

use super::client::reach;
use crate::config::Config;

/// A service that takes longer than this to say how it is, is not well.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the service at `server`, or at the configured address, for `/readyz`.
///
/// # Errors
/// Why it is not ready, in its own words, or why it cannot be asked.
pub async fn run(config: &Config, server: Option<String>) -> Result<(), String> {
    let (base, http) = reach(config, server.as_deref(), None)?;
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
