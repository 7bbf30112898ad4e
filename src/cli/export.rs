//! `answerd feedback` and `answerd audit`: what people thought of answers, and what administrators did; one JSON object a
//! line, the oldest first.

use std::sync::Arc;

use crate::config::Config;
use crate::identity::audit::Audit;
use crate::stores::records::{self, Kind};

/// Prints what people thought.
pub async fn feedback(config: Config) -> Result<(), String> {
    let records = records::open(&Arc::new(config))?;
    let mut all = records.all(Kind::Feedback).await.map_err(|error| error.to_string())?;
    all.sort_by_key(|(_, record)| record["at_ms"].as_u64());
    all.iter().for_each(|(_, record)| println!("{record}"));
    Ok(())
}

/// Prints what administrators did.
pub async fn audit(config: Config) -> Result<(), String> {
    let acts = Audit::new(records::open(&Arc::new(config))?).all().await.map_err(|error| error.to_string())?;
    acts.iter().for_each(|act| println!("{act}"));
    Ok(())
}
