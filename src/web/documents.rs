//! `/v1/documents`: the documents by HTTP. A `PUT` or `DELETE` is answered with 202 and a `seq` once it is on
//! disk; with `?wait=` once it is visible, a `DELETE` with its receipt. `/v1/collections`: what they are filed under.
//! `/v1/deletions/{id}`: the receipt of a deletion, whoever asked for it.

use std::time::{Duration, Instant};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::caller;
use super::error::{Kind, Problem, limit_of, method_not_allowed};
use crate::actors::ingestor::Receive;
use crate::app::App;
use crate::documents::event::{COLLECTION_DEFAULT, DocumentId, JsonDocument, Metadata, Operation, Upsert};
use crate::documents::parse::essence;
use crate::error::ServiceError;
use crate::identity::{Caller, Scope};
use crate::retrieval::sight::{Sight, VISIBLE_TO, groups_of, with_groups};
use crate::stores::document_store::{DocumentQuery, DocumentRecord, OperationState, Outcome, Progress, Receipt};

const PATH: &str = "/v1/documents";
const DELETIONS: &str = "/v1/deletions";

/// What is encoded of an id in an address.
const UNSAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How often a document is read that changes meanwhile.
const SAME_VERSION: usize = 8;
/// Pages that are looked through for those that are seen.
const LOOKED_THROUGH: usize = 200;
/// Most documents on a page.
const PAGE_MAX: usize = 1000;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/v1/collections")
                .route(web::get().to(collections))
                .default_service(web::to(method_not_allowed)),
        )
        .service(web::resource(PATH).route(web::get().to(list)).default_service(web::to(method_not_allowed)))
        .service(
            web::resource("/v1/documents/{id:.*}")
                .route(web::put().to(put))
                .route(web::get().to(get))
                .route(web::delete().to(delete))
                .default_service(web::to(method_not_allowed)),
        )
        .service(
            web::resource("/v1/deletions/{id:.*}")
                .route(web::get().to(deletion))
                .default_service(web::to(method_not_allowed)),
        );
}

/// What a `PUT` may say beside a body that is the document itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutQuery {
    title: Option<String>,
    url: Option<String>,
    collection: Option<String>,
    visible_to: Option<String>,
    /// A JSON object.
    metadata: Option<String>,
    revision: Option<u64>,
    wait: Option<String>,
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
            revision: revision.or(query.revision),
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
            revision: query.revision,
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
    query: web::Query<PutQuery>,
) -> Result<HttpResponse, Problem> {
    let caller = caller(&request, Scope::Write)?;
    let id = document_id(&request, PATH)?;
    let wait = wait_of(query.wait.as_deref(), app.config().ingest.max_wait_s)?;
    let (name, began) = (id.to_string(), Instant::now());
    let receive = Receive::new(Operation::Delete { id, revision: query.revision }, &*caller.name);
    let Receipt { seq, revision, outcome } = app.ingestor.ask(receive).await.map_err(ServiceError::from)?;
    if outcome == Outcome::Absent {
        return Err(Problem::new(Kind::NotFound, format!("there is no document `{name}`")));
    }
    let (mut settled, mut body) = answer(&app, &caller, &name, Receipt { seq, revision, outcome }, wait).await?;
    if outcome == Outcome::Accepted {
        body["receipt_at"] = format!("{DELETIONS}/{}?seq={seq}", utf8_percent_encode(&name, UNSAFE)).into();
        if let Some(limit) = wait.filter(|_| settled) {
            let left = limit.saturating_sub(began.elapsed());
            let written = app.deletions.written(seq, left).await.map_err(ServiceError::from)?;
            settled = written.is_some();
            body["receipt"] = written.into();
        }
    }
    Ok(respond(settled, body))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeletionQuery {
    /// Which deletion of the document; its last one otherwise.
    seq: Option<u64>,
}

/// The receipt of a deletion; 202 with what is noted of it before there is one.
async fn deletion(
    request: HttpRequest,
    app: web::Data<App>,
    query: web::Query<DeletionQuery>,
) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Write)?;
    let id = document_id(&request, DELETIONS)?.to_string();
    let last = async || {
        Ok::<_, Problem>(record(&app, &id).await?.filter(|known| known.last.delete).map(|known| known.last.seq))
    };
    let seq = match query.seq {
        Some(seq) => Some(seq),
        None => last().await?,
    };
    let known = match seq {
        Some(seq) => app.deletions.receipt(seq).await.map_err(ServiceError::from)?,
        None => None,
    };
    match known.filter(|receipt| receipt["document_id"] == *id) {
        Some(receipt) => Ok(respond(receipt.get("removed_from").is_some(), receipt)),
        None => {
            let detail = format!("no such deletion of `{id}` is known: without `seq` it is the last operation on it");
            Err(Problem::new(Kind::NotFound, detail))
        }
    }
}

fn respond(settled: bool, body: Value) -> HttpResponse {
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

#[derive(Deserialize)]
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
    let collections: Vec<Value> =
        found.into_iter().map(|(name, documents)| json!({ "name": name, "documents": documents })).collect();
    Ok(HttpResponse::Ok().json(json!({ "collections": collections })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    after: Option<String>,
    collection: Option<String>,
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

async fn record(app: &App, id: &str) -> Result<Option<DocumentRecord>, Problem> {
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
fn document_id(request: &HttpRequest, path: &str) -> Result<DocumentId, Problem> {
    let raw = request.uri().path().strip_prefix(path).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
    let id = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| invalid(format!("the document id `{raw}` is not UTF-8 when percent-decoded")))?;
    DocumentId::parse(&id).map_err(|error| invalid(error.to_string()))
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
