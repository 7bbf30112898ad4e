//! Who calls, as far as it can be told: for fairness between callers and for the record of usage.

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header;
use sha2::{Digest, Sha256};

use crate::asking::BY_KEY;

/// A name for the key in the request, from which the key cannot be had, or for the address it comes from.
pub fn caller(request: &HttpRequest) -> Arc<str> {
    let header = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let key = header(header::AUTHORIZATION).map(|value| value.trim_start_matches("Bearer ").trim());
    let key = key.or_else(|| header(header::HeaderName::from_static("x-api-key")));
    match (key, request.peer_addr()) {
        (Some(key), _) => format!("{BY_KEY}{}", hex::encode(&Sha256::digest(key.as_bytes())[..8])).into(),
        (None, Some(address)) => format!("ip:{}", address.ip()).into(),
        (None, None) => "unknown".into(),
    }
}

/// Whether a browser sends the request for a page of another site: WebSockets are open to all of them otherwise.
pub fn is_of_another_site(request: &HttpRequest) -> bool {
    let text = |name: header::HeaderName| request.headers().get(name).map(header::HeaderValue::as_bytes);
    let Some(origin) = text(header::ORIGIN) else { return false };
    let site = origin.split(|byte| *byte == b'/').nth(2).unwrap_or_default();
    text(header::HOST).is_none_or(|host| !host.eq_ignore_ascii_case(site))
}
