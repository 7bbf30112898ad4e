//! The command line. `serve` runs the service; `ask`, `search` and `ingest` speak to a running one, or, where none
//! answers, do their work in this process on the same data folder; `publish` and `dlq` speak to NATS; `keys`,
//! `feedback`, `backup`, `restore`, `check`, `eval` and `migrate` need no service; `health` asks how one is.

mod backup;
mod client;
mod dlq;
mod export;
mod health;
mod keys;
mod migrate;
mod publish;

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::actors::retriever::Mode;
use crate::app::{App, Parts, Startup};
use crate::config::{Config, Live, reference};
use crate::telemetry::{self, LogLevel};
use crate::web::health::serve_the_start;
use client::{Description, Target};

/// Search an organisation's documents, and call the model.
#[derive(Parser)]
#[command(version, about)]
pub struct Cli {
    /// The configuration file. Without it, ./config.toml is used where there is one.
    #[arg(long, short, global = true, env = "ANSWERD_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service.
    Serve,
    /// Ask a question and print the answer as it is written, then its sources.
    Ask {
        /// The question.
        question: String,
        /// Print the events as JSON, one a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerChoice,
    },
    /// Search and print the passages.
    Search {
        /// What to look for.
        query: String,
        /// Which rankings to use: hybrid, lexical or vector.
        #[arg(long, default_value = "hybrid")]
        mode: String,
        /// How many passages.
        #[arg(long, default_value_t = 5)]
        limit: usize,
        /// Print the response as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerChoice,
    },
    /// Put a file, or the documents in a folder, into the index, and wait until they are visible.
    Ingest {
        /// The file or folder. Ids are paths relative to it.
        path: PathBuf,
        /// The collection they go into.
        #[arg(long, default_value = crate::documents::event::COLLECTION_DEFAULT)]
        collection: String,
        /// The groups that may see them, with commas between; without it, everybody may.
        #[arg(long)]
        visible_to: Option<String>,
        #[command(flatten)]
        server: ServerChoice,
    },
    /// Publish a file, the documents in a folder, or standard input as events: on NATS where [nats] servers names it,
    /// else to a running answerd.
    Publish(publish::Publish),
    /// Look at the events that were given up, and publish them again.
    Dlq {
        #[command(subcommand)]
        what: dlq::Dlq,
    },
    /// Print what administrators did, as JSON, one a line.
    Audit,
    /// Copy the embedded data into a folder, while a service may run on it.
    Backup {
        /// The folder: an empty one, or one that is not there yet.
        to: PathBuf,
    },
    /// Put a backup back into [data] dir, which must have no catalog. No answerd may run on it meanwhile.
    Restore {
        /// The folder of the backup.
        from: PathBuf,
    },
    /// Make, list and revoke API keys.
    Keys {
        #[command(subcommand)]
        what: keys::Keys,
    },
    /// Print what people thought of answers, as JSON, one a line.
    Feedback,
    /// Move the documents of one store into another, and compare them. No answerd may work on either meanwhile.
    Migrate(migrate::Migrate),
    /// Check the configuration and print every mistake with its path.
    Check,
    /// Say whether the service is ready, and fail where it is not: for the health check of a container.
    Health {
        /// Its address; without it, the configured one.
        #[arg(long, env = "ANSWERD_SERVER")]
        server: Option<String>,
    },
    /// Describe the configuration: every key with its default, its limits, and what it is for.
    Config {
        #[command(subcommand)]
        what: Describe,
    },
    /// Parse one document from standard input: what the service starts for formats whose parsers it does not trust.
    #[command(hide = true)]
    ParseWorker,
    /// Measure retrieval on a collection in BEIR layout (corpus.jsonl, queries.jsonl, qrels.tsv).
    Eval {
        /// The folder of the collection.
        folder: PathBuf,
        /// Keep the index in this folder and use it again; without it, a temporary one.
        #[arg(long)]
        data: Option<PathBuf>,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum Describe {
    /// For people, as Markdown: docs/configuration.md.
    Reference,
    /// For editors, as a JSON schema: docs/config.schema.json.
    Schema,
}

#[derive(clap::Args)]
struct ServerChoice {
    /// Address of a running answerd, e.g. http://127.0.0.1:8080. Without it, the one of the configuration is
    /// tried, and where nothing answers there, the work is done in this process.
    #[arg(long, env = "ANSWERD_SERVER")]
    server: Option<String>,
    /// The API key for it, where it asks who calls.
    #[arg(long, env = "ANSWERD_KEY", hide_env_values = true)]
    key: Option<String>,
}

/// Runs a command; errors are printed for the person who typed it.
///
/// It is not asynchronous itself: what is awaited is compiled where it is awaited, which would be the whole service once
/// more in the program.
pub fn run(cli: Cli) -> ExitCode {
    crate::http::use_ring();
    match actix_rt::System::new().block_on(execute(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("answerd: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(cli: Cli) -> Result<(), String> {
    if matches!(cli.command, Command::ParseWorker) {
        return crate::actors::contained::work().map_err(|error| error.to_string());
    }
    // It needs no configuration, and one that is wrong is no reason to say nothing.
    if let Command::Config { what } = &cli.command {
        match what {
            Describe::Reference => print!("{}", reference::markdown()),
            Describe::Schema => print_json(&reference::schema()),
        }
        return Ok(());
    }
    let path = cli.config.or_else(|| Some(PathBuf::from("config.toml")).filter(|path| path.exists()));
    let config = Config::load(path.as_deref()).map_err(|errors| errors.to_string())?;
    // A service says what it does, and sends traces; of a command only trouble is heard.
    let telemetry = match &cli.command {
        Command::Serve => telemetry::start(&config, &config.log.level, Some(&config.traces))?,
        _ => telemetry::start(&config, "warn", None)?,
    };
    match cli.command {
        Command::ParseWorker | Command::Config { .. } => Ok(()),
        Command::Check => {
            let from = path.map_or_else(|| "the defaults".to_owned(), |path| path.display().to_string());
            println!("{from}: no mistakes");
            Ok(())
        }
        Command::Health { server } => health::run(&config, server).await,
        Command::Serve => serve(config, path, telemetry.level.clone()).await,
        Command::Ask { question, json, server } => {
            ask(Target::choose(config, server, true).await?, question, json).await
        }
        Command::Search { query, mode, limit, json, server } => {
            let mode: Mode = serde_json::from_value(Value::from(mode.as_str()))
                .map_err(|_| format!("--mode is {mode}, it must be hybrid, lexical or vector"))?;
            let target = Target::choose(config, server, false).await?;
            let response = target.search(&query, mode, limit).await?;
            target.close().await;
            if json {
                print_json(&response)
            } else {
                print_passages(&response)
            }
            Ok(())
        }
        Command::Ingest { path, collection, visible_to, server } => {
            ingest(Target::choose(config, server, false).await?, path, Description { collection, visible_to }).await
        }
        Command::Publish(what) => publish::run(config, what).await,
        Command::Migrate(what) => migrate::run(config, what).await,
        Command::Audit => export::audit(config).await,
        Command::Backup { to } => backup::back_up(&config, to),
        Command::Restore { from } => backup::restore(&config, from),
        Command::Feedback => export::feedback(config).await,
        Command::Keys { what } => keys::run(config, what).await,
        Command::Dlq { what } => dlq::run(config, what).await,
        Command::Eval { folder, data, json } => {
            let report = crate::eval::run(config, &folder, data).await?;
            if json {
                print_json(&serde_json::json!(report))
            } else {
                print!("{report}")
            }
            Ok(())
        }
    }
}

/// How long a connection may take from being accepted to being served.
const HANDING_OVER: Duration = Duration::from_millis(500);

/// How long the ends of answers that are cut short may take to their readers.
const LAST_WORDS: Duration = Duration::from_secs(2);

async fn serve(config: Config, path: Option<PathBuf>, level: LogLevel) -> Result<(), String> {
    let bind = config.server.bind;
    allow_many_connections();
    // Without somebody who hears them, they end the process, or, where it is the first of a container, do nothing.
    let hear = |kind| signal(kind).map_err(|error| format!("signals cannot be heard: {error}"));
    let hangup = hear(SignalKind::hangup())?;
    let mut stops = Stops { interrupt: hear(SignalKind::interrupt())?, terminate: hear(SignalKind::terminate())? };
    // First of all: a port in use is found before minutes of work.
    let listener = TcpListener::bind(bind).map_err(|error| {
        format!("cannot listen on {bind}: {error}. Stop what uses the port, or choose another in [server] bind.")
    })?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    tracing::info!(%address, "starting");
    let not_served = |error: std::io::Error| format!("cannot serve on {address}: {error}");
    let startup = Arc::<Startup>::default();
    let meanwhile = listener.try_clone().and_then(|listener| serve_the_start(Arc::clone(&startup), listener));
    let meanwhile = meanwhile.map_err(not_served)?;
    let no_more = meanwhile.handle();
    actix_rt::spawn(meanwhile);
    let address_file = config.data.dir.join("address");
    let in_force = parking_lot::Mutex::new(config.log.level.clone());
    let live = Live::new(config, path);
    live.on_change(move |config| {
        let mut in_force = in_force.lock();
        if *in_force != config.log.level {
            level.set(&config.log.level);
            config.log.level.clone_into(&mut in_force);
        }
    });
    let app = tokio::select! {
        app = App::start_with(live, Parts { folders: true, chat: true }, startup) => app?,
        // What is acknowledged is on disk, and what is half open is opened again.
        () = stops.told() => {
            tracing::info!("told to stop during the start");
            // Threads that read a model are not waited for.
            std::process::exit(0);
        }
    };
    // Where to find this one, for those who let the system choose the port.
    std::fs::write(&address_file, address.to_string())
        .map_err(|error| format!("cannot write {}: {error}", address_file.display()))?;
    let server = crate::web::serve(Arc::clone(&app), listener).map_err(not_served)?;
    // Both listen now. Who was taken by the first one is answered by it: a connection on its way to its worker would be cut.
    actix_rt::spawn(async move {
        no_more.pause().await;
        actix_rt::time::sleep(HANDING_OVER).await;
        no_more.stop(true).await;
    });
    let announcing = Arc::clone(&app);
    let handle = server.handle();
    let (failed, why) = tokio::sync::oneshot::channel();
    actix_rt::spawn(async move {
        // A model that cannot be loaded at the start is a mistake of the operator's, who is here now.
        if let Err(reason) = announcing.until_models_work().await {
            let _ = failed.send(reason);
            return handle.stop(false).await;
        }
        // The folders' first look is over once it has been answered and what it found is visible.
        announcing.until_caught_up().await;
        let counts = announcing.library.store.counts().await.unwrap_or_default();
        tracing::info!("ready on http://{address} with {} documents, {} passages", counts.documents, counts.chunks);
    });
    actix_rt::spawn(reload_when_told(hangup, Arc::clone(&app)));
    let handle = server.handle();
    let ended = tokio::select! {
        ended = server => ended.map_err(|error| format!("the HTTP server failed: {error}")),
        () = stop_when_told(stops, &app, handle) => Ok(()),
    };
    tracing::info!("stopping");
    app.stop().await;
    let mut why = why;
    why.try_recv().map_or(ended, Err)
}

/// After SIGINT or SIGTERM: answers under way have `[server] shutdown_timeout_s` to end, and while they do, who asks is told
/// to ask elsewhere. Then the server ends, which takes no more than what is left of the time; answers that are still
/// under way are cut short, and their readers told.
async fn stop_when_told(mut stops: Stops, app: &App, server: actix_web::dev::ServerHandle) {
    stops.told().await;
    let (began, limit) = (Instant::now(), Duration::from_secs(app.config().server.shutdown_timeout_s));
    tracing::info!(limit_s = limit.as_secs(), "told to stop: answers under way may end");
    app.drain(limit).await;
    // It ends by itself once every connection has.
    actix_rt::spawn(server.stop(true));
    actix_rt::time::sleep(limit.saturating_sub(began.elapsed())).await;
    if app.interrupt() > 0 {
        actix_rt::time::sleep(LAST_WORDS).await;
    }
}

/// Reads the configuration again at each SIGHUP.
async fn reload_when_told(mut hangup: Signal, app: Arc<App>) {
    while hangup.recv().await.is_some() {
        // It says in the log what came of it.
        let _ = app.reload("signal:SIGHUP").await;
    }
}

/// Every connection is an open file, and the system's first limit is often lower than what it allows.
pub fn allow_many_connections() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Waits for SIGINT or SIGTERM.
/// The signals that end the service.
struct Stops {
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    /// Waits for one of them.
    async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

async fn ask(target: Target, question: String, json: bool) -> Result<(), String> {
    let mut events = target.ask(&question).await?;
    let mut sources = Vec::new();
    let mut out = std::io::stdout();
    let mut failure = None;
    while let Some(event) = events.next().await {
        let (name, data) = event?;
        if json {
            println!("{}", serde_json::json!({ "event": name, "data": data }));
        }
        match name.as_str() {
            "sources" => sources = data["sources"].as_array().cloned().unwrap_or_default(),
            "token" if !json => {
                print!("{}", data["text"].as_str().unwrap_or_default());
                out.flush().map_err(|error| error.to_string())?;
            }
            "error" => failure = Some(data["detail"].as_str().unwrap_or("the answer failed").to_owned()),
            _ => {}
        }
    }
    drop(events);
    target.close().await;
    if !json {
        println!();
        for source in &sources {
            println!("[{}] {}", source["n"], place(source));
        }
    }
    failure.map_or(Ok(()), Err)
}

/// The files to take at a path, each with the id of its document.
fn documents_in(path: &std::path::Path) -> Result<Vec<(String, PathBuf)>, String> {
    let root = if path.is_dir() { path.to_owned() } else { path.parent().map(PathBuf::from).unwrap_or_default() };
    let files: Vec<(String, PathBuf)> = walkdir::WalkDir::new(path)
        .sort_by_file_name()
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?
        .into_iter()
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .filter(|file| *file == path || crate::documents::parse::supported_extension(file))
        .map(|file| {
            let inside = file.strip_prefix(&root).unwrap_or(&file);
            (inside.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/"), file)
        })
        .collect();
    if files.is_empty() {
        return Err(format!("there are no documents in {}", path.display()));
    }
    Ok(files)
}

async fn ingest(target: Target, path: PathBuf, description: Description) -> Result<(), String> {
    let files = documents_in(&path)?;
    let (mut failed, count) = (0, files.len());
    let mut waiting = Vec::new();
    for (id, file) in files {
        let content = std::fs::read(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        match target.put(&id, &description, content).await {
            Ok(()) => waiting.push(id),
            Err(message) => {
                failed += 1;
                eprintln!("{id}: {message}");
            }
        }
    }
    for (n, id) in waiting.iter().enumerate() {
        if let Err(message) = target.settled(id).await {
            failed += 1;
            eprintln!("{id}: {message}");
        }
        eprint!("\r{} of {count} documents", n + 1 + (count - waiting.len()));
    }
    eprintln!();
    target.close().await;
    println!("{} documents are searchable, {failed} failed", count - failed);
    if failed > 0 { Err(format!("{failed} of {count} documents failed")) } else { Ok(()) }
}

fn print_json(value: &Value) {
    println!("{}", serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Where a passage or source stands, in words.
fn place(passage: &Value) -> String {
    let text = |name: &str| passage[name].as_str().unwrap_or_default();
    let section: Vec<&str> = passage["section"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut place = format!("{} ({})", text("title"), text("document_id"));
    if !section.is_empty() {
        place = format!("{place}, {}", section.join(" > "));
    }
    match passage["page"].as_u64() {
        Some(page) => format!("{place}, page {page}"),
        None => place,
    }
}

fn print_passages(response: &Value) {
    let results = response["results"].as_array().cloned().unwrap_or_default();
    if results.is_empty() {
        println!("nothing found");
    }
    for (n, passage) in results.iter().enumerate() {
        println!("{}. {}", n + 1, place(passage));
        let text = passage["text"].as_str().unwrap_or_default();
        println!("   {}\n", crate::retrieval::passage::snippet(text, "", 300));
    }
}
