//! Starts the real answerd on a free port with a data folder of its own, and kills it when dropped.
//! Readiness is asked of `/readyz`, never read from the log.

#![allow(dead_code)]

pub mod collector;
pub mod nats;
pub mod postgres;
pub mod provider;
pub mod proxy;
pub mod qdrant;
pub mod redis;
pub mod tls;
pub mod upstream;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::postgres::Postgres;
use self::qdrant::Qdrant;

/// Longest that anything in a test may take before it counts as hanging. Not a promise of speed.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Where the models are.
pub fn models() -> PathBuf {
    std::env::var_os("ANSWERD_MODELS").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/answerd/models"),
        PathBuf::from,
    )
}

/// A path of this clone, in whose root cargo starts every test. Not what `CARGO_MANIFEST_DIR` was when the test was
/// built: clones share one target folder, and a test may have been built in another.
pub fn here(path: &str) -> PathBuf {
    std::path::absolute(path).expect("a current folder")
}

/// The documents of the invented company.
pub fn sample() -> PathBuf {
    here("data/sample")
}

/// Installs the packages of a `package.json`, where `one` of them is not there.
pub fn npm_packages(folder: &Path, one: &str) {
    if !folder.join("node_modules").join(one).is_dir() {
        let npm = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(folder).output();
        let npm = npm.expect("npm runs (Debian packages nodejs and npm)");
        assert!(npm.status.success(), "npm ci: {}", String::from_utf8_lossy(&npm.stderr));
    }
}

/// How to start it.
#[derive(Default, Clone)]
pub struct Setup {
    /// Settings beyond the test's own, as TOML.
    pub settings: String,
    /// What the feature `failpoints` is told, as `point=action;point=action`.
    pub failpoints: String,
    /// A folder to watch.
    pub folder: Option<PathBuf>,
    /// Commands that run before answerd in the same shell: mounts, limits. Needs `unshare`.
    pub before: Option<String>,
}

/// A folder for the state of one answerd, and its configuration.
pub struct Home {
    pub folder: TempDir,
    /// Where its documents are, if not in the folder.
    store: Option<Elsewhere>,
}

/// A store of documents of its own for one answerd.
enum Elsewhere {
    Postgres(Postgres),
    Qdrant(Qdrant),
}

impl Home {
    /// `ANSWERD_TEST_STORE=postgres` gives each a Postgres of its own, `qdrant` collections of its own: what a store promises
    /// is tested with all of them.
    pub fn new() -> Self {
        let store = match std::env::var("ANSWERD_TEST_STORE").as_deref() {
            Err(_) | Ok("embedded") => None,
            Ok("postgres") => Some(Elsewhere::Postgres(Postgres::start())),
            Ok("qdrant") => Some(Elsewhere::Qdrant(Qdrant::start())),
            Ok(other) => panic!("ANSWERD_TEST_STORE is {other:?}: there are embedded, postgres and qdrant"),
        };
        Self { folder: tempfile::tempdir().expect("a temporary folder"), store }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Writes the configuration and returns its path.
    pub fn configure(&self, setup: &Setup) -> PathBuf {
        let models = models();
        let mut folders = String::from("folders = []\n");
        if let Some(folder) = &setup.folder {
            folders = format!(
                "[[folders]]\npath = {:?}\ncollection = \"watched\"\nprefix = \"\"\ndebounce_ms = 50\n",
                folder.display().to_string()
            );
        }
        // Tables may be given once: what the test adds to them is merged by the environment instead.
        let text = if setup.folder.is_some() { String::new() } else { folders.clone() };
        let text = format!(
            "{text}[server]\nbind = \"127.0.0.1:0\"\nshutdown_timeout_s = 2\n[data]\ndir = {:?}\n[embedding]\nmodel = {:?}\n[models.chat]\npath = {:?}\nthreads = 1\n{}",
            self.data().display().to_string(),
            models.join("all-MiniLM-L6-v2").display().to_string(),
            models.join("SmolLM2-135M-Instruct.Q4_1.gguf").display().to_string(),
            if setup.folder.is_some() { folders } else { String::new() },
        );
        let path = self.folder.path().join("config.toml");
        std::fs::write(&path, text).expect("the configuration");
        path
    }

    /// The command that runs answerd here, its settings in the environment.
    pub fn command(&self, setup: &Setup) -> Command {
        let config = self.configure(setup);
        let binary = env!("CARGO_BIN_EXE_answerd");
        let mut command = match &setup.before {
            None => Command::new(binary),
            Some(before) => {
                let mut shell = Command::new("unshare");
                shell.args(["--user", "--map-root-user", "--mount", "sh", "-ec"]);
                shell.arg(format!("{before}\nexec \"$0\" \"$@\"")).arg(binary);
                shell
            }
        };
        command
            .arg("--config")
            .arg(config)
            .env("RUST_LOG", "info,tantivy=warn,hnsw_rs=warn,llama-cpp-2=warn")
            .env("FAILPOINTS", &setup.failpoints);
        // Most tests are about answers that are generated.
        command.env("ANSWERD__CACHE__ENABLED", "false");
        let store = match &self.store {
            None => String::new(),
            Some(Elsewhere::Postgres(postgres)) => postgres.settings(),
            Some(Elsewhere::Qdrant(qdrant)) => qdrant.settings(),
        };
        command.envs(variables(&store)).envs(variables(&setup.settings));
        command
    }

    /// Starts the service and waits until it is ready.
    pub async fn serve(&self, setup: &Setup) -> Server {
        let server = self.spawn(setup).await;
        server.until_ready().await;
        server
    }

    /// Starts the service and waits until it answers at all.
    pub async fn spawn(&self, setup: &Setup) -> Server {
        self.spawn_by(self.command(setup), setup.before.is_some()).await
    }

    /// The same with this command; `hidden` is whether its files cannot be seen from here.
    pub async fn spawn_by(&self, mut command: Command, hidden: bool) -> Server {
        let address_file = self.data().join("address");
        let _ = std::fs::remove_file(&address_file);
        let log = self.folder.path().join("log");
        let sink = File::options().create(true).append(true).open(&log).expect("the log file");
        command.arg("serve").stdout(Stdio::null()).stderr(sink);
        let mut child = command.spawn().expect("answerd starts");
        let began = Instant::now();
        let address = loop {
            if let Ok(address) = std::fs::read_to_string(&address_file)
                && !address.is_empty()
            {
                break address;
            }
            // In a mount namespace of its own its files cannot be seen from here: the log is all there is.
            if hidden && let Some(address) = std::fs::read_to_string(&log).ok().as_deref().and_then(logged_address) {
                break address;
            }
            if let Some(status) = child.try_wait().expect("wait") {
                panic!("answerd ended with {status}:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            assert!(
                began.elapsed() < PATIENCE,
                "answerd does not start:\n{}",
                std::fs::read_to_string(&log).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let http = answerd::http::client().expect("a client");
        Server { child, base: format!("http://{}", address.trim()), http, log }
    }

    /// Runs a command to its end.
    pub fn run(&self, setup: &Setup, args: &[&str]) -> std::process::Output {
        self.command(setup).args(args).output().expect("answerd runs")
    }
}

/// Makes a key on the command line, as an operator does before anybody can call.
pub fn make_key(home: &Home, setup: &Setup, args: &[&str]) -> String {
    let made = home.run(setup, &[&["keys", "create"], args].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).expect("text").trim().to_owned()
}

/// Settings as the environment gives them.
pub fn variables(settings: &str) -> Vec<(String, String)> {
    let lines = settings.lines().map(str::trim).filter(|line| !line.is_empty());
    let variable = |line: &str| {
        let (key, value) = line.split_once('=').expect("key = value");
        let key = format!("ANSWERD__{}", key.trim().replace('.', "__").to_uppercase());
        (key, value.trim().trim_matches('"').to_owned())
    };
    lines.map(variable).collect()
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port()
}

/// Waits until somebody listens on a port.
pub async fn until_listening(port: u16, what: &str) {
    let began = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < PATIENCE, "{what} does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Has a connection take little before its other end feels that nobody reads.
#[cfg(target_os = "linux")]
pub fn receive_little(stream: &std::net::TcpStream) {
    use std::os::fd::AsRawFd;
    let bytes: libc::c_int = 2048;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the socket is open, and the option is a number of this size.
    unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, (&raw const bytes).cast(), size);
    }
}

fn logged_address(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("address="))?;
    Some(line.split("address=").nth(1)?.split_whitespace().next()?.to_owned())
}

/// A running answerd.
pub struct Server {
    pub child: Child,
    pub base: String,
    pub http: reqwest::Client,
    pub log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the end of answerd's log ---");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

impl Server {
    pub async fn until_ready(&self) {
        self.until("ready", async || self.get("/readyz").await.0 == StatusCode::OK).await;
    }

    /// Waits until something holds.
    pub async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let began = Instant::now();
        while !holds().await {
            assert!(began.elapsed() < PATIENCE, "it never was: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The status and the JSON of a response.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        match self.http.get(self.url(path)).send().await {
            Ok(response) => outcome(response).await,
            Err(error) => (StatusCode::IM_A_TEAPOT, json!(error.to_string())),
        }
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        outcome(self.http.post(self.url(path)).json(&body).send().await.expect("a response")).await
    }

    pub async fn delete(&self, path: &str) -> (StatusCode, Value) {
        outcome(self.http.delete(self.url(path)).send().await.expect("a response")).await
    }

    /// Puts a document as it is.
    pub async fn put(&self, path: &str, media_type: &str, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
        let request = self.http.put(self.url(path)).header("content-type", media_type).body(body);
        outcome(request.send().await.expect("a response")).await
    }

    /// Puts a document with the path exactly as given, and gives the whole response.
    pub fn raw_put(&self, path: &str, body: &str) -> String {
        use std::io::{Read, Write};
        let host = self.base.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(host).expect("a connection");
        let length = body.len();
        write!(
            stream,
            "PUT {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response");
        response
    }

    /// Puts a Markdown document and waits until it is visible.
    pub async fn put_visible(&self, id: &str, text: &str) -> Value {
        let (status, body) = self.put(&format!("/v1/documents/{id}?wait=true"), "text/markdown", text.to_owned()).await;
        assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("visible")), "{body}");
        body
    }

    /// The text of a document that is served.
    pub async fn text(&self, id: &str) -> Option<String> {
        let (status, body) = self.get(&format!("/v1/documents/{id}")).await;
        (status == StatusCode::OK).then(|| body["text"].as_str().unwrap_or_default().to_owned())
    }

    /// What works only in part, as `/readyz` says it.
    pub async fn degraded(&self) -> String {
        self.get("/readyz").await.1["degraded"].to_string()
    }

    /// The documents found for a query, best first.
    pub async fn found(&self, query: &str, mode: &str) -> Vec<String> {
        let (status, body) = self.post("/v1/search", json!({ "query": query, "mode": mode, "limit": 100 })).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        texts(&body["results"], "document_id")
    }

    /// Asks, and gives the response of which the events are to be read.
    pub async fn ask(&self, body: Value) -> Response {
        let request = self.http.post(self.url("/v1/answers")).header("accept", "text/event-stream").json(&body);
        request.send().await.expect("a response")
    }

    /// Asks, and reads the whole stream.
    pub async fn answer(&self, question: &str) -> Vec<Event> {
        let response = self.ask(json!({ "question": question, "max_tokens": 48 })).await;
        assert_eq!(response.status(), StatusCode::OK);
        read_events(response).await
    }

    /// The status of one actor.
    pub async fn actor(&self, name: &str) -> Value {
        let (_, status) = self.get("/admin/status").await;
        let mut branches = status["actors"].clone();
        let mut found = Value::Null;
        for part in name.split('/') {
            found = branches
                .as_array()
                .and_then(|all| all.iter().find(|branch| branch["part"] == part).cloned())
                .unwrap_or_else(|| panic!("no actor {name} in {status}"));
            branches = found["children"].clone();
        }
        found
    }

    /// Waits until nobody waits for the model that answers, nobody runs, and all its counts are zero again.
    pub async fn until_idle(&self) {
        self.until("nobody is inside", async || {
            let pool = self.actor("read/model-pool").await;
            let zero = |counts: &Value, names: &[&str]| names.iter().all(|name| counts[name] == 0);
            // A worker whose model is being loaded has no load.
            let load = self.actor("read/model-pool/worker-1").await["detail"]["load"].clone();
            pool["depth"] == 0
                && zero(&pool["detail"]["admission"], &["waiting", "running", "parked", "waiting_prompt_tokens"])
                && zero(&load, &["running", "parked", "waiting"])
        })
        .await;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Kills it the hard way.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Stops it as an operator does, and waits for the end.
    pub async fn stop(mut self) -> std::process::ExitStatus {
        self.signal(libc::SIGTERM);
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "answerd does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

pub async fn outcome(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, body)
}

/// One server-sent event.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub data: Value,
}

/// Reads a stream of events to its end.
pub async fn read_events(response: Response) -> Vec<Event> {
    let events = response.bytes_stream().eventsource().map(|event| {
        let event = event.expect("a well-formed event");
        let data = serde_json::from_str(&event.data).expect("JSON data");
        Event { id: event.id, name: event.event, data }
    });
    tokio::time::timeout(PATIENCE, events.collect()).await.expect("the stream ends")
}

/// The text of an answer.
pub fn text_of(events: &[Event]) -> String {
    events.iter().filter(|e| e.name == "token").filter_map(|e| e.data["text"].as_str()).collect()
}

/// The data of the one event of this name.
pub fn one<'a>(events: &'a [Event], name: &str) -> &'a Value {
    let mut found = events.iter().filter(|event| event.name == name);
    match (found.next(), found.next()) {
        (Some(event), None) => &event.data,
        _ => panic!("not exactly one `{name}` in {events:?}"),
    }
}

/// A member of each object of an array, as texts.
pub fn texts(array: &Value, member: &str) -> Vec<String> {
    array.as_array().expect("an array").iter().filter_map(|v| v[member].as_str().map(str::to_owned)).collect()
}

/// Ids as documents are listed: by id, in Qdrant in an order of its own.
pub fn listed(array: &Value) -> Vec<String> {
    let mut ids = texts(array, "id");
    if std::env::var("ANSWERD_TEST_STORE").as_deref() == Ok("qdrant") {
        ids.sort();
    }
    ids
}

/// Asserts that a response is a problem document of this kind and status, and returns its detail.
pub fn problem(response: &(StatusCode, Value), status: u16, kind: &str) -> String {
    let (found, body) = response;
    assert_eq!(found.as_u16(), status, "{body}");
    assert_eq!(body["type"], format!("urn:answerd:problem:{kind}"), "{body}");
    assert_eq!(body["status"], status, "{body}");
    let detail = body["detail"].as_str().unwrap_or_default().to_owned();
    assert!(!detail.is_empty(), "{body}");
    detail
}
