//! What operators look at: `/admin/status`, the tree of actors and the state of the stores; `/admin/events`, the same each
//! second as server-sent events, and the figures as they come; `/admin/series`, the last hour of them; `/admin/config`, the
//! settings in effect; `/admin/reload`, which reads them again; `/admin/audit`, what administrators did.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, Responder, web};
use actix_web_lab::sse;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use utoipa::{IntoParams, ToSchema};

use super::address::{Address, Entry};
use super::auth::{Pass, caller};
use super::error::{Kind, Mistake, Problem, limit_of};
use crate::actors::incidents::Incident;
use crate::actors::stats::ActorStatus;
use crate::app::{App, Reload, Unloaded};
use crate::config::{ConfigError, Origin};
use crate::error::ServiceError;
use crate::freshness::AsOf;
use crate::identity::Scope;
use crate::stores::records::Place;

/// Most acts on a page.
const PAGE_MAX: usize = 1000;

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let act = json!({
        "at_ms": 1_764_000_000_000_u64, "by": "key:0a1b2c3d4e5f6071", "act": "key.revoke",
        "about": { "id": "1f0c9a7de2b34c58", "name": "billing" },
    });
    let entry = |id: &str, summary: &str| Entry::new(TAG, id, summary).scope(Scope::Admin);
    vec![
        Address::at("/admin/status").get(
            status,
            entry("getStatus", "The state of the service")
                .text("What is wrong, the stores, what models did since the start, and the tree of actors with what each has to do.")
                .answers::<Status>(200, "The state now.", json!({ "version": "0.1.0", "uptime_s": 4711, "ready": true })),
        ),
        Address::at("/admin/events").get(
            events,
            entry("watchStatus", "The state of the service, as it changes")
                .text(
                    "The state now and then each second, as `status`; and the figures of each five seconds, as `sample`. Who is slow \
                     misses what is old. It ends when the service stops, or when what it was opened with does not count any more.",
                )
                .streams::<WatchEvent>(200, "The events.", "event: status\ndata: {\"ready\":true}\n\n"),
        ),
        Address::at("/admin/series").get(
            series,
            entry("getSeries", "The figures of the last hour")
                .text("A sample each five seconds, a column for each figure. Nothing to tell is null.")
                .answers::<SeriesTold>(200, "The figures.", json!({
                    "interval_ms": 5000, "at_ms": [1_764_000_000_000_u64], "series": { "waiting": [0.0], "first_token_p50_ms": [null] },
                })),
        ),
        Address::at("/admin/config").get(
            settings,
            entry("getConfig", "The settings in effect")
                .text("By section and name, as in `config.toml`. Secrets are `***`.")
                .answers::<Settings>(200, "The settings.", json!({ "search": { "limit_max": 100 } })),
        ),
        Address::at("/admin/reload").post(
            reload,
            entry("reload", "Read the configuration again")
                .text("The same as the signal SIGHUP. Where the configuration has mistakes, nothing is changed, and `errors` names them.")
                .answers::<Reloaded>(
                    200,
                    "It is in effect.",
                    json!({ "changed": ["search.limit_max"], "needs_restart": ["server.workers"] }),
                )
                .refuses(&[Kind::InvalidConfiguration, Kind::StorageFull]),
        ),
        Address::at("/admin/audit").get(
            audit,
            entry("listActs", "What administrators did")
                .text("The newest first, by pages.")
                .query::<AuditQuery>()
                .answers::<Acts>(200, "A page of them.", json!({ "acts": [act], "next": null })),
        ),
    ]
}

/// The group of these addresses in the reference.
pub(super) const TAG: &str = "administration";

/// The state of the service.
#[derive(Serialize, ToSchema)]
pub struct Status {
    /// The version of answerd.
    pub version: String,
    /// For how long the process runs, in seconds.
    pub uptime_s: u64,
    /// Whether it can do its work.
    pub ready: bool,
    /// Why not.
    pub troubles: Vec<String>,
    /// What is left of the start.
    pub starting: Vec<String>,
    /// The last time that the configuration was read again, since the start.
    pub reload: Option<Reload>,
    /// What works only in part, and why.
    pub degraded: Vec<String>,
    /// The source of events; null where there is none.
    #[schema(value_type = Option<Object>)]
    pub events: Value,
    /// The store of documents: its `engine`, and what that has to say.
    #[schema(value_type = Object)]
    pub store: Value,
    /// What is stored; null where the store does not answer.
    #[schema(value_type = Option<Object>)]
    pub catalog: Value,
    /// How fresh the index is; null where the store does not answer.
    pub freshness: Option<AsOf>,
    /// The Redis; null where there is none.
    #[schema(value_type = Option<Object>)]
    pub redis: Value,
    /// What was used of each model since the start.
    #[schema(value_type = Option<Object>)]
    pub usage: Value,
    /// Answers that can be read.
    pub answers_kept: Option<usize>,
    /// Memory of the process, in bytes.
    pub resident_bytes: Option<u64>,
    /// Processor time in a second, in seconds: 1 is one core.
    pub cpu_share: f64,
    /// Cores that there are.
    pub cores: usize,
    /// What happened to actors lately.
    pub incidents: Vec<Incident>,
    /// The actors, as a tree.
    pub actors: Vec<ActorBranch>,
}

/// A place in the tree of actors.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ActorBranch {
    /// An actor.
    Actor(Box<ActorAt>),
    /// A mere place.
    Place(ActorPlace),
}

/// An actor in its place.
#[derive(Serialize, ToSchema)]
pub struct ActorAt {
    /// The actor itself.
    #[serde(flatten)]
    pub status: ActorStatus,
    /// Last part of its name.
    pub part: String,
    /// The actors below.
    #[schema(no_recursion)]
    pub children: Option<Vec<ActorBranch>>,
}

/// A place in the tree without an actor of its own.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActorPlace {
    /// Its name.
    pub part: String,
    /// The actors below.
    #[schema(value_type = Vec<ActorBranch>, no_recursion)]
    pub children: Vec<Value>,
}

/// An event for those who watch.
#[derive(Serialize, ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "lowercase")]
pub enum WatchEvent {
    /// The state now.
    Status(Box<Status>),
    /// The figures of the last five seconds, and `at_ms`.
    Sample(Sample),
}

/// Figures by name; null where there is nothing to tell.
#[derive(Serialize, ToSchema)]
#[schema(as = WatchSample)]
pub struct Sample(pub BTreeMap<String, Option<f64>>);

/// The figures of the last hour.
#[derive(Serialize, ToSchema)]
#[schema(as = Series)]
pub struct SeriesTold {
    /// Time between two samples, in milliseconds.
    pub interval_ms: u64,
    /// When each sample was taken, in milliseconds since the Unix epoch.
    pub at_ms: Vec<u64>,
    /// By name, a value for each sample.
    pub series: BTreeMap<String, Vec<Option<f64>>>,
}

/// The settings in effect, by section.
#[derive(Serialize, ToSchema)]
pub struct Settings(pub BTreeMap<String, Value>);

/// What became of reading the configuration again.
#[derive(Serialize, ToSchema)]
struct Reloaded {
    /// The paths of the settings that changed.
    changed: Vec<String>,
    /// The paths of those that differ, and stay as they are until a restart.
    needs_restart: Vec<String>,
}

/// What administrators did.
#[derive(Serialize, ToSchema)]
pub struct Acts {
    /// The acts, the newest first.
    pub acts: Vec<Act>,
    /// What `before` takes for the next page; null on the last one.
    #[schema(required)]
    pub next: Option<String>,
}

/// What an administrator did.
#[derive(Serialize, ToSchema)]
pub struct Act {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who.
    pub by: String,
    /// What: `key.create`, `key.revoke`, `dead-letter.retry`, `dead-letter.remove`, `config.reload`, `document.delete`.
    pub act: String,
    /// To what.
    #[schema(value_type = Object)]
    pub about: Value,
}

async fn status(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Admin)?;
    Ok(HttpResponse::Ok().json(app.status().await))
}

async fn series(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Admin)?;
    Ok(HttpResponse::Ok().json(app.watching.series.json()))
}

async fn settings(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Admin)?;
    Ok(HttpResponse::Ok().json(app.config().shown()))
}

/// Reads the configuration again: what changed, and what differs but needs a restart.
async fn reload(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let admin = caller(&request, Scope::Admin)?;
    match app.reload(&admin.name).await {
        Ok(Reload { changed, needs_restart, .. }) => Ok(HttpResponse::Ok().json(Reloaded { changed, needs_restart })),
        Err(Unloaded::NotNoted(error)) => Err(error.into()),
        Err(Unloaded::Wrong(errors)) => {
            let list: Vec<Value> = errors.0.iter().map(|error| json!(mistake(error))).collect();
            Err(Problem::new(Kind::InvalidConfiguration, errors.to_string()).with("errors", list))
        }
    }
}

fn mistake(error: &ConfigError) -> Mistake {
    let (place, line) = match &error.origin {
        Origin::File { name, line } => (Some(name.display().to_string()), *line),
        Origin::Environment(name) => (Some(name.clone()), None),
        Origin::Default => (None, None),
    };
    Mistake { path: error.path.clone(), message: error.message.clone(), place, line }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    /// The most acts wanted; by default 200.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Those older than this place: the `next` of the page before.
    before: Option<String>,
}

async fn audit(
    request: HttpRequest,
    app: web::Data<App>,
    query: web::Query<AuditQuery>,
) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Admin)?;
    let AuditQuery { limit, before } = query.into_inner();
    let limit = limit_of(limit, 200, PAGE_MAX)?;
    let no_place = || Problem::new(Kind::InvalidRequest, "`before` is not the `next` of a page");
    let before = before.map(|before| Place::parse(&before).ok_or_else(no_place)).transpose()?;
    let (acts, next) = app.audit.page(before.as_ref(), limit).await.map_err(ServiceError::from)?;
    Ok(HttpResponse::Ok().json(json!({ "acts": acts, "next": next.map(|next| next.to_string()) })))
}

/// The state now, and whatever is told from now on, until the service stops.
async fn events(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let pass = Pass::of(&request, Scope::Admin)?;
    let told = app.watching.watch();
    let first = stream::once(std::future::ready(event("status", app.status().await.to_string())));
    let stopping = app.stopping();
    let rest = stream::unfold((told, stopping, app.clone(), pass), |(mut told, mut stopping, app, pass)| async move {
        loop {
            let next = tokio::select! {
                next = told.recv() => next,
                _ = stopping.wait_for(|stopping| *stopping) => return None,
            };
            match next {
                Ok(next) => {
                    // A page that stays open may outlive its key.
                    pass.caller(&app).await.ok()?;
                    return Some((event(next.name, next.data.clone()), (told, stopping, app, pass)));
                }
                // Who is slow gets what is new.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let keep_alive = Duration::from_secs(app.config().server.keep_alive_s);
    let events = sse::Sse::from_stream(first.chain(rest)).with_keep_alive(keep_alive);
    Ok(events.respond_to(&request).map_into_boxed_body())
}

fn event(name: &'static str, data: String) -> Result<sse::Event, Infallible> {
    Ok(sse::Event::Data(sse::Data::new(data).event(name)))
}
