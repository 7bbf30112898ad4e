//! `/v1/deletions/{id}`: the receipt of a deletion, whoever asked for it.

use actix_web::{HttpRequest, HttpResponse, web};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::address::{Address, Entry};
use super::auth::caller;
use super::documents::{EXAMPLE_ID, TAG, document_id, record, respond};
use super::error::{Kind, Problem};
use crate::app::App;
use crate::deletion::Had;
use crate::deletion::receipt::Receipt;
use crate::error::ServiceError;
use crate::identity::Scope;

const PATH: &str = "/v1/deletions";

/// What is encoded of an id in an address.
const UNSAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The address of this file.
pub fn addresses() -> Vec<Address> {
    let noted = json!({
        "document_id": EXAMPLE_ID, "seq": 15, "revision": 4, "at_ms": 1_764_000_000_000_u64, "by": "key:1f0c9a7de2b34c58",
        "had": { "collection": "handbook", "revision": 3, "chunks": 4 },
    });
    let entry = Entry::new(TAG, "getDeletion", "Read the receipt of a deletion")
        .text("Whoever asked for it, and however: by HTTP, by an event, or because a file is gone.")
        .scope(Scope::Write)
        .path("id", "The document's id, as in `/v1/documents/{id}`.", EXAMPLE_ID)
        .query::<DeletionQuery>()
        .answers::<DeletionTold>(200, "The receipt.", example())
        .answers::<DeletionNoted>(202, "It is not done yet: what is noted of it.", noted)
        .refuses(&[Kind::NotFound]);
    vec![Address::at("/v1/deletions/{id:.*}").get(deletion, entry)]
}

/// A receipt as the reference shows it.
pub(super) fn example() -> Value {
    json!({
        "document_id": EXAMPLE_ID, "collection": "handbook", "revision": 3, "seq": 15, "accepted_ms": 1_764_000_000_000_u64,
        "deleted_ms": 1_764_000_000_020_u64, "complete": true, "by": "key:1f0c9a7de2b34c58",
        "removed_from": [{ "what": "catalog", "entries": 1, "state": "removed", "at_ms": 1_764_000_000_020_u64 }],
        "remains": ["backups that were made before"],
    })
}

/// Where the receipt of a document's deletion is, or will be.
pub(super) fn place(document: &str, seq: u64) -> String {
    format!("{PATH}/{}?seq={seq}", utf8_percent_encode(document, UNSAFE))
}

/// The receipt of a deletion, with who asked for it.
#[derive(Serialize, ToSchema)]
#[schema(as = Deletion)]
pub struct DeletionTold {
    #[serde(flatten)]
    pub receipt: Receipt,
    /// Who asked for it; null where that was not noted.
    #[schema(required)]
    pub by: Option<String>,
}

/// What is noted of a deletion that is not done yet.
#[derive(Serialize, ToSchema)]
pub struct DeletionNoted {
    /// The document.
    pub document_id: String,
    /// The operation.
    pub seq: u64,
    /// The revision that is its end.
    pub revision: u64,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who asked for it.
    pub by: String,
    /// What was served of it.
    #[schema(required)]
    pub had: Option<Had>,
}

#[derive(Deserialize, IntoParams)]
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
    let id = document_id(&request, PATH)?.to_string();
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
