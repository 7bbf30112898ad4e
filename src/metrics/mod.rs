//! Every metric, declared once, for `/metrics` (OpenMetrics text).
//!
//! What language models do has the names, attributes and buckets of the OpenTelemetry conventions for generative AI
//! (<https://github.com/open-telemetry/semantic-conventions-genai>, as it stood in November 2026), in the spelling that
//! OpenTelemetry gives them for Prometheus: dots are underscores, and a unit is part of the name. All else begins with
//! `answerd_`.

mod actors;

use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use self::actors::{Actors, set};
use crate::actors::stats::ActorStatus;
use crate::freshness::AsOf;
use crate::stores::document_store::StoreCounts;
use crate::usage::{Outcome, UsageRecord};

/// Seconds of a request.
const DURATION: [f64; 14] = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// Seconds to the first token.
const FIRST_TOKEN: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Seconds of a token after the first.
const OUTPUT_TOKEN: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

/// Seconds of a request for which no convention has buckets: those of OpenTelemetry for HTTP
/// (`http.server.request.duration`).
const REQUEST: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The attributes of a request to a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    gen_ai_operation_name: &'static str,
    gen_ai_provider_name: String,
    gen_ai_request_model: String,
    /// The kind of problem it failed with; empty where it did not.
    error_type: String,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    model: String,
}

/// How an answer came about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheEvent {
    event: &'static str,
}

/// An address, as it is registered: `/v1/documents/{id}`, and `none` for what is at none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: &'static str,
    route: String,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Response {
    method: &'static str,
    route: String,
    status: u16,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

/// How far documents are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

/// The program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// How many sequences a model has in each state; the names are those of the admission's description.
const SEQUENCES: [&str; 5] = ["waiting", "waiting_prompt_tokens", "running", "parked", "slots"];

/// The metrics of the process; see the module.
pub struct Metrics {
    registry: Registry,
    duration: Family<Request, Histogram>,
    first_token: Family<Request, Histogram>,
    output_token: Family<Request, Histogram>,
    input_tokens: Family<Request, Counter>,
    output_tokens: Family<Request, Counter>,
    cached_tokens: Family<Request, Counter>,
    sequences: [Family<Model, Gauge>; SEQUENCES.len()],
    refused: Family<Model, Counter>,
    cache: Family<CacheEvent, Counter>,
    cache_bytes: Gauge,
    cache_entries: Gauge,
    requests: Family<Response, Counter>,
    request_duration: Family<Route, Histogram>,
    answers: Family<Ended, Counter>,
    answers_open: Gauge,
    answers_kept: Gauge,
    events: Counter,
    actors: Actors,
    ready: Gauge,
    degraded: Gauge,
    cpu: Counter<f64, std::sync::atomic::AtomicU64>,
    seq: Gauge,
    lag_events: Gauge,
    lag_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
    documents: Gauge,
    documents_by_status: Family<Status, Gauge>,
    chunks: Gauge,
    dead_letters: Gauge,
    resident_bytes: Gauge,
    recent: Mutex<Recent>,
}

/// What ended since it was asked last, for the charts of the admin page.
#[derive(Debug, Default)]
pub struct Recent {
    /// Answers, by how they ended.
    pub ok: u64,
    /// Cancelled, or left by their readers.
    pub cancelled: u64,
    /// Failed.
    pub failed: u64,
    /// Tokens of prompts that a model was given.
    pub input_tokens: u64,
    /// Tokens that a model generated.
    pub output_tokens: u64,
    /// To the first token, in milliseconds; of the latest ones.
    pub first_token_ms: Vec<f64>,
    /// A token after the first, in milliseconds; of the latest ones.
    pub token_ms: Vec<f64>,
}

/// Latencies that are remembered for the next look.
const RECENT: usize = 4096;

/// What is looked up when the metrics are read.
pub struct Snapshot {
    /// What the store holds, and how fresh it is; none where it does not answer.
    pub store: Option<(StoreCounts, AsOf)>,
    /// Events that were given up.
    pub dead_letters: u64,
    /// Events that were taken from the bus.
    pub events_taken: u64,
    /// Memory of the process.
    pub resident_bytes: u64,
    /// Processor time of the process since its start.
    pub cpu: Duration,
    /// The actors.
    pub actors: Vec<ActorStatus>,
    /// Whether the service is ready.
    pub ready: bool,
    /// How many of its parts work only in part.
    pub degraded: usize,
    /// Answers that are open.
    pub answers_open: usize,
    /// Answers that can be read, ended ones among them.
    pub answers_kept: usize,
    /// Entries in the memory of the cache, and their bytes.
    pub cache: (u64, u64),
    /// How answers came about, by [`crate::actors::cache::CacheCounts`].
    pub answers: Vec<(&'static str, u64)>,
    /// The name of each model, and how its admission describes itself.
    pub models: Vec<(String, serde_json::Value)>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let duration: Family<Request, Histogram> = Family::new_with_constructor(|| Histogram::new(DURATION));
        let first_token: Family<Request, Histogram> = Family::new_with_constructor(|| Histogram::new(FIRST_TOKEN));
        let output_token: Family<Request, Histogram> = Family::new_with_constructor(|| Histogram::new(OUTPUT_TOKEN));
        let (input_tokens, output_tokens, cached_tokens) =
            <(Family<Request, Counter>, Family<_, _>, Family<_, _>)>::default();
        r.register_with_unit(
            "gen_ai_server_request_duration",
            "Time of a request to a model",
            Unit::Seconds,
            duration.clone(),
        );
        r.register_with_unit(
            "gen_ai_server_time_to_first_token",
            "Time from a request to its first token",
            Unit::Seconds,
            first_token.clone(),
        );
        r.register_with_unit(
            "gen_ai_server_time_per_output_token",
            "Time of a token after the first",
            Unit::Seconds,
            output_token.clone(),
        );
        r.register("gen_ai_client_inference_usage_input_tokens", "Tokens of prompts", input_tokens.clone());
        r.register("gen_ai_client_inference_usage_output_tokens", "Tokens generated", output_tokens.clone());
        r.register(
            "gen_ai_client_inference_usage_cache_read_input_tokens",
            "Tokens of prompts that had been computed before",
            cached_tokens.clone(),
        );
        let sequences = SEQUENCES.map(|name| {
            let family = Family::<Model, Gauge>::default();
            r.register(
                format!("answerd_model_{name}"),
                format!("Of the model: {}", name.replace('_', " ")),
                family.clone(),
            );
            family
        });
        let refused = Family::<Model, Counter>::default();
        r.register("answerd_model_refused", "Requests that a model refused", refused.clone());
        let cache = Family::<CacheEvent, Counter>::default();
        let help = "Evidence and answers that were kept, answers that were shared or generated";
        r.register("answerd_cache_events", help, cache.clone());
        let requests = Family::<Response, Counter>::default();
        r.register("answerd_http_requests", "Requests, by how they were answered", requests.clone());
        let request_duration: Family<Route, Histogram> = Family::new_with_constructor(|| Histogram::new(REQUEST));
        let help = "Time from the head of a request to the head of its response";
        r.register_with_unit("answerd_http_request_duration", help, Unit::Seconds, request_duration.clone());
        let answers = Family::<Ended, Counter>::default();
        r.register("answerd_answers", "Answers, by how they ended", answers.clone());
        // What appears only with its first count has no growth to alert on.
        for outcome in Outcome::ALL {
            let _ = answers.get_or_create(&Ended { outcome: outcome.name() });
        }
        let events = Counter::default();
        r.register("answerd_events_taken", "Events that were taken from the bus", events.clone());
        let cpu = Counter::default();
        r.register_with_unit("answerd_process_cpu", "Processor time of the process", Unit::Seconds, cpu.clone());
        let documents_by_status = Family::<Status, Gauge>::default();
        let help = "Documents that are visible, and those whose last operation waits or has failed";
        r.register("answerd_documents_by_status", help, documents_by_status.clone());
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        r.register("answerd_build_info", "Always 1; which version runs", build);
        let actors = Actors::new(r);
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let seq = gauge("answerd_index_seq", "Every operation up to this one is visible");
        let lag_events = gauge("answerd_index_lag_events", "Operations and events that are not visible yet");
        let documents = gauge("answerd_documents", "Documents that are served");
        let chunks = gauge("answerd_chunks", "Passages that are served");
        let dead_letters = gauge("answerd_dead_letters", "Events that were given up");
        let resident_bytes = gauge("answerd_resident_memory_bytes", "Memory of the process in RAM");
        let cache_bytes = gauge("answerd_cache_bytes", "Memory of what is kept of questions and answers");
        let cache_entries = gauge("answerd_cache_entries", "Evidence and answers that are kept in memory");
        let answers_open = gauge("answerd_answers_open", "Answers that a model writes or is waited for");
        let answers_kept = gauge("answerd_answers_kept", "Answers that can be read, ended ones among them");
        let ready = gauge("answerd_ready", "1 where the service is ready");
        let degraded = gauge("answerd_degraded", "Parts of the service that work only in part");
        let lag_seconds = Gauge::default();
        let help = "Age of the oldest operation or event that is not visible yet";
        registry.register_with_unit("answerd_index_lag", help, Unit::Seconds, lag_seconds.clone());
        Self {
            registry,
            duration,
            first_token,
            output_token,
            input_tokens,
            output_tokens,
            cached_tokens,
            sequences,
            refused,
            cache,
            cache_bytes,
            cache_entries,
            requests,
            request_duration,
            answers,
            answers_open,
            answers_kept,
            events,
            actors,
            ready,
            degraded,
            cpu,
            seq,
            lag_events,
            lag_seconds,
            documents,
            documents_by_status,
            chunks,
            dead_letters,
            resident_bytes,
            recent: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Counts a request that was answered after so long.
    pub fn request(&self, method: &str, route: &str, status: u16, elapsed: Duration) {
        // Whoever calls could name any number of them.
        let known = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
        let method = known.into_iter().find(|known| *known == method).unwrap_or("other");
        let response = Response { method, route: route.to_owned(), status };
        self.requests.get_or_create(&response).inc();
        let route = Route { method, route: response.route };
        self.request_duration.get_or_create(&route).observe(elapsed.as_secs_f64());
    }

    /// Counts an answer that has ended, wherever it came from.
    pub fn ended(&self, outcome: Outcome) {
        self.answers.get_or_create(&Ended { outcome: outcome.name() }).inc();
        let mut recent = self.recent.lock();
        match outcome {
            Outcome::Stop | Outcome::Length => recent.ok += 1,
            Outcome::Cancelled => recent.cancelled += 1,
            Outcome::Error => recent.failed += 1,
        }
    }

    /// What ended since the last call.
    pub fn take_recent(&self) -> Recent {
        std::mem::take(&mut self.recent.lock())
    }

    /// Counts what a request to a model used.
    pub fn used(&self, record: &UsageRecord) {
        let request = Request {
            gen_ai_operation_name: record.operation.name(),
            gen_ai_provider_name: record.provider.clone(),
            gen_ai_request_model: record.model.clone(),
            error_type: match record.outcome {
                Outcome::Error => record.error.clone().unwrap_or_else(|| "internal".to_owned()),
                _ => String::new(),
            },
        };
        let seconds = |ms: u64| ms as f64 / 1e3;
        let mut recent = self.recent.lock();
        recent.input_tokens += record.prompt_tokens as u64;
        recent.output_tokens += record.completion_tokens as u64;
        self.duration.get_or_create(&request).observe(seconds(record.total_ms));
        if let Some(first) = record.first_token_ms {
            self.first_token.get_or_create(&request).observe(seconds(first));
            if recent.first_token_ms.len() < RECENT {
                recent.first_token_ms.push(first as f64);
            }
            if let Some(more) = record.completion_tokens.checked_sub(1).filter(|more| *more > 0) {
                let each = seconds(record.total_ms.saturating_sub(first)) / more as f64;
                self.output_token.get_or_create(&request).observe(each);
                if recent.token_ms.len() < RECENT {
                    recent.token_ms.push(each * 1e3);
                }
            }
        }
        drop(recent);
        self.input_tokens.get_or_create(&request).inc_by(record.prompt_tokens as u64);
        self.output_tokens.get_or_create(&request).inc_by(record.completion_tokens as u64);
        self.cached_tokens.get_or_create(&request).inc_by(record.cached_prompt_tokens as u64);
    }

    /// All of them, as text.
    pub fn text(&self, now: &Snapshot) -> String {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        // A store that does not answer leaves what it said last.
        if let Some((counts, as_of)) = &now.store {
            self.seq.set(whole(as_of.seq));
            self.lag_events.set(whole(as_of.lag_events));
            self.lag_seconds.set(as_of.lag_ms as f64 / 1e3);
            self.documents.set(whole(counts.documents));
            self.chunks.set(whole(counts.chunks));
            for (status, count) in
                [("visible", counts.documents), ("pending", counts.pending), ("failed", counts.failed)]
            {
                self.documents_by_status.get_or_create(&Status { status }).set(whole(count));
            }
        }
        set(&self.events, now.events_taken);
        self.cpu.inner().store(now.cpu.as_secs_f64().to_bits(), Ordering::Relaxed);
        self.actors.set(&now.actors);
        self.ready.set(now.ready.into());
        self.degraded.set(now.degraded as i64);
        self.answers_open.set(now.answers_open as i64);
        self.answers_kept.set(now.answers_kept as i64);
        self.cache_entries.set(whole(now.cache.0));
        self.cache_bytes.set(whole(now.cache.1));
        self.dead_letters.set(whole(now.dead_letters));
        self.resident_bytes.set(whole(now.resident_bytes));
        for (event, count) in &now.answers {
            set(&self.cache.get_or_create(&CacheEvent { event }), *count);
        }
        for (model, admission) in &now.models {
            let model = Model { model: model.clone() };
            let number = |name: &str| whole(admission[name].as_u64().unwrap_or(0));
            for (name, family) in SEQUENCES.iter().zip(&self.sequences) {
                family.get_or_create(&model).set(number(name));
            }
            set(&self.refused.get_or_create(&model), admission["refused"].as_u64().unwrap_or(0));
        }
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}
