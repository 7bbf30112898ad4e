//! `/admin/keys`: the API keys. A key itself is shown once, in the answer to the request that makes it.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::auth::caller;
use super::error::{Kind, Problem, method_not_allowed};
use crate::app::App;
use crate::error::ServiceError;
use crate::identity::Scope;
use crate::identity::key::{KeyRecord, NewKey};
use crate::identity::keyring::Keyring;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    let refuse = || web::to(method_not_allowed);
    config
        .service(
            web::resource("/admin/keys")
                .route(web::get().to(list))
                .route(web::post().to(create))
                .default_service(refuse()),
        )
        .service(web::resource("/admin/keys/{id}").route(web::delete().to(revoke)).default_service(refuse()));
}

fn keyring(app: &App) -> Result<&Keyring, Problem> {
    let off = || Problem::new(Kind::NotFound, "there are no API keys: [identity] enabled is false");
    app.identity.as_ref().map(|identity| &*identity.keyring).ok_or_else(off)
}

async fn list(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Admin)?;
    let keys = keyring(&app)?.list().await.map_err(ServiceError::from)?;
    let keys: Vec<Value> = keys.iter().map(KeyRecord::describe).collect();
    Ok(HttpResponse::Ok().json(json!({ "keys": keys })))
}

async fn create(request: HttpRequest, app: web::Data<App>, new: web::Json<NewKey>) -> Result<HttpResponse, Problem> {
    let admin = caller(&request, Scope::Admin)?;
    let (record, key) = keyring(&app)?.create(new.into_inner(), &admin.name).await?;
    let mut body = record.describe();
    body["key"] = key.into();
    Ok(HttpResponse::Created().json(body))
}

async fn revoke(request: HttpRequest, app: web::Data<App>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let admin = caller(&request, Scope::Admin)?;
    match keyring(&app)?.revoke(&id, &admin.name).await.map_err(ServiceError::from)? {
        None => Err(Problem::new(Kind::NotFound, format!("there is no API key `{id}`"))),
        Some(_) => Ok(HttpResponse::NoContent().finish()),
    }
}
