//! `POST /v1/events`: a document event by HTTP, for publishers without NATS. Read are the modes of the CloudEvents HTTP
//! binding; see `docs/events.md`. Answered with 202 and a `seq` once it is on disk.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::auth::caller;
use super::error::{Kind, Problem, method_not_allowed};
use crate::actors::ingestor::Receive;
use crate::app::App;
use crate::documents::cloudevent::{Delivery, read};
use crate::error::ServiceError;
use crate::identity::Scope;
use crate::stores::document_store::Origin;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    let resource = web::resource("/v1/events");
    config.service(resource.route(web::post().to(take)).default_service(web::to(method_not_allowed)));
}

async fn take(request: HttpRequest, app: web::Data<App>, body: web::Bytes) -> Result<HttpResponse, Problem> {
    let by = caller(&request, Scope::Write)?.name.to_string();
    let mut headers = Vec::new();
    for (name, value) in request.headers() {
        match value.to_str() {
            Ok(value) => headers.push((name.to_string(), value.to_owned())),
            // What is no attribute of the event is none of its business.
            Err(_) if name.as_str().starts_with("ce-") || *name == header::CONTENT_TYPE => {
                let detail = format!("the header {name} must be ASCII: other characters are percent-encoded");
                return Err(Problem::new(Kind::InvalidRequest, detail));
            }
            Err(_) => {}
        }
    }
    let fallback_id = uuid::Uuid::now_v7().to_string();
    let mut event = read(&Delivery { headers, body: &body, bus_subject: None, fallback_id })
        .map_err(|error| Problem::new(Kind::InvalidRequest, error.to_string()))?;
    let bus = app.events.as_ref().and_then(|events| events.bus());
    let room = match &event.dataref {
        Some(dataref) => app.datarefs.complete(&mut event.operation, dataref, bus.as_deref()).await,
        None => Ok(None),
    };
    let room = room.map_err(ServiceError::from)?;
    let id = event.operation.id().to_string();
    let origin = Some(Origin { event: event.key.hash(), position: None });
    let receive = Receive { operation: event.operation, origin, by };
    let receipt = app.ingestor.ask(receive).await.map_err(ServiceError::from)?;
    drop(room);
    let body = json!({
        "document": id,
        "event": { "source": event.key.source, "id": event.key.id },
        "seq": receipt.seq,
        "revision": receipt.revision,
        "outcome": receipt.outcome,
    });
    Ok(HttpResponse::Accepted().json(body))
}
