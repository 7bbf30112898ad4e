//! `answerd feedback`: what people thought of answers, one JSON object a line, the oldest first.

use std::sync::Arc;

use serde_json::Value;

use crate::config::Config;
use crate::stores::records::{self, Kind};

/// Prints it.
pub async fn export(config: Config) -> Result<(), String> {
    let records = records::open(&Arc::new(config))?;
    let mut all = records.all(Kind::Feedback).await.map_err(|error| error.to_string())?;
    all.sort_by_key(|record| record["at_ms"].as_u64());
    all.iter().for_each(|record: &Value| println!("{record}"));
    Ok(())
}
