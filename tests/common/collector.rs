//! A collector of traces: it takes OTLP over HTTP, and tells which spans came.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use parking_lot::Mutex;
use prost::Message;

use super::PATIENCE;

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty where it begins a trace.
    pub parent: String,
    /// The traces and spans it is linked to.
    pub links: Vec<(String, String)>,
    pub attributes: HashMap<String, String>,
    pub failed: bool,
    /// In nanoseconds since the Unix epoch.
    pub time: std::ops::Range<u64>,
    /// The service that sent it.
    pub service: String,
}

/// A running collector. Its thread ends with the test's process.
pub struct Collector {
    pub address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    away: Arc<AtomicBool>,
}

impl Collector {
    pub fn start() -> Self {
        let (spans, away) = (Arc::<Mutex<Vec<Span>>>::default(), Arc::<AtomicBool>::default());
        let (sender, receiver) = std::sync::mpsc::channel();
        let shared = (Arc::clone(&spans), Arc::clone(&away));
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    let (spans, away) = shared.clone();
                    let take = move |request: HttpRequest, body: web::Bytes| {
                        let (spans, away) = (Arc::clone(&spans), Arc::clone(&away));
                        async move {
                            if away.load(Ordering::Relaxed) {
                                return HttpResponse::BadRequest().finish();
                            }
                            assert_eq!(
                                request.headers().get("content-type").expect("a type"),
                                "application/x-protobuf"
                            );
                            let sent = ExportTraceServiceRequest::decode(body).expect("OTLP");
                            spans.lock().extend(read(sent));
                            let answer = ExportTraceServiceResponse::default().encode_to_vec();
                            HttpResponse::Ok().content_type("application/x-protobuf").body(answer)
                        }
                    };
                    App::new().route("/v1/traces", web::post().to(take))
                });
                let server = server.workers(1).bind(("127.0.0.1", 0)).expect("a port");
                sender.send(server.addrs()[0]).expect("somebody waits");
                server.run().await
            })
        });
        Self { address: receiver.recv().expect("an address"), spans, away }
    }

    /// The settings of an answerd that sends its traces here.
    pub fn settings(&self) -> String {
        format!("traces.endpoint=http://{}", self.address)
    }

    /// Whether it refuses what comes.
    pub fn refuse(&self, refuses: bool) {
        self.away.store(refuses, Ordering::Relaxed);
    }

    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().clone()
    }

    /// Waits for a span: spans come in batches, some seconds after they ended.
    pub async fn span(&self, what: &str, is: impl Fn(&Span) -> bool) -> Span {
        let began = Instant::now();
        loop {
            if let Some(span) = self.spans().into_iter().find(|span| is(span)) {
                return span;
            }
            assert!(began.elapsed() < PATIENCE, "no span came: {what}; there are {:#?}", self.spans());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

fn read(sent: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource in sent.resource_spans {
        let about = attributes(resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let service = about.get("service.name").cloned().unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                name: span.name,
                trace: hex::encode(span.trace_id),
                id: hex::encode(span.span_id),
                parent: hex::encode(span.parent_span_id),
                links: span
                    .links
                    .iter()
                    .map(|link| (hex::encode(&link.trace_id), hex::encode(&link.span_id)))
                    .collect(),
                attributes: attributes(span.attributes),
                failed: span.status.is_some_and(|status| status.code == 2),
                time: span.start_time_unix_nano..span.end_time_unix_nano,
                service: service.clone(),
            });
        }
    }
    spans
}

fn attributes(pairs: Vec<KeyValue>) -> HashMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(value)) => value.to_string(),
        other => format!("{other:?}"),
    };
    pairs.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}
