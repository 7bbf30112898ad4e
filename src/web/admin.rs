//! What operators look at: `/admin/status`, the tree of actors and the state of the stores; `/admin/events`, the same each
//! second as server-sent events, and the figures as they come; `/admin/series`, the last hour of them; `/admin/config`, the
//! settings in effect; `/admin/reload`, which reads them again; `/admin/audit`, what administrators did.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, Responder, web};
use actix_web_lab::sse;
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::auth::{Pass, caller};
use super::error::{Kind, Problem, method_not_allowed};
use crate::app::{App, Unloaded};
use crate::config::{ConfigError, Origin};
use crate::error::ServiceError;
use crate::identity::Scope;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    for (path, route) in [
        ("/admin/status", web::get().to(status)),
        ("/admin/events", web::get().to(events)),
        ("/admin/series", web::get().to(series)),
        ("/admin/config", web::get().to(settings)),
        ("/admin/audit", web::get().to(audit)),
        ("/admin/reload", web::post().to(reload)),
    ] {
        config.service(web::resource(path).route(route).default_service(web::to(method_not_allowed)));
    }
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
        Ok(reload) => Ok(HttpResponse::Ok().json(json!({
            "changed": reload.changed,
            "needs_restart": reload.needs_restart,
        }))),
        Err(Unloaded::NotNoted(error)) => Err(error.into()),
        Err(Unloaded::Wrong(errors)) => {
            let list: Vec<_> = errors.0.iter().map(mistake).collect();
            Err(Problem::new(Kind::InvalidConfiguration, errors.to_string()).with("errors", list))
        }
    }
}

fn mistake(error: &ConfigError) -> serde_json::Value {
    let (place, line) = match &error.origin {
        Origin::File { name, line } => (Some(name.display().to_string()), *line),
        Origin::Environment(name) => (Some(name.clone()), None),
        Origin::Default => (None, None),
    };
    json!({ "path": error.path, "message": error.message, "place": place, "line": line })
}

async fn audit(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Admin)?;
    let acts = app.audit.all().await.map_err(ServiceError::from)?;
    Ok(HttpResponse::Ok().json(json!({ "acts": acts })))
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
