//! A scripted model server: it speaks OpenAI's protocol, says what it is told at the pace it is told, and fails as it
//! is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

/// What it does with a request.
#[derive(Debug, Clone)]
pub struct Script {
    /// Time until the first token.
    pub first: Duration,
    /// Time between tokens.
    pub every: Duration,
    /// Tokens it says, if so many may be said.
    pub tokens: usize,
    /// What goes wrong.
    pub fault: Option<Fault>,
    /// Whether it tells the usage at the end.
    pub usage: bool,
    /// It repeats the last message instead, a word a token.
    pub echo: bool,
    /// It speaks of the first word of the last message that begins so instead: see [`said_about`].
    pub about: Option<&'static str>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            first: Duration::ZERO,
            every: Duration::ZERO,
            tokens: 20,
            fault: None,
            usage: true,
            echo: false,
            about: None,
        }
    }
}

impl Script {
    pub fn paced(tokens: usize, every_ms: u64) -> Self {
        Self { tokens, every: Duration::from_millis(every_ms), ..Self::default() }
    }

    pub fn failing(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }
}

/// How a server fails.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// It answers with this status and an error of OpenAI's form.
    Status(u16),
    /// It never answers.
    Silent,
    /// It answers with a page instead of events.
    Page,
    /// The connection breaks after so many tokens.
    Breaks(usize),
    /// After so many tokens comes what is no JSON.
    Rubbish(usize),
    /// After so many tokens nothing comes any more.
    Hangs(usize),
    /// After so many tokens comes an error object.
    Error(usize),
    /// It says twice as much as was asked for, and more.
    Endless,
}

/// A request it got.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub authorization: Option<String>,
    pub traceparent: Option<String>,
    pub body: Value,
}

/// A running server. Its thread ends with the test's process.
pub struct Upstream {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    open: Arc<AtomicUsize>,
}

impl Upstream {
    pub fn start(script: Script) -> Self {
        let shared = Shared { script: Arc::new(Mutex::new(script)), asked: Arc::default(), open: Arc::default() };
        let (sender, receiver) = std::sync::mpsc::channel();
        let served = shared.clone();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    let served = served.clone();
                    let serve = move |request: HttpRequest, body: web::Json<Value>| {
                        serve(request, body.into_inner(), served.clone())
                    };
                    let json = web::JsonConfig::default().limit(16 << 20);
                    App::new().app_data(json).default_service(web::to(serve))
                });
                let server = server.workers(1).backlog(4096).max_connections(20_000).h1_allow_half_closed(false);
                let server = server.bind(("127.0.0.1", 0)).expect("a port");
                sender.send(server.addrs()[0]).expect("somebody waits");
                server.run().await
            })
        });
        let Shared { script, asked, open } = shared;
        Self { address: receiver.recv().expect("an address"), script, asked, open }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it does from now on.
    pub fn play(&self, script: Script) {
        *self.script.lock() = script;
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// Streams that somebody reads.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// Settings of an answerd whose chat model is on these servers, in their order.
pub fn chat_on(upstreams: &[&Upstream]) -> String {
    chat_on_with(upstreams, 64, 4000)
}

/// The same, with so many slots and so much time for the first token and between tokens.
pub fn chat_on_with(upstreams: &[&Upstream], slots: usize, timeout_ms: u64) -> String {
    let entries: Vec<String> = upstreams
        .iter()
        .map(|upstream| {
            format!(
                "{{ serves = \"far\", url = \"{}\", model = \"far-away\", connect_timeout_ms = 1000, \
                 first_token_timeout_ms = {timeout_ms}, idle_timeout_ms = {timeout_ms} }}",
                upstream.url()
            )
        })
        .collect();
    format!(
        "models.chat.engine=openai\nmodels.chat.path=\nmodels.chat.name=far\nmodels.chat.slots={slots}\n\
         models.upstreams=[{}]",
        entries.join(", ")
    )
}

/// What a script says: so many tokens of it.
pub fn said(tokens: usize) -> String {
    (0..tokens).map(word).collect()
}

/// What is said about a word: so many tokens of it.
pub fn said_about(about: &str, tokens: usize) -> String {
    (0..tokens).map(|n| word_about(about, n)).collect()
}

fn word(n: usize) -> String {
    format!("w{n} ")
}

fn word_about(about: &str, n: usize) -> String {
    format!("{about}-{n} ")
}

#[derive(Clone)]
struct Shared {
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    open: Arc<AtomicUsize>,
}

/// A stream that somebody reads.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(request: HttpRequest, body: Value, shared: Shared) -> HttpResponse {
    let script = shared.script.lock().clone();
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    shared.asked.lock().push(Asked {
        path: request.path().to_owned(),
        authorization: header("authorization"),
        traceparent: header("traceparent"),
        body: body.clone(),
    });
    let open = Open::new(&shared.open);
    match script.fault {
        Some(Fault::Status(status)) => {
            let status = actix_web::http::StatusCode::from_u16(status).expect("a status");
            let mut response = HttpResponse::build(status);
            response.insert_header(("retry-after", "7"));
            return response.json(json!({ "error": { "message": format!("scripted {status}"), "type": "x" } }));
        }
        Some(Fault::Silent) => {
            actix_web::rt::time::sleep(Duration::from_secs(600)).await;
        }
        Some(Fault::Page) => return HttpResponse::Ok().content_type("text/html").body("<h1>Welcome</h1>"),
        _ => {}
    }
    if request.path().ends_with("/embeddings") {
        return embeddings(&body);
    }
    let last = body["messages"].as_array().and_then(|messages| messages.last()?["content"].as_str());
    let last = last.unwrap_or_default();
    let words: Option<Vec<String>> =
        script.echo.then(|| last.split_whitespace().map(|word| format!("{word} ")).collect());
    let about = script.about.and_then(|beginning| {
        let mut words = last.split(|c: char| !c.is_alphanumeric());
        words.find(|word| word.starts_with(beginning) && *word != beginning).map(str::to_owned)
    });
    let script = Script { tokens: words.as_ref().map_or(script.tokens, Vec::len), ..script };
    let most = body["max_tokens"].as_u64().map_or(usize::MAX, |most| most as usize);
    let endless = matches!(script.fault, Some(Fault::Endless));
    let tokens = if endless { usize::MAX / 2 } else { script.tokens.min(most) };
    let finish = if tokens < script.tokens { "length" } else { "stop" };
    let began = Instant::now();
    let events = stream::unfold((0, open), move |(n, open)| {
        let script = script.clone();
        let said = match (&words, &about) {
            (Some(words), _) => words.get(n).cloned().unwrap_or_default(),
            (None, Some(about)) => word_about(about, n),
            (None, None) => word(n),
        };
        async move {
            let step = u32::try_from(n.min(tokens)).unwrap_or(u32::MAX);
            let due = began + script.first + script.every * step;
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            let event = |value: Value| Ok(web::Bytes::from(format!("data: {value}\n\n")));
            let chunk = |delta: Value, finish: Option<&str>| {
                event(json!({
                    "id": "far-1", "object": "chat.completion.chunk", "created": 1, "model": "far-away",
                    "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }]
                }))
            };
            let item = match script.fault {
                Some(Fault::Breaks(at)) if n == at => Err(std::io::Error::other("scripted")),
                Some(Fault::Rubbish(at)) if n == at => Ok(web::Bytes::from("data: {\"choices\": [\n\n")),
                Some(Fault::Error(at)) if n == at => event(json!({ "error": { "message": "scripted error" } })),
                Some(Fault::Hangs(at)) if n == at => {
                    actix_web::rt::time::sleep(Duration::from_secs(600)).await;
                    return None;
                }
                _ if n < tokens => chunk(json!({ "content": said }), None),
                _ if n == tokens => chunk(json!({}), Some(finish)),
                _ if n == tokens + 1 && script.usage => event(json!({
                    "choices": [],
                    "usage": {
                        "prompt_tokens": 11, "completion_tokens": tokens, "total_tokens": tokens + 11,
                        "prompt_tokens_details": { "cached_tokens": 3 }
                    }
                })),
                _ if n <= tokens + 2 => Ok(web::Bytes::from("data: [DONE]\n\n")),
                _ => return None,
            };
            let next = if n == tokens && !script.usage { n + 2 } else { n + 1 };
            let next = if n > tokens + 1 { tokens + 3 } else { next };
            Some((item, (next, open)))
        }
    });
    HttpResponse::Ok().content_type("text/event-stream").streaming(events)
}

/// A vector for each text: of its first letters, so that equal texts have equal ones.
fn embeddings(body: &Value) -> HttpResponse {
    let texts: Vec<&str> = match &body["input"] {
        Value::String(text) => vec![text.as_str()],
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let vector = |text: &str| {
        let mut vector = [0.0f32; 8];
        text.bytes().enumerate().for_each(|(n, byte)| vector[n % 8] += f32::from(byte) - 90.0);
        vector[0] += 0.5;
        vector
    };
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(n, text)| json!({ "object": "embedding", "index": n, "embedding": vector(text) }))
        .collect();
    HttpResponse::Ok().json(json!({ "object": "list", "data": data, "model": "far-away" }))
}
