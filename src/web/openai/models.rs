//! `GET /v1/models`: the models that can be asked by name, the one that answers from the documents first.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::Error;
use crate::app::App;
use crate::error::ServiceError;
use crate::identity::Scope;
use crate::web::auth::caller;

/// The names of all models.
fn names(app: &App) -> Vec<String> {
    let config = app.config();
    let mut names = vec![config.answer.model_name.clone()];
    names.extend(config.models.all().map(|model| model.name.clone()));
    names.push(config.embedding.name.clone());
    names
}

fn about(app: &App, name: &str) -> Value {
    json!({ "id": name, "object": "model", "created": app.started_s(), "owned_by": "answerd" })
}

pub(super) async fn models(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Error> {
    caller(&request, Scope::Ask)?;
    let all: Vec<Value> = names(&app).iter().map(|name| about(&app, name)).collect();
    Ok(HttpResponse::Ok().json(json!({ "object": "list", "data": all })))
}

pub(super) async fn model(
    request: HttpRequest,
    app: web::Data<App>,
    name: web::Path<String>,
) -> Result<HttpResponse, Error> {
    caller(&request, Scope::Ask)?;
    let names = names(&app);
    if names.contains(&name) {
        return Ok(HttpResponse::Ok().json(about(&app, &name)));
    }
    let error = ServiceError::UnknownModel { name: name.into_inner(), known: names.join(", ") };
    Err(Error::about(error, "model"))
}
