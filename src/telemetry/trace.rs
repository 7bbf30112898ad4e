//! Traces: spans sent to a collector by OTLP over HTTP (<https://opentelemetry.io/docs/specs/otlp/>), and the context of a
//! trace on its way into the process and out of it (W3C Trace Context, <https://www.w3.org/TR/trace-context/>).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dashmap::DashMap;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use parking_lot::Mutex;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use crate::config::TracesConfig;

/// Where OTLP takes spans, below the address of a collector.
const PATH: &str = "/v1/traces";
/// Time for sending what is left at the end.
const LAST: Duration = Duration::from_secs(3);

/// Sends spans to a collector.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Begins to collect spans, and to send them in batches on a thread of its own. Whom OpenTelemetry's own variables
    /// name (`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`) is heeded.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn start(config: &TracesConfig) -> Result<Self, String> {
        let endpoint = match config.endpoint.trim_end_matches('/') {
            whole if whole.ends_with(PATH) => whole.to_owned(),
            base => format!("{base}{PATH}"),
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&endpoint)
            .with_http_client(Client::new(&endpoint, Duration::from_millis(config.timeout_ms))?)
            .build()
            .map_err(|error| format!("no traces can be sent to {endpoint} ([traces]): {error}"))?;
        let resource = Resource::builder()
            .with_service_name(config.service.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample))))
            .build();
        Ok(Self(provider))
    }

    /// What makes spans of the process's own.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'s> LookupSpan<'s> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("answerd"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|about| about.is_span() && about.target().starts_with("answerd")))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST) {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

/// Sends what the exporter's thread has, on that thread.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    endpoint: String,
    failing: AtomicBool,
}

impl Client {
    fn new(endpoint: &str, timeout: Duration) -> Result<Self, String> {
        let http = crate::http::client_builder(None)?.timeout(timeout).redirect(reqwest::redirect::Policy::none());
        // Between two batches nobody would notice that a connection was closed.
        let http = http.pool_max_idle_per_host(0);
        Ok(Self {
            http: http.build().map_err(|error| format!("cannot make an HTTP client: {error}"))?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| format!("no traces can be sent: {error}"))?,
            endpoint: endpoint.to_owned(),
            failing: AtomicBool::new(false),
        })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let response = self.http.execute(request.try_into()?).await?;
        let mut answer = Response::builder().status(response.status());
        if let Some(headers) = answer.headers_mut() {
            headers.clone_from(response.headers());
        }
        Ok(answer.body(response.bytes().await?)?)
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter has a thread and no runtime: it waits in any case.
        let answer = self.runtime.block_on(self.send(request));
        let trouble = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        // A collector that is away is no news with each batch.
        match trouble {
            Some(reason) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    endpoint = self.endpoint,
                    reason,
                    "traces cannot be sent; until they can, spans are lost"
                );
            }
            None if self.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!(endpoint = self.endpoint, "traces are sent again");
            }
            _ => {}
        }
        answer
    }
}

/// The headers of a request or a message that say which trace it belongs to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried<'h> {
    /// `traceparent`
    pub parent: Option<&'h str>,
    /// `tracestate`
    pub state: Option<&'h str>,
}

impl<'h> Carried<'h> {
    /// Looks for them.
    pub fn of(header: impl Fn(&str) -> Option<&'h str>) -> Self {
        Self { parent: header("traceparent"), state: header("tracestate") }
    }
}

impl Extractor for Carried<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.parent,
            "tracestate" => self.state,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// Has a span, just made, belong to the trace that its request or message came with, and names that in the log.
pub fn adopt(span: &Span, carried: &Carried<'_>) {
    if carried.parent.is_some() {
        follow(span, TraceContextPropagator::new().extract(carried));
    }
    name(span);
}

/// Has a span, just made, belong to a trace.
pub fn follow(span: &Span, context: Context) {
    // A span that nobody takes has no parent to set, and none of another trace has one already.
    let _ = span.set_parent(context);
}

/// Writes the trace of a span that has a field `trace_id` into that field, for the log.
pub fn name(span: &Span) {
    let context = span.context();
    let context = context.span().span_context().clone();
    if context.is_valid() {
        span.record("trace_id", tracing::field::display(context.trace_id()));
    }
}

/// The headers that carry a span's trace on to another service: none where there is no trace.
pub fn headers(span: &Span) -> Vec<(String, String)> {
    struct Pairs(Vec<(String, String)>);
    impl Injector for Pairs {
        fn set(&mut self, key: &str, value: String) {
            if !value.is_empty() {
                self.0.push((key.to_owned(), value));
            }
        }
    }
    let mut pairs = Pairs(Vec::new());
    TraceContextPropagator::new().inject_context(&span.context(), &mut pairs);
    pairs.0
}

/// How the last versions of documents came here: an answer names those of its passages.
#[derive(Default)]
pub struct Origins {
    spans: DashMap<String, SpanContext>,
    order: Mutex<VecDeque<String>>,
}

/// Documents that are remembered.
const REMEMBERED: usize = 20_000;

impl Origins {
    /// Remembers the span in which a document was taken in.
    pub fn remember(&self, document: &str, span: &Span) {
        let context = span.context().span().span_context().clone();
        if !context.is_sampled() {
            // What is served now came in another way than what came before.
            self.spans.remove(document);
            return;
        }
        if self.spans.insert(document.to_owned(), context).is_some() {
            return;
        }
        let mut order = self.order.lock();
        order.push_back(document.to_owned());
        if order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            drop(order);
            self.spans.remove(&oldest);
        }
    }

    /// Links a span to those in which these documents were taken in.
    pub fn link<'d>(&self, span: &Span, documents: impl Iterator<Item = &'d str>) {
        if span.is_disabled() || self.spans.is_empty() {
            return;
        }
        let mut seen = Vec::new();
        for document in documents {
            if !seen.contains(&document)
                && let Some(context) = self.spans.get(document)
            {
                span.add_link(context.clone());
            }
            seen.push(document);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_adopted_from_its_header_and_from_nothing_else() {
        let context = |header: &str| {
            let carried = Carried { parent: Some(header), state: None };
            TraceContextPropagator::new().extract(&carried).span().span_context().clone()
        };
        let known = context("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert!(known.is_valid() && known.is_sampled() && known.is_remote());
        assert_eq!(known.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        for wrong in ["", "00-0-0-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "zz"] {
            assert!(!context(wrong).is_valid(), "{wrong}");
        }
    }
}
