//! `/admin/keys`: the API keys. A key itself is shown once, in the answer to the request that makes it.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::address::{Address, Entry};
use super::admin::TAG;
use super::auth::caller;
use super::error::{Kind, Problem};
use crate::app::App;
use crate::error::ServiceError;
use crate::identity::Scope;
use crate::identity::key::{Key, NewKey};
use crate::identity::keyring::Keyring;

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let key = json!({
        "id": "1f0c9a7de2b34c58", "name": "billing", "scopes": ["ask"], "groups": ["board", "hr"], "sees_all": false,
        "created_ms": 1_764_000_000_000_u64, "created_by": "key:0a1b2c3d4e5f6071", "expires_ms": null, "revoked_ms": null,
    });
    let mut made = key.clone();
    made["key"] = "ak_1f0c9a7de2b34c58_...".into();
    vec![
        Address::at("/admin/keys")
            .get(
                list,
                Entry::new(TAG, "listKeys", "List the API keys")
                    .text("Those that are out of force as well; none with what it opens with. There are keys where `[identity] enabled` is true.")
                    .scope(Scope::Admin)
                    .answers::<Keys>(200, "The keys.", json!({ "keys": [key] }))
                    .refuses(&[Kind::NotFound]),
            )
            .post(
                create,
                Entry::new(TAG, "createKey", "Make an API key")
                    .text("The key itself is in this answer, and nowhere after it.")
                    .scope(Scope::Admin)
                    .body::<NewKey>("What it is to be.", json!({ "name": "billing", "scopes": ["ask"], "groups": ["hr", "board"] }))
                    .answers::<NewKeyTold>(201, "The key.", made)
                    .refuses(&[Kind::NotFound, Kind::InvalidRequest, Kind::StorageFull]),
            ),
        Address::at("/admin/keys/{id}").delete(
            revoke,
            Entry::new(TAG, "revokeKey", "Revoke an API key")
                .text("It opens nothing any more, here at once and on other replicas within seconds. Connections that it opened end.")
                .scope(Scope::Admin)
                .path("id", "The `id` of the key.", "1f0c9a7de2b34c58")
                .nothing(204, "It is out of force.")
                .refuses(&[Kind::NotFound, Kind::StorageFull]),
        ),
    ]
}

/// The API keys.
#[derive(Serialize, ToSchema)]
struct Keys {
    /// All of them.
    keys: Vec<Key>,
}

/// An API key that was made now.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedKey)]
struct NewKeyTold {
    /// The key itself: it is shown once.
    key: String,
    #[serde(flatten)]
    of: Key,
}

fn keyring(app: &App) -> Result<&Keyring, Problem> {
    let off = || Problem::new(Kind::NotFound, "there are no API keys: [identity] enabled is false");
    app.identity.as_ref().map(|identity| &*identity.keyring).ok_or_else(off)
}

async fn list(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Admin)?;
    let keys = keyring(&app)?.list().await.map_err(ServiceError::from)?;
    Ok(HttpResponse::Ok().json(Keys { keys: keys.into_iter().map(|record| record.key).collect() }))
}

async fn create(request: HttpRequest, app: web::Data<App>, new: web::Json<NewKey>) -> Result<HttpResponse, Problem> {
    let admin = caller(&request, Scope::Admin)?;
    let (record, key) = keyring(&app)?.create(new.into_inner(), &admin.name).await?;
    Ok(HttpResponse::Created().json(NewKeyTold { key, of: record.key }))
}

async fn revoke(request: HttpRequest, app: web::Data<App>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let admin = caller(&request, Scope::Admin)?;
    match keyring(&app)?.revoke(&id, &admin.name).await.map_err(ServiceError::from)? {
        None => Err(Problem::new(Kind::NotFound, format!("there is no API key `{id}`"))),
        Some(_) => Ok(HttpResponse::NoContent().finish()),
    }
}
