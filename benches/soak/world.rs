//! The processes of a soak, who calls them, and what is written down.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::Context;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Mutex, RwLock};

use crate::common::nats::Nats;
use crate::common::postgres::Postgres;
use crate::common::redis::Redis;
use crate::common::upstream::{Script, Upstream, chat_on_with};
use crate::common::{self, Home, Setup, free_port, make_key};
use crate::faults::{BUSY, Spells};
use crate::health::Life;
use crate::support;
use crate::truth::Ledger;

/// Longest that a request may take, and that a process may take to come up.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Size of the embedded one's file system.
pub const DISK: &str = "size=1g";

/// One of the three answerd.
pub const A: usize = 0;
/// Its twin.
pub const B: usize = 1;
/// The embedded one.
pub const C: usize = 2;

/// What was answered. Who connects to a process that is frozen gets a bare 408 of actix's when it goes on: the time for the head
/// of a request is over before it is read.
pub async fn outcome(response: Response) -> (StatusCode, Value) {
    match common::outcome(response).await {
        (StatusCode::REQUEST_TIMEOUT, said) if said == "" => {
            (StatusCode::REQUEST_TIMEOUT, json!({ "type": "urn:answerd:problem:frozen" }))
        }
        other => other,
    }
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Sees everything.
    Root,
    /// In the group `red`.
    Red,
    /// In the group `blue`.
    Blue,
    /// In no group.
    Nobody,
}

impl Caller {
    /// Those who ask and search.
    pub const ALL: [Self; 4] = [Self::Root, Self::Red, Self::Blue, Self::Nobody];

    /// Whether it may see what is for these groups, or for everybody.
    pub fn sees(self, groups: Option<&[&str]>) -> bool {
        match (self, groups) {
            (Self::Root, _) | (_, None) => true,
            (Self::Red, Some(groups)) => groups.contains(&"red"),
            (Self::Blue, Some(groups)) => groups.contains(&"blue"),
            (Self::Nobody, Some(_)) => false,
        }
    }
}

/// The keys of [`Caller::ALL`].
#[derive(Clone)]
pub struct Keys([String; 4]);

impl Keys {
    fn make(home: &Home, setup: &Setup) -> Self {
        let key = |args: &[&str]| make_key(home, setup, args);
        Self([
            key(&["root", "--scopes=ask,write,admin", "--sees-all"]),
            key(&["red", "--groups=red"]),
            key(&["blue", "--groups=blue"]),
            key(&["nobody"]),
        ])
    }

    pub fn of(&self, caller: Caller) -> &str {
        let n = Caller::ALL.iter().position(|one| *one == caller);
        &self.0[n.expect("it is among them")]
    }
}

/// Why there is no response.
#[derive(Debug)]
pub struct Broken(pub String);

/// An answerd process, through all of its lives.
pub struct Node {
    pub name: &'static str,
    home: Home,
    setup: Setup,
    /// Its address, in every life.
    pub base: String,
    pub keys: Keys,
    /// None while it is meant to be down.
    child: RefCell<Option<Child>>,
    pub log: PathBuf,
    /// What the feature `failpoints` is told while it runs.
    pub failpoints: PathBuf,
    /// Its lives, the last one running.
    pub lives: RefCell<Vec<Life>>,
    /// One fault at a time.
    pub fault: Mutex<()>,
}

impl Node {
    fn command(&self) -> Command {
        let mut command = self.home.command(&self.setup);
        // As most run it. The first backtrace reads the program's symbols, 47 MiB that stay and would look like growth.
        command.env("FAILPOINTS_FILE", &self.failpoints).env("RUST_BACKTRACE", "0");
        command
    }

    /// Starts it and waits until it is ready; a process that ends meanwhile is started again, as any supervisor would.
    pub async fn start(&self, http: &Client) -> Result<(), String> {
        let began = Instant::now();
        self.spawn();
        loop {
            let asked = http.get(format!("{}/readyz", self.base)).timeout(Duration::from_secs(5)).send().await;
            if asked.is_ok_and(|response| response.status() == StatusCode::OK) {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{} is not ready {} s after its start", self.name, began.elapsed().as_secs()));
            }
            if self.ended().is_some() {
                tokio::time::sleep(Duration::from_millis(500)).await;
                self.spawn();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn spawn(&self) {
        // What was to fail has failed, or died with the process.
        std::fs::write(&self.failpoints, "").expect("its failpoints");
        let log = File::options().create(true).append(true).open(&self.log).expect("its log");
        let child = self.command().arg("serve").stdout(Stdio::null()).stderr(log).spawn().expect("answerd starts");
        *self.child.borrow_mut() = Some(child);
        self.lives.borrow_mut().push(Life::new());
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.borrow().as_ref().map(Child::id)
    }

    /// How it ended, where nobody ended it.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.borrow_mut().as_mut().and_then(|child| child.try_wait().expect("wait"))
    }

    pub fn signal(&self, signal: i32) {
        if let Some(pid) = self.pid() {
            // SAFETY: a signal to a child that was not waited for.
            unsafe { libc::kill(pid as i32, signal) };
        }
    }

    pub fn kill(&self) {
        if let Some(mut child) = self.child.borrow_mut().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it as an operator does.
    pub async fn stop(&self) -> Result<(), String> {
        self.signal(libc::SIGTERM);
        let Some(mut child) = self.child.borrow_mut().take() else { return Ok(()) };
        let began = Instant::now();
        loop {
            match child.try_wait().expect("wait") {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("{} ended with {status} after SIGTERM", self.name)),
                None if began.elapsed() > PATIENCE => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("{} did not end within {} s of SIGTERM", self.name, PATIENCE.as_secs()));
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub fn request(&self, http: &Client, caller: Caller, method: Method, path: &str) -> reqwest::RequestBuilder {
        http.request(method, self.url(path)).bearer_auth(self.keys.of(caller))
    }

    /// The status and the JSON of a response.
    pub async fn json(request: reqwest::RequestBuilder) -> Result<(StatusCode, Value), Broken> {
        match tokio::time::timeout(PATIENCE, async { Ok(outcome(request.send().await?).await) }).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => Err(Broken(format!("nothing within {} s", PATIENCE.as_secs()))),
        }
    }

    pub async fn get(&self, http: &Client, caller: Caller, path: &str) -> Result<(StatusCode, Value), Broken> {
        Self::json(self.request(http, caller, Method::GET, path)).await
    }

    pub async fn post(
        &self,
        http: &Client,
        caller: Caller,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, Value), Broken> {
        Self::json(self.request(http, caller, Method::POST, path).json(body)).await
    }
}

/// A failed request with all of its causes.
pub fn broken(error: &reqwest::Error) -> Broken {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let _ = write!(said, ": {error}");
        cause = error.source();
    }
    Broken(said)
}

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What was acknowledged is not served, or something older is.
    Lost,
    /// Something is there twice, or beside what replaced it.
    Doubled,
    /// Something else is served than what was written, or said.
    Wrong,
    /// Somebody was shown what it may not see.
    Shown,
    /// A request failed that nothing excuses.
    Unexcused,
    /// A process did not come to rest, to life or to its end.
    Stuck,
    /// Memory or file handles grew.
    Grown,
    /// A panic or an error in a log that nothing excuses.
    Logged,
}

/// What was counted.
#[derive(Default)]
pub struct Counts(RefCell<BTreeMap<&'static str, u64>>);

impl Counts {
    pub fn add(&self, name: &'static str, more: u64) {
        *self.0.borrow_mut().entry(name).or_default() += more;
    }

    /// Counts from nothing again.
    pub fn clear(&self, name: &'static str) {
        self.0.borrow_mut().remove(name);
    }

    pub fn get(&self, name: &'static str) -> u64 {
        self.0.borrow().get(name).copied().unwrap_or_default()
    }
}

/// Random numbers from a seed.
pub struct Dice(Cell<u64>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(mix(seed)))
    }

    /// A number below this one.
    pub fn below(&self, most: usize) -> usize {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        (mix(self.0.get()) % most.max(1) as u64) as usize
    }

    pub fn one_in(&self, most: usize) -> bool {
        self.below(most) == 0
    }

    pub fn millis(&self, from: usize, to: usize) -> Duration {
        Duration::from_millis((from + self.below(to - from)) as u64)
    }

    pub fn shuffle<T>(&self, all: &mut [T]) {
        (1..all.len()).rev().for_each(|n| all.swap(n, self.below(n + 1)));
    }
}

/// The finaliser of SplitMix64.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A run.
pub struct World {
    pub length: Duration,
    pub seed: u64,
    /// A fault each so often.
    pub every: Duration,
    /// Per cent of the usual load.
    load: u64,
    began: Instant,
    pub nodes: [Node; 3],
    pub nats: Mutex<Nats>,
    pub redis: Mutex<Redis>,
    pub postgres: Mutex<Postgres>,
    pub upstream: Upstream,
    pub bus: Context,
    /// Each request on a connection of its own: one that was kept and has ended is the client's own matter.
    pub http: Client,
    /// What is at work holds it for reading; who compares waits until nothing is.
    pub gate: RwLock<()>,
    /// It ends: no load begins.
    pub ending: Cell<bool>,
    /// It is about to end: no fault begins.
    pub calm: Cell<bool>,
    /// Only one process is killed from here on.
    pub last_third: Cell<bool>,
    pub ledger: Ledger,
    pub spells: Spells,
    pub counts: Counts,
    violations: RefCell<BTreeMap<Kind, u64>>,
    /// Where logs are kept, also after the run.
    pub folder: PathBuf,
    notes: RefCell<File>,
    /// The embedded one's file system.
    pub disk: PathBuf,
    /// The files it watches are in `files` of this one.
    pub watched: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Rc<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        let seed = support::number("SOAK_SEED", now.subsec_nanos() as usize) as u64;
        let minutes = support::number("SOAK_MINUTES", 60) as u64;
        let folder = support::kept("soak").join(now.as_secs().to_string());
        std::fs::create_dir_all(&folder).expect("a folder for logs");
        let notes = File::create(folder.join("notes")).expect("a file for notes");
        eprintln!("soak: {minutes} minutes, SOAK_SEED={seed}; logs and notes are in {}", folder.display());
        let (nats, redis) = (Nats::start().await, Redis::start(&[]).await);
        let postgres = Postgres::start();
        // A token each 15 ms: an answer of the largest size takes a few seconds, and its window fills.
        let script = Script { about: Some("case"), tokens: 400, ..Script::paced(400, 15) };
        let upstream = Upstream::start(script);
        let common = "identity.enabled=true\nbudgets.requests_per_minute=1000000\nbudgets.tokens_per_minute=1000000000\n\
                      budgets.streams=1000\ncache.enabled=true\nnats.ack_wait_s=5\nserver.shutdown_timeout_s=10\n\
                      answer.resume_grace_s=10\n";
        let shared = format!(
            "{common}{}{}\nmodels.chat.context=4096\nredis.url={}\n{}\n",
            postgres.settings(),
            chat_on_with(&[&upstream], 64, 20_000),
            redis.url(),
            nats.settings().replace("nats.ack_wait_s=2", "")
        );
        let watched = tempfile::tempdir().expect("a folder");
        let files = watched.path().join("files");
        std::fs::create_dir(&files).expect("a folder");
        let own = format!(
            "{common}{}\nnats.consumer=embedded\nindex.save_interval_s=10\n",
            nats.settings().replace("nats.ack_wait_s=2", "")
        );
        let disk = tempfile::tempdir().expect("a folder").keep();
        mount(&["-t", "tmpfs", "-o", DISK, "tmpfs"], &disk).expect("a file system of its own");
        let node = |name: &'static str, settings: &str, keys: Option<Keys>, own: Option<(&Path, &Path)>| {
            let port = free_port();
            let mut settings = format!("{settings}server.bind=127.0.0.1:{port}\n");
            if let Some((disk, _)) = own {
                settings += &format!("data.dir={}\n", disk.join("state").display());
            }
            let (home, log) = (Home::new(), folder.join(format!("{name}.log")));
            let setup = Setup { settings, folder: own.map(|(_, watched)| watched.to_owned()), ..Setup::default() };
            let keys = keys.unwrap_or_else(|| Keys::make(&home, &setup));
            let failpoints = home.folder.path().join("failpoints");
            let (child, lives, fault) = (RefCell::default(), RefCell::default(), Mutex::new(()));
            Node {
                name,
                home,
                setup,
                base: format!("http://127.0.0.1:{port}"),
                keys,
                child,
                log,
                failpoints,
                lives,
                fault,
            }
        };
        let a = node("a", &shared, None, None);
        let b = node("b", &shared, Some(a.keys.clone()), None);
        let c = node("c", &own, None, Some((&disk, &files)));
        let bus = nats.jetstream().await;
        let http = answerd::http::client_builder(None).expect("a client").pool_max_idle_per_host(0).build();
        let http = http.expect("a client");
        for node in [&a, &b, &c] {
            node.start(&http).await.expect("it starts");
        }
        Rc::new(Self {
            length: Duration::from_secs(minutes * 60),
            seed,
            every: Duration::from_secs(support::number("SOAK_EVERY_S", 25) as u64),
            load: support::number("SOAK_LOAD", 100) as u64,
            began: Instant::now(),
            nodes: [a, b, c],
            nats: Mutex::new(nats),
            redis: Mutex::new(redis),
            postgres: Mutex::new(postgres),
            upstream,
            bus,
            http,
            gate: RwLock::new(()),
            ending: Cell::new(false),
            calm: Cell::new(false),
            last_third: Cell::new(false),
            ledger: Ledger::default(),
            spells: Spells::default(),
            counts: Counts::default(),
            violations: RefCell::default(),
            folder,
            notes: RefCell::new(notes),
            disk,
            watched,
        })
    }

    pub fn age_s(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    /// Waits for about so long, as the load says.
    pub async fn pause(&self, dice: &Dice, about_ms: usize) {
        let about = about_ms as u64 * 100 / self.load.max(1);
        tokio::time::sleep(dice.millis(about as usize / 2, about as usize * 3 / 2 + 1)).await;
    }

    /// Writes something down.
    pub fn note(&self, text: &str) {
        let age = self.began.elapsed().as_secs_f64();
        let _ = writeln!(self.notes.borrow_mut(), "{age:8.1} {} {text}", utc());
    }

    /// Something happened that must not.
    pub fn violation(&self, kind: Kind, text: &str) {
        *self.violations.borrow_mut().entry(kind).or_default() += 1;
        self.counts.add("violations", 1);
        self.note(&format!("VIOLATION {kind:?}: {text}"));
        eprintln!("{:6} s: {kind:?}: {text}", self.age_s());
    }

    /// A request to these failed: written down, and more than that where nothing excuses it.
    pub fn failed(&self, nodes: &[usize], trouble: &str, since: Instant, about: &str) {
        let names: Vec<&str> = nodes.iter().map(|n| self.nodes[*n].name).collect();
        let text = format!("{about} at {names:?}: {trouble}");
        if BUSY.contains(&trouble) {
            self.counts.add("requests refused under load", 1);
        } else if self.spells.excuses(nodes, trouble, since) {
            self.counts.add("requests that a fault broke", 1);
            self.note(&format!("excused: {text}"));
        } else {
            self.violation(Kind::Unexcused, &text);
        }
    }

    pub fn violations(&self, kind: Kind) -> u64 {
        self.violations.borrow().get(&kind).copied().unwrap_or_default()
    }

    /// Prints the table; whether something happened that must not.
    pub fn report(&self) -> bool {
        let count = |name| self.counts.get(name);
        println!("# Soak\n");
        println!(
            "{} s under load and faults, `SOAK_SEED={}`: {}\n",
            self.length.as_secs(),
            self.seed,
            self.spells.summary()
        );
        println!("| what | sent | right in the end | lost | doubled | wrong |\n| --- | --- | --- | --- | --- | --- |");
        println!(
            "| events | {} ({} twice, {} late, {} poison), {} writes by HTTP, {} files | {} of {} documents, {} comparisons | {} | {} | {} |",
            count("events sent"),
            count("events sent again"),
            count("events late"),
            count("poison"),
            count("writes by HTTP"),
            count("files written"),
            count("documents right"),
            count("documents compared"),
            count("comparisons"),
            self.violations(Kind::Lost),
            self.violations(Kind::Doubled),
            self.violations(Kind::Wrong),
        );
        println!(
            "\n| answers | asked | complete | of them resumed | kept | left by their reader | gone with a deleted document | broken off by a fault | refused under load | wrong |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
        println!(
            "| | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            count("asked"),
            count("complete"),
            count("resumed"),
            count("cached"),
            count("left"),
            count("withdrawn"),
            count("broken off"),
            count("refused"),
            count("answers wrong"),
        );
        println!(
            "\nSearches: {}, of them {} for their own write. Requests that a fault broke: {}, refused under load: {}. Panics injected: {}, in the logs {}; shown to whom it may not: {}.\n",
            count("searches"),
            count("searches for an own write"),
            count("requests that a fault broke"),
            count("requests refused under load"),
            count("panics injected"),
            count("panics met"),
            self.violations(Kind::Shown)
        );
        println!("{}", crate::health::table(self));
        let all = self.violations.borrow();
        if all.is_empty() {
            println!("Nothing happened that must not. Notes and logs: {}", self.folder.display());
        } else {
            println!("**Failed**: {all:?}. What it was, with logs: {}", self.folder.display());
        }
        !all.is_empty()
    }

    /// Ends the processes, and takes the file system away.
    pub async fn end(&self) {
        for node in &self.nodes {
            if let Err(why) = node.stop().await {
                eprintln!("{why}");
            }
        }
        let log = self.postgres.lock().await.log();
        let _ = std::fs::write(self.folder.join("postgres.log"), log);
        let _ = Command::new("umount").arg(&self.disk).status();
        let _ = std::fs::remove_dir(&self.disk);
    }
}

/// Mounts something on a folder.
///
/// # Errors
/// What `mount` says.
pub fn mount(args: &[&str], folder: &Path) -> Result<(), String> {
    let mounted = Command::new("mount").args(args).arg(folder).output().expect("mount runs");
    match mounted.status.success() {
        true => Ok(()),
        false => Err(format!("mount {args:?}: {}", String::from_utf8_lossy(&mounted.stderr))),
    }
}

/// The time of day, as in the logs of answerd.
fn utc() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
