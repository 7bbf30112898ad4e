//! One server of several: its address, its key, its health; and the order in which they are tried.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tracing::Span;

use super::events::error_text;
use crate::config::{UpstreamConfig, without_credentials};
use crate::models::ModelError;
use crate::telemetry::trace;

/// How often all of them are tried.
const ROUNDS: u32 = 2;
/// The pause before they are tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one that has failed is tried after the others: at first, doubling each time, and at most.
const COOLDOWN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Largest body of an error that is read, in bytes.
const ERROR_BYTES: usize = 16 << 10;

/// A server that has a model; see the module.
#[derive(Debug)]
pub struct Upstream {
    url: String,
    /// The same without what may be secret in it: what is told of it.
    name: String,
    model: String,
    key_env: String,
    key_file: PathBuf,
    connect_timeout: Duration,
    pub(super) first_token_timeout: Duration,
    pub(super) idle_timeout: Duration,
    health: Mutex<Health>,
}

#[derive(Debug, Clone, Default)]
struct Health {
    failures: u32,
    /// It is tried after the others until then.
    until: Option<Instant>,
    last_error: Option<String>,
}

impl Clone for Upstream {
    fn clone(&self) -> Self {
        Self {
            url: self.url.clone(),
            name: self.name.clone(),
            model: self.model.clone(),
            key_env: self.key_env.clone(),
            key_file: self.key_file.clone(),
            health: Mutex::new(self.health.lock().clone()),
            ..*self
        }
    }
}

/// Why a server gave nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another one may do better.
    Server {
        /// For who asked.
        reason: String,
        /// For the log and the pages of operators: without the server's own words, which may quote what it was asked.
        told: String,
        /// When to come again, if it says so.
        retry_after: Option<Duration>,
    },
    /// The request is at fault: it would be refused everywhere.
    Request(String),
}

impl Failure {
    pub(super) fn server(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Server { told: reason.clone(), reason, retry_after: None }
    }
}

impl Upstream {
    /// From its settings.
    pub fn new(config: &UpstreamConfig) -> Self {
        Self {
            url: config.url.trim_end_matches('/').to_owned(),
            name: without_credentials(config.url.trim_end_matches('/')),
            model: if config.model.is_empty() { config.serves.clone() } else { config.model.clone() },
            key_env: config.api_key_env.clone(),
            key_file: config.api_key_file.clone(),
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            first_token_timeout: Duration::from_millis(config.first_token_timeout_ms),
            idle_timeout: Duration::from_millis(config.idle_timeout_ms),
            health: Mutex::default(),
        }
    }

    fn healthy(&self) -> bool {
        self.health.lock().until.is_none_or(|until| until <= Instant::now())
    }

    /// Whether it is tried in its place. Of the requests that come once it has rested, the first finds out whether it is
    /// well again; the others do not wait for that.
    fn trusted(&self) -> bool {
        let mut health = self.health.lock();
        let now = Instant::now();
        match health.until {
            None => true,
            Some(until) if until > now => false,
            Some(_) => {
                health.until = Some(now + self.first_token_timeout);
                true
            }
        }
    }

    fn failed(&self, reason: &str) {
        let mut health = self.health.lock();
        let cooldown = COOLDOWN.0.saturating_mul(1 << health.failures.min(10)).min(COOLDOWN.1);
        health.failures += 1;
        health.until = Some(Instant::now() + cooldown);
        health.last_error = Some(reason.to_owned());
    }

    fn succeeded(&self) {
        let mut health = self.health.lock();
        (health.failures, health.until) = (0, None);
    }

    /// For the admin page.
    pub(super) fn describe(&self) -> Value {
        let healthy = self.healthy();
        let health = self.health.lock();
        json!({
            "url": self.name,
            "model": self.model,
            "healthy": healthy,
            "failures_in_a_row": health.failures,
            "last_error": health.last_error,
        })
    }

    /// A request to it, with its model's name in `body`.
    fn request(&self, client: &Client, path: &str, mut body: Value) -> Result<RequestBuilder, Failure> {
        body["model"] = self.model.clone().into();
        let request = client.post(format!("{}/{path}", self.url)).json(&body);
        let request = trace::headers(&Span::current())
            .into_iter()
            .fold(request, |request, (name, value)| request.header(name, value));
        Ok(match self.key()? {
            Some(key) => request.bearer_auth(key),
            None => request,
        })
    }

    /// The key, read anew: a file may have been changed.
    fn key(&self) -> Result<Option<String>, Failure> {
        if !self.key_file.as_os_str().is_empty() {
            let key = std::fs::read_to_string(&self.key_file).map_err(|error| {
                Failure::server(format!("its key cannot be read from {}: {error}", self.key_file.display()))
            })?;
            return Ok(Some(key.trim().to_owned()));
        }
        if self.key_env.is_empty() {
            return Ok(None);
        }
        let missing = |_| Failure::server(format!("the environment variable {} with its key is not set", self.key_env));
        std::env::var(&self.key_env).map(|key| Some(key.trim().to_owned())).map_err(missing)
    }
}

/// Several servers of one model, in order.
pub(super) struct Upstreams {
    all: Vec<(Upstream, Client)>,
}

impl Upstreams {
    /// With a client each.
    ///
    /// # Errors
    /// [`ModelError::Load`] where TLS cannot be set up.
    pub(super) fn new(upstreams: Vec<Upstream>) -> Result<Self, ModelError> {
        let with_client = |upstream: Upstream| {
            let builder = crate::http::client_builder(None)?.connect_timeout(upstream.connect_timeout);
            // What a server answers stays with that server: a redirect would carry the prompt elsewhere.
            let builder = builder.redirect(reqwest::redirect::Policy::none()).tcp_nodelay(true);
            let client = builder.build().map_err(|error| format!("cannot make an HTTP client: {error}"))?;
            Ok((upstream, client))
        };
        let all = upstreams.into_iter().map(with_client).collect::<Result<_, String>>().map_err(ModelError::Load)?;
        Ok(Self { all })
    }

    /// For the admin page.
    pub(super) fn describe(&self) -> Value {
        self.all.iter().map(|(upstream, _)| upstream.describe()).collect()
    }

    /// Which of them fail, and how.
    pub(super) fn trouble(&self) -> Option<String> {
        let ill = self.all.iter().filter_map(|(upstream, _)| {
            let health = upstream.health.lock();
            let error = health.last_error.as_deref().filter(|_| health.failures > 0)?;
            Some(format!("{} fails: {error}", upstream.name))
        });
        let ill: Vec<String> = ill.collect();
        (!ill.is_empty()).then(|| ill.join("; "))
    }

    /// Posts `body` to each in turn, those that failed lately last, until `read` makes something of a response.
    ///
    /// # Errors
    /// [`ModelError::Upstream`] with what each said, or [`ModelError::Refused`].
    pub(super) async fn post<'a, T>(
        &'a self,
        path: &str,
        body: &Value,
        read: impl Fn(Response) -> BoxFuture<'a, Result<T, Failure>>,
    ) -> Result<(T, &'a Upstream), ModelError> {
        let mut reasons: Vec<String> = Vec::new();
        let mut retry_after = None;
        for round in 0..ROUNDS {
            let (well, ill): (Vec<_>, Vec<_>) = self.all.iter().partition(|(upstream, _)| upstream.trusted());
            reasons.clear();
            for (upstream, client) in well.into_iter().chain(ill) {
                let attempt = async {
                    let request = upstream.request(client, path, body.clone())?;
                    read(send(request).await?).await
                };
                let limit = upstream.first_token_timeout;
                let late = || Failure::server(format!("nothing came within {} ms", limit.as_millis()));
                match tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| Err(late())) {
                    Ok(value) => {
                        upstream.succeeded();
                        return Ok((value, upstream));
                    }
                    Err(Failure::Request(reason)) => return Err(ModelError::Refused(reason)),
                    Err(Failure::Server { reason, told, retry_after: when }) => {
                        tracing::warn!(upstream = upstream.name, reason = told, "an upstream failed");
                        tracing::debug!(upstream = upstream.name, reason, "what it said");
                        upstream.failed(&told);
                        retry_after = retry_after.into_iter().chain(when).min();
                        reasons.push(format!("{}: {reason}", upstream.name));
                    }
                }
            }
            if round + 1 < ROUNDS {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let reason = format!("no server of the model gave an answer ({})", reasons.join("; "));
        let retry_after_s = retry_after.map_or(5, |after: Duration| after.as_secs().clamp(1, 600));
        Err(ModelError::Upstream { reason, retry_after_s })
    }

    /// One that gave the beginning of an answer failed later: what is told of that, and the reason for who asked.
    pub(super) fn broke_off(upstream: &Upstream, told: &str, reason: &str) -> ModelError {
        tracing::warn!(upstream = upstream.name, reason = told, "an upstream broke off");
        upstream.failed(told);
        ModelError::Upstream { reason: format!("the model's server broke off: {reason}"), retry_after_s: 1 }
    }
}

/// Sends a request; gives a response that is a success.
async fn send(request: RequestBuilder) -> Result<Response, Failure> {
    let mut response = request.send().await.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), root_cause);
        Failure::server(if error.is_connect() { format!("cannot connect: {cause}") } else { cause })
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > ERROR_BYTES {
            break;
        }
    }
    let said = error_text(&String::from_utf8_lossy(&body));
    let reason = format!("{status}: {said}");
    let at_fault = [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY];
    if at_fault.contains(&status) {
        return Err(Failure::Request(reason));
    }
    Err(Failure::Server { reason, told: status.to_string(), retry_after: after.map(Duration::from_secs) })
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
