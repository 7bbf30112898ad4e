//! A real nats-server with JetStream, on a port and in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use async_nats::header::HeaderMap;
use async_nats::jetstream::{self, Context};
use tempfile::TempDir;

use super::{PATIENCE, Server, free_port, until_listening};

pub struct Nats {
    folder: TempDir,
    port: u16,
    args: Vec<String>,
    child: Option<Child>,
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Nats {
    /// A server that is not started yet, with further arguments.
    pub fn absent(args: &[&str]) -> Self {
        let port = free_port();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { folder: tempfile::tempdir().expect("a folder"), port, args, child: None }
    }

    pub async fn start() -> Self {
        let mut nats = Self::absent(&[]);
        nats.run().await;
        nats
    }

    /// A server that is not started yet, with this configuration; files it names are below [`Nats::folder`].
    pub fn configured(configuration: &str) -> Self {
        let mut nats = Self::absent(&[]);
        nats.write_configuration(configuration);
        nats.args = vec!["-c".to_owned(), nats.configuration().display().to_string()];
        nats
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("nats.conf")
    }

    fn write_configuration(&self, configuration: &str) {
        let configuration = configuration.replace("{folder}", &self.folder.path().display().to_string());
        std::fs::write(self.configuration(), configuration).expect("its configuration");
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Has it take another configuration while it runs.
    pub fn reconfigure(&self, configuration: &str) {
        self.write_configuration(configuration);
        self.signal(libc::SIGHUP);
    }

    pub fn signal(&self, signal: i32) {
        let child = self.child.as_ref().expect("it runs");
        unsafe { libc::kill(child.id() as i32, signal) };
    }

    /// Starts it, or starts it again with what it had stored.
    pub async fn run(&mut self) {
        let binary = std::env::var_os("HOME")
            .map(|home| PathBuf::from(home).join(".cache/answerd/tools/bin/nats-server"))
            .filter(|path| path.exists())
            .unwrap_or_else(|| "nats-server".into());
        let mut command = Command::new(binary);
        command.args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"]).arg(self.folder.path());
        command.args(&self.args).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("nats-server starts (`make setup` gets it)"));
        until_listening(self.port, "nats-server").await;
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The settings of an answerd that takes its events from here.
    pub fn settings(&self) -> String {
        format!("nats.servers={}\nnats.ack_wait_s=2", self.url())
    }

    pub async fn jetstream(&self) -> Context {
        self.jetstream_as(ConnectOptions::new()).await
    }

    pub async fn jetstream_as(&self, options: ConnectOptions) -> Context {
        let began = Instant::now();
        loop {
            match options.clone().connect(self.url()).await {
                Ok(client) => return jetstream::new(client),
                Err(error) => assert!(began.elapsed() < PATIENCE, "no connection to nats-server: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Publishes a binary CloudEvent and waits until the stream has it.
pub async fn publish(bus: &Context, document: &str, action: &str, id: &str, more: &[(&str, &str)], body: &str) {
    let mut headers = HeaderMap::new();
    let kind = format!("com.example.document.{action}");
    let fixed = [
        ("ce-specversion", "1.0"),
        ("ce-type", &kind),
        ("ce-source", "//test"),
        ("ce-id", id),
        ("ce-subject", document),
    ];
    for (name, value) in fixed.iter().chain(more) {
        headers.insert(*name, *value);
    }
    let stored = bus.publish_with_headers(format!("documents.wiki.{action}"), headers, body.to_owned().into()).await;
    stored.expect("published").await.expect("stored");
}

/// Waits until every event of the stream is acknowledged.
pub async fn all_taken(server: &Server, bus: &Context) {
    server
        .until("all events are acknowledged", async || {
            let Ok(stream) = bus.get_stream("DOCUMENTS").await else { return false };
            let Ok(info) = stream.consumer_info("answerd").await else { return false };
            info.num_pending == 0 && info.num_ack_pending == 0
        })
        .await;
}

/// Waits until answerd has made the stream.
pub async fn stream_is_there(server: &Server, bus: &Context) {
    server.until("the stream", async || bus.get_stream("DOCUMENTS").await.is_ok()).await;
}
