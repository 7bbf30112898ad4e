//! Who calls, and what they may: API keys and JSON Web Tokens, to a [`Caller`].
//!
//! - [`audit`]: what administrators did
//! - `caller`: who somebody is, and what they may
//! - `claims`: what a token says, once it was read and its signature verified
//! - [`key`]: what an API key is, and how it is kept
//! - [`keyring`]: the keys that are in force, as the store has them
//! - [`token`]: tokens of an identity provider
//!
//! Nothing here knows HTTP; `web/auth.rs` takes what a request brings to [`Identity::caller`].

pub mod audit;
mod caller;
mod claims;
pub mod key;
pub mod keyring;
pub mod token;

use std::sync::Arc;

pub use self::caller::{BY_ADDRESS, Caller, Refused, Scope};
use self::key::KEY_PREFIX;
use self::keyring::Keyring;
use self::token::Tokens;
use crate::config::Live;
use crate::stores::records::Records;

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
    pub fn start(settings: &Arc<Live>, records: Arc<dyn Records>) -> Result<Self, String> {
        let tokens = match settings.now().identity.jwt.issuer.is_empty() {
            true => None,
            false => Some(Tokens::start(settings)?),
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
