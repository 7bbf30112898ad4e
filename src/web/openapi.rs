//! `GET /openapi.json`: the reference of the HTTP interface, OpenAPI 3.1 (<https://spec.openapis.org/oas/v3.1.1.html>), made of
//! the same list of addresses as the server. `/docs` shows it to people.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, ContentType};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::path::PathsBuilder;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApiBuilder, Server};

use super::address::{Address, Entry, SCHEMES, Schemas};
use super::error::Kind;
use super::health::TAG;
use crate::retrieval::filter::Filter;

/// Where the reference is.
pub const PATH: &str = "/openapi.json";

/// The groups of addresses, in the order in which they are shown.
const TAGS: [(&str, &str); 8] = [
    ("answers", "Ask questions about the documents."),
    ("OpenAI", "The same, and the models by themselves, for programs that speak OpenAI's protocol."),
    ("search", "Find passages."),
    ("documents", "Put, read and delete documents."),
    ("events", "Publish what became of documents."),
    ("identity", "Who calls."),
    ("operation", "For orchestrators and monitoring."),
    ("administration", "For those who run the service."),
];

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    vec![
        Address::at(PATH).get(
            serve,
            Entry::new(TAG, "getReference", "This reference")
                .text("OpenAPI 3.1. `/docs` shows it to people.")
                .for_everybody()
                .answers::<Reference>(200, "The reference.", json!({ "openapi": "3.1.0" })),
        ),
    ]
}

/// An OpenAPI document.
#[derive(ToSchema)]
#[schema(as = OpenApi, value_type = Object)]
pub struct Reference(#[expect(dead_code, reason = "it is only described")] Value);

async fn serve() -> HttpResponse {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());
    HttpResponse::Ok().insert_header(ContentType::json()).insert_header((CACHE_CONTROL, "no-cache")).body(&**DOCUMENT)
}

/// The reference.
pub fn document() -> Value {
    let mut schemas = Schemas::new();
    let described: Vec<_> =
        super::addresses().into_iter().filter_map(|address| address.describe(&mut schemas)).collect();
    let paths = described.into_iter().fold(PathsBuilder::new(), |paths, (path, item)| paths.path(path, item));
    let [bearer, api_key] = SCHEMES;
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme(
            bearer,
            SecurityScheme::Http(
                HttpBuilder::new()
                    .scheme(HttpAuthScheme::Bearer)
                    .description(Some("An API key (`ak_...`), or a token of the identity provider (a JSON Web Token)."))
                    .build(),
            ),
        )
        .security_scheme(
            api_key,
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
                "X-Api-Key",
                "The same in another header.",
            ))),
        );
    let info = InfoBuilder::new()
        .title("answerd")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(introduction()))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()));
    let tags = TAGS.map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build());
    let document = OpenApiBuilder::new()
        .info(info)
        // Where this document lies, so that it is right behind a proxy as well.
        .servers(Some([Server::new("./")]))
        .paths(paths)
        .components(Some(components.build()))
        .tags(Some(tags))
        .build();
    let mut document = serde_json::to_value(document).expect("a document of texts is JSON");
    document["components"]["schemas"]["Filter"] = Filter::json_schema();
    bound_unsigned(&mut document);
    document
}

/// Says how large whole numbers from 0 on may be: as large as the type that takes them. The types of utoipa are signed.
fn bound_unsigned(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let is = |kind: &Value| {
                kind == "integer" || kind.as_array().is_some_and(|kinds| kinds.contains(&json!("integer")))
            };
            let unsigned = members.get("minimum").and_then(Value::as_f64).is_some_and(|least| least >= 0.0);
            if members.get("type").is_some_and(is) && unsigned && !members.contains_key("maximum") {
                let short = members.get("format").is_some_and(|format| format == "int32");
                let (format, most) = if short { ("uint32", u64::from(u32::MAX)) } else { ("uint64", u64::MAX) };
                members.insert("format".to_owned(), format.into());
                members.insert("maximum".to_owned(), most.into());
            }
            members.values_mut().for_each(bound_unsigned);
        }
        Value::Array(values) => values.iter_mut().for_each(bound_unsigned),
        _ => {}
    }
}

/// What holds for every address, in Markdown.
fn introduction() -> String {
    let kinds: String = Kind::ALL
        .iter()
        .map(|kind| {
            format!("| `{}` | {} | {} | {} |\n", kind.name(), kind.status().as_u16(), kind.title(), kind.advice())
        })
        .collect();
    format!(
        "answerd answers questions about an organisation's own documents: it searches them, and calls the model.\n\n\
         # Who calls\n\n\
         Where `[identity] enabled` is true, every request brings an API key or a token as `Authorization: Bearer ...` (or in \
         `X-Api-Key`), save those to the pages, `/openapi.json`, `/healthz`, `/startupz` and \
         `/readyz`. What it may do are its scopes: `ask` \
         (ask, search, read documents), `write` (put and delete them, publish events), `admin` (all below `/admin`) and `metrics` \
         (`/metrics`). What it sees are the documents for everybody, and those for one of its groups; others are as if they were \
         not there. Elsewhere everybody may do everything.\n\n\
         # Limits\n\n\
         Settings are named as in `config.toml`: `[search] limit_max`. JSON bodies have `[server] max_json_bytes` at most, and \
         the heads of requests `[server] max_header_bytes`. Where \
         `[budgets]` bound a caller, responses say in `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` (seconds) how \
         the limit stands that is the next one to be reached. Requests that only look at something are free.\n\n\
         # Which request it was\n\n\
         Every response has an `X-Request-Id`, which the log has as well: the one that the request brought (1 to 128 of letters, \
         digits and `-_.:/+=`), or a new one. A request that brings a `traceparent` (W3C Trace Context) goes on with that trace.\n\n\
         # How fresh it is\n\n\
         Every write has a `seq`. Answers and searches say up to which `seq` they saw, how many writes and events they did not see \
         (`lag_events`) and how old the oldest of these is (`lag_ms`); with `min_seq` they wait until they see it, \
         `[search] min_seq_timeout_ms` at most.\n\n\
         # Problems\n\n\
         Whatever goes wrong is told as a problem document (RFC 9457), of the media type `application/problem+json`; below \
         `/v1/chat`, `/v1/models` and `/v1/embeddings` as an error in OpenAI's form, with 400 in place of 422. `type` is \
         `urn:answerd:problem:` and one of these kinds. There may be others in later versions.\n\n\
         | kind | status | title | what to do |\n| --- | --- | --- | --- |\n{kinds}"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every `$ref` of a document.
    fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, value)| match value.as_str() {
                Some(reference) if name == "$ref" => drop(found.insert(reference)),
                _ => references(value, found),
            }),
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn what_it_refers_to_is_there_and_what_is_there_is_referred_to() {
        let document = document();
        let mut used = BTreeSet::new();
        references(&document, &mut used);
        let schemas = document["components"]["schemas"].as_object().expect("schemas");
        let there: BTreeSet<String> = schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
        assert_eq!(used, there.iter().map(String::as_str).collect());
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_a_group_and_a_summary() {
        let document = document();
        let operations = document["paths"]
            .as_object()
            .expect("paths")
            .values()
            .flat_map(|item| item.as_object().expect("a path").values());
        let mut names = BTreeSet::new();
        for operation in operations {
            let name = operation["operationId"].as_str().expect("a name");
            assert!(names.insert(name), "{name} is there twice");
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{name} has no summary");
            let tag = operation["tags"][0].as_str().expect("a group");
            assert!(TAGS.iter().any(|(known, _)| *known == tag), "{name} is in an unknown group {tag}");
        }
        assert!(names.len() > 30, "{names:?}");
    }

    #[test]
    fn it_has_no_links_of_rustdoc() {
        let document = document().to_string();
        let at = document.find("[`").map(|at| &document[at..document.len().min(at + 80)]);
        assert_eq!(at, None);
    }

    #[test]
    fn the_readme_has_every_kind_of_problem_with_its_status() {
        let readme = include_str!("../../README.md");
        for kind in Kind::ALL {
            let name = format!("`{}`", kind.name());
            let row = readme.lines().find(|line| line.starts_with("| `") && line.contains(&name));
            let status = kind.status().as_u16().to_string();
            assert!(row.is_some_and(|row| row.contains(&status)), "{name} with {status}: {row:?}");
        }
    }
}
