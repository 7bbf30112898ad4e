//! JSON Web Tokens (RFC 7519) of an identity provider: signed with one of the keys that it publishes (RFC 7517), for this
//! audience, and in time. Only public keys count: a token that is signed with a shared secret, or not at all, is refused.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::{Caller, Refused, Scope};
use crate::config::{JwtConfig, Live};
use crate::http::client_builder;
use crate::retrieval::sight::{Sight, validate_group};

/// How far clocks may be apart, in seconds.
const LEEWAY_S: u64 = 30;
/// The least time between two readings of the keys, whatever the tokens say.
const AGAIN: Duration = Duration::from_secs(10);
/// Time for the provider to answer.
const WITHIN: Duration = Duration::from_secs(5);
/// Largest document of the provider, in bytes.
const MOST_BYTES: usize = 1 << 20;
/// Longest subject of a token, in bytes.
const SUBJECT_BYTES: usize = 256;
/// Most groups that a token can bring.
const MOST_GROUPS: usize = 1000;

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
        let invalid = |why: String| Refused::Invalid(why);
        let header = decode_header(token)
            .map_err(|_| invalid("this is neither an API key nor a JSON Web Token that can be read".into()))?;
        if !is_public(header.alg) {
            return Err(invalid(format!("the token is signed with {:?}, which takes a shared secret", header.alg)));
        }
        let keys = self.keys_with(header.kid.as_deref()).await?;
        let Some(jwk) = named(&keys, header.kid.as_deref()) else {
            return Err(invalid("the token is signed with a key that its issuer does not publish".into()));
        };
        // RFC 8725, section 3.1: a key that is for one algorithm is for no other.
        if jwk.common.key_algorithm.is_some_and(|algorithm| algorithm.to_string() != format!("{:?}", header.alg)) {
            return Err(invalid("the token's algorithm is not the one that its key is for".into()));
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|error| invalid(format!("its key cannot be used: {error}")))?;
        let settings = self.settings.now();
        let config = &settings.identity.jwt;
        let mut rules = Validation::new(header.alg);
        rules.leeway = LEEWAY_S;
        rules.validate_nbf = true;
        rules.set_issuer(&[&config.issuer]);
        rules.set_audience(&[&config.audience]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = decode::<Map<String, Value>>(token, &key, &rules)
            .map_err(|error| invalid(format!("the token does not count: {error}")))?
            .claims;
        bearer(config, &claims)
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
                address.ok_or_else(|| format!("{base} says nothing of its keys (jwks_uri)"))?
            }
            address => address.to_owned(),
        };
        let mut found = self.fetch(&address).await?;
        // A key of a kind that nobody here knows does no harm to the others.
        if let Some(keys) = found["keys"].as_array_mut() {
            keys.retain(|key| serde_json::from_value::<Jwk>(key.clone()).is_ok());
        }
        let set = serde_json::from_value(found).map_err(|error| format!("{address} gives no keys: {error}"))?;
        let keys = Arc::new(set);
        self.keys.store(Some(Arc::clone(&keys)));
        Ok(keys)
    }

    async fn fetch(&self, address: &str) -> Result<Value, String> {
        let failed = |error: reqwest::Error| format!("{address}: {error}");
        let mut response = self.http.get(address).send().await.and_then(|r| r.error_for_status()).map_err(failed)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MOST_BYTES {
                return Err(format!("{address} gives more than {MOST_BYTES} bytes"));
            }
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("{address} gives no JSON: {error}"))
    }
}

/// The caller that a token's claims tell of.
fn bearer(config: &JwtConfig, claims: &Map<String, Value>) -> Result<Caller, Refused> {
    let subject = claims.get("sub").and_then(Value::as_str).filter(|subject| !subject.is_empty());
    let subject = subject.filter(|subject| subject.len() <= SUBJECT_BYTES);
    let subject = subject.ok_or_else(|| {
        Refused::Invalid(format!("the token has no `sub`, or one of more than {SUBJECT_BYTES} bytes"))
    })?;
    // Many providers nest it: `realm_access.roles`.
    let claim = claims.get(&config.groups_claim).or_else(|| {
        let mut path = config.groups_claim.split('.');
        let first = path.next().and_then(|part| claims.get(part));
        path.fold(first, |value, part| value?.get(part))
    });
    let mut groups: BTreeSet<String> = match claim {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::String(names)) => names.split_whitespace().map(str::to_owned).collect(),
        _ => BTreeSet::new(),
    };
    if groups.len() > MOST_GROUPS {
        return Err(Refused::Invalid(format!("the token brings more than {MOST_GROUPS} groups")));
    }
    let in_one_of = |wanted: &[String]| wanted.iter().any(|group| group == "*" || groups.contains(group));
    let JwtConfig { ask, write, admin, metrics, sees_all, .. } = config;
    let scopes = [(Scope::Ask, ask), (Scope::Write, write), (Scope::Admin, admin), (Scope::Metrics, metrics)];
    let scopes: BTreeSet<Scope> = scopes.into_iter().filter(|(_, wanted)| in_one_of(wanted)).map(|(s, _)| s).collect();
    let name = format!("user:{subject}");
    let sight = match in_one_of(sees_all) {
        true => Sight::All,
        false => {
            // A provider's group of such a name is nobody's own.
            groups.retain(|group| !group.starts_with("user:") && validate_group(group).is_ok());
            groups.insert(name.clone());
            Sight::Groups(groups)
        }
    };
    Ok(Caller { name: name.into(), scopes: scopes.into(), sight: sight.into() })
}

/// The key that a token names; a token that names none is signed with the only one.
fn named<'k>(keys: &'k JwkSet, name: Option<&str>) -> Option<&'k Jwk> {
    match (name, keys.keys.as_slice()) {
        (Some(name), _) => keys.find(name),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

/// Whether what is signed so is verified with a key that may be published.
fn is_public(algorithm: Algorithm) -> bool {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512 | ES256 | ES384 | EdDSA)
}
