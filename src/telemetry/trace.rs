//! Traces: spans sent to a collector by OTLP over HTTP (<https://opentelemetry.io/docs/specs/otlp/>), and the context of a
//! trace on its way into the process and out of it (W3C Trace Context, <https://www.w3.org/TR/trace-context/>).

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dashmap::DashMap;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanKind, TraceContextExt, TraceFlags, TraceState, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, SdkTracerProvider, ShouldSample,
};
use parking_lot::Mutex;
use tracing::subscriber::Interest;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

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
            // It is given what is to be taken only: see `begin`.
            .with_sampler(Sampler::AlwaysOn)
            .build();
        let by_ratio = Sampler::TraceIdRatioBased(config.sample);
        let _ = SAMPLER.set(Sampler::ParentBased(Box::new(by_ratio)));
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
            // Nothing here asks OpenTelemetry what is going on on a thread: that is what `tracing` is asked.
            .with_context_activation(false)
            .with_filter(
                // A step is taken where what it is a step of is.
                dynamic_filter_fn(|_, around| BEGINNING.get().unwrap_or_else(|| around.lookup_current().is_some()))
                    .with_callsite_filter(|about| match about.is_span() && about.target().starts_with("answerd") {
                        true => Interest::sometimes(),
                        false => Interest::never(),
                    }),
            )
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

thread_local! {
    /// Whether the first span of a piece of work, which is being made on this thread, is to be taken.
    static BEGINNING: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Decides which traces are taken; nothing where none are.
static SAMPLER: OnceLock<Sampler> = OnceLock::new();

/// Which trace work belongs to that is not taken, kept beside the first span of it: it is told on, so that no other service
/// begins a trace in the middle.
struct Untaken(SpanContext);

/// The trace that a request or message came with; empty where there is none.
pub fn carried(carried: &Carried<'_>) -> Context {
    match carried.parent {
        Some(_) => TraceContextPropagator::new().extract(carried),
        None => Context::new(),
    }
}

/// The trace that work in a span belongs to, for what goes on with it elsewhere; empty where there is none.
pub fn of(span: &Span) -> Context {
    let context = span.context();
    if context.span().span_context().is_valid() {
        return context;
    }
    let untaken = span.with_subscriber(|(id, dispatch)| {
        let work = dispatch.downcast_ref::<Registry>()?.span(id)?;
        work.scope().find_map(|span| span.extensions().get::<Untaken>().map(|untaken| untaken.0.clone()))
    });
    untaken.flatten().map_or_else(Context::new, |untaken| Context::new().with_remote_span_context(untaken))
}

/// Makes the first span of a piece of work here, going on with a trace or beginning one, and names that in its field
/// `trace_id`, for the log. Whether the trace is taken is decided now, so that one that is not costs next to nothing.
pub fn begin(above: Context, make: impl FnOnce() -> Span) -> Span {
    let Some(sampler) = SAMPLER.get() else { return make() };
    let known = above.span().span_context().clone();
    let ids = RandomIdGenerator::default();
    let drawn = if known.is_valid() { known.trace_id() } else { ids.new_trace_id() };
    let sampled = sampler.should_sample(Some(&above), drawn, "", &SpanKind::Internal, &[], &[]);
    let taken = sampled.decision == SamplingDecision::RecordAndSample;
    BEGINNING.set(Some(taken));
    let span = make();
    BEGINNING.set(None);
    let id = if taken {
        if known.is_valid() {
            // It was just made, and has no parent yet.
            let _ = span.set_parent(above);
        }
        span.context().span().span_context().trace_id()
    } else {
        let untaken = match known.is_valid() {
            true => known,
            false => SpanContext::new(drawn, ids.new_span_id(), TraceFlags::NOT_SAMPLED, false, TraceState::NONE),
        };
        span.with_subscriber(|(id, dispatch)| {
            if let Some(work) = dispatch.downcast_ref::<Registry>().and_then(|registry| registry.span(id)) {
                work.extensions_mut().insert(Untaken(untaken));
            }
        });
        drawn
    };
    span.record("trace_id", tracing::field::display(id));
    span
}

/// The span of a step, or that of the work around it, where no steps are taken: what is said of the step, in the log or to
/// another service, still names what it belongs to.
pub fn or_around(step: Span) -> Span {
    if step.is_disabled() { Span::current() } else { step }
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
    TraceContextPropagator::new().inject_context(&of(span), &mut pairs);
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
            super::carried(&carried).span().span_context().clone()
        };
        let known = context("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert!(known.is_valid() && known.is_sampled() && known.is_remote());
        assert_eq!(known.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        for wrong in ["", "00-0-0-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "zz"] {
            assert!(!context(wrong).is_valid(), "{wrong}");
        }
    }
}
