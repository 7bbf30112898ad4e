//! What the process tells of its work while it works: its log (`log`), and traces ([`trace`]).
//!
//! Both hang on the spans of [`tracing`]. The spans of level `info` (`request`, `event`, `answer`) have the names by which
//! work is found again, and stand beside each line of the log; those of level `debug` are the steps in between, each actor
//! among them, and cost nothing where nobody takes traces. No span and no line has a word of a question, an answer or a
//! document.

mod log;
pub mod trace;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use self::trace::Traces;
use crate::config::{Config, LogFormat, TracesConfig};

/// What keeps log and traces going. Dropped, it sends what is left of the traces.
pub struct Telemetry {
    /// The level of the log.
    pub level: LogLevel,
    _traces: Option<Traces>,
}

/// What changes the level of the log.
#[derive(Clone)]
pub struct LogLevel {
    filter: reload::Handle<EnvFilter, Registry>,
    /// RUST_LOG was given, which wins, as everywhere.
    given: bool,
}

impl LogLevel {
    /// Sets it, as `[log] level` gives it.
    pub fn set(&self, level: &str) {
        if self.given {
            tracing::warn!("the variable RUST_LOG wins over [log] level: the log stays as it is");
        } else if let Err(error) = self.filter.reload(EnvFilter::new(directives(level))) {
            tracing::error!(%error, "the level of the log cannot be changed");
        }
    }
}

/// Starts the log at `level`, and traces where `traces` says where to.
///
/// # Errors
/// In words for the operator: traces cannot be sent so.
pub fn start(config: &Config, level: &str, traces: Option<&TracesConfig>) -> Result<Telemetry, String> {
    let given = EnvFilter::try_from_default_env().ok();
    let wins = given.is_some();
    let (filter, handle) = reload::Layer::new(given.unwrap_or_else(|| EnvFilter::new(directives(level))));
    let written: Box<dyn Layer<Registry> + Send + Sync> = match config.log.format {
        LogFormat::Text => Box::new(log::text().with_filter(filter)),
        LogFormat::Json => Box::new(log::json().with_filter(filter)),
    };
    let traces = match traces.filter(|traces| !traces.endpoint.is_empty()) {
        Some(traces) => Some(Traces::start(traces)?),
        None => None,
    };
    let spans = traces.as_ref().map(Traces::layer);
    if let Err(error) = tracing_subscriber::registry().with(written).with(spans).try_init() {
        eprintln!("answerd: no log: {error}");
    }
    Ok(Telemetry { level: LogLevel { filter: handle, given: wins }, _traces: traces })
}

/// The level, and less of the libraries that say much.
fn directives(level: &str) -> String {
    format!("{level},tantivy=warn,hnsw_rs=warn,llama-cpp-2=warn,actix_server=warn,async_nats=warn,deadpool=error")
}
