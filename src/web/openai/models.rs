//! `GET /v1/models`: the models that can be asked by name, the one that answers from the documents first.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{Error, TAG};
use crate::app::App;
use crate::error::ServiceError;
use crate::identity::Scope;
use crate::web::address::{Address, Entry};
use crate::web::auth::caller;
use crate::web::error::Kind;

/// The addresses of this file.
pub(super) fn addresses() -> Vec<Address> {
    let one = json!({ "id": "answerd", "object": "model", "created": 1_764_000_000, "owned_by": "answerd" });
    vec![
        Address::at("/v1/models").get(
            models,
            Entry::new(TAG, "listModels", "List the models")
                .text("The one that answers from the documents first, then those that answer by themselves, then the embedding model.")
                .scope(Scope::Ask)
                .answers::<Models>(200, "The models.", json!({ "object": "list", "data": [one] })),
        ),
        Address::at("/v1/models/{name:.*}").get(
            model,
            Entry::new(TAG, "getModel", "One model")
                .scope(Scope::Ask)
                .path("name", "The model's name.", "answerd")
                .answers::<Model>(200, "The model.", one)
                .refuses(&[Kind::UnknownModel]),
        ),
    ]
}

/// The models that can be asked by name.
#[derive(Serialize, ToSchema)]
struct Models {
    /// `list`.
    object: &'static str,
    /// The models.
    data: Vec<Model>,
}

/// A model.
#[derive(Serialize, ToSchema)]
struct Model {
    /// Its name.
    id: String,
    /// `model`.
    object: &'static str,
    /// When the service was started, in seconds since the Unix epoch.
    created: u64,
    /// `answerd`.
    owned_by: &'static str,
}

/// The names of all models.
fn names(app: &App) -> Vec<String> {
    let config = app.config();
    let mut names = vec![config.answer.model_name.clone()];
    names.extend(config.models.all().map(|model| model.name.clone()));
    names.push(config.embedding.name.clone());
    names
}

fn about(app: &App, name: String) -> Model {
    Model { id: name, object: "model", created: app.started_s(), owned_by: "answerd" }
}

pub(super) async fn models(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Error> {
    caller(&request, Scope::Ask)?;
    let data = names(&app).into_iter().map(|name| about(&app, name)).collect();
    Ok(HttpResponse::Ok().json(Models { object: "list", data }))
}

pub(super) async fn model(
    request: HttpRequest,
    app: web::Data<App>,
    name: web::Path<String>,
) -> Result<HttpResponse, Error> {
    caller(&request, Scope::Ask)?;
    let names = names(&app);
    if names.contains(&name) {
        return Ok(HttpResponse::Ok().json(about(&app, name.into_inner())));
    }
    let error = ServiceError::UnknownModel { name: name.into_inner(), known: names.join(", ") };
    Err(Error::about(error, "model"))
}
