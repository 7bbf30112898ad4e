//! `/admin/status`: the tree of actors and the state of the stores, as JSON.

use actix_web::{HttpResponse, web};

use crate::app::App;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/admin/status", web::get().to(status));
}

async fn status(app: web::Data<App>) -> HttpResponse {
    HttpResponse::Ok().json(app.status().await)
}
