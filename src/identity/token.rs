//! JSON Web Tokens of an identity provider: gets the keys that it publishes (RFC 7517), at the start, now and then, and
//! for a token that names another one. `claims` says which tokens count.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::JwkSet;
use serde_json::Value;
use tokio::sync::Mutex;

use super::claims::{self, key_set, named};
use super::{Caller, Refused};
use crate::config::{Live, without_credentials};
use crate::http::client_builder;

/// The least time between two readings of the keys, whatever the tokens say.
const AGAIN: Duration = Duration::from_secs(10);
/// Time for the provider to answer.
const WITHIN: Duration = Duration::from_secs(5);
/// Largest document of the provider, in bytes.
const MOST_BYTES: usize = 1 << 20;

/// See the module.
pub struct Tokens {
    settings: Arc<Live>,
    http: reqwest::Client,
    keys: ArcSwapOption<JwkSet>,
    /// Held while they are read for a token; when that was last.
    reading: Mutex<Option<Instant>>,
}

impl Tokens {
    /// Tokens as configured. The provider's keys are read as long as somebody has this.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn start(settings: &Arc<Live>) -> Result<Arc<Self>, String> {
        let config = &settings.now().identity.jwt;
        let ca = Some(config.tls_ca_file.as_path()).filter(|path| !path.as_os_str().is_empty());
        let http = client_builder(ca)?.timeout(WITHIN).redirect(reqwest::redirect::Policy::none());
        let http = http.build().map_err(|error| error.to_string())?;
        let tokens = Arc::new(Self {
            settings: Arc::clone(settings),
            http,
            keys: ArcSwapOption::empty(),
            reading: Mutex::default(),
        });
        let (watched, every) = (Arc::downgrade(&tokens), Duration::from_secs(config.refresh_s));
        actix_rt::spawn(async move {
            let mut tick = actix_rt::time::interval(every);
            loop {
                tick.tick().await;
                let Some(tokens) = Weak::upgrade(&watched) else { return };
                // Those of a provider that is away go on counting.
                if let Err(error) = tokens.read().await {
                    tracing::warn!(error, "the identity provider's keys cannot be read; those that are known count");
                }
            }
        });
        Ok(tokens)
    }

    /// The bearer of a token.
    ///
    /// # Errors
    /// Why it is not let in.
    pub async fn caller(&self, token: &str) -> Result<Caller, Refused> {
        let header = claims::header(token)?;
        let keys = self.keys_with(header.kid.as_deref()).await?;
        let settings = self.settings.now();
        let config = &settings.identity.jwt;
        claims::bearer(&claims::verified(token, &header, &keys, config)?, config)
    }

    /// The keys, read once more where this one is not among them.
    async fn keys_with(&self, name: Option<&str>) -> Result<Arc<JwkSet>, Refused> {
        let known = || self.keys.load_full().filter(|keys| named(keys, name).is_some());
        if let Some(keys) = known() {
            return Ok(keys);
        }
        let mut reading = self.reading.lock().await;
        let just = reading.is_some_and(|last| last.elapsed() < AGAIN);
        match (known(), self.keys.load_full()) {
            (Some(keys), _) => Ok(keys),
            (None, Some(keys)) if just => Ok(keys),
            (None, None) if just => Err(Refused::Unavailable("the identity provider's keys cannot be read now".into())),
            (None, _) => {
                *reading = Some(Instant::now());
                self.read().await.map_err(|error| {
                    tracing::warn!(error, "the identity provider's keys cannot be read");
                    Refused::Unavailable("the identity provider's keys cannot be read now".into())
                })
            }
        }
    }

    async fn read(&self) -> Result<Arc<JwkSet>, String> {
        let config = &self.settings.now().identity.jwt;
        let address = match config.jwks_url.as_str() {
            // OpenID Connect Discovery 1.0, section 4.
            "" => {
                let base = config.issuer.trim_end_matches('/');
                let found = self.fetch(&format!("{base}/.well-known/openid-configuration")).await?;
                let address = found["jwks_uri"].as_str().map(str::to_owned);
                address.ok_or_else(|| format!("{} says nothing of its keys (jwks_uri)", without_credentials(base)))?
            }
            address => address.to_owned(),
        };
        let found = self.fetch(&address).await?;
        let keys = Arc::new(
            key_set(found).map_err(|error| format!("{} gives no keys: {error}", without_credentials(&address)))?,
        );
        self.keys.store(Some(Arc::clone(&keys)));
        Ok(keys)
    }

    async fn fetch(&self, address: &str) -> Result<Value, String> {
        let shown = without_credentials(address);
        let failed = |error: reqwest::Error| format!("{shown}: {}", error.without_url());
        let mut response = self.http.get(address).send().await.and_then(|r| r.error_for_status()).map_err(failed)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MOST_BYTES {
                return Err(format!("{shown} gives more than {MOST_BYTES} bytes"));
            }
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("{shown} gives no JSON: {error}"))
    }
}
