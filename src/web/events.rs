//! `POST /v1/events`: a document event by HTTP, for publishers without NATS. Read are the modes of the CloudEvents HTTP
//! binding; see `docs/events.md`. Answered with 202 and a `seq` once it is on disk.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::address::{Address, Entry};
use super::auth::caller;
use super::documents::MetadataTold;
use super::error::{Kind, Problem};
use crate::actors::ingestor::Receive;
use crate::app::App;
use crate::documents::cloudevent::{Delivery, read};
use crate::error::ServiceError;
use crate::identity::Scope;
use crate::stores::document_store::{Origin, Outcome};

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let text = "A document event by HTTP, for publishers without NATS: a CloudEvent 1.0 that says that a document is there, has \
                changed, or is gone. Taken are the binary mode (attributes in headers `ce-...`, the document as the body), the \
                structured mode (one JSON object) and plain JSON without an envelope. `docs/events.md` is the contract, and \
                `docs/document-event.schema.json` the schema of the structured mode.\n\n\
                An event that comes again changes nothing. Its content may be elsewhere (`dataref`): then it is fetched before the \
                answer, and what cannot be fetched is 503 or 422.";
    let event = json!({
        "specversion": "1.0", "type": "com.example.document.upserted", "source": "//wiki", "id": "4711",
        "subject": "people/leave.md", "revision": 3, "datacontenttype": "text/markdown", "data": "# Leave\n...",
    });
    let taken = json!({
        "document": "people/leave.md", "event": { "source": "//wiki", "id": "4711" }, "seq": 14, "revision": 3,
        "outcome": "accepted",
    });
    let bytes = ObjectBuilder::new().schema_type(Type::String).content_media_type("application/octet-stream");
    let plain = json!({ "document": "people/leave.md", "content": "# Leave\n..." });
    let attribute = |name: &str, text: &str, example: &str| (format!("ce-{name}"), text.to_owned(), example.to_owned());
    let attributes = [
        attribute("specversion", "Binary mode: `1.0`.", "1.0"),
        attribute("type", "Binary mode: ends with `.upserted` or `.deleted`.", "com.example.document.upserted"),
        attribute("source", "Binary mode: the publisher.", "//wiki"),
        attribute("id", "Binary mode: with the source it names the event.", "4711"),
        attribute("subject", "Binary mode: the document's id, percent-encoded.", "people/leave.md"),
        attribute("revision", "Binary mode: a whole number that rises with each version.", "3"),
    ];
    let mut entry = Entry::new("events", "publishEvent", "Publish a document event").text(text).scope(Scope::Write);
    let (structured, envelope) = (entry.schema::<CloudEvent>(), entry.schema::<PlainEvent>());
    let entry = attributes.iter().fold(entry, |entry, (name, text, example)| entry.header(name, text, example));
    vec![
        Address::at("/v1/events").post(
            take,
            entry
                .body_as("application/cloudevents+json", BODY, structured, Some(event))
                .body_as("application/json", BODY, envelope, Some(plain))
                .body_as("application/octet-stream", BODY, bytes, None)
                .answers::<EventTaken>(202, "It is on disk; `outcome` says what it changes.", taken)
                .refuses(&[Kind::InvalidRequest, Kind::Overloaded, Kind::StorageFull]),
        ),
    ]
}

const BODY: &str = "The event, or in binary mode the document; in any of the formats that are read.";

/// A CloudEvent 1.0 about a document, in structured mode. Other attributes are ignored.
#[derive(Serialize, ToSchema)]
pub struct CloudEvent {
    /// `1.0`.
    pub specversion: String,
    /// Ends with `.upserted` or `.deleted`; a version after it is ignored.
    pub r#type: String,
    /// The publisher; with `id` it names the event.
    pub source: String,
    /// Its number of the event.
    pub id: String,
    /// The document's id.
    pub subject: String,
    /// Number of the version, rising.
    #[schema(maximum = 9_223_372_036_854_775_807_i64)]
    pub revision: Option<u64>,
    /// The collection it belongs to; by default `default`.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$")]
    pub collection: Option<String>,
    /// The groups that may see it, with commas between; without it, everybody who may ask.
    pub visibleto: Option<String>,
    /// Its title; without one, the document's own.
    pub title: Option<String>,
    /// Where a reader finds it.
    pub url: Option<String>,
    /// What filters match on.
    pub metadata: Option<MetadataTold>,
    /// Media type of the content.
    pub datacontenttype: Option<String>,
    /// Where the content is, instead of in the event: an HTTP(S) address, or `nats-object://<bucket>/<name>`.
    pub dataref: Option<String>,
    /// The content, as text; or an envelope with it, as of `PUT /v1/documents/{id}`.
    pub data: Option<Value>,
    /// The content, in Base64.
    pub data_base64: Option<String>,
}

/// An event without the envelope of a CloudEvent.
#[derive(Serialize, ToSchema)]
pub struct PlainEvent {
    /// The document's id.
    pub document: String,
    /// `upserted` or `deleted`; by default `upserted`.
    pub action: Option<String>,
    /// The publisher's number of the event.
    pub event_id: Option<String>,
    /// The publisher.
    pub source: Option<String>,
    /// Where the content is, instead of in the event.
    pub dataref: Option<String>,
    /// The content, as text.
    pub content: Option<String>,
    /// Media type of the content; by default `text/markdown`.
    pub media_type: Option<String>,
    /// Its title; without one, the document's own.
    pub title: Option<String>,
    /// Where a reader finds it.
    pub url: Option<String>,
    /// The collection it belongs to; by default `default`.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$")]
    pub collection: Option<String>,
    /// What filters match on.
    pub metadata: Option<MetadataTold>,
    /// The groups that may see it; without it, everybody who may ask.
    pub visible_to: Option<Vec<String>>,
    /// Number of the version, rising.
    #[schema(maximum = 9_223_372_036_854_775_807_i64)]
    pub revision: Option<u64>,
}

/// That an event was taken.
#[derive(Serialize, ToSchema)]
struct EventTaken {
    /// The document's id.
    document: String,
    /// Which event it was.
    event: EventName,
    /// The operation's number: what `min_seq` takes.
    seq: u64,
    /// The document's revision.
    revision: u64,
    /// What it changes.
    outcome: Outcome,
}

/// Which event it is.
#[derive(Serialize, ToSchema)]
struct EventName {
    /// The publisher.
    source: String,
    /// Its number of the event.
    id: String,
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
    Ok(HttpResponse::Accepted().json(EventTaken {
        document: id,
        event: EventName { source: event.key.source, id: event.key.id },
        seq: receipt.seq,
        revision: receipt.revision,
        outcome: receipt.outcome,
    }))
}
