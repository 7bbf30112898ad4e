//! What stands before every request: how large its head may be, by which name it may call this service, and from the pages of
//! which other sites it may come.

use std::net::Ipv4Addr;

use actix_cors::Cors;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use url::Url;

use super::auth::in_its_form;
use super::error::{Kind, Problem};
use crate::app::App;
use crate::config::ServerConfig;

/// How long a browser need not ask again whether a page may call, in seconds.
const PREFLIGHT_S: usize = 600;

/// Refuses a request whose head is larger than `[server] max_header_bytes`. The parser below it has bounds of its own (128 KiB
/// and 96 headers).
///
/// # Errors
/// Those of the service.
pub async fn limit_head<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let limit = request.app_data::<web::Data<App>>().map_or(usize::MAX, |app| app.config().server.max_header_bytes);
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    // A line has a colon, a space and its end besides.
    let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let bytes = target + lines.sum::<usize>();
    if bytes > limit {
        let detail =
            format!("the head of the request has {bytes} bytes, the limit is {limit} ([server] max_header_bytes)");
        let response = in_its_form(request.path(), Problem::new(Kind::HeadTooLarge, detail));
        return Ok(request.into_response(response.map_into_right_body()));
    }
    Ok(next.call(request).await?.map_into_left_body())
}

/// Lets the pages of these sites call from a browser (Cross-Origin Resource Sharing, <https://fetch.spec.whatwg.org/>). No
/// cookie is ever sent along: a page brings its key by itself.
pub fn cors(origins: &[String]) -> Cors {
    origins
        .iter()
        .fold(Cors::default(), |cors, origin| cors.allowed_origin(origin))
        .allowed_methods(["GET", "POST", "PUT", "DELETE"])
        .allowed_headers([
            "accept",
            "authorization",
            "cache-control",
            "content-type",
            "last-event-id",
            "traceparent",
            "tracestate",
            "x-api-key",
            "x-request-id",
        ])
        .expose_headers([
            "location",
            "ratelimit-limit",
            "ratelimit-remaining",
            "ratelimit-reset",
            "retry-after",
            "x-request-id",
        ])
        .max_age(PREFLIGHT_S)
}

/// Refuses what a browser sends for a page of another site than this one and those of `[server] allowed_origins`. CORS only
/// keeps such a page from reading the response: what the request did would be done, by whoever is on the same machine or behind
/// the same proxy. And where there is no identity, because nobody else can reach the service, refuses a name that a page may
/// have made lead here (DNS rebinding).
///
/// # Errors
/// Those of the service.
pub async fn refuse_other_sites<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let trouble = request.app_data::<web::Data<App>>().and_then(|app| {
        let config = app.config();
        let ServerConfig { bind, allowed_origins, .. } = &config.server;
        let open = !config.identity.enabled && bind.ip().is_loopback();
        if open && !is_known_name(request.headers(), allowed_origins) {
            return Some(
                "the Host of the request is no name of this machine: without [identity] only addresses, localhost and the hosts \
                 of [server] allowed_origins are served",
            );
        }
        // What only reads may come from anywhere: its response is for nobody else. A WebSocket does more, and says it is a GET.
        let reads = request.method().is_safe() && !request.headers().contains_key(header::UPGRADE);
        (!reads && is_of_another_site(request.headers(), allowed_origins)).then_some(
            "a page of another site sent the request: its Origin is not this service's, and not one of [server] \
             allowed_origins",
        )
    });
    if let Some(detail) = trouble {
        let response = in_its_form(request.path(), Problem::new(Kind::OtherSite, detail));
        return Ok(request.into_response(response.map_into_right_body()));
    }
    Ok(next.call(request).await?.map_into_left_body())
}

/// Whether a browser sends a request for a page of another site than its own and these. The browser's own word counts
/// (<https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header>); where it says none, which is so for plain HTTP beyond this
/// machine and for programs, the origin must be of the host that was called, as in `net/http`'s `CrossOriginProtection` of Go.
fn is_of_another_site(headers: &HeaderMap, origins: &[String]) -> bool {
    let text = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let origin = text("origin");
    if origin.is_some_and(|origin| origins.iter().any(|known| known.as_bytes() == origin)) {
        return false;
    }
    match (text("sec-fetch-site"), origin) {
        (Some(site), _) => ![b"same-origin".as_slice(), b"none"].contains(&site),
        (None, None) => false,
        (None, Some(origin)) => {
            let site = origin.split(|byte| *byte == b'/').nth(2).unwrap_or_default();
            !text("host").is_some_and(|host| host.eq_ignore_ascii_case(site))
        }
    }
}

/// Whether the host that is called is an address, this machine's own name for itself, or the host of one of these origins.
fn is_known_name(headers: &HeaderMap, origins: &[String]) -> bool {
    // Not a browser's.
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let address = name.parse::<Ipv4Addr>().is_ok() || name.starts_with('[');
    let hosts = || origins.iter().filter_map(|origin| Url::parse(origin).ok()?.host_str().map(str::to_owned));
    address || name == "localhost" || name.ends_with(".localhost") || hosts().any(|known| known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_request_for_a_page_of_another_site_is_told_from_all_others() {
        let known = ["https://intranet.example.com".to_owned()];
        let other = |lines: &[(&'static str, &'static str)]| is_of_another_site(&headers(lines), &known);
        let host = ("host", "ai.example.com");
        // Programs.
        assert!(!other(&[host]));
        // A browser over HTTPS, or on this machine; behind a proxy that calls the service by another name.
        assert!(!other(&[
            ("host", "answerd:8080"),
            ("origin", "https://ai.example.com"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(!other(&[host, ("sec-fetch-site", "none")]));
        assert!(other(&[host, ("origin", "https://ai.example.com"), ("sec-fetch-site", "cross-site")]));
        assert!(other(&[host, ("origin", "https://www.example.com"), ("sec-fetch-site", "same-site")]));
        assert!(!other(&[host, ("origin", "https://intranet.example.com"), ("sec-fetch-site", "cross-site")]));
        // A browser over plain HTTP, and older ones.
        assert!(!other(&[host, ("origin", "http://AI.example.com")]));
        for origin in
            ["http://ai.example.com:81", "https://evil.example", "null", "", "https://ai.example.com.evil.example"]
        {
            assert!(other(&[host, ("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn a_name_that_others_may_lead_here_is_none_of_this_machine() {
        let known = ["https://ai.example.com:8443".to_owned()];
        let name = |host: &'static str| is_known_name(&headers(&[("host", host)]), &known);
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "app.localhost",
            "127.0.0.1:8080",
            "[::1]:8080",
            "10.0.0.7",
            "ai.example.com",
        ] {
            assert!(name(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "evil.example:8080", ""] {
            assert!(!name(host), "{host}");
        }
        assert!(is_known_name(&HeaderMap::new(), &known));
    }
}
