//! The settings of what the process tells of itself: `[log]` and `[traces]`. What `/metrics` has needs none.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[log]`: what the process logs, on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A level, or directives such as `info,answerd::actors=debug`.
    #[garde(custom(log_filter))]
    pub level: String,
    /// One line of text or one JSON object an event.
    #[garde(skip)]
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// How an event of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line, for machines.
    Json,
}

/// `[traces]`: spans of its work, for a collector of OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct TracesConfig {
    /// Address of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`; without one there are no traces.
    /// What it asks for beside (a key, say) is in the variable `OTEL_EXPORTER_OTLP_HEADERS`.
    #[garde(custom(collector))]
    pub endpoint: String,
    /// Share of the requests and events that a trace is begun with, 0 to 1. One that comes with a trace of its own goes on
    /// with it as that one says.
    #[garde(range(min = 0.0, max = 1.0))]
    pub sample: f64,
    /// Name of this service in the traces.
    #[garde(length(min = 1))]
    pub service: String,
    /// Time for sending one batch, in milliseconds.
    #[garde(range(min = 100, max = 60_000))]
    pub timeout_ms: u64,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self { endpoint: String::new(), sample: 1.0, service: "answerd".into(), timeout_ms: 5000 }
    }
}

fn collector(endpoint: &str, _: &()) -> garde::Result {
    match url::Url::parse(endpoint) {
        _ if endpoint.is_empty() => Ok(()),
        Ok(url) if ["http", "https"].contains(&url.scheme()) => Ok(()),
        _ => Err(garde::Error::new(format!("{endpoint:?} is not an address such as http://127.0.0.1:4318"))),
    }
}

fn log_filter(level: &str, _: &()) -> garde::Result {
    match tracing_subscriber::EnvFilter::builder().parse(level) {
        Ok(_) if !level.trim().is_empty() => Ok(()),
        Ok(_) => Err(garde::Error::new("must be a level: error, warn, info, debug, trace or off")),
        Err(error) => Err(garde::Error::new(format!(
            "{level:?} is neither a level (error, warn, info, debug, trace, off) nor directives such as \
             `info,answerd=debug`: {error}"
        ))),
    }
}
