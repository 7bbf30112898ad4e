//! The browser page at `/`, embedded in the binary.

use actix_web::http::header::{self, CacheControl, CacheDirective, EntityTag, IfNoneMatch};
use actix_web::{HttpResponse, web};
use rust_embed::Embed;

use super::error::{Kind, Problem};

#[derive(Embed)]
#[folder = "src/web/ui/"]
struct Files;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/", web::get().to(index)).route("/ui/{file}", web::get().to(file));
}

async fn index(known: web::Header<IfNoneMatch>) -> Result<HttpResponse, Problem> {
    respond("index.html", &known)
}

async fn file(name: web::Path<String>, known: web::Header<IfNoneMatch>) -> Result<HttpResponse, Problem> {
    respond(&name, &known)
}

/// A file, or 304 where the browser has it: its tag is the hash of its content.
fn respond(name: &str, known: &IfNoneMatch) -> Result<HttpResponse, Problem> {
    let Some(file) = Files::get(name) else {
        return Err(Problem::new(Kind::NotFound, format!("there is no file `{name}`")));
    };
    let tag = EntityTag::new_strong(hex::encode(&file.metadata.sha256_hash()[..16]));
    let unchanged = match known {
        IfNoneMatch::Any => true,
        IfNoneMatch::Items(tags) => tags.iter().any(|t| t.weak_eq(&tag)),
    };
    let mut response = if unchanged { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header(CacheControl(vec![CacheDirective::NoCache])).insert_header(header::ETag(tag));
    if unchanged {
        return Ok(response.finish());
    }
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    Ok(response.content_type(kind).body(file.data.into_owned()))
}
