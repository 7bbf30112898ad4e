//! The HTTP front: one file a resource. It holds no state of its own; everything is asked of [`App`].
//!
//! | file | addresses |
//! | --- | --- |
//! | [`answers`] | `POST /v1/answers`, `/v1/answers/{id}`, `/v1/answers/{id}/events` |
//! | [`feedback`] | `/v1/answers/{id}/feedback` |
//! | [`openai`] | `/v1/chat/completions`, `/v1/models`, `/v1/embeddings` |
//! | [`ws`] | `/v1/ws` |
//! | [`search`] | `POST /v1/search` |
//! | [`documents`] | `/v1/documents`, `/v1/documents/{id}`, `/v1/collections` |
//! | [`deletions`] | `/v1/deletions/{id}` |
//! | [`events`] | `POST /v1/events` |
//! | [`admin`] | `/admin/status`, `/admin/events`, `/admin/series`, `/admin/config`, `/admin/reload`, `/admin/audit` |
//! | [`dead_letters`] | `/admin/dead-letters` |
//! | [`keys`] | `/admin/keys` |
//! | [`health`] | `/healthz`, `/startupz`, `/readyz` |
//! | [`metrics`] | `/metrics` |
//! | [`openapi`] | `/openapi.json`: the reference of all these |
//! | [`ui`] | `/`, `/documents`, `/admin`, `/docs`, `/ui/...`: the browser pages |
//!
//! Each file lists its addresses with what the reference says of them ([`address`]). [`error`] makes RFC 9457 problem documents
//! of everything that goes wrong, [`openai`] errors of OpenAI's form;
//! [`auth`] says who calls and what it may (and `/v1/me` tells it), [`entry`] bounds the
//! head of a request and says from where it may come, [`observe`] tells
//! of each request, [`slow`] ends connections of those who neither send nor take anything.

pub mod address;
pub mod admin;
pub mod answers;
pub mod auth;
pub mod dead_letters;
pub mod deletions;
pub mod documents;
pub mod entry;
pub mod error;
pub mod events;
pub mod feedback;
pub mod health;
pub mod keys;
pub mod metrics;
pub mod observe;
pub mod openai;
pub mod openapi;
pub mod search;
pub mod slow;
pub mod ui;
pub mod ws;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::{Condition, DefaultHeaders, from_fn};
use actix_web::{HttpServer, web};
use actix_web_lab::middleware::map_response;

use self::address::Address;
use crate::app::App;

/// Browsers load nothing from elsewhere and run nothing that is not a file of ours; and no text becomes a part of a page
/// but through the sanitizer.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types dompurify answerd";

/// Every address of the service.
pub fn addresses() -> Vec<Address> {
    [
        answers::addresses(),
        openai::addresses(),
        ws::addresses(),
        search::addresses(),
        documents::addresses(),
        deletions::addresses(),
        events::addresses(),
        auth::addresses(),
        admin::addresses(),
        keys::addresses(),
        dead_letters::addresses(),
        feedback::addresses(),
        health::addresses(),
        metrics::addresses(),
        openapi::addresses(),
        ui::addresses(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The most that `[server] shutdown_timeout_s` can be.
const LONGEST_STOP_S: u64 = 3600;

/// Starts the HTTP server on an open listener.
///
/// # Errors
/// Where the listener cannot be used.
pub fn serve(app: Arc<App>, listener: TcpListener) -> std::io::Result<Server> {
    let config = app.config();
    let writes = slow::limit_writes(Arc::clone(&app));
    let settings = Arc::clone(&config);
    let server = HttpServer::new(move || {
        let json = web::JsonConfig::default().limit(settings.server.max_json_bytes).error_handler(error::json_error);
        let origins = &settings.server.allowed_origins;
        actix_web::App::new()
            .app_data(web::Data::from(Arc::clone(&app)))
            .app_data(json)
            .app_data(web::QueryConfig::default().error_handler(error::query_error))
            .app_data(web::PayloadConfig::new(settings.ingest.max_document_bytes))
            .wrap(from_fn(auth::identify))
            .wrap(from_fn(slow::limit_body))
            .wrap(from_fn(entry::refuse_other_sites))
            .wrap(from_fn(slow::end_connections))
            .wrap(Condition::new(!origins.is_empty(), entry::cors(origins)))
            .wrap(from_fn(entry::limit_head))
            .wrap(map_response(async |response| Ok(error::unify(response))))
            .wrap(
                DefaultHeaders::new()
                    .add(("Content-Security-Policy", CONTENT_SECURITY_POLICY))
                    .add(("X-Content-Type-Options", "nosniff"))
                    .add(("Referrer-Policy", "no-referrer"))
                    .add(("Cross-Origin-Opener-Policy", "same-origin"))
                    .add(("Cross-Origin-Resource-Policy", "same-origin")),
            )
            .wrap(from_fn(observe::observe))
            .configure(|config| addresses().into_iter().for_each(|address| address.serve(config)))
            .default_service(web::to(error::not_found))
    })
    .h1_write_buffer_size(slow::UNSENT)
    .on_connect(writes)
    .workers(config.server.workers)
    // Of each worker.
    .max_connections(config.server.max_connections.div_ceil(config.server.workers))
    .client_request_timeout(Duration::from_millis(config.server.request_timeout_ms))
    // A client that is gone is noticed at once, not at the next write.
    .h1_allow_half_closed(false)
    // Who stops it waits as long as `[server] shutdown_timeout_s` says then.
    .shutdown_timeout(LONGEST_STOP_S)
    // Its own handling of signals stops every arbiter, before the actors could be taken down in order.
    .disable_signals()
    .listen(listener)?;
    Ok(server.run())
}
