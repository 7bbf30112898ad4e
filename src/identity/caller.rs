//! Somebody who calls: a name, what they may, what they see. Knows neither keys nor tokens.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::retrieval::sight::Sight;

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
