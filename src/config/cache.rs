//! `[cache]` and `[redis]`: what is kept of questions and answers, and what replicas share of them.

use std::path::PathBuf;

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::MIB;

/// `[cache]`: what is kept of questions and answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Keep answers, and generate what several ask at once only once.
    #[garde(skip)]
    pub enabled: bool,
    /// Memory of what is kept in this process, in bytes.
    #[garde(range(min = MIB, max = 1024 * 1024 * MIB))]
    pub memory_bytes: usize,
    /// How long something is kept at most, in seconds.
    #[garde(range(min = 1, max = 31_536_000))]
    pub ttl_s: u64,
    /// Two questions that ask the same in almost the same words have one answer from this cosine similarity on; 1 asks for
    /// the same words.
    #[garde(range(min = 0.5, max = 1.0))]
    pub near_similarity: f32,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { enabled: true, memory_bytes: 64 * MIB, ttl_s: 86_400, near_similarity: 0.90 }
    }
}

/// `[redis]`: what replicas share of answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// Its address: `redis://user:password@host:port/database`, `rediss://` with TLS; of a cluster some of its nodes, with
    /// commas between them. Empty: there is none.
    #[garde(custom(redis_url))]
    pub url: String,
    /// What the names of all keys begin with.
    #[garde(length(min = 1, max = 64))]
    pub prefix: String,
    /// Time for one command, in milliseconds.
    #[garde(range(min = 1, max = 60_000))]
    pub timeout_ms: u64,
    /// The certificate of the authority that signed the server's (PEM); without it, those of the system count.
    #[garde(skip)]
    pub tls_ca_file: PathBuf,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self { url: String::new(), prefix: "answerd".into(), timeout_ms: 250, tls_ca_file: PathBuf::new() }
    }
}

impl RedisConfig {
    /// The addresses.
    pub fn urls(&self) -> Vec<String> {
        self.url.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect()
    }

    /// Whether there is one.
    pub fn is_configured(&self) -> bool {
        !self.urls().is_empty()
    }

    /// Whether it is a cluster.
    pub fn is_cluster(&self) -> bool {
        self.urls().len() > 1
    }
}

fn redis_url(url: &str, _: &()) -> garde::Result {
    let bad = url.split(',').map(str::trim).find(|url| {
        let known = |scheme: &str| matches!(scheme, "redis" | "rediss");
        !url.is_empty() && !url::Url::parse(url).is_ok_and(|url| known(url.scheme()) && url.has_host())
    });
    match bad {
        None => Ok(()),
        // It may hold a password.
        Some(_) => Err(garde::Error::new("an address must be like redis://host:6379 or rediss://host:6380")),
    }
}
