//! A real nats-server with JetStream, on a port and in a folder of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context};
use tempfile::TempDir;

use super::PATIENCE;

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
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { folder: tempfile::tempdir().expect("a folder"), port, args, child: None }
    }

    pub async fn start() -> Self {
        let mut nats = Self::absent(&[]);
        nats.run().await;
        nats
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
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "nats-server does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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
        let began = Instant::now();
        loop {
            match async_nats::connect(self.url()).await {
                Ok(client) => return jetstream::new(client),
                Err(error) => assert!(began.elapsed() < PATIENCE, "no connection to nats-server: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
