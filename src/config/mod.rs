//! Raw settings to validated settings: the defaults, then the file, then the environment. All mistakes are
//! told at once, each with its path and its place, and with one of them the process does not start.
//!
//! | file | what |
//! | --- | --- |
//! | `settings` | the whole, and the sections that are not in a file of their own; the range of each value |
//! | `events` | `[nats]` and `[fetch]` |
//! | `models` | `[models]` |
//! | `store` | `[store]`, `[postgres]` and `[qdrant]` |
//! | `cache` | `[cache]` and `[redis]` |
//! | `identity`, `budgets` | the sections of these names |
//! | `telemetry` | `[log]` and `[traces]` |
//! | `read` | finds what is no setting at all |
//! | `shown` | hides what is secret |
//! | `live` | holds what is in force, and reads it again |
//! | [`mod@reference`] | describes all of it |
//!
//! This file checks what lies between settings. It never warns and goes on, and opens nothing that a setting names, but for the
//! files that hold the values of variables.

mod budgets;
mod cache;
mod events;
mod identity;
mod live;
mod models;
mod read;
pub mod reference;
mod settings;
mod shown;
mod store;
mod telemetry;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use garde::Validate;

pub use self::budgets::{BudgetConfig, BudgetsConfig};
pub use self::cache::{CacheConfig, RedisConfig};
pub use self::events::{DOCUMENTS_BUCKET, FetchConfig, NatsConfig};
pub use self::identity::{IdentityConfig, JwtConfig};
pub use self::live::{Change, Live, is_reloadable, reloadable};
pub use self::models::{ChatModelConfig, Engine, ModelsConfig, UpstreamConfig};
use self::read::{Merged, Reader};
pub use self::settings::*;
pub use self::shown::without_credentials;
pub use self::store::{PostgresConfig, QdrantConfig, StoreConfig, StoreEngine};
pub use self::telemetry::{LogConfig, LogFormat, TracesConfig};

/// Environment variables that begin so are settings: `ANSWERD__SEARCH__LIMIT_MAX=50`.
pub const VARIABLE_PREFIX: &str = "ANSWERD__";
/// Those that end so name a file that holds the value, for secrets: `ANSWERD__REDIS__URL__FILE=/run/secrets/redis_url`.
pub const FILE_SUFFIX: &str = "__FILE";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A file.
    File {
        /// As it was named.
        name: Arc<Path>,
        /// Counted from 1; none where it is about the whole file.
        line: Option<usize>,
    },
    /// The environment variable of this name.
    Environment(String),
    /// Neither: the default.
    Default,
}

/// One mistake in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The setting, such as `models.chat.slots` or `folders[1].path`; empty where it is about the whole.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// Where it stands.
    pub origin: Origin,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File { name, line: Some(line) } => write!(f, "{}:{line}: ", name.display())?,
            Origin::File { name, line: None } => write!(f, "{}: ", name.display())?,
            Origin::Environment(name) => write!(f, "{name}: ")?,
            Origin::Default => f.write_str("default: ")?,
        }
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

/// All mistakes in the settings; never empty. Shown with one line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a mistake:")?,
            n => write!(f, "the configuration has {n} mistakes:")?,
        }
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Settings from the file at `path`, if any, and from this process's environment.
    /// See [`Config::load_with`].
    ///
    /// # Errors
    /// Every mistake in the file and in the variables.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        Self::load_with(path, environment())
    }

    /// Settings: the defaults, over them the file at `path`, over it those of `variables` that begin with
    /// [`VARIABLE_PREFIX`], such as `ANSWERD__MODELS__CHAT__SLOTS=4`. A text is given as it is, a list as a
    /// TOML array. One that ends with [`FILE_SUFFIX`] names a file with the value; line ends at its end do not count.
    ///
    /// Relative paths, those of the defaults and variables too, are relative to the folder of the file, or to
    /// the working directory without a file; `~/` is the home folder. All paths of the result are absolute.
    ///
    /// # Errors
    /// Every mistake in the file and in the variables.
    pub fn load_with(
        path: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        Self::read(path, variables).map(|(config, _)| config)
    }

    /// See [`Config::load_with`]; with where each setting comes from.
    fn read(
        path: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Merged), ConfigErrors> {
        let mut reader = Reader::new();
        if let Some(path) = path {
            let text = std::fs::read_to_string(path).map_err(|error| {
                let origin = Origin::File { name: path.into(), line: None };
                ConfigErrors(vec![ConfigError {
                    path: String::new(),
                    message: format!("the file cannot be read: {error}"),
                    origin,
                }])
            })?;
            reader.file(path, &text);
        }
        let mut variables: Vec<_> =
            variables.into_iter().filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)).collect();
        variables.sort();
        for (name, value) in &variables {
            let Some(setting) = name.strip_suffix(FILE_SUFFIX) else {
                reader.variable(name, value);
                continue;
            };
            if variables.iter().any(|(other, _)| other == setting) {
                reader.refuse(name, format!("{setting} is given, too: give one of them"));
                continue;
            }
            match std::fs::read_to_string(value) {
                Ok(text) => reader.variable(setting, text.trim_end_matches(['\r', '\n'])),
                Err(error) => reader.refuse(name, format!("the file {value} cannot be read: {error}")),
            }
        }
        let (config, merged, mut errors) = reader.finish();
        let checked = config.map(|mut config| {
            errors.extend(config.mistakes(&merged, &errors));
            let base = path.and_then(Path::parent).unwrap_or(Path::new(""));
            errors.extend(config.resolve_paths(base, &merged));
            config
        });
        // What is read out of a line that is no TOML says nothing about its value.
        let broken: Vec<Origin> =
            errors.iter().filter(|error| error.path.is_empty()).map(|error| error.origin.clone()).collect();
        errors.retain(|error| error.path.is_empty() || !broken.contains(&error.origin));
        errors.sort_by(|a, b| (&a.origin, &a.path).cmp(&(&b.origin, &b.path)));
        match checked {
            Some(config) if errors.is_empty() => Ok((config, merged)),
            _ => Err(ConfigErrors(errors)),
        }
    }

    /// Values outside their range, and settings that do not go together. Settings in `known` are left out:
    /// they have their default here.
    fn mistakes(&self, merged: &Merged, known: &[ConfigError]) -> Vec<ConfigError> {
        let mut found = Vec::new();
        if let Err(report) = self.validate() {
            found.extend(report.iter().map(|(path, error)| {
                let path = path.to_string();
                ConfigError {
                    message: value_message(&path, error.message(), merged),
                    origin: merged.origin(&path),
                    path,
                }
            }));
        }
        let wrong: Vec<String> = known.iter().chain(&found).map(|error| error.path.clone()).collect();
        let between = self.between().into_iter().filter(|(paths, _)| !paths.iter().any(|path| wrong.contains(path)));
        found.extend(between.map(|(paths, message)| {
            // Where none of the settings was given, the defaults are at fault; otherwise the first that was.
            let given = paths.iter().find(|path| merged.given(path));
            let path = given.unwrap_or(&paths[0]).clone();
            ConfigError { message, origin: merged.origin(&path), path }
        }));
        found
    }

    /// The settings that do not go together: their paths, and why.
    fn between(&self) -> Vec<(Vec<String>, String)> {
        let mut found = Vec::new();
        let mut check = |fits: bool, paths: &[&str], message: String| {
            if !fits {
                found.push((paths.iter().map(|path| (*path).to_owned()).collect(), message));
            }
        };

        check(
            self.store.engine != StoreEngine::Postgres || !self.postgres.url.is_empty(),
            &["store.engine", "postgres.url"],
            "the engine postgres needs an address in [postgres] url".to_owned(),
        );
        check(
            self.store.engine != StoreEngine::Qdrant || !self.qdrant.url.is_empty(),
            &["store.engine", "qdrant.url"],
            "the engine qdrant needs an address in [qdrant] url".to_owned(),
        );
        let (bind, identity) = (self.server.bind, &self.identity);
        check(
            bind.ip().is_loopback() || identity.enabled || identity.allow_anonymous,
            &["server.bind", "identity.enabled"],
            format!(
                "others can reach {bind}, and everybody may do everything: set [identity] enabled = true, or, where something in front \
                 tells who calls, [identity] allow_anonymous = true"
            ),
        );
        let ChunkingConfig { max_tokens, overlap_tokens } = self.chunking;
        check(
            overlap_tokens < max_tokens / 2,
            &["chunking.overlap_tokens", "chunking.max_tokens"],
            format!("overlap_tokens is {overlap_tokens}, it must be less than half of max_tokens, {max_tokens}"),
        );
        let SearchConfig { limit_default, limit_max, lexical_weight, vector_weight, .. } = self.search;
        check(
            limit_default <= limit_max,
            &["search.limit_default", "search.limit_max"],
            format!("limit_default is {limit_default}, it must be at most limit_max, {limit_max}"),
        );
        check(
            lexical_weight + vector_weight > 0.0,
            &["search.vector_weight", "search.lexical_weight"],
            "one of lexical_weight and vector_weight must be above 0, or nothing has a rank".to_owned(),
        );
        let IndexConfig { m, ef_construction, .. } = self.index;
        check(
            ef_construction >= m,
            &["index.ef_construction", "index.m"],
            format!("ef_construction is {ef_construction}, it must be at least m, {m}"),
        );
        self.models_between(&mut check);
        let context = self.models.chat.context;
        let AnswerConfig { max_question_tokens, max_output_tokens, evidence_tokens, .. } = self.answer;
        let parts = [evidence_tokens, max_question_tokens, max_output_tokens, PROMPT_OVERHEAD_TOKENS];
        let sum = parts.iter().fold(0, |sum: usize, part| sum.saturating_add(*part));
        check(
            sum <= context,
            &[
                "answer.evidence_tokens",
                "answer.max_question_tokens",
                "answer.max_output_tokens",
                "models.chat.context",
            ],
            format!(
                "evidence_tokens {evidence_tokens} + max_question_tokens {max_question_tokens} + max_output_tokens \
                 {max_output_tokens} + {PROMPT_OVERHEAD_TOKENS} for the template make {sum}, more than the context \
                 of {context} tokens ([models.chat] context)"
            ),
        );
        let ActorsConfig { restart_backoff_ms, restart_backoff_max_ms, .. } = self.actors;
        check(
            restart_backoff_ms <= restart_backoff_max_ms,
            &["actors.restart_backoff_ms", "actors.restart_backoff_max_ms"],
            format!(
                "restart_backoff_ms is {restart_backoff_ms}, it must be at most restart_backoff_max_ms, \
                 {restart_backoff_max_ms}"
            ),
        );
        for (n, folder) in self.folders.iter().enumerate() {
            // A file below both prefixes would have one id in two folders, and each would undo the other's work.
            let rival = self.folders[..n].iter().position(|earlier| {
                earlier.prefix.starts_with(&folder.prefix) || folder.prefix.starts_with(&earlier.prefix)
            });
            let rival = rival.unwrap_or(n);
            check(
                rival == n,
                &[&format!("folders[{n}].prefix"), &format!("folders[{rival}].prefix")],
                format!(
                    "{:?} and folders[{rival}]'s {:?} can give two files the same id: neither may begin with the other",
                    folder.prefix, self.folders[rival].prefix
                ),
            );
        }
        found
    }

    fn models_between(&self, check: &mut impl FnMut(bool, &[&str], String)) {
        let sections = std::iter::once("models.chat".to_owned());
        let sections = sections.chain((0..self.models.more.len()).map(|n| format!("models.more[{n}]")));
        let mut names = vec![("answer.model_name".to_owned(), &self.answer.model_name)];
        for (section, model) in sections.zip(self.models.all()) {
            let key = |key: &str| format!("{section}.{key}");
            let ChatModelConfig { engine, path, hub_id, name, slots, batch_tokens, .. } = model;
            check(
                *engine == Engine::OpenAi || batch_tokens >= slots,
                &[&key("batch_tokens"), &key("slots")],
                format!(
                    "batch_tokens is {batch_tokens}, it must be at least slots, {slots}: one token a slot and step"
                ),
            );
            let hub = *engine == Engine::MistralRs && !hub_id.is_empty();
            check(
                *engine == Engine::OpenAi || hub || !path.as_os_str().is_empty(),
                &[&key("path")],
                "must be given: it has no value".to_owned(),
            );
            check(
                *engine == Engine::MistralRs || hub_id.is_empty(),
                &[&key("hub_id")],
                "is for the engine mistralrs; give `path`".to_owned(),
            );
            check(
                *engine != Engine::OpenAi || self.models.upstreams.iter().any(|upstream| upstream.serves == *name),
                &[&key("engine")],
                format!("the engine openai needs a [[models.upstreams]] that serves {name:?}"),
            );
            names.push((key("name"), name));
        }
        names.push(("embedding.name".to_owned(), &self.embedding.name));
        for (n, (path, name)) in names.iter().enumerate() {
            let rival = names[..n].iter().find(|(_, earlier)| earlier == name);
            let rival = rival.map_or(path, |(path, _)| path);
            check(rival == path, &[path, rival], format!("{name:?} is also {rival}: each model has its own name"));
        }
        let remote = self.embedding.engine == EmbeddingEngine::OpenAi;
        let served = self.models.upstreams.iter().any(|upstream| upstream.serves == self.embedding.name);
        check(
            !remote || served,
            &["embedding.engine"],
            format!("the engine openai needs a [[models.upstreams]] that serves {:?}", self.embedding.name),
        );
        for (n, upstream) in self.models.upstreams.iter().enumerate() {
            let (serves, path) = (&upstream.serves, format!("models.upstreams[{n}].serves"));
            let known = names[1..].iter().any(|(_, name)| *name == serves);
            check(known, &[&path], format!("there is no model {serves:?}: give its name in [models] or [embedding]"));
        }
    }

    /// Makes every path absolute.
    fn resolve_paths(&mut self, base: &Path, merged: &Merged) -> Vec<ConfigError> {
        // The default is a model for this process; one elsewhere has a tokenizer here only where it is named.
        let sections = std::iter::once("models.chat.path".to_owned());
        let sections = sections.chain((0..).map(|n| format!("models.more[{n}].path")));
        let ModelsConfig { chat, more, .. } = &mut self.models;
        for (path, model) in sections.zip(std::iter::once(chat).chain(more)) {
            if model.engine == Engine::OpenAi && !merged.given(&path) {
                model.path = PathBuf::new();
            }
        }
        let mut paths = vec![
            ("data.dir".to_owned(), &mut self.data.dir),
            ("embedding.model".to_owned(), &mut self.embedding.model),
            ("models.chat.path".to_owned(), &mut self.models.chat.path),
        ];
        let folders = self.folders.iter_mut().enumerate();
        paths.extend(folders.map(|(n, folder)| (format!("folders[{n}].path"), &mut folder.path)));
        let more = self.models.more.iter_mut().enumerate();
        paths.extend(more.map(|(n, model)| (format!("models.more[{n}].path"), &mut model.path)));
        let upstreams = self.models.upstreams.iter_mut().enumerate();
        let keys =
            upstreams.map(|(n, upstream)| (format!("models.upstreams[{n}].api_key_file"), &mut upstream.api_key_file));
        paths.extend(keys);
        let nats = &mut self.nats;
        let files = [
            ("nkey_file", &mut nats.nkey_file),
            ("credentials_file", &mut nats.credentials_file),
            ("tls_ca_file", &mut nats.tls_ca_file),
            ("tls_certificate_file", &mut nats.tls_certificate_file),
            ("tls_key_file", &mut nats.tls_key_file),
        ];
        let files = files.into_iter().map(|(name, path)| (format!("nats.{name}"), path));
        let files = files.chain([
            ("fetch.tls_ca_file".to_owned(), &mut self.fetch.tls_ca_file),
            ("redis.tls_ca_file".to_owned(), &mut self.redis.tls_ca_file),
            ("postgres.tls_ca_file".to_owned(), &mut self.postgres.tls_ca_file),
            ("identity.jwt.tls_ca_file".to_owned(), &mut self.identity.jwt.tls_ca_file),
        ]);
        paths.extend(files.filter(|(_, path)| !path.as_os_str().is_empty()));
        let mut errors = Vec::new();
        for (name, path) in paths {
            match resolved(path, base) {
                Ok(absolute) => *path = absolute,
                Err(message) => errors.push(ConfigError { message, origin: merged.origin(&name), path: name }),
            }
        }
        errors
    }
}

/// This process's environment.
fn environment() -> impl Iterator<Item = (String, String)> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (lossy(name), lossy(value)))
}

fn resolved(path: &Path, base: &Path) -> Result<PathBuf, String> {
    if path.as_os_str().is_empty() {
        return Ok(PathBuf::new());
    }
    let path = match path.strip_prefix("~") {
        Ok(below) => std::env::home_dir()
            .filter(|home| home.is_absolute())
            .ok_or("`~` stands for the home folder, and none is known: set HOME, or give the whole path")?
            .join(below),
        Err(_) => base.join(path),
    };
    std::path::absolute(&path).map_err(|error| format!("the working directory is not known: {error}"))
}

/// garde's message about a range, with the value and in words that say what would be right.
fn value_message(path: &str, message: &str, merged: &Merged) -> String {
    let bound = [("lower than ", "least"), ("greater than ", "most")]
        .into_iter()
        .find_map(|(start, word)| Some((message.strip_prefix(start)?, word)));
    match (bound, merged.number(path)) {
        (Some((bound, word)), Some(value)) => format!("is {value}, it must be at {word} {bound}"),
        (Some((bound, word)), None) => format!("must be at {word} {bound}"),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
