//! What a JSON Web Token (RFC 7519) says, and whether it counts: signed with one of the keys that the identity provider
//! publishes (RFC 7517), for this audience, and in time. Only public keys count: a token that is signed with a shared
//! secret, or not at all, is refused. Where the keys come from, [`super::token`] knows.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::{Caller, Refused, Scope};
use crate::config::JwtConfig;
use crate::retrieval::sight::{Sight, validate_group};

/// How far clocks may be apart, in seconds.
const LEEWAY_S: u64 = 30;
/// Longest subject of a token, in bytes.
const SUBJECT_BYTES: usize = 256;
/// Most groups that a token can bring.
const MOST_GROUPS: usize = 1000;

fn invalid<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Invalid(why.into()))
}

/// The header of a token, which nothing vouches for yet.
///
/// # Errors
/// Where it is no token, or one that takes a shared secret.
pub fn header(token: &str) -> Result<Header, Refused> {
    let Ok(header) = decode_header(token) else {
        return invalid("this is neither an API key nor a JSON Web Token that can be read");
    };
    match is_public(header.alg) {
        true => Ok(header),
        false => invalid(format!("the token is signed with {:?}, which takes a shared secret", header.alg)),
    }
}

/// The claims of a token that one of these keys vouches for.
///
/// # Errors
/// Why it does not count.
pub fn verified(
    token: &str,
    header: &Header,
    keys: &JwkSet,
    config: &JwtConfig,
) -> Result<Map<String, Value>, Refused> {
    let Some(jwk) = named(keys, header.kid.as_deref()) else {
        return invalid("the token is signed with a key that its issuer does not publish");
    };
    // RFC 8725, section 3.1: a key that is for one algorithm is for no other.
    if jwk.common.key_algorithm.is_some_and(|algorithm| algorithm.to_string() != format!("{:?}", header.alg)) {
        return invalid("the token's algorithm is not the one that its key is for");
    }
    let key = DecodingKey::from_jwk(jwk).or_else(|error| invalid(format!("its key cannot be used: {error}")))?;
    let mut rules = Validation::new(header.alg);
    rules.leeway = LEEWAY_S;
    rules.validate_nbf = true;
    rules.set_issuer(&[&config.issuer]);
    rules.set_audience(&[&config.audience]);
    rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let read = decode::<Map<String, Value>>(token, &key, &rules);
    read.map(|read| read.claims).or_else(|error| invalid(format!("the token does not count: {error}")))
}

/// Who brings a token with these claims.
///
/// # Errors
/// Why it is not let in.
pub fn bearer(claims: &Map<String, Value>, config: &JwtConfig) -> Result<Caller, Refused> {
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

/// The keys that a provider publishes, those that can be used.
///
/// # Errors
/// What is wrong with the whole.
pub fn key_set(mut found: Value) -> Result<JwkSet, serde_json::Error> {
    // A key of a kind that nobody here knows, or one that is damaged, does no harm to the others.
    if let Some(keys) = found.get_mut("keys").and_then(Value::as_array_mut) {
        keys.retain(|key| serde_json::from_value(key.clone()).is_ok_and(|key| is_whole(&key)));
    }
    serde_json::from_value(found)
}

/// Whether a key is of a kind that is known, and as long as its curve needs. The library takes the first 32 bytes of a key
/// on Ed25519, and panics where there are fewer.
fn is_whole(key: &Jwk) -> bool {
    match &key.algorithm {
        AlgorithmParameters::OctetKeyPair(key) => URL_SAFE_NO_PAD.decode(&key.x).is_ok_and(|x| x.len() == 32),
        AlgorithmParameters::Other(_) => false,
        _ => true,
    }
}

/// The key that a token names; a token that names none is signed with the only one.
pub fn named<'k>(keys: &'k JwkSet, name: Option<&str>) -> Option<&'k Jwk> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_that_is_damaged_or_unknown_leaves_the_others() {
        let key = |name: &str, bytes: usize| json!({ "kty": "OKP", "crv": "Ed25519", "kid": name, "x": URL_SAFE_NO_PAD.encode(vec![9; bytes]) });
        let published = json!({ "keys": [key("short", 1), key("empty", 0), key("long", 33), { "kty": "new" }, 7, key("whole", 32)] });
        let keys = key_set(published).expect("keys");
        let names: Vec<_> = keys.keys.iter().map(|key| key.common.key_id.as_deref()).collect();
        assert_eq!(names, [Some("whole")]);
        // Neither is a token of theirs.
        let token = format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"short"}"#));
        let read = verified(&token, &header(&token).expect("a header"), &keys, &JwtConfig::default());
        assert!(matches!(&read, Err(Refused::Invalid(why)) if why.contains("does not publish")), "{read:?}");
    }
}
