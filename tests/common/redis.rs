//! A real redis-server, on a port and in a folder of its own.

use std::process::{Child, Command, Stdio};

use redis::{FromRedisValue, ToRedisArgs};
use tempfile::TempDir;

use super::{Server, free_port, until_listening};

pub struct Redis {
    folder: TempDir,
    port: u16,
    args: Vec<String>,
    child: Option<Child>,
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Redis {
    /// A running server, with further arguments; files they name are below `{folder}`.
    pub async fn start(args: &[&str]) -> Self {
        let mut redis = Self::absent(args);
        redis.run().await;
        redis
    }

    /// One that is not started yet.
    pub fn absent(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let args = args.iter().map(|arg| arg.replace("{folder}", &folder.path().display().to_string())).collect();
        Self { folder, port: free_port(), args, child: None }
    }

    /// A running node of a cluster that has no slots yet.
    pub async fn node() -> Self {
        let bus = free_port().to_string();
        Self::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub async fn run(&mut self) {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        // One that speaks TLS speaks nothing else.
        let (plain, tls) =
            if self.args.iter().any(|arg| arg.starts_with("--tls")) { ("0", Some(&port)) } else { (&*port, None) };
        command.args(["--port", plain, "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(self.folder.path());
        if let Some(tls) = tls {
            command.args(["--tls-port", tls]);
        }
        command.args(&self.args).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server starts (apt-get install redis-server)"));
        until_listening(self.port, "redis-server").await;
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: i32) {
        let child = self.child.as_ref().expect("it runs");
        unsafe { libc::kill(child.id() as i32, signal) };
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command on it.
    pub async fn command<T: FromRedisValue>(&self, name: &str, args: &[impl ToRedisArgs]) -> T {
        let client = redis::Client::open(self.url()).expect("an address");
        let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
        redis::cmd(name).arg(args).query_async(&mut connection).await.expect("an answer")
    }

    /// All that it holds, as text.
    pub async fn everything(&self) -> String {
        let mut all = String::new();
        for key in self.keys("").await {
            let kind: String = self.command("TYPE", &[&key]).await;
            let parts: Vec<String> = match kind.as_str() {
                "string" => vec![self.command::<Option<String>>("GET", &[&key]).await.unwrap_or_default()],
                "list" => self.command("LRANGE", &[&key, "0", "-1"]).await,
                "hash" => self.command("HGETALL", &[&key]).await,
                "zset" => self.command("ZRANGE", &[&key, "0", "-1"]).await,
                "stream" => vec![format!("{:?}", self.command::<redis::Value>("XRANGE", &[&key, "-", "+"]).await)],
                // It has expired meanwhile.
                "none" => Vec::new(),
                other => panic!("a {other} at {key}"),
            };
            all += &format!("{key}\n{}\n", parts.join("\n"));
        }
        all
    }

    /// The keys that begin so.
    pub async fn keys(&self, beginning: &str) -> Vec<String> {
        self.command("KEYS", &[format!("{beginning}*")]).await
    }

    /// Waits until an answer is kept here: what its question finds, the answer, and what one that asks the same finds. The end
    /// of an answer is told before that.
    pub async fn until_kept(&self, server: &Server) {
        server.until("an answer is kept in Redis", async || self.keys("answerd:kept").await.len() >= 3).await;
    }
}
