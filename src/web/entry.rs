//! What stands before every request: how large its head may be, and from the pages of which other sites it may come.

use actix_cors::Cors;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header;
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, web};

use super::auth::in_its_form;
use super::error::{Kind, Problem};
use crate::app::App;

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

/// Whether a browser sends the request for a page of another site than its own and these: WebSockets are open to all of them
/// otherwise.
pub fn is_of_another_site(request: &HttpRequest, origins: &[String]) -> bool {
    let text = |name: header::HeaderName| request.headers().get(name).map(header::HeaderValue::as_bytes);
    let Some(origin) = text(header::ORIGIN) else { return false };
    let site = origin.split(|byte| *byte == b'/').nth(2).unwrap_or_default();
    let own = text(header::HOST).is_some_and(|host| host.eq_ignore_ascii_case(site));
    !own && !origins.iter().any(|known| known.as_bytes() == origin)
}
