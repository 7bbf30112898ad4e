//! The settings in force, and how they are read again while the service runs.
//!
//! What takes effect without a restart is declared here ([`RELOADABLE`]), and nowhere else: the reference and the schema
//! say it of each key by this list, and all other settings stay as they were at the start whatever a file says, so that
//! nothing takes effect in part. Who works on a request takes [`Live::now`] once, at its beginning, and keeps it.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Serialize;
use toml::{Table, Value};

use super::{Config, ConfigError, ConfigErrors, Origin};

/// The settings that take effect while the service runs, by section.
const RELOADABLE: &[(&str, &[&str])] = &[
    ("server", &["body_timeout_s", "write_timeout_s", "keep_alive_s", "shutdown_timeout_s"]),
    ("identity.jwt", &["audience", "groups_claim", "ask", "write", "admin", "metrics", "sees_all"]),
    ("budgets", &["requests_per_minute", "tokens_per_minute", "tokens_per_day", "streams", "more"]),
    (
        "ingest",
        &[
            "max_text_bytes",
            "max_nesting",
            "max_pages",
            "max_unpacked_bytes",
            "parse_cpu_s",
            "parse_memory_bytes",
            "max_pending",
            "max_attempts",
            "max_wait_s",
        ],
    ),
    (
        "search",
        &[
            "limit_default",
            "limit_max",
            "candidates",
            "rrf_k",
            "lexical_weight",
            "vector_weight",
            "min_similarity",
            "min_similarity_agreed",
            "max_query_bytes",
            "min_seq_timeout_ms",
        ],
    ),
    (
        "answer",
        &[
            "max_question_tokens",
            "max_messages",
            "max_output_tokens",
            "evidence_tokens",
            "history_tokens",
            "max_passages",
            "temperature",
            "top_p",
            "repeat_penalty",
            "model_name",
            "window",
            "stall_timeout_s",
            "resume_grace_s",
            "max_time_s",
            "keep_s",
            "keep_max",
        ],
    ),
    ("cache", &["ttl_s", "near_similarity"]),
    ("log", &["level"]),
];

/// The paths of the settings that take effect while the service runs. An array of sections is one setting.
pub fn reloadable() -> impl Iterator<Item = String> {
    RELOADABLE.iter().flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")))
}

/// Whether the setting at this path takes effect while the service runs.
pub fn is_reloadable(path: &str) -> bool {
    let Some((section, key)) = path.rsplit_once('.') else { return false };
    RELOADABLE.iter().any(|(of, keys)| *of == section && keys.contains(&key))
}

type Hook = Box<dyn Fn(&Config) + Send + Sync>;

/// The settings in force; see the module.
pub struct Live {
    now: ArcSwap<Config>,
    /// What they were read from.
    file: Option<PathBuf>,
    hooks: Mutex<Vec<Hook>>,
}

/// What comes of settings that were read again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The paths of the settings that change.
    pub changed: Vec<String>,
    /// The paths of those that differ from what is in force, and stay as they are until a restart.
    pub needs_restart: Vec<String>,
    /// What is in force with it.
    #[serde(skip)]
    config: Arc<Config>,
}

impl Live {
    /// Settings that were read from this file, or from none: then only the environment is read again.
    pub fn new(config: Config, file: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self { now: ArcSwap::from_pointee(config), file, hooks: Mutex::default() })
    }

    /// The settings now. They do not change in the hands of who took them.
    pub fn now(&self) -> Arc<Config> {
        self.now.load_full()
    }

    /// Has something called with the settings each time after they have changed.
    pub fn on_change(&self, hook: impl Fn(&Config) + Send + Sync + 'static) {
        self.hooks.lock().push(Box::new(hook));
    }

    /// Reads file and environment once more. Nothing changes yet.
    ///
    /// # Errors
    /// Every mistake in them; and settings that would not go together with others which stay as they are.
    pub fn read_again(&self) -> Result<Change, ConfigErrors> {
        let (new, merged) = Config::read(self.file.as_deref(), super::environment())?;
        let wrong = |error: toml::ser::Error| {
            let (path, message) =
                (String::new(), format!("these settings cannot be laid over those in force: {error}"));
            ConfigErrors(vec![ConfigError { path, message, origin: Origin::Default }])
        };
        let mut values = Table::try_from(&*self.now()).map_err(wrong)?;
        let mut change = Change { changed: Vec::new(), needs_restart: Vec::new(), config: Arc::default() };
        change.lay(&mut values, Table::try_from(&new).map_err(wrong)?, "");
        let config: Config = values.try_into().map_err(|error: toml::de::Error| {
            ConfigErrors(vec![ConfigError {
                path: String::new(),
                message: format!("these settings cannot be laid over those in force: {error}"),
                origin: Origin::Default,
            }])
        })?;
        // Each goes together with its own; a mixture need not.
        let mut mistakes = config.mistakes(&merged, &[]);
        for mistake in &mut mistakes {
            mistake.message = format!("with what needs a restart as it is in force: {}", mistake.message);
        }
        match mistakes.is_empty() {
            true => Ok(Change { config: Arc::new(config), ..change }),
            false => Err(ConfigErrors(mistakes)),
        }
    }

    /// Puts a change in force.
    pub fn take(&self, change: &Change) {
        self.now.store(Arc::clone(&change.config));
        self.hooks.lock().iter().for_each(|hook| hook(&change.config));
    }
}

impl Change {
    /// Lays what may change of `new` over `running`, and notes all that differs.
    fn lay(&mut self, running: &mut Table, new: Table, section: &str) {
        for (key, value) in new {
            let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
            match (running.get_mut(&key), value) {
                (Some(Value::Table(running)), Value::Table(new)) => self.lay(running, new, &path),
                (Some(running), new) if *running == new => {}
                (_, new) if is_reloadable(&path) => {
                    running.insert(key, new);
                    self.changed.push(path);
                }
                _ => self.needs_restart.push(path),
            }
        }
    }
}
