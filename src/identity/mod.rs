//! Who calls, and what they may: API keys and JSON Web Tokens, to a [`Caller`].
//!
//! - [`audit`]: what administrators did
//! - [`key`]: what an API key is, and how it is kept
//! - [`keyring`]: the keys that are in force, as the store has them
//! - [`token`]: tokens of an identity provider
//!
//! Nothing here knows HTTP; `web/auth.rs` takes what a request brings to [`Identity::caller`].

pub mod audit;
pub mod key;
pub mod keyring;
pub mod token;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::key::KEY_PREFIX;
use self::keyring::Keyring;
use self::token::Tokens;
use crate::config::IdentityConfig;
use crate::retrieval::sight::Sight;
use crate::stores::records::Records;

/// What the name of a caller begins with that is known only by its address.
pub const BY_ADDRESS: &str = "ip:";

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Ask, search, and read documents.
    Ask,
    /// Put and delete documents, any of them.
    Write,
    /// Everything below `/admin`.
    Admin,
    /// Read `/metrics`.
    Metrics,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Ask, Self::Write, Self::Admin, Self::Metrics];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Write => "write",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }
}

/// Somebody who calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller {
    /// `key:<id>`, `user:<subject>`, or without identity `ip:<address>`: for fairness, budgets, and the record of usage.
    pub name: Arc<str>,
    /// What it may do.
    pub scopes: Arc<BTreeSet<Scope>>,
    /// What it sees.
    pub sight: Arc<Sight>,
}

impl Caller {
    /// One who may do everything: there is no identity, or the command line asks.
    pub fn unrestricted(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), scopes: Arc::new(Scope::ALL.into()), sight: Arc::new(Sight::All) }
    }

    /// Whether it may do this.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || (scope == Scope::Metrics && self.scopes.contains(&Scope::Admin))
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing was brought that says who it is.
    #[error("say who you are: send an API key as `Authorization: Bearer …` or in `X-Api-Key`")]
    Nothing,
    /// What was brought is not, or no more, in force.
    #[error("{0}")]
    Invalid(String),
    /// It cannot be told now.
    #[error("{0}")]
    Unavailable(String),
}

/// Tells who calls.
pub struct Identity {
    /// The API keys.
    pub keyring: Arc<Keyring>,
    tokens: Option<Arc<Tokens>>,
}

impl Identity {
    /// Identity as configured; keys are kept in `records`.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn start(config: &IdentityConfig, records: Arc<dyn Records>) -> Result<Self, String> {
        let tokens = match config.jwt.issuer.is_empty() {
            true => None,
            false => Some(Tokens::start(&config.jwt)?),
        };
        Ok(Self { keyring: Keyring::start(records), tokens })
    }

    /// Who brings this key or token.
    ///
    /// # Errors
    /// Why nobody is let in with it.
    pub async fn caller(&self, credential: Option<&str>) -> Result<Caller, Refused> {
        let credential = credential.filter(|credential| !credential.is_empty()).ok_or(Refused::Nothing)?;
        match &self.tokens {
            Some(tokens) if !credential.starts_with(KEY_PREFIX) => tokens.caller(credential).await,
            _ => self.keyring.caller(credential).await,
        }
    }
}
