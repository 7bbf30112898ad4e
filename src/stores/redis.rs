//! Redis: what replicas share of answers. One server or a cluster, plain or over TLS, by its address.
//!
//! Nothing here is needed: whatever Redis cannot do, is done again by whoever asked. So a command has little time, and a
//! Redis that does not answer is left alone for a while ([`Breaker`]); the admin page says so.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClientBuilder, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Script, ScriptInvocation, ServerErrorKind,
    TlsCertificates, Value,
};
use serde_json::json;

use super::breaker::Breaker;
use crate::config::{RedisConfig, without_credentials};

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(1);

/// Why Redis could not do something. Whoever asked goes on without it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct RedisTrouble(pub(crate) String);

/// See the module.
pub struct Redis {
    link: Link,
    prefix: String,
    breaker: Breaker,
    address: String,
    commands: AtomicU64,
    failed: AtomicU64,
}

#[derive(Clone)]
enum Link {
    One(ConnectionManager),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> redis::RedisFuture<'a, Value> {
        match self {
            Self::One(link) => link.req_packed_command(cmd),
            Self::Cluster(link) => link.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> redis::RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(link) => link.req_packed_commands(pipeline, offset, count),
            Self::Cluster(link) => link.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(link) => link.get_db(),
            Self::Cluster(link) => link.get_db(),
        }
    }
}

impl Redis {
    /// The way to a Redis. Connects with the first command; to be called on a runtime that lives as long as it does.
    ///
    /// # Errors
    /// In words for the operator: an address that is none, a certificate that cannot be read.
    pub fn open(config: &RedisConfig) -> Result<Self, String> {
        let limit = Duration::from_millis(config.timeout_ms);
        let bad = |error: RedisError| format!("[redis] url cannot be used: {}", without_secrets(&error.to_string()));
        let authority = match config.tls_ca_file.as_os_str().is_empty() {
            true => None,
            false => Some(std::fs::read(&config.tls_ca_file).map_err(|error| {
                format!("[redis] tls_ca_file {} cannot be read: {error}", config.tls_ca_file.display())
            })?),
        };
        let certificates = TlsCertificates { client_tls: None, root_cert: authority };
        let urls = config.urls();
        let address = without_credentials(&urls.join(","));
        let link = if config.is_cluster() {
            let mut builder =
                ClusterClientBuilder::new(urls).retries(1).max_connection_attempts(std::num::NonZeroUsize::MIN);
            if certificates.root_cert.is_some() {
                builder = builder.certs(certificates);
            }
            let client = builder.build().map_err(bad)?;
            let options = ClusterConfig::new().set_connection_timeout(CONNECT).set_response_timeout(limit);
            Link::Cluster(client.get_pending_async_connection_with_config(options))
        } else {
            let url = urls.first().cloned().unwrap_or_default();
            let client = match url.starts_with("rediss") {
                true => redis::Client::build_with_tls(url, certificates),
                false => redis::Client::open(url),
            };
            let options = ConnectionManagerConfig::new()
                .set_number_of_retries(0)
                .set_connection_timeout(Some(CONNECT))
                .set_response_timeout(Some(limit));
            Link::One(ConnectionManager::new_lazy_with_config(client.map_err(bad)?, options).map_err(bad)?)
        };
        Ok(Self {
            link,
            prefix: config.prefix.clone(),
            breaker: Breaker::default(),
            address,
            commands: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// The name of a key here. What is in braces decides on which node of a cluster it is: keys of one command must share it.
    pub fn key(&self, kind: &str, id: &str) -> String {
        format!("{}:{kind}:{{{id}}}", self.prefix)
    }

    /// What is kept under a key.
    ///
    /// # Errors
    /// [`RedisTrouble`], also where it is something else.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, RedisTrouble> {
        let value: Option<Vec<u8>> = self.run(redis::cmd("GET").arg(key)).await?;
        Ok(value.map(Bytes::from))
    }

    /// Keeps a value for a while.
    ///
    /// # Errors
    /// [`RedisTrouble`]
    pub async fn put(&self, key: &str, value: &[u8], time: Duration) -> Result<(), RedisTrouble> {
        self.run(redis::cmd("SET").arg(key).arg(value).arg("PX").arg(millis(time))).await
    }

    /// Forgets a key.
    ///
    /// # Errors
    /// [`RedisTrouble`]
    pub async fn remove(&self, key: &str) -> Result<(), RedisTrouble> {
        self.run(redis::cmd("DEL").arg(key)).await
    }

    /// Takes a lease for a while, if nobody has it. Gives who has it now.
    ///
    /// # Errors
    /// [`RedisTrouble`]
    pub async fn lease(&self, key: &str, holder: &str, time: Duration) -> Result<String, RedisTrouble> {
        static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
            Script::new(
                "local holder = redis.call('GET', KEYS[1]) if holder then return holder end \
                 redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return ARGV[1]",
            )
        });
        self.invoke(SCRIPT.key(key).arg(holder).arg(millis(time))).await
    }

    /// Keeps a lease for longer, if it is still the holder's.
    ///
    /// # Errors
    /// [`RedisTrouble`]
    pub async fn renew(&self, key: &str, holder: &str, time: Duration) -> Result<(), RedisTrouble> {
        static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
            Script::new(
                "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return true",
            )
        });
        self.invoke(SCRIPT.key(key).arg(holder).arg(millis(time))).await
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// [`RedisTrouble`]
    pub async fn release(&self, key: &str, holder: &str) -> Result<(), RedisTrouble> {
        static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
            Script::new("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return true")
        });
        self.invoke(SCRIPT.key(key).arg(holder)).await
    }

    /// Adds entries to a list that has `length` of them, unless they were added already, and keeps it for a while; looks
    /// at another key of the same node by the way. Gives the list's length now, none where it is gone, and that key's value.
    ///
    /// # Errors
    /// [`RedisTrouble`]; then it can be done again.
    pub async fn extend(
        &self,
        (list, beside): (&str, &str),
        length: usize,
        entries: &[String],
        time: Duration,
    ) -> Result<(Option<usize>, Option<String>), RedisTrouble> {
        static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
            Script::new(
                "local length = redis.call('LLEN', KEYS[1]) \
                 if length < tonumber(ARGV[1]) then length = -1 \
                 elseif length == tonumber(ARGV[1]) then \
                   for n = 3, #ARGV do length = redis.call('RPUSH', KEYS[1], ARGV[n]) end \
                 end \
                 redis.call('PEXPIRE', KEYS[1], ARGV[2]) \
                 return {length, redis.call('GET', KEYS[2])}",
            )
        });
        let mut call = SCRIPT.key(list);
        call.key(beside).arg(length).arg(millis(time)).arg(entries);
        let (length, beside): (i64, Option<String>) = self.invoke(&call).await?;
        Ok((usize::try_from(length).ok(), beside))
    }

    /// Runs a command.
    ///
    /// # Errors
    /// [`RedisTrouble`]
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisTrouble> {
        let mut link = self.link.clone();
        self.watched(async move { command.query_async(&mut link).await }).await
    }

    /// Runs a script.
    ///
    /// # Errors
    /// [`RedisTrouble`]
    pub(crate) async fn invoke<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, RedisTrouble> {
        let mut link = self.link.clone();
        self.watched(async move { call.invoke_async(&mut link).await }).await
    }

    async fn watched<T>(&self, work: impl Future<Output = RedisResult<T>>) -> Result<T, RedisTrouble> {
        if !self.breaker.admits() {
            return Err(RedisTrouble("Redis does not answer; it is tried again in a while".to_owned()));
        }
        self.commands.fetch_add(1, Ordering::Relaxed);
        let result = work.await;
        match &result {
            Err(error) if is_away(error) => {
                let reason = without_secrets(&error.to_string());
                if self.breaker.failed(&reason) {
                    tracing::warn!(
                        address = self.address,
                        reason,
                        "Redis is left alone for a while: nothing is shared"
                    );
                }
            }
            _ => {
                if self.breaker.succeeded() {
                    tracing::info!(address = self.address, "Redis answers again");
                }
            }
        }
        result.map_err(|error| {
            self.failed.fetch_add(1, Ordering::Relaxed);
            RedisTrouble(without_secrets(&error.to_string()))
        })
    }

    /// Why it is left alone, if it is, in words for the operator.
    pub fn trouble(&self) -> Option<String> {
        self.breaker.trouble().map(|reason| format!("Redis ({}): {reason}", self.address))
    }

    /// For the admin page.
    pub fn describe(&self) -> serde_json::Value {
        json!({
            "address": self.address,
            "works": self.breaker.trouble().is_none(),
            "reason": self.breaker.trouble(),
            "commands": self.commands.load(Ordering::Relaxed),
            "failed": self.failed.load(Ordering::Relaxed),
        })
    }
}

/// Whether the server is away, or lets nobody in: the next command would fail as well. One that is full, or has something
/// else under a key, is there.
fn is_away(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io | ErrorKind::AuthenticationFailed | ErrorKind::ClusterConnectionNotFound => true,
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::NoPerm
        ),
        _ => matches!(error.code(), Some("NOAUTH" | "WRONGPASS")),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// A message without what stands between a colon and an at sign.
fn without_secrets(message: &str) -> String {
    match (message.find("://"), message.rfind('@')) {
        (Some(start), Some(at)) if start < at => format!("{}://***{}", &message[..start], &message[at..]),
        _ => message.to_owned(),
    }
}
