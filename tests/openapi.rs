//! The reference of the HTTP interface, `/openapi.json`: it is complete, valid, and what it says is so; and the page that
//! shows it, `/docs`.

use crate::common;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use common::provider::{Provider, Signer};
use common::upstream::{Script, Upstream, chat_on};
use common::{Home, PATIENCE, Server, Setup, here};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use reqwest::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

/// The methods that an address may have, and one that none has.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "PATCH"];

/// A service with a quick model that asks who calls, and somebody who may do everything. No key of it can be revoked by whoever
/// tries everything.
struct Service {
    server: Server,
    token: String,
    _upstream: Upstream,
    _provider: Provider,
}

impl Service {
    async fn start(home: &Home, more: &str) -> Self {
        let (upstream, provider, signer) =
            (Upstream::start(Script::default()), Provider::start(), Signer::new("first"));
        provider.publish(Some(&[&signer]));
        let settings = format!(
            "{}\nidentity.enabled=true\nidentity.jwt.issuer={}\nidentity.jwt.write=[\"all\"]\nidentity.jwt.admin=[\"all\"]\n\
             identity.jwt.sees_all=[\"all\"]\n{more}",
            chat_on(&[&upstream]),
            provider.issuer()
        );
        let server = home.serve(&Setup { settings, ..Setup::default() }).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
        let claims =
            json!({ "iss": provider.issuer(), "aud": "answerd", "sub": "ann", "exp": now + 7200, "groups": ["all"] });
        Self { server, token: signer.sign(&claims), _upstream: upstream, _provider: provider }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>, accept: &str) -> reqwest::Response {
        let request =
            self.server.http.request(method, self.server.url(path)).bearer_auth(&self.token).header(ACCEPT, accept);
        let request = body.iter().fold(request, |request, body| request.json(body));
        request.send().await.expect("a response")
    }

    async fn reference(&self) -> Value {
        let (status, reference) = self.server.get("/openapi.json").await;
        assert_eq!(status, StatusCode::OK, "{reference}");
        reference
    }
}

/// The addresses of the reference, each with its methods.
fn described(reference: &Value) -> Vec<(String, BTreeSet<String>)> {
    let paths = reference["paths"].as_object().expect("paths");
    let methods = |item: &Value| item.as_object().expect("methods").keys().map(|name| name.to_uppercase()).collect();
    paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

/// Where the server is made of something else than the list that the reference is made of, too.
#[test]
fn no_file_of_the_web_registers_an_address_by_itself() {
    let mut wrong = Vec::new();
    for entry in walkdir::WalkDir::new(here("src/web")) {
        let entry = entry.expect("a file");
        let path = entry.path();
        if path.extension().is_none_or(|end| end != "rs") || path.ends_with("address.rs") {
            continue;
        }
        let text = std::fs::read_to_string(path).expect("a text");
        for (n, line) in text.lines().enumerate() {
            let registers = ["web::resource(", "web::scope(", ".route(", ".service(", "ServiceConfig"];
            // Until the service is there, something else says that it is alive.
            let start = line.contains("App::new().route(\"/healthz\"");
            if !start && registers.iter().any(|part| line.contains(part)) {
                wrong.push(format!("{}:{}: {}", path.display(), n + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "web/address.rs registers what web::addresses() lists:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn every_address_has_the_methods_that_are_described_and_no_other() {
    let home = Home::new();
    let service = Service::start(&home, "").await;
    let reference = service.reference().await;
    for (path, methods) in described(&reference) {
        let place = path.replace("{id}", "7").replace("{name}", "answerd");
        for method in METHODS {
            let response = service.send(method.parse().expect("a method"), &place, None, "*/*").await;
            let (status, there) = (response.status(), methods.contains(method));
            assert_eq!(status != StatusCode::METHOD_NOT_ALLOWED, there, "{method} {place}: {status}");
            if there {
                let expected = &reference["paths"][&path][method.to_lowercase()]["responses"][status.as_str()];
                assert!(expected.is_object(), "{method} {place}: {status} is not described");
                continue;
            }
            let allow = response.headers()[ALLOW].to_str().expect("a text");
            assert_eq!(allow.split(", ").map(str::to_owned).collect::<BTreeSet<_>>(), methods, "{place}: {allow}");
        }
    }
    // What is no address at all is that, whoever asks.
    assert_eq!(service.send(Method::GET, "/v1/nothing", None, "*/*").await.status(), StatusCode::NOT_FOUND);
    // The reference and its page are for everybody, and the rest is not.
    for (path, expected) in [("/openapi.json", 200), ("/docs", 200), ("/v1/models", 401), ("/openapi.jsonx", 401)] {
        let status = service.server.http.get(service.server.url(path)).send().await.expect("a response").status();
        // A binary that was built without Node.js says so in place of the page.
        assert!(status == expected || (path == "/docs" && status == 503), "{path}: {status}");
    }
}

/// A schema of the reference, with what it refers to.
struct Schemas<'r> {
    reference: &'r Value,
}

impl Schemas<'_> {
    /// Checks a value: that it is as the schema says, and that the schema tells of every member it has.
    fn check(&self, schema: &Value, value: &Value, of: &str) {
        let mut whole = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "allOf": [schema] });
        whole["components"] = self.reference["components"].clone();
        let validator = jsonschema::validator_for(&whole).expect("a schema");
        let errors: Vec<String> =
            validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{of}: {}\nin {value:#}", errors.join("\n"));
        let mut untold = Vec::new();
        self.untold(&[schema], value, of, &mut untold);
        assert!(untold.is_empty(), "not described: {}\nin {value:#}", untold.join(", "));
    }

    fn resolve<'s>(&'s self, schema: &'s Value) -> &'s Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.reference.pointer(&reference[1..]).expect("a schema"),
            None => schema,
        }
    }

    /// Collects the members that none of these schemas tells of. What may have any member, tells of all.
    fn untold(&self, schemas: &[&Value], value: &Value, place: &str, found: &mut Vec<String>) {
        let mut parts: Vec<&Value> = schemas.iter().map(|schema| self.resolve(schema)).collect();
        let mut n = 0;
        while n < parts.len() {
            let more = ["allOf", "oneOf", "anyOf"].iter().filter_map(|name| parts[n][*name].as_array()).flatten();
            let more: Vec<&Value> = more.map(|schema| self.resolve(schema)).collect();
            parts.extend(more);
            n += 1;
        }
        match value {
            Value::Array(items) => {
                let of: Vec<&Value> = parts.iter().filter_map(|part| part.get("items")).collect();
                items.iter().enumerate().for_each(|(n, item)| self.untold(&of, item, &format!("{place}[{n}]"), found));
            }
            Value::Object(members) => {
                let objects = parts.iter().filter(|part| part["properties"].is_object());
                let objects: Vec<&&Value> = objects.collect();
                for (name, member) in members {
                    let mut of: Vec<&Value> = objects.iter().filter_map(|part| part["properties"].get(name)).collect();
                    of.extend(
                        parts.iter().filter_map(|part| part.get("additionalProperties")).filter(|of| of.is_object()),
                    );
                    let place = format!("{place}.{name}");
                    match of.is_empty() {
                        true if objects.is_empty() => {}
                        true => found.push(place),
                        false => self.untold(&of, member, &place, found),
                    }
                }
            }
            _ => {}
        }
    }
}

/// The schema of a response.
fn schema_of<'r>(reference: &'r Value, path: &str, method: &str, status: &str, media_type: &str) -> &'r Value {
    let media = &reference["paths"][path][method]["responses"][status]["content"][media_type];
    assert!(media.is_object(), "{method} {path} has no {status} as {media_type}");
    media.get("schema").unwrap_or(&media["x-item-schema"])
}

#[tokio::test]
async fn what_the_service_says_is_as_described_and_nothing_of_it_is_untold() {
    let home = Home::new();
    let service = Service::start(&home, "cache.enabled=true").await;
    let reference = service.reference().await;
    let schemas = Schemas { reference: &reference };
    let put = json!({ "content": "# Leave\n\nEverybody gets 28 days of annual leave.", "title": "Leave", "metadata": { "team": ["people", 1] }, "visible_to": ["hr"], "url": "https://x.test" });
    let question = json!({ "question": "How many days of annual leave does everybody get?" });
    let chat = |more: Value| {
        let mut chat = json!({ "model": "answerd", "messages": [{ "role": "user", "content": "How many days of annual leave?" }] });
        chat.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_else(Map::new));
        chat
    };
    let answer = service.send(Method::POST, "/v1/answers", Some(question.clone()), "*/*").await;
    let place = answer.headers()["location"].to_str().expect("a text").to_owned();
    let (answers, key) = ("/v1/answers", json!({ "name": "k", "scopes": ["ask"] }));
    // Method, address, what it is at, body, and the status that is wanted.
    let calls: Vec<(&str, &str, &str, Option<Value>, u16)> = vec![
        ("put", "/v1/documents/{id}", "/v1/documents/people/leave.md?wait=true", Some(put), 200),
        ("get", "/v1/documents/{id}", "/v1/documents/people/leave.md", None, 200),
        ("get", "/v1/documents/{id}", "/v1/documents/nothing.md", None, 404),
        ("get", "/v1/documents", "/v1/documents", None, 200),
        ("get", "/v1/documents", "/v1/documents?limit=0", None, 422),
        ("get", "/v1/collections", "/v1/collections", None, 200),
        ("post", "/v1/search", "/v1/search", Some(json!({ "query": "annual leave" })), 200),
        ("post", "/v1/search", "/v1/search", Some(json!({ "query": "annual leave", "filter": { "x": 1 } })), 400),
        ("post", "/v1/search", "/v1/search", Some(json!({ "query": "x", "min_seq": 1_000_000 })), 503),
        ("post", answers, answers, Some(question.clone()), 200),
        ("post", answers, answers, Some(json!({ "question": "How do giraffes sleep on the moon?" })), 200),
        ("post", answers, answers, Some(json!({ "question": "long ".repeat(2000) })), 422),
        ("get", "/v1/answers/{id}", &place, None, 200),
        ("post", "/v1/events", "/v1/events", Some(json!({ "document": "b.md", "content": "# B\n\nText." })), 202),
        ("get", "/v1/me", "/v1/me", None, 200),
        ("get", "/v1/models", "/v1/models", None, 200),
        ("get", "/v1/models/{name}", "/v1/models/answerd", None, 200),
        ("get", "/v1/models/{name}", "/v1/models/none", None, 404),
        ("post", "/v1/embeddings", "/v1/embeddings", Some(json!({ "model": "all-MiniLM-L6-v2", "input": "x" })), 200),
        ("post", "/v1/chat/completions", "/v1/chat/completions", Some(chat(json!({}))), 200),
        ("post", "/v1/chat/completions", "/v1/chat/completions", Some(chat(json!({ "model": "far" }))), 200),
        ("post", "/v1/chat/completions", "/v1/chat/completions", Some(chat(json!({ "n": 2 }))), 400),
        ("post", "/admin/keys", "/admin/keys", Some(key), 201),
        ("get", "/admin/keys", "/admin/keys", None, 200),
        ("get", "/admin/status", "/admin/status", None, 200),
        ("get", "/admin/series", "/admin/series", None, 200),
        ("get", "/admin/config", "/admin/config", None, 200),
        ("get", "/admin/audit", "/admin/audit", None, 200),
        ("get", "/admin/dead-letters", "/admin/dead-letters", None, 200),
        ("get", "/healthz", "/healthz", None, 200),
        ("get", "/readyz", "/readyz", None, 200),
        ("delete", "/v1/documents/{id}", "/v1/documents/people/leave.md?wait=true", None, 200),
    ];
    for (method, path, at, body, wanted) in calls {
        let response =
            service.send(method.to_uppercase().parse().expect("a method"), at, body, "application/json").await;
        let status = response.status();
        let media_type = response.headers()[CONTENT_TYPE].to_str().expect("a text").to_owned();
        let value: Value = response.json().await.expect("JSON");
        assert_eq!(status, wanted, "{method} {at}: {value}");
        let schema = schema_of(&reference, path, method, status.as_str(), &media_type);
        schemas.check(schema, &value, &format!("{method} {at}"));
    }
    // Streams: each event, by its name.
    let streams: [(&str, &str, &str, Option<Value>); 2] = [
        ("post", answers, answers, Some(question)),
        ("get", "/v1/answers/{id}/events", &format!("{place}/events"), None),
    ];
    for (method, path, at, body) in streams {
        let response =
            service.send(method.to_uppercase().parse().expect("a method"), at, body, "text/event-stream").await;
        let schema = schema_of(&reference, path, method, "200", "text/event-stream");
        let events = common::read_events(response).await;
        assert!(events.len() > 3, "{events:?}");
        for event in events {
            let told = json!({ "event": event.name, "data": event.data });
            schemas.check(schema, &told, &format!("{method} {at}: {}", event.name));
        }
    }
    let response = service
        .send(
            Method::POST,
            "/v1/chat/completions",
            Some(chat(json!({ "stream": true, "stream_options": { "include_usage": true } }))),
            "*/*",
        )
        .await;
    let schema = schema_of(&reference, "/v1/chat/completions", "post", "200", "text/event-stream");
    let text = response.text().await.expect("a text");
    let chunks: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert!(chunks.len() > 3 && chunks.last() == Some(&"[DONE]"), "{text}");
    for chunk in &chunks[..chunks.len() - 1] {
        schemas.check(schema, &serde_json::from_str(chunk).expect("JSON"), "a chunk");
    }
    let response = service.send(Method::GET, "/admin/events", None, "*/*").await;
    let schema = schema_of(&reference, "/admin/events", "get", "200", "text/event-stream");
    let mut events = response.bytes_stream().eventsource();
    let mut names = BTreeSet::new();
    // A sample comes each five seconds.
    while names.len() < 2 {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time");
        let event = event.expect("an event").expect("a well-formed event");
        let data: Value = serde_json::from_str(&event.data).expect("JSON");
        schemas.check(schema, &json!({ "event": event.event, "data": data }), "/admin/events");
        names.insert(event.event);
    }
}

/// A program of the tests' Python.
fn python(program: &str) -> Command {
    let tools = std::env::var_os("ANSWERD_TEST_PYTHON").expect("ANSWERD_TEST_PYTHON: `make test` sets it");
    let mut python = Command::new(tools);
    python.args(["-m", program]);
    python
}

fn passes(command: &mut Command) {
    let output = command.output().expect("the tests' Python runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    assert!(output.status.success(), "{text}");
}

#[tokio::test]
async fn it_is_valid_openapi_3_1() {
    let home = Home::new();
    let service = Service::start(&home, "").await;
    let file = home.folder.path().join("openapi.json");
    std::fs::write(&file, service.reference().await.to_string()).expect("a file");
    passes(python("openapi_spec_validator").args(["--schema", "3.1"]).arg(&file));
}

/// What schemathesis makes of the reference: values that it allows and values that it does not, one call and several after
/// each other. For longer, and for other values: `ANSWERD_TEST_SECONDS=900 ANSWERD_TEST_SEED=2`.
#[tokio::test]
async fn nothing_that_the_reference_allows_or_forbids_is_answered_otherwise_than_it_says() {
    let home = Home::new();
    // What waits, waits for little: there is much to try.
    let settings = "cache.enabled=true\nsearch.min_seq_timeout_ms=50\ningest.max_wait_s=1\nanswer.max_output_tokens=16";
    let service = Service::start(&home, settings).await;
    let seed = std::env::var("ANSWERD_TEST_SEED").unwrap_or_else(|_| "1".to_owned());
    let run = |bounds: &[&str]| {
        let mut schemathesis = python("schemathesis.cli");
        schemathesis.current_dir(home.folder.path());
        schemathesis.env("SCHEMATHESIS_HOOKS", here("tests/clients/schemathesis_hooks.py"));
        schemathesis.args(["--config-file", &here("tests/clients/schemathesis.toml").display().to_string(), "run"]);
        schemathesis.arg(service.server.url("/openapi.json")).args(["--seed", &seed]).args(bounds);
        schemathesis.args(["--header", &format!("Authorization: Bearer {}", service.token)]);
        passes(&mut schemathesis);
    };
    match std::env::var("ANSWERD_TEST_SECONDS") {
        Ok(seconds) => run(&["--max-time", &seconds]),
        Err(_) => {
            run(&["--phases", "examples,fuzzing,stateful", "--max-examples", "10"]);
            // These are more than ten thousand, and come in the same order each time.
            run(&["--phases", "coverage", "--max-time", "40"]);
        }
    }
    // It is as well as before.
    service.server.until_ready().await;
}
