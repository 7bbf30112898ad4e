//! What is seen of each request from outside: its id, its trace, its time and its end, in the log, the traces and the metrics.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use opentelemetry::KeyValue;
use opentelemetry::trace::{Status, TraceContextExt};
use tracing::field::Empty;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::app::App;
use crate::telemetry::trace::{self, Carried};

/// By this header a caller gives its request an id, and hears the one that it has.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken from a caller.
const ID_LENGTH: usize = 128;
/// Addresses that are asked all the time: their requests are logged only as details.
const PROBES: [&str; 4] = ["/healthz", "/readyz", "/startupz", "/metrics"];

/// An id for a request without one.
pub fn new_id() -> uuid::fmt::Simple {
    uuid::Uuid::now_v7().simple()
}

/// Stands before everything else.
///
/// # Errors
/// Those of the service.
pub async fn observe<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Observed<B>>, Error> {
    let began = Instant::now();
    let app = request.app_data::<web::Data<App>>().cloned();
    let id = match own_id(request.headers()) {
        Some(id) => id.clone(),
        None => HeaderValue::try_from(new_id().to_string()).unwrap_or(HeaderValue::from_static("none")),
    };
    let above = trace::carried(&Carried::of(|name| request.headers().get(name)?.to_str().ok()));
    let span = trace::begin(above, || {
        tracing::error_span!(
            "request",
            request_id = id.to_str().unwrap_or_default(),
            trace_id = Empty,
            caller = Empty,
            otel.kind = "server",
        )
    });
    let mut response = next.call(request).instrument(span.clone()).await?;
    response.headers_mut().insert(REQUEST_ID, id);
    let (method, route, status) = {
        let request = response.request();
        // An address as it is written would be a name of its own for each document.
        let route = request.match_pattern().unwrap_or_else(|| "none".to_owned());
        (request.method().clone(), route, response.status())
    };
    describe(&span, method.as_str(), &route, status);
    let elapsed = began.elapsed();
    if let Some(app) = app {
        app.metrics.request(method.as_str(), &route, status.as_u16(), elapsed);
    }
    span.in_scope(|| {
        let (method, status, ms) = (method.as_str(), status.as_u16(), elapsed.as_millis() as u64);
        match status {
            // What was refused is news to whoever runs the service.
            400.. if !PROBES.contains(&route.as_str()) => tracing::info!(method, route, status, ms, "a request failed"),
            _ => tracing::debug!(method, route, status, ms, "a request"),
        }
    });
    Ok(response.map_body(|_, body| Observed { body, span }))
}

/// Tells the traces of a request what OpenTelemetry's conventions for HTTP want to know. The log has it in its own way.
fn describe(span: &Span, method: &str, route: &str, status: StatusCode) {
    let context = span.context();
    let traced = context.span();
    if !traced.is_recording() {
        return;
    }
    traced.update_name(format!("{method} {route}"));
    traced.set_attributes([
        KeyValue::new("http.request.method", method.to_owned()),
        KeyValue::new("http.route", route.to_owned()),
        KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
    ]);
    if status.is_server_error() {
        traced.set_status(Status::error(""));
    }
}

/// The id that a caller gave, if it is one.
fn own_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(REQUEST_ID).filter(|id| {
        let id = id.as_bytes();
        let fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
        !id.is_empty() && id.len() <= ID_LENGTH && id.iter().all(fit)
    })
}

pin_project_lite::pin_project! {
    /// A body whose request's span ends with it: a stream's once it was streamed.
    pub struct Observed<B> {
        #[pin]
        body: B,
        span: Span,
    }
}

impl<B: MessageBody> MessageBody for Observed<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<web::Bytes, Self::Error>>> {
        let this = self.project();
        // The end of a span is where it was left last.
        let _here = this.span.enter();
        this.body.poll_next(context)
    }

    fn try_into_bytes(self) -> Result<web::Bytes, Self> {
        let Self { body, span } = self;
        body.try_into_bytes().map_err(|body| Self { body, span })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_a_caller_is_taken_where_it_is_one() {
        let taken = |id: &'static [u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).expect("a header"));
            own_id(&headers).is_some()
        };
        assert!(taken(b"a-1_B.c:d/e+f=") && taken(&[b'x'; ID_LENGTH]));
        assert!(!taken(b"") && !taken(b"a b") && !taken(b"a\"b") && !taken("ä".as_bytes()));
        assert!(!taken(&[b'x'; ID_LENGTH + 1]) && own_id(&HeaderMap::new()).is_none());
    }
}
