//! API keys: `ak_<id>_<secret>`. The id names the key in lists and logs; the secret is 256 random bits, of which only a
//! hash is kept (a slow one would add nothing: such a secret cannot be guessed).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::{Caller, Scope};
use crate::retrieval::sight::{Sight, validate_group};

/// What every key begins with.
pub const KEY_PREFIX: &str = "ak_";
/// Most bytes in the name of a key.
const MAX_NAME_BYTES: usize = 128;

/// What a key is to be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// For whom or what it is, in 1 to 128 bytes without control characters.
    #[schema(pattern = r"\S")]
    pub name: String,
    /// What its holder may do.
    #[schema(min_items = 1)]
    pub scopes: BTreeSet<Scope>,
    /// The groups of its holder.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Whether its holder sees every document.
    #[serde(default)]
    pub sees_all: bool,
    /// Until when it is in force, in milliseconds since the Unix epoch.
    pub expires_ms: Option<u64>,
}

/// An API key, without what it opens with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Key {
    /// What names it.
    pub id: String,
    /// For whom or what it is.
    pub name: String,
    /// What its holder may do.
    pub scopes: BTreeSet<Scope>,
    /// The groups of its holder.
    pub groups: BTreeSet<String>,
    /// Whether its holder sees every document.
    pub sees_all: bool,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Who made it.
    pub created_by: String,
    /// Until when it is in force, in milliseconds since the Unix epoch.
    pub expires_ms: Option<u64>,
    /// Since when it is out of force.
    pub revoked_ms: Option<u64>,
}

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// What may be told of it.
    #[serde(flatten)]
    pub key: Key,
    /// SHA-256 of the secret.
    #[serde(with = "hex::serde")]
    pub hash: [u8; 32],
}

impl NewKey {
    /// Makes a key: its record, and the key itself, which is known to nobody else and shown once.
    ///
    /// # Errors
    /// A sentence that names what is wrong with it.
    pub fn make(self, created_by: &str, now_ms: u64) -> Result<(KeyRecord, String), String> {
        if self.name.trim().is_empty() || self.name.len() > MAX_NAME_BYTES || self.name.chars().any(char::is_control) {
            return Err(format!("`name` says for whom the key is, with 1 to {MAX_NAME_BYTES} bytes"));
        }
        if self.scopes.is_empty() {
            return Err("`scopes` is empty: give some of ask, write, admin, metrics".into());
        }
        self.groups.iter().try_for_each(|group| validate_group(group))?;
        if self.expires_ms.is_some_and(|expires| expires <= now_ms) {
            return Err("`expires_ms` is in the past; it is milliseconds since 1970".into());
        }
        let random = |bytes: &mut [u8]| {
            getrandom::fill(bytes).map_err(|error| format!("the system gives no random numbers: {error}"))
        };
        let (mut id, mut secret) = ([0; 8], [0; 32]);
        random(&mut id)?;
        random(&mut secret)?;
        let (id, secret) = (hex::encode(id), hex::encode(secret));
        let key = format!("{KEY_PREFIX}{id}_{secret}");
        let Self { name, scopes, groups, sees_all, expires_ms } = self;
        let (created_ms, created_by) = (now_ms, created_by.to_owned());
        let told = Key { id, name, scopes, groups, sees_all, created_ms, created_by, expires_ms, revoked_ms: None };
        Ok((KeyRecord { key: told, hash: hash(&secret) }, key))
    }
}

impl KeyRecord {
    /// Whether this is its secret; takes as long for any.
    pub fn is_opened_by(&self, secret: &str) -> bool {
        hash(secret).ct_eq(&self.hash).into()
    }

    /// Why it is not in force; none where it is.
    pub fn out_of_force(&self, now_ms: u64) -> Option<&'static str> {
        if self.key.revoked_ms.is_some() {
            return Some("the API key was revoked");
        }
        self.key.expires_ms.filter(|expires| *expires <= now_ms).map(|_| "the API key has expired")
    }

    /// Its holder.
    pub fn caller(&self) -> Caller {
        let Key { id, scopes, groups, sees_all, .. } = &self.key;
        let sight = if *sees_all { Sight::All } else { Sight::Groups(groups.clone()) };
        Caller { name: format!("key:{id}").into(), scopes: scopes.clone().into(), sight: sight.into() }
    }
}

/// The id and the secret of a key.
pub fn parts(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(KEY_PREFIX)?.split_once('_')
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> NewKey {
        let (groups, expires_ms) = (BTreeSet::new(), Some(20));
        NewKey { name: "billing".into(), scopes: [Scope::Ask].into(), groups, sees_all: false, expires_ms }
    }

    #[test]
    fn a_key_opens_its_own_record_and_no_other() {
        let (record, key) = new().make("test", 10).expect("a key");
        let (other, _) = new().make("test", 10).expect("a key");
        let (id, secret) = parts(&key).expect("its parts");
        assert_eq!(id, record.key.id);
        assert!(record.is_opened_by(secret) && !other.is_opened_by(secret) && !record.is_opened_by(""));
        let kept = serde_json::to_string(&record).expect("JSON");
        let told = serde_json::to_string(&record.key).expect("JSON");
        assert!(!kept.contains(secret) && !told.contains("hash"));
    }

    #[test]
    fn a_key_is_in_force_until_it_expires_or_is_revoked() {
        let (mut record, _) = new().make("test", 10).expect("a key");
        assert_eq!(record.out_of_force(19), None);
        assert!(record.out_of_force(20).is_some_and(|why| why.contains("expired")));
        record.key.revoked_ms = Some(11);
        assert!(record.out_of_force(12).is_some_and(|why| why.contains("revoked")));
    }

    #[test]
    fn what_makes_no_key_is_refused() {
        for (wrong, said) in [
            (NewKey { name: " ".into(), ..new() }, "name"),
            (NewKey { scopes: BTreeSet::new(), ..new() }, "scopes"),
            (NewKey { groups: ["a,b".into()].into(), ..new() }, "group"),
            (NewKey { expires_ms: Some(9), ..new() }, "past"),
        ] {
            assert!(wrong.make("test", 10).expect_err("refused").contains(said), "{said}");
        }
    }
}
