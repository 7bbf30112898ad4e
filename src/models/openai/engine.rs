//! Text generation on servers that speak OpenAI's protocol: a task for each stream.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use reqwest::Response;
use serde_json::{Value, json};
use tracing::Instrument;

use super::events::{Chunk, Chunks, Usage, chunks, error_text};
use super::upstream::{Failure, Upstream, Upstreams};
use super::{Counter, runtime};
use crate::models::chat::{AROUND, Message};
use crate::models::text::TextOut;
use crate::models::{
    Demand, EngineLoad, FinishReason, Finished, Generator, ModelError, Prompt, Rejected, Sequence, Sink, Totals,
};

/// How often a stream that nothing comes on is looked after.
const LOOK: Duration = Duration::from_millis(250);
/// How often a parked stream is looked after.
const LOOK_PARKED: Duration = Duration::from_millis(20);
/// The most stop texts of a request.
const STOP_TEXTS: usize = 4;
/// How long a stream that has ended is read for its usage.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Which model, and where it is.
#[derive(Debug, Clone)]
pub struct OpenAiOptions {
    /// The name it is known by here.
    pub name: String,
    /// Its `tokenizer.json`; empty where there is none.
    pub tokenizer: PathBuf,
    /// Streams at once.
    pub slots: usize,
    /// Tokens of one sequence, prompt and output together.
    pub context: usize,
    /// The servers, in order.
    pub upstreams: Vec<Upstream>,
}

/// A model elsewhere; see the module.
pub struct OpenAi {
    inner: Arc<Inner>,
}

struct Inner {
    options: OpenAiOptions,
    upstreams: Upstreams,
    counter: Counter,
    running: AtomicUsize,
    parked: AtomicUsize,
    stopped: AtomicBool,
    prefill_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    decode_tokens: AtomicU64,
}

impl OpenAi {
    /// An engine that has the model on these servers. Connects to none of them yet.
    ///
    /// # Errors
    /// [`ModelError::Load`] where the tokenizer cannot be read.
    pub fn new(options: OpenAiOptions) -> Result<Arc<Self>, ModelError> {
        runtime()?;
        let path = Some(options.tokenizer.as_path()).filter(|path| !path.as_os_str().is_empty());
        let inner = Inner {
            counter: Counter::load(path)?,
            upstreams: Upstreams::new(options.upstreams.clone())?,
            options,
            running: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            prefill_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            decode_tokens: AtomicU64::new(0),
        };
        Ok(Arc::new(Self { inner: Arc::new(inner) }))
    }
}

impl Generator for OpenAi {
    fn name(&self) -> &str {
        &self.inner.options.name
    }

    fn context(&self) -> usize {
        self.inner.options.context
    }

    fn prompt(&self, conversation: &[Message]) -> Prompt {
        let estimate = conversation.iter().map(|message| self.count_tokens(&message.content) + AROUND).sum();
        Prompt::Messages { messages: conversation.to_vec(), estimate }
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.inner.counter.count(text)
    }

    fn start(&self, sequence: Sequence) -> Result<(), Rejected> {
        let runtime = match sequence.fits(self.context()).and_then(|()| runtime()) {
            Ok(runtime) if !self.inner.stopped.load(Ordering::Relaxed) => runtime,
            Ok(_) => return Err(sequence.rejected(ModelError::Stopped)),
            Err(error) => return Err(sequence.rejected(error)),
        };
        let Prompt::Messages { messages, estimate } = &sequence.prompt else {
            let reason = "a model elsewhere takes a conversation, and tokens were given".to_owned();
            return Err(sequence.rejected(ModelError::Engine(reason)));
        };
        let sampling = &sequence.sampling;
        let mut body = json!({
            "messages": messages,
            "stream": true,
            "stream_options": { "include_usage": true },
            "max_tokens": sequence.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        });
        if !sequence.stop.is_empty() {
            // What is too much for the server still ends the text here.
            body["stop"] = json!(&sequence.stop[..sequence.stop.len().min(STOP_TEXTS)]);
        }
        if let Some(seed) = sampling.seed {
            body["seed"] = seed.into();
        }
        let penalties =
            [("presence_penalty", sampling.presence_penalty), ("frequency_penalty", sampling.frequency_penalty)];
        for (name, penalty) in penalties.into_iter().filter(|(_, penalty)| *penalty != 0.0) {
            body[name] = penalty.into();
        }
        let stream = Streamed {
            prompt_estimate: *estimate,
            max_tokens: sequence.max_tokens,
            out: TextOut::new(sequence.stop),
            deltas: 0,
            usage: None,
        };
        let (inner, mut sink) = (Arc::clone(&self.inner), sequence.sink);
        inner.running.fetch_add(1, Ordering::Relaxed);
        let work = async move {
            sink.started();
            // A panic is the end of this stream, and of no other.
            let work = std::panic::AssertUnwindSafe(inner.stream(&body, stream, &mut *sink)).catch_unwind().await;
            let result = work.unwrap_or_else(|_| Err(ModelError::Engine("its stream panicked".to_owned())));
            inner.running.fetch_sub(1, Ordering::Relaxed);
            if let Ok(finished) = &result {
                inner.cached_tokens.fetch_add(finished.cached_prompt_tokens as u64, Ordering::Relaxed);
                let computed = finished.prompt_tokens.saturating_sub(finished.cached_prompt_tokens);
                inner.prefill_tokens.fetch_add(computed as u64, Ordering::Relaxed);
            }
            sink.finish(result);
        };
        runtime.spawn(work.instrument(sequence.span));
        Ok(())
    }

    fn load(&self) -> EngineLoad {
        let parked = self.inner.parked.load(Ordering::Relaxed);
        EngineLoad {
            running: self.inner.running.load(Ordering::Relaxed).saturating_sub(parked),
            parked,
            slots: self.inner.options.slots,
            ..EngineLoad::default()
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            prefill_tokens: self.inner.prefill_tokens.load(Ordering::Relaxed),
            cached_tokens: self.inner.cached_tokens.load(Ordering::Relaxed),
            decode_tokens: self.inner.decode_tokens.load(Ordering::Relaxed),
            ..Totals::default()
        }
    }

    fn detail(&self) -> Value {
        json!({ "upstreams": self.inner.upstreams.describe() })
    }

    fn trouble(&self) -> Option<String> {
        self.inner.upstreams.trouble()
    }

    fn alive(&self) -> bool {
        true
    }

    fn step_time(&self) -> Duration {
        Duration::ZERO
    }

    fn take_waiting(&self) -> Vec<Sequence> {
        Vec::new()
    }

    fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Relaxed);
    }

    fn abandon(&self) {
        self.stop();
    }
}

/// A stream of events of a server, from its first token on.
struct Opened {
    first: Chunk,
    rest: Chunks,
}

/// What is known of a stream so far.
struct Streamed {
    prompt_estimate: usize,
    max_tokens: usize,
    out: TextOut,
    deltas: usize,
    usage: Option<Usage>,
}

/// Reads to the first token, or to an end without one.
async fn open(response: Response) -> Result<Opened, Failure> {
    let bytes = response.bytes_stream();
    let mut rest = chunks(bytes.map(|bytes| bytes.map_err(|error| format!("the connection broke: {error}"))));
    loop {
        let chunk = match rest.next().await {
            Some(chunk) => chunk.map_err(Failure::server)?,
            None => return Err(Failure::server("it ended before its first token")),
        };
        if let Some(error) = &chunk.error {
            return Err(Failure::server(error_text(&json!({ "error": error }).to_string())));
        }
        if chunk.done {
            return Err(Failure::server("it ended without a token"));
        }
        if !chunk.text().is_empty() || chunk.finish().is_some() {
            return Ok(Opened { first: chunk, rest });
        }
    }
}

impl Inner {
    async fn stream(&self, body: &Value, mut stream: Streamed, sink: &mut dyn Sink) -> Result<Finished, ModelError> {
        // Boxed, so that its memory is given back once the stream has begun.
        let opening = Box::pin(self.upstreams.post("chat/completions", body, |response| open(response).boxed()));
        let (Opened { first, mut rest }, upstream) = tokio::select! {
            opened = opening => opened?,
            () = until_unwanted(self, &mut *sink) => return Ok(stream.finished(FinishReason::Cancelled)),
        };
        let mut chunk = Some(first);
        let mut heard = Instant::now();
        let mut reason = None;
        let mut ended: Option<Instant> = None;
        loop {
            if let Some(chunk) = chunk.take() {
                if let Some(error) = chunk.error.as_ref().filter(|_| reason.is_none()) {
                    let said = error_text(&json!({ "error": error }).to_string());
                    return Err(Upstreams::broke_off(upstream, "it sent an error in the middle of the answer", &said));
                }
                stream.usage = chunk.usage.clone().or(stream.usage);
                if reason.is_none() && !chunk.text().is_empty() {
                    stream.deltas += 1;
                    self.decode_tokens.fetch_add(1, Ordering::Relaxed);
                    let (text, stopped) = stream.out.push(chunk.text().as_bytes());
                    if !text.is_empty() {
                        sink.text(&text);
                    }
                    if stopped {
                        reason = Some(FinishReason::Stop);
                    } else if stream.deltas > stream.max_tokens.saturating_mul(2) {
                        // A server that does not keep to the limit. A delta is a token or more, rarely less.
                        reason = Some(FinishReason::Length);
                    }
                }
                let said = chunk.finish().map(|reason| match reason {
                    "length" => FinishReason::Length,
                    _ => FinishReason::Stop,
                });
                reason = reason.or(said);
                if chunk.done {
                    break;
                }
            }
            if reason.is_some() && ended.get_or_insert_with(Instant::now).elapsed() >= LAST_WORDS {
                break;
            }
            match sink.demand() {
                Demand::Stop if reason.is_some() => break,
                Demand::Stop => return Ok(stream.finished(FinishReason::Cancelled)),
                _ if self.stopped.load(Ordering::Relaxed) => return Err(ModelError::Stopped),
                // What ended is read to its end, whoever is behind: its usage is still to come.
                Demand::Park if reason.is_none() => {
                    self.parked.fetch_add(1, Ordering::Relaxed);
                    while sink.demand() == Demand::Park && !self.stopped.load(Ordering::Relaxed) {
                        tokio::time::sleep(LOOK_PARKED).await;
                    }
                    self.parked.fetch_sub(1, Ordering::Relaxed);
                    heard = Instant::now();
                    continue;
                }
                _ => {}
            }
            match tokio::time::timeout(LOOK, rest.next()).await {
                Ok(Some(Ok(next))) => {
                    heard = Instant::now();
                    chunk = Some(next);
                }
                // Without its last words an answer that had ended is complete all the same.
                Ok(_) if reason.is_some() => break,
                Ok(Some(Err(why))) => return Err(Upstreams::broke_off(upstream, &why, &why)),
                Ok(None) => {
                    let why = "it ended in the middle of the answer";
                    return Err(Upstreams::broke_off(upstream, why, why));
                }
                Err(_) if heard.elapsed() < upstream.idle_timeout => {}
                Err(_) => {
                    let why = format!("nothing came for {} ms", upstream.idle_timeout.as_millis());
                    return Err(Upstreams::broke_off(upstream, &why, &why));
                }
            }
        }
        let rest = stream.out.finish();
        if !rest.is_empty() {
            sink.text(&rest);
        }
        Ok(stream.finished(reason.unwrap_or(FinishReason::Stop)))
    }
}

impl Streamed {
    /// The account: the server's, or else what was seen.
    fn finished(&self, reason: FinishReason) -> Finished {
        let estimated = self.usage.is_none();
        let usage = self.usage.clone().unwrap_or(Usage {
            prompt_tokens: self.prompt_estimate,
            completion_tokens: self.deltas,
            prompt_tokens_details: None,
        });
        let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0);
        Finished {
            reason,
            prompt_tokens: usage.prompt_tokens,
            cached_prompt_tokens: cached.min(usage.prompt_tokens),
            completion_tokens: usage.completion_tokens,
            estimated,
        }
    }
}

async fn until_unwanted(inner: &Inner, sink: &mut dyn Sink) {
    while sink.demand() != Demand::Stop && !inner.stopped.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
    }
}
