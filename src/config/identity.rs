//! `[identity]`: who may call, and what they may.

use std::path::PathBuf;

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[identity]`: who may call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityConfig {
    /// Whether a caller must say who it is, with an API key (`answerd keys`) or a token of `[identity.jwt]`. Without it
    /// everybody may do everything, and a `[server] bind` that others can reach is refused.
    #[garde(skip)]
    pub enabled: bool,
    /// Serve others without identity all the same: something in front tells who they are.
    #[garde(skip)]
    pub allow_anonymous: bool,
    #[garde(dive)]
    pub jwt: JwtConfig,
}

/// `[identity.jwt]`: JSON Web Tokens of an identity provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct JwtConfig {
    /// Who issues them, exactly as `iss` says; without it no tokens are taken.
    #[garde(custom(provider_url))]
    pub issuer: String,
    /// For whom they must be (`aud`).
    #[garde(length(min = 1, max = 256))]
    pub audience: String,
    /// Where the issuer publishes its keys (JWKS); by default where its `/.well-known/openid-configuration` says.
    #[garde(custom(provider_url))]
    pub jwks_url: String,
    /// How often the keys are read, in seconds; a key that is not among them is looked for at once.
    #[garde(range(min = 10, max = 86_400))]
    pub refresh_s: u64,
    /// The claim with the groups of the bearer, a list or a text with spaces; dots lead into objects.
    #[garde(length(min = 1, max = 256))]
    pub groups_claim: String,
    /// Groups that may ask, search and read; `*` is everybody with a token.
    #[garde(length(max = 100))]
    pub ask: Vec<String>,
    /// Groups that may put and delete documents.
    #[garde(length(max = 100))]
    pub write: Vec<String>,
    /// Groups that may administer.
    #[garde(length(max = 100))]
    pub admin: Vec<String>,
    /// Groups that may read `/metrics`; those that may administer may, too.
    #[garde(length(max = 100))]
    pub metrics: Vec<String>,
    /// Groups that see every document.
    #[garde(length(max = 100))]
    pub sees_all: Vec<String>,
    /// The certificate of the authority that signed the provider's (PEM), beside those of the system.
    #[garde(skip)]
    pub tls_ca_file: PathBuf,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: "answerd".into(),
            jwks_url: String::new(),
            refresh_s: 300,
            groups_claim: "groups".into(),
            ask: vec!["*".into()],
            write: Vec::new(),
            admin: Vec::new(),
            metrics: Vec::new(),
            sees_all: Vec::new(),
            tls_ca_file: PathBuf::new(),
        }
    }
}

/// HTTPS; plain HTTP only within this machine, where nobody can put in keys of their own.
fn provider_url(address: &str, _: &()) -> garde::Result {
    if address.is_empty() {
        return Ok(());
    }
    let url = url::Url::parse(address).map_err(|error| garde::Error::new(format!("is no address: {error}")))?;
    let local = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if local => Ok(()),
        _ => Err(garde::Error::new("must begin with https:// (or http:// for this machine)")),
    }
}
