//! The browser pages, built by Vite in `src/web/ui` and embedded in the binary: `/` is the chat, `/documents` the documents,
//! `/admin` the operators' page, `/docs` the reference; what they load is below `/ui/`, under names that change with the content.

use std::future::ready;

use actix_web::http::header::{self, AcceptEncoding, EntityTag, Header, IfNoneMatch};
use actix_web::{HttpRequest, HttpResponse, web};
use rust_embed::Embed;

use super::address::Address;
use super::error::{Kind, Problem};

/// Each file as it is and, where it is text, compressed. None where the pages were not built.
#[derive(Embed)]
#[folder = "src/web/ui/dist/"]
struct Files;

/// The pages: where each is, and its file.
const PAGES: [(&str, &str); 4] =
    [("/", "index.html"), ("/documents", "documents.html"), ("/admin", "admin.html"), ("/docs", "docs.html")];
/// How long a page is kept without asking: not at all.
const ASK_AGAIN: &str = "no-cache";
/// The same of what is below `/ui/`: another content has another name.
const FOR_GOOD: &str = "public, max-age=31536000, immutable";
/// What is served where there are no pages.
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>answerd</title>\
<h1>The pages are not in this binary</h1>\
<p>They are built with Node.js, 20 from 20.19 on or 22.12 and newer, and npm: install both, in Debian 13 the packages \
<code>nodejs</code> and <code>npm</code>, and run <code>make run</code> again. Everything else works; the README says how.</p></html>";

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let page = |(path, name)| Address::at(path).page(move |request: HttpRequest| ready(page(&request, name)));
    PAGES.into_iter().map(page).chain([Address::at("/ui/{file:.*}").page(file)]).collect()
}

/// Whether everybody may have what is at this path.
pub(super) fn is_page(path: &str) -> bool {
    path.starts_with("/ui/") || PAGES.iter().any(|(page, _)| *page == path)
}

fn page(request: &HttpRequest, name: &str) -> HttpResponse {
    respond(request, name, ASK_AGAIN)
        .unwrap_or_else(|| HttpResponse::ServiceUnavailable().content_type("text/html; charset=utf-8").body(NOT_BUILT))
}

async fn file(request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, Problem> {
    let found = respond(&request, &format!("ui/{name}"), FOR_GOOD);
    found.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no file `{name}`")))
}

/// A file in the best encoding that the client takes, or 304 where it has it; none where there is no such file.
fn respond(request: &HttpRequest, name: &str, kept: &'static str) -> Option<HttpResponse> {
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        // What is compressed is no file of its own.
        _ => return None,
    };
    let accepted = AcceptEncoding::parse(request).ok();
    let encoded = [("br", header::Encoding::brotli()), ("gz", header::Encoding::gzip())].into_iter().find_map(
        |(end, encoding)| {
            let file = Files::get(&format!("{name}.{end}"))?;
            let supported = [encoding.clone()];
            (accepted.as_ref()?.negotiate(supported.iter()) == Some(encoding.clone())).then_some((file, Some(encoding)))
        },
    );
    let (file, encoding) = encoded.or_else(|| Some((Files::get(name)?, None)))?;
    // The tag is the hash of what is sent.
    let tag = EntityTag::new_strong(hex::encode(&file.metadata.sha256_hash()[..16]));
    let unchanged = match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&tag)),
        Err(_) => false,
    };
    let mut response = if unchanged { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header((header::CACHE_CONTROL, kept))
        .insert_header((header::VARY, "Accept-Encoding"))
        .insert_header(header::ETag(tag));
    if unchanged {
        return Some(response.finish());
    }
    if let Some(encoding) = encoding {
        response.insert_header((header::CONTENT_ENCODING, encoding.to_string()));
    }
    Some(response.content_type(kind).body(file.data.into_owned()))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_page_that_was_not_built_says_what_is_missing() {
        let request = TestRequest::default().to_http_request();
        let response = page(&request, "never-built.html");
        assert_eq!(response.status(), 503);
        assert!(NOT_BUILT.contains("nodejs") && NOT_BUILT.contains("npm"));
    }
}
