//! Who calls: API keys, tokens and their signatures, what a provider publishes, what a token says.
//!
//! Input: a credential, the provider's keys as JSON, the claims of a token as JSON, the record of a key as JSON, between
//! separators. `identity/` has keys whose private halves nobody has any more, and all tokens that were signed with them.
#![no_main]

use std::sync::LazyLock;

use answerd_fuzz::config::JwtConfig;
use answerd_fuzz::harness::texts;
use answerd_fuzz::identity::claims::{bearer, header, key_set, named, verified};
use answerd_fuzz::identity::key::{KEY_PREFIX, KeyRecord, parts};
use answerd_fuzz::identity::{Caller, Refused, Scope};
use answerd_fuzz::retrieval::sight::{Sight, validate_group};
use jsonwebtoken::jwk::JwkSet;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

const TOKENS: &str = include_str!("../identity/tokens.txt");

static CONFIG: LazyLock<JwtConfig> = LazyLock::new(|| JwtConfig {
    issuer: "https://id.example.com".to_owned(),
    groups_claim: "realm.roles".to_owned(),
    ask: vec!["*".to_owned()],
    write: vec!["writers".to_owned()],
    admin: vec!["admins".to_owned()],
    sees_all: vec!["auditors".to_owned()],
    ..JwtConfig::default()
});

static KEYS: LazyLock<JwkSet> = LazyLock::new(|| {
    key_set(serde_json::from_str(include_str!("../identity/keys.json")).expect("JSON")).expect("keys")
});

fuzz_target!(init: check_setup(), |input: &[u8]| {
    let mut texts = texts(input);
    let mut next = || texts.next().unwrap_or_default();
    let credential = next();
    check_key(&credential);
    check_token(&credential, &next());
    if let Ok(claims) = serde_json::from_str(&next()) {
        check_claims(&claims);
    }
    if let Ok(record) = serde_json::from_str(&next()) {
        check_record(&record);
    }
});

/// What was signed counts: else nothing would be found below.
fn check_setup() {
    for token in TOKENS.lines() {
        let header = header(token).expect("a token");
        verified(token, &header, &KEYS, &CONFIG).expect("a token that counts");
    }
}

fn check_key(credential: &str) {
    if let Some((id, secret)) = parts(credential) {
        assert_eq!(format!("{KEY_PREFIX}{id}_{secret}"), credential);
    }
}

fn check_token(token: &str, published: &str) {
    let Ok(header) = header(token) else { return };
    if let Ok(claims) = verified(token, &header, &KEYS, &CONFIG) {
        // The signature is Base64 at last, of which a few bits may say nothing; all before it is what was signed.
        let signed = |token: &str| token.rsplit_once('.').map(|(signed, _)| signed.to_owned());
        assert!(TOKENS.lines().any(|known| signed(known) == signed(token)), "forged: {token}");
        bearer(&claims, &CONFIG).expect("somebody");
    }
    if let Ok(keys) = serde_json::from_str(published).and_then(key_set) {
        named(&keys, header.kid.as_deref());
        let _: Result<Map<String, Value>, Refused> = verified(token, &header, &keys, &CONFIG);
        // Whichever key the token names.
        for name in keys.keys.iter().filter_map(|key| key.common.key_id.clone()) {
            let header = jsonwebtoken::Header { kid: Some(name), ..header.clone() };
            let _ = verified(token, &header, &keys, &CONFIG);
        }
    }
}

fn check_claims(claims: &Map<String, Value>) {
    let Ok(Caller { name, scopes, sight }) = bearer(claims, &CONFIG) else { return };
    let subject = claims["sub"].as_str().expect("a subject");
    assert_eq!(&*name, format!("user:{subject}"));
    assert!(scopes.contains(&Scope::Ask) && !scopes.contains(&Scope::Metrics), "{scopes:?}");
    if let Sight::Groups(groups) = &*sight {
        let others = groups.iter().filter(|group| **group != *name);
        assert!(groups.contains(&*name), "{groups:?}");
        for group in others {
            assert!(!group.starts_with("user:"), "another's: {group:?}");
            assert_eq!(validate_group(group), Ok(()));
        }
    }
}

fn check_record(record: &KeyRecord) {
    let again = serde_json::to_string(record).expect("JSON");
    assert_eq!(serde_json::from_str::<KeyRecord>(&again).ok().as_ref(), Some(record));
    assert!(serde_json::json!(record.key).get("hash").is_none());
    assert!(!record.is_opened_by(""), "of which nobody knows the secret");
    assert_eq!(
        record.out_of_force(u64::MAX).is_some(),
        record.key.revoked_ms.is_some() || record.key.expires_ms.is_some()
    );
    assert_eq!(record.caller().sight.sees(&Default::default()), true);
}
