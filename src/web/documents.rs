//! `/v1/documents`: the documents by HTTP. A `PUT` or `DELETE` is answered with 202 and a `seq` once it is on
//! disk; with `?wait=` once it is visible, a `DELETE` with its receipt. `/v1/collections`: what they are filed under.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::address::{Address, Entry};
use super::auth::caller;
use super::deletions::{self, DeletionTold};
use super::error::{Kind, Problem, limit_of};
use crate::actors::ingestor::Receive;
use crate::app::App;
use crate::documents::event::{
    COLLECTION_DEFAULT, DocumentId, JsonDocument, MAX_METADATA_KEYS, Metadata, Operation, Upsert, validate_collection,
};
use crate::documents::parse::essence;
use crate::error::ServiceError;
use crate::identity::{Caller, Scope};
use crate::retrieval::sight::{MAX_GROUP_BYTES, MAX_GROUPS, Sight, VISIBLE_TO, groups_of, with_groups};
use crate::stores::document_store::{DocumentQuery, DocumentRecord, OperationState, Outcome, Progress, Receipt};

const PATH: &str = "/v1/documents";

/// How often a document is read that changes meanwhile.
const SAME_VERSION: usize = 8;
/// Pages that are looked through for those that are seen.
const LOOKED_THROUGH: usize = 200;
/// Most documents on a page.
const PAGE_MAX: usize = 1000;

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let id = "The document's id: all that follows `/v1/documents/`, such as `people/leave.md`. 1 to 512 bytes without control \
              characters; slashes may be plain or percent-encoded, with no empty, `.` or `..` segment between them.";
    let bytes = || ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
    let body = "The document itself, in any of the formats that are read (`Content-Type` is a hint; what it is, its bytes tell), or \
                as `application/json` an envelope. `[ingest] max_document_bytes` at most.";
    let mut put_entry = Entry::new(TAG, "putDocument", "Put a document");
    let envelope = put_entry.schema::<DocumentEnvelope>();
    let written = [
        (200, "It is settled: `status` says whether it can be found."),
        (202, "It is on disk, and will not be lost; `status` says how far it is."),
    ];
    let write = [Kind::InvalidRequest, Kind::Overloaded, Kind::StorageFull];
    let put_entry = written.iter().fold(put_entry, |entry, (status, text)| {
        entry.answers::<DocumentWritten>(*status, text, example(&[("outcome", json!("accepted"))]))
    });
    let deleted = json!({ "id": EXAMPLE_ID, "seq": 15, "revision": 4, "outcome": "accepted", "receipt_at": deletions::place(EXAMPLE_ID, 15) });
    let mut deleted_with_receipt = deleted.clone();
    deleted_with_receipt["receipt"] = deletions::example();
    vec![
        Address::at("/v1/collections").get(
            collections,
            Entry::new(TAG, "listCollections", "List the collections")
                .text("With the number of documents in each, as far as the caller sees them.")
                .scope(Scope::Ask)
                .answers::<Collections>(
                    200,
                    "The collections.",
                    json!({ "collections": [{ "name": "handbook", "documents": 12 }] }),
                ),
        ),
        Address::at(PATH).get(
            list,
            Entry::new(TAG, "listDocuments", "List documents")
                .text("By their ids, by pages, as far as the caller sees them.")
                .scope(Scope::Ask)
                .query::<ListQuery>()
                .answers::<DocumentList>(200, "A page of them.", json!({ "documents": [example(&[])], "next": null })),
        ),
        Address::at("/v1/documents/{id:.*}")
            .put(
                put,
                put_entry
                    .text(
                        "Creates a document, or replaces it whole: searches see its old passages, or its new ones. Answered once it \
                         is on disk; with `wait`, once it can be found. An older or equal `revision` changes nothing.",
                    )
                    .scope(Scope::Write)
                    .path("id", id, EXAMPLE_ID)
                    .query::<PutQuery>()
                    .body_as("text/markdown", body, bytes(), Some("# Leave\n\nEverybody gets 28 days.".into()))
                    .body_as("application/octet-stream", body, bytes(), None)
                    .body_as(
                        "application/json",
                        body,
                        envelope,
                        Some(json!({ "content": "# Leave\n\nEverybody gets 28 days.", "title": "Leave", "revision": 3 })),
                    )
                    .refuses(&write)
                    .refuses(&[Kind::InvalidJson]),
            )
            .get(
                get,
                Entry::new(TAG, "getDocument", "Read a document")
                    .text("What is served of it, how far its last write is, and its text.")
                    .scope(Scope::Ask)
                    .path("id", id, EXAMPLE_ID)
                    .query::<GetQuery>()
                    .answers::<Document>(200, "The document.", example(&[("text", json!("# Leave\n\nEverybody gets 28 days."))]))
                    .refuses(&[Kind::NotFound]),
            )
            .delete(
                delete,
                Entry::new(TAG, "deleteDocument", "Delete a document")
                    .text(
                        "Answered once that is on disk; with `wait`, once it is nowhere any more, with a receipt of all the places it \
                         was removed from. `receipt_at` is where that receipt is.",
                    )
                    .scope(Scope::Write)
                    .path("id", id, EXAMPLE_ID)
                    .query::<DeleteQuery>()
                    .answers::<DocumentDeleted>(200, "It is gone.", deleted_with_receipt)
                    .answers::<DocumentDeleted>(202, "That is on disk, and will be done.", deleted)
                    .refuses(&write)
                    .refuses(&[Kind::NotFound]),
            ),
    ]
}

/// The group of these addresses in the reference.
pub(super) const TAG: &str = "documents";
pub(super) const EXAMPLE_ID: &str = "people/leave.md";

/// A document as the reference shows it, with some more members.
fn example(more: &[(&str, Value)]) -> Value {
    let mut example = json!({
        "id": EXAMPLE_ID, "status": "visible", "seq": 14, "revision": 3,
        "times": { "received_ms": 1_764_000_000_000_u64, "parsed_ms": 1_764_000_000_004_u64, "embedded_ms": 1_764_000_000_031_u64,
            "stored_ms": 1_764_000_000_040_u64, "visible_ms": 1_764_000_000_052_u64 },
        "metadata": { "team": "people" }, "served_revision": 3, "title": "Leave", "url": null, "collection": "handbook",
        "media_type": "text/markdown", "format": "markdown", "chunks": 4, "updated_ms": 1_764_000_000_040_u64,
    });
    more.iter().for_each(|(name, value)| example[*name] = value.clone());
    example
}

/// What a `PUT` may say beside a body that is the document itself.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct PutQuery {
    /// Its title, of 1024 bytes at most; without one, the document's own.
    title: Option<String>,
    /// Where a reader finds it, in 4096 bytes at most.
    url: Option<String>,
    /// The collection it belongs to; by default `default`.
    #[param(pattern = "^[a-z0-9_-]{1,64}$")]
    collection: Option<String>,
    /// The groups that may see it, with commas between; without it, everybody who may ask.
    visible_to: Option<String>,
    /// What filters match on: a flat JSON object, as text.
    #[param(example = "{\"team\": \"people\"}")]
    metadata: Option<String>,
    /// Number of this version, rising; without it, it is newer than whatever is there.
    #[param(maximum = 9_223_372_036_854_775_807_i64)]
    revision: Option<u64>,
    /// Answer when it is settled: `true`, or seconds up to `[ingest] max_wait_s`.
    #[param(example = "true")]
    wait: Option<String>,
}

/// What a `DELETE` may say.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct DeleteQuery {
    /// Number of the version that is its end, rising; without it, it is newer than whatever is there.
    #[param(maximum = 9_223_372_036_854_775_807_i64)]
    revision: Option<u64>,
    /// Answer when it is settled: `true`, or seconds up to `[ingest] max_wait_s`.
    #[param(example = "true")]
    wait: Option<String>,
}

/// A document as a JSON object.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentEnvelope {
    /// The text.
    #[schema(min_length = 1)]
    pub content: String,
    /// The media type of the text; by default `text/markdown`.
    pub media_type: Option<String>,
    /// Its title, of 1024 bytes at most; without one, the document's own.
    pub title: Option<String>,
    /// Where a reader finds it, in 4096 bytes at most.
    pub url: Option<String>,
    /// The collection it belongs to; by default `default`.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$")]
    pub collection: Option<String>,
    /// What filters match on.
    #[serde(default)]
    #[schema(value_type = MetadataTold)]
    pub metadata: Metadata,
    /// The groups that may see it, 100 at most; without it, everybody who may ask.
    #[schema(max_items = 100)]
    pub visible_to: Option<Vec<String>>,
    /// Number of this version, rising; without it, it is newer than whatever is there.
    #[schema(maximum = 9_223_372_036_854_775_807_i64)]
    pub revision: Option<u64>,
}

/// [`Metadata`], for the reference.
#[derive(Serialize)]
pub struct MetadataTold;

impl ToSchema for MetadataTold {
    fn name() -> Cow<'static, str> {
        "Metadata".into()
    }
}

impl PartialSchema for MetadataTold {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let types = [Type::String, Type::Number, Type::Boolean, Type::Null];
        let scalar = || ObjectBuilder::new().schema_type(SchemaType::from_iter(types.clone()));
        let value = AnyOfBuilder::new().item(scalar()).item(ArrayBuilder::new().items(scalar()));
        let groups = ArrayBuilder::new().items(text().min_length(Some(1)).max_length(Some(MAX_GROUP_BYTES)));
        let groups = groups.max_items(Some(MAX_GROUPS));
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some(
                "What filters match on, as `metadata.<key>`: texts, numbers, booleans, null, or arrays of these. 16 KiB at most, as JSON.",
            ))
            .property("visible_to", AnyOfBuilder::new().item(text()).item(groups).description(Some("The groups that may see it.")))
            .property_names(Some(text().pattern(Some("^[A-Za-z0-9_.-]{1,64}$")).build()))
            .max_properties(Some(MAX_METADATA_KEYS))
            .additional_properties(Some(Schema::AnyOf(value.build())))
            .into()
    }
}

/// How far the last write of a document is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DocumentStatus {
    /// It is on disk.
    Received,
    /// It is parsed.
    Parsed,
    /// Its passages are embedded.
    Embedded,
    /// It can be found.
    Visible,
    /// It is gone.
    Deleted,
    /// It was given up; `reason` says why, and what was there before is served.
    Failed,
}

/// When a write came how far, in milliseconds since the Unix epoch.
#[derive(Serialize, ToSchema)]
pub struct DocumentTimes {
    /// When it was published, where its event says so.
    pub published_ms: Option<i64>,
    /// When it was taken.
    pub received_ms: Option<i64>,
    /// When it was parsed.
    pub parsed_ms: Option<i64>,
    /// When its passages were embedded.
    pub embedded_ms: Option<i64>,
    /// When that was on disk.
    pub stored_ms: Option<i64>,
    /// When it could be found.
    pub visible_ms: Option<i64>,
    /// When it was given up.
    pub failed_ms: Option<i64>,
}

/// A document: what is served of it, and how far its last write is.
#[derive(Serialize, ToSchema)]
pub struct Document {
    /// What names it.
    pub id: String,
    /// How far its last write is.
    pub status: DocumentStatus,
    /// The number of that write: what `min_seq` takes.
    pub seq: u64,
    /// The revision of that write.
    pub revision: u64,
    /// When it came how far.
    pub times: DocumentTimes,
    /// What filters match on.
    #[schema(value_type = MetadataTold)]
    pub metadata: Metadata,
    #[serde(flatten)]
    pub served: ServedDocument,
    /// Its text, where one document is read.
    pub text: Option<String>,
}

/// What is served of a document; nothing, until its first version can be found.
#[derive(Serialize, ToSchema)]
pub struct ServedDocument {
    /// The groups that may see it; without it, everybody who may ask.
    pub visible_to: Option<Vec<String>>,
    /// Why its last write was given up.
    pub reason: Option<String>,
    /// The revision that is served.
    pub served_revision: Option<u64>,
    /// The title that is served.
    pub title: Option<String>,
    /// Where a reader finds it.
    pub url: Option<String>,
    /// The collection it belongs to.
    pub collection: Option<String>,
    /// What its publisher says that it is.
    pub media_type: Option<String>,
    /// What it was read as.
    pub format: Option<String>,
    /// Its passages.
    pub chunks: Option<u64>,
    /// When what is served was stored, in milliseconds since the Unix epoch.
    pub updated_ms: Option<i64>,
}

/// What became of a write: the document, as far as the caller sees it.
#[derive(Serialize, ToSchema)]
pub struct DocumentWritten {
    /// What names it.
    pub id: String,
    /// The number of the write: what `min_seq` takes.
    pub seq: u64,
    /// The revision of the write.
    pub revision: u64,
    /// Whether it changes anything.
    pub outcome: Outcome,
    /// How far its last write is.
    pub status: Option<DocumentStatus>,
    /// When it came how far.
    pub times: Option<DocumentTimes>,
    /// What filters match on.
    #[schema(value_type = Option<MetadataTold>)]
    pub metadata: Option<Metadata>,
    #[serde(flatten)]
    pub served: ServedDocument,
}

/// What became of a deletion: the document, as far as the caller sees it, and the receipt.
#[derive(Serialize, ToSchema)]
pub struct DocumentDeleted {
    #[serde(flatten)]
    pub written: DocumentWritten,
    /// Where the receipt is, or will be.
    pub receipt_at: Option<String>,
    /// The receipt, where it was waited for; null where that took too long.
    pub receipt: Option<DeletionTold>,
}

/// A page of documents.
#[derive(Serialize, ToSchema)]
pub struct DocumentList {
    /// The documents, by their ids.
    pub documents: Vec<Document>,
    /// What `after` takes for the next page; null on the last one.
    #[schema(required)]
    pub next: Option<String>,
}

/// The collections.
#[derive(Serialize, ToSchema)]
pub struct Collections {
    /// Those that the caller sees documents of.
    pub collections: Vec<Collection>,
}

/// A collection.
#[derive(Serialize, ToSchema)]
pub struct Collection {
    /// Its name.
    pub name: String,
    /// Documents in it that the caller sees.
    pub documents: u64,
}

async fn put(
    request: HttpRequest,
    app: web::Data<App>,
    query: web::Query<PutQuery>,
    body: web::Bytes,
) -> Result<HttpResponse, Problem> {
    let caller = caller(&request, Scope::Write)?;
    let id = document_id(&request, PATH)?;
    let query = query.into_inner();
    // What an envelope says wins, and what is beside it must be right all the same.
    let beside = revision_of(query.revision)?;
    query.collection.as_deref().map_or(Ok(()), validate_collection).map_err(invalid)?;
    let groups = groups_of(query.visible_to.as_deref());
    let given = match query.metadata.as_deref().map(serde_json::from_str::<Metadata>) {
        None => Metadata::new(),
        Some(given) => given.map_err(|error| invalid(format!("`metadata` is no JSON object: {error}")))?,
    };
    let wait = wait_of(query.wait.as_deref(), app.config().ingest.max_wait_s)?;
    let declared = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let envelope: Option<JsonDocument> = match declared {
        Some(media_type) if essence(media_type) == "application/json" => {
            let mut json = serde_json::Deserializer::from_slice(&body);
            serde_path_to_error::deserialize(&mut json).map_err(|error| {
                let detail = format!(
                    "at `{}`: {}. A JSON body is an envelope {{\"content\": \"...\", \"media_type\", \"title\", \"url\", \"collection\", \"metadata\", \"revision\"}}; send any other Content-Type to send the document itself",
                    error.path(),
                    error.inner()
                );
                Problem::new(Kind::InvalidJson, detail)
            })?
        }
        _ => None,
    };
    let upsert = match envelope {
        Some(JsonDocument { content, media_type, title, url, collection, metadata, visible_to, revision }) => Upsert {
            id,
            revision: revision.or(beside),
            media_type: Some(media_type.unwrap_or_else(|| "text/markdown".to_owned())),
            title: title.or(query.title),
            url: url.or(query.url),
            collection: collection.or(query.collection).unwrap_or_else(|| COLLECTION_DEFAULT.to_owned()),
            metadata: with_groups(if metadata.is_empty() { given } else { metadata }, visible_to.or(groups))
                .map_err(invalid)?,
            content: content
                .ok_or_else(|| Problem::new(Kind::InvalidJson, "a JSON body is an envelope, and it lacks `content`"))?,
        },
        None => Upsert {
            id,
            revision: beside,
            // What clients send when nobody told them: it says nothing of the document.
            media_type: declared
                .filter(|t| {
                    !t.starts_with("application/x-www-form-urlencoded") && !t.starts_with("application/octet-stream")
                })
                .map(str::to_owned),
            title: query.title,
            url: query.url,
            collection: query.collection.unwrap_or_else(|| COLLECTION_DEFAULT.to_owned()),
            metadata: with_groups(given, groups).map_err(invalid)?,
            content: body.to_vec(),
        },
    };
    check(&upsert)?;
    let id = upsert.id.to_string();
    let receive = Receive::new(Operation::Upsert(upsert), &*caller.name);
    let receipt = app.ingestor.ask(receive).await.map_err(ServiceError::from)?;
    let (settled, body) = answer(&app, &caller, &id, receipt, wait).await?;
    Ok(respond(settled, body))
}

async fn delete(
    request: HttpRequest,
    app: web::Data<App>,
    query: web::Query<DeleteQuery>,
) -> Result<HttpResponse, Problem> {
    let caller = caller(&request, Scope::Write)?;
    let id = document_id(&request, PATH)?;
    let wait = wait_of(query.wait.as_deref(), app.config().ingest.max_wait_s)?;
    let (name, began) = (id.to_string(), Instant::now());
    let revision = revision_of(query.revision)?;
    let receive = Receive::new(Operation::Delete { id, revision }, &*caller.name);
    let Receipt { seq, revision, outcome } = app.ingestor.ask(receive).await.map_err(ServiceError::from)?;
    if outcome == Outcome::Absent {
        return Err(Problem::new(Kind::NotFound, format!("there is no document `{name}`")));
    }
    let (mut settled, mut body) = answer(&app, &caller, &name, Receipt { seq, revision, outcome }, wait).await?;
    if outcome == Outcome::Accepted {
        body["receipt_at"] = deletions::place(&name, seq).into();
        if let Some(limit) = wait.filter(|_| settled) {
            let left = limit.saturating_sub(began.elapsed());
            let written = app.deletions.written(seq, left).await.map_err(ServiceError::from)?;
            settled = written.is_some();
            body["receipt"] = written.into();
        }
    }
    Ok(respond(settled, body))
}

/// A body that says how far it is: with 200 once it is settled.
pub(super) fn respond(settled: bool, body: Value) -> HttpResponse {
    if settled { HttpResponse::Ok().json(body) } else { HttpResponse::Accepted().json(body) }
}

/// The answer to a write, and whether it is settled: at once, or when it is.
async fn answer(
    app: &App,
    caller: &Caller,
    id: &str,
    receipt: Receipt,
    wait: Option<Duration>,
) -> Result<(bool, Value), Problem> {
    let waited = match wait {
        Some(limit) => app.library.store.settle(receipt.seq, limit).await.map_err(ServiceError::from)?,
        None => false,
    };
    let record = record(app, id).await?;
    let settled =
        waited || receipt.outcome != Outcome::Accepted && record.as_ref().is_none_or(|record| record.last.settled);
    // Who writes may not see what is there.
    let mut body = match record.filter(|record| record.is_seen_by(&caller.sight)) {
        Some(record) => describe(app, &record),
        None => json!({ "id": id }),
    };
    body["seq"] = receipt.seq.into();
    body["revision"] = receipt.revision.into();
    body["outcome"] = json!(receipt.outcome);
    Ok((settled, body))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct GetQuery {
    /// Whether its text is wanted, too.
    #[serde(default = "yes")]
    text: bool,
}

fn yes() -> bool {
    true
}

async fn get(request: HttpRequest, app: web::Data<App>, query: web::Query<GetQuery>) -> Result<HttpResponse, Problem> {
    let caller = caller(&request, Scope::Ask)?;
    let id = document_id(&request, PATH)?.to_string();
    let mut known = seen(&app, &caller, &id).await?;
    if !query.text {
        return Ok(HttpResponse::Ok().json(describe(&app, &known)));
    }
    for _ in 0..SAME_VERSION {
        let text = app.library.store.document_text(&id).await.map_err(ServiceError::from)?;
        // A version that came meanwhile may be for others.
        let now = seen(&app, &caller, &id).await?;
        let version =
            |record: &DocumentRecord| record.served.as_ref().map(|served| (served.revision, served.updated_ms));
        if version(&now) == version(&known) {
            let mut body = describe(&app, &now);
            body["text"] = json!(text);
            return Ok(HttpResponse::Ok().json(body));
        }
        known = now;
    }
    Err(ServiceError::Unavailable { reason: format!("`{id}` changes all the time"), retry_after_s: 1 }.into())
}

/// A document, for those who see it.
async fn seen(app: &App, caller: &Caller, id: &str) -> Result<DocumentRecord, Problem> {
    let known = record(app, id).await?.filter(|record| record.served.is_some() || !record.last.delete);
    let seen = known.filter(|record| record.is_seen_by(&caller.sight));
    seen.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no document `{id}`")))
}

/// The collections of the documents that are seen.
async fn collections(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let caller = caller(&request, Scope::Ask)?;
    let found = app.library.store.collections(caller.sight.narrow(None)).await.map_err(ServiceError::from)?;
    let collections = found.into_iter().map(|(name, documents)| Collection { name, documents }).collect();
    Ok(HttpResponse::Ok().json(Collections { collections }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// The most documents wanted; by default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Those behind this id: the `next` of the page before.
    after: Option<String>,
    /// Only those of this collection.
    collection: Option<String>,
    /// Only those whose id begins so.
    prefix: Option<String>,
}

async fn list(
    request: HttpRequest,
    app: web::Data<App>,
    query: web::Query<ListQuery>,
) -> Result<HttpResponse, Problem> {
    let caller = caller(&request, Scope::Ask)?;
    let query = query.into_inner();
    let limit = limit_of(query.limit, 100, PAGE_MAX)?;
    // Who sees few of many has more of them looked through at once.
    let page_size = if *caller.sight == Sight::All { limit } else { PAGE_MAX };
    let ListQuery { after, collection, prefix, .. } = query;
    let mut query = DocumentQuery { after, limit: page_size, collection, prefix };
    let mut documents = Vec::new();
    // Where to go on: behind the last one that is seen, for no other one is named.
    let mut last_seen = None;
    let mut more = true;
    let mut pages = 0;
    while more && documents.len() < limit {
        if pages == LOOKED_THROUGH {
            if documents.is_empty() {
                let detail = "too many documents would have to be looked through: name a `collection`, or a `prefix`";
                return Err(Problem::new(Kind::InvalidRequest, detail));
            }
            break;
        }
        pages += 1;
        let page = app.library.store.documents(&query).await.map_err(ServiceError::from)?;
        query.after = page.documents.last().map(|last| last.id.clone());
        more = page.more;
        let mut records = page.documents.into_iter();
        for record in records.by_ref() {
            if record.is_seen_by(&caller.sight) {
                documents.push(describe(&app, &record));
                last_seen = Some(record.id);
                if documents.len() == limit {
                    break;
                }
            }
        }
        more |= records.next().is_some();
    }
    let next = last_seen.filter(|_| more);
    Ok(HttpResponse::Ok().json(json!({ "documents": documents, "next": next })))
}

pub(super) async fn record(app: &App, id: &str) -> Result<Option<DocumentRecord>, Problem> {
    Ok(app.library.store.document(id).await.map_err(ServiceError::from)?)
}

/// A document as JSON: what is served, and how far its last operation is.
fn describe(app: &App, record: &DocumentRecord) -> Value {
    let last = &record.last;
    let progress = app.library.progress.get(&last.seq).map_or(last.progress, |progress| *progress);
    let status = match last.state {
        OperationState::Failed => json!("failed"),
        OperationState::Stored | OperationState::Superseded if !last.settled => json!("embedded"),
        OperationState::Stored | OperationState::Superseded if last.delete => json!("deleted"),
        OperationState::Stored | OperationState::Superseded => json!("visible"),
        OperationState::Received => match progress {
            Progress { embedded_ms: Some(_), .. } => json!("embedded"),
            Progress { parsed_ms: Some(_), .. } => json!("parsed"),
            _ => json!("received"),
        },
    };
    let times = [
        ("published_ms", last.published_ms),
        ("received_ms", Some(last.received_ms)),
        ("parsed_ms", progress.parsed_ms),
        ("embedded_ms", progress.embedded_ms),
        (if last.state == OperationState::Failed { "failed_ms" } else { "stored_ms" }, last.settled_ms),
        ("visible_ms", last.visible_ms),
    ];
    let times: serde_json::Map<String, Value> =
        times.into_iter().filter_map(|(name, time)| Some((name.to_owned(), time?.into()))).collect();
    let mut body = json!({
        "id": record.id,
        "status": status,
        "seq": last.seq,
        "revision": last.revision,
        "times": times,
        "metadata": record.metadata,
    });
    if let Some(groups) = record.metadata.get(VISIBLE_TO) {
        body[VISIBLE_TO] = if groups.is_string() { json!([groups]) } else { groups.clone() };
    }
    if let Some(reason) = &last.reason {
        body["reason"] = json!(reason);
    }
    if let Some(served) = &record.served {
        body["served_revision"] = json!(served.revision);
        body["title"] = json!(served.title);
        body["url"] = json!(served.url);
        body["collection"] = json!(served.collection);
        body["media_type"] = json!(served.media_type);
        body["format"] = json!(served.format);
        body["chunks"] = json!(served.chunks);
        body["updated_ms"] = json!(served.updated_ms);
    }
    body
}

/// The id in the address: all that follows the prefix, decoded once. Slashes in it may be plain or encoded.
pub(super) fn document_id(request: &HttpRequest, path: &str) -> Result<DocumentId, Problem> {
    let raw = request.uri().path().strip_prefix(path).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
    let id = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| invalid(format!("the document id `{raw}` is not UTF-8 when percent-decoded")))?;
    DocumentId::parse(&id).map_err(|error| invalid(error.to_string()))
}

/// A revision as a query string may state it: every store counts up to this.
fn revision_of(revision: Option<u64>) -> Result<Option<u64>, Problem> {
    match revision {
        Some(revision) if revision > i64::MAX as u64 => Err(invalid(format!("`revision` is larger than {}", i64::MAX))),
        revision => Ok(revision),
    }
}

fn invalid(detail: String) -> Problem {
    Problem::new(Kind::InvalidRequest, detail)
}

fn check(upsert: &Upsert) -> Result<(), Problem> {
    if upsert.content.is_empty() {
        return Err(invalid("the body is empty: send the document's content".into()));
    }
    upsert.check_description().map_err(invalid)
}

/// `wait=true`, or `wait=` so many seconds.
fn wait_of(wait: Option<&str>, max_s: u64) -> Result<Option<Duration>, Problem> {
    match wait {
        None | Some("false" | "0") => Ok(None),
        Some("true" | "") => Ok(Some(Duration::from_secs(max_s))),
        Some(given) => match given.parse::<f64>() {
            Ok(seconds) if seconds > 0.0 && seconds <= max_s as f64 => Ok(Some(Duration::from_secs_f64(seconds))),
            _ => Err(Problem::new(
                Kind::InvalidRequest,
                format!("`wait` is `{given}`; it takes `true`, or seconds up to {max_s}"),
            )),
        },
    }
}
