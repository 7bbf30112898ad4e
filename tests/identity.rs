//! Who calls, and what it may: API keys, tokens of a provider, and documents that are for some only. Every store is held
//! to the part about documents.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config as Cases, TestRunner};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::common;
use common::provider::{Provider, Signer};
use common::upstream::{Script, Upstream, chat_on};
use common::{Home, Server, Setup, make_key, outcome, problem, texts};

const ON: &str = "identity.enabled=true";

fn with_identity(more: &str) -> Setup {
    Setup { settings: format!("{ON}\n{more}"), ..Setup::default() }
}

/// Somebody with a key or a token.
struct As<'s> {
    server: &'s Server,
    key: String,
}

impl As<'_> {
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.server.http.request(method, self.server.url(path)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        outcome(request.send().await.expect("a response")).await
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.send(Method::POST, path, Some(body)).await
    }

    async fn delete(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::DELETE, path, None).await
    }

    /// Puts a document for these groups, or for everybody, and waits until it is visible.
    async fn put(&self, id: &str, text: &str, visible_to: Option<&[&str]>) {
        let body = json!({ "content": text, "visible_to": visible_to });
        let (status, body) = self.send(Method::PUT, &format!("/v1/documents/{id}?wait=true"), Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }

    async fn found(&self, query: &str, mode: &str) -> BTreeSet<String> {
        let (status, body) = self.post("/v1/search", json!({ "query": query, "mode": mode, "limit": 100 })).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        texts(&body["results"], "document_id").into_iter().collect()
    }

    async fn listed(&self, path: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let mut after = String::new();
        loop {
            let (status, body) = self.get(&format!("{path}{after}")).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            all.extend(texts(&body["documents"], "id"));
            match body["next"].as_str() {
                None => return all,
                Some(next) => after = format!("&after={next}"),
            }
        }
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs()
}

#[tokio::test]
async fn who_does_not_say_who_it_is_gets_nothing_but_the_pages() {
    let home = Home::new();
    let setup = with_identity("");
    let server = home.serve(&setup).await;
    for (path, status) in [("/", 200), ("/healthz", 200), ("/readyz", 200)] {
        assert_eq!(server.http.get(server.url(path)).send().await.expect("a response").status(), status, "{path}");
    }
    let (ask, write) = (make_key(&home, &setup, &["asker"]), make_key(&home, &setup, &["writer", "--scopes=write"]));
    let figures = make_key(&home, &setup, &["figures", "--scopes", "metrics"]);
    let question = json!({ "question": "What is the limit?" });
    // Each address with a key that may not use it.
    for (method, path, body, wrong) in [
        (Method::POST, "/v1/answers", Some(&question), Some(&write)),
        (Method::GET, "/v1/answers/x", None, Some(&write)),
        (Method::GET, "/v1/answers/x/events", None, Some(&write)),
        (Method::DELETE, "/v1/answers/x", None, Some(&write)),
        (Method::POST, "/v1/search", Some(&json!({ "query": "x" })), Some(&write)),
        (Method::GET, "/v1/documents", None, Some(&write)),
        (Method::GET, "/v1/documents/a", None, Some(&write)),
        (Method::GET, "/v1/collections", None, Some(&write)),
        (Method::PUT, "/v1/documents/a", Some(&json!({ "content": "x" })), Some(&ask)),
        (Method::DELETE, "/v1/documents/a", None, Some(&ask)),
        (Method::POST, "/v1/events", Some(&json!({ "document": "a", "content": "x" })), Some(&ask)),
        (Method::POST, "/v1/chat/completions", Some(&json!({ "model": "answerd", "messages": [] })), Some(&write)),
        (Method::POST, "/v1/embeddings", Some(&json!({ "model": "all-MiniLM-L6-v2", "input": "x" })), Some(&write)),
        (Method::GET, "/v1/models", None, Some(&write)),
        (Method::GET, "/v1/ws", None, Some(&write)),
        (Method::GET, "/v1/me", None, None),
        (Method::GET, "/metrics", None, Some(&ask)),
        (Method::GET, "/admin/status", None, Some(&figures)),
        (Method::GET, "/admin/keys", None, Some(&ask)),
        (Method::POST, "/admin/keys", Some(&json!({ "name": "mine", "scopes": ["admin"] })), Some(&ask)),
        (Method::DELETE, "/admin/keys/x", None, Some(&ask)),
        (Method::GET, "/nothing/here", None, None),
        (Method::GET, "/%61dmin/status", None, Some(&ask)),
        (Method::GET, "//admin/status", None, None),
        (Method::GET, "/ui/../admin/status", None, Some(&ask)),
    ] {
        let send = |key: Option<&String>| {
            let mut request = server.http.request(method.clone(), server.url(path));
            if let Some(body) = body {
                request = request.json(body);
            }
            key.map_or(request.try_clone(), |key| Some(request.bearer_auth(key))).expect("a request").send()
        };
        for key in [None, Some(&"ak_0123456789abcdef_0000".to_owned()), Some(&format!("{ask}0")), Some(&"x".to_owned())]
        {
            let response = send(key).await.expect("a response");
            let challenge = response.headers().get("www-authenticate").cloned();
            let (status, body) = outcome(response).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} {key:?}: {body}");
            assert!(challenge.is_some_and(|challenge| challenge.to_str().is_ok_and(|c| c.starts_with("Bearer"))));
        }
        if let Some(wrong) = wrong {
            let (status, body) = outcome(send(Some(wrong)).await.expect("a response")).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}: {body}");
        }
    }
    let asker = As { server: &server, key: String::new() };
    let (_, refused) = asker.get("/v1/models").await;
    assert_eq!(refused["error"]["code"], "invalid_api_key", "{refused}");
    let figures = As { server: &server, key: figures };
    assert_eq!(
        figures
            .server
            .http
            .get(server.url("/metrics"))
            .bearer_auth(&figures.key)
            .send()
            .await
            .expect("a response")
            .status(),
        200
    );
}

#[tokio::test]
async fn a_service_that_others_reach_does_not_start_without_identity() {
    let home = Home::new();
    for bind in ["0.0.0.0:0", "[::]:0", "192.168.1.1:8080"] {
        let setup = Setup { settings: format!("server.bind={bind}"), ..Setup::default() };
        let refused = home.run(&setup, &["check"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("server.bind") && said.contains("identity"), "{said}");
        for way in [ON, "identity.allow_anonymous=true"] {
            let setup = Setup { settings: format!("server.bind={bind}\n{way}"), ..Setup::default() };
            assert!(home.run(&setup, &["check"]).status.success(), "{bind} {way}");
        }
    }
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked_and_only_their_hash_is_kept() {
    let home = Home::new();
    let setup = with_identity("");
    let server = home.serve(&setup).await;
    let root = As { server: &server, key: make_key(&home, &setup, &["root", "--scopes", "ask,write,admin"]) };
    let (status, me) = root.get("/v1/me").await;
    assert_eq!((status, &me["scopes"]), (StatusCode::OK, &json!(["ask", "write", "admin"])), "{me}");

    let new = json!({ "name": "billing", "scopes": ["ask"], "groups": ["finance"] });
    let (status, made) = root.post("/admin/keys", new.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let billing = As { server: &server, key: made["key"].as_str().expect("a key").to_owned() };
    let (_, billing_me) = billing.get("/v1/me").await;
    assert_eq!(
        (&billing_me["name"], &billing_me["groups"]),
        (&json!(format!("key:{}", made["id"].as_str().expect("an id"))), &json!(["finance"]))
    );
    let (_, listed) = root.get("/admin/keys").await;
    assert_eq!(texts(&listed["keys"], "name"), ["root", "billing"]);
    let text = listed.to_string();
    assert!(!text.contains("hash") && !text.contains(billing.key.rsplit('_').next().expect("a secret")), "{text}");
    for (wrong, said) in [
        (json!({ "name": "", "scopes": ["ask"] }), "name"),
        (json!({ "name": "x", "scopes": [] }), "scopes"),
        (json!({ "name": "x", "scopes": ["everything"] }), "everything"),
        (json!({ "name": "x", "scopes": ["ask"], "expires_ms": 1 }), "past"),
    ] {
        let (status, body) = root.post("/admin/keys", wrong).await;
        assert!(status.is_client_error() && body["detail"].as_str().is_some_and(|d| d.contains(said)), "{body}");
    }

    // Revoked here, it counts for nothing at once; revoked elsewhere, within seconds.
    let id = made["id"].as_str().expect("an id").to_owned();
    assert_eq!(root.delete(&format!("/admin/keys/{id}")).await.0, StatusCode::NO_CONTENT);
    problem(&billing.get("/v1/me").await, 401, "unauthorized");
    problem(&root.delete("/admin/keys/unknown").await, 404, "not-found");
    let other = As { server: &server, key: make_key(&home, &setup, &["other"]) };
    assert_eq!(other.get("/v1/me").await.0, StatusCode::OK);
    let other_id = other.key.split('_').nth(1).expect("an id");
    assert!(home.run(&setup, &["keys", "revoke", other_id]).status.success());
    server.until("the key is out of force", async || other.get("/v1/me").await.0 == StatusCode::UNAUTHORIZED).await;
    let list = String::from_utf8(home.run(&setup, &["keys", "list"]).stdout).expect("text");
    assert_eq!(list.lines().filter(|line| line.contains("was revoked")).count(), 2, "{list}");

    // Who did what is noted.
    let acts = home.run(&setup, &["audit"]);
    let acts: Vec<Value> = String::from_utf8(acts.stdout)
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let done: Vec<(&str, &str)> =
        acts.iter().map(|act| (act["act"].as_str().expect("text"), act["by"].as_str().expect("text"))).collect();
    let me = me["name"].as_str().expect("a name");
    let by_hand = "command line";
    assert_eq!(
        done,
        [
            ("key.create", by_hand),
            ("key.create", me),
            ("key.revoke", me),
            ("key.create", by_hand),
            ("key.revoke", by_hand)
        ]
    );
    let newest: Vec<&Value> = acts.iter().rev().collect();
    assert_eq!(root.get("/admin/audit").await.1, json!({ "acts": newest, "next": null }));
    let (mut paged, mut before) = (Vec::new(), String::new());
    loop {
        let page = root.get(&format!("/admin/audit?limit=2{before}")).await.1;
        paged.extend(page["acts"].as_array().expect("acts").clone());
        match page["next"].as_str() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    assert_eq!(json!(paged), json!(newest));
    problem(&root.get("/admin/audit?before=yesterday").await, 422, "invalid-request");

    // The secret is in no file, and in no log.
    let secret = root.key.rsplit('_').next().expect("a secret").to_owned();
    for entry in walkdir::WalkDir::new(home.folder.path()).into_iter().filter_map(Result::ok) {
        if entry.file_type().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret.as_bytes()),
                "{}",
                entry.path().display()
            );
        }
    }
    // They outlive the process.
    let key = root.key.clone();
    server.stop().await;
    let server = home.serve(&setup).await;
    let root = As { server: &server, key };
    assert_eq!(root.get("/admin/status").await.0, StatusCode::OK);
    let asked = home.run(&setup, &["search", "anything", "--server", &server.base, "--key", &root.key]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    assert!(!home.run(&setup, &["search", "anything", "--server", &server.base]).status.success());
}

/// Documents for some, and those who are to see them.
async fn documents(root: &As<'_>) {
    root.put("open.md", "# Open\n\nThe budget of the canteen is 100 euros.", None).await;
    root.put("hr.md", "# HR\n\nThe budget of the personnel office is 200 euros.", Some(&["hr"])).await;
    root.put("it.md", "# IT\n\nThe budget of the machine room is 300 euros.", Some(&["it", "board"])).await;
    root.put("nobody.md", "# Nobody\n\nThe budget of the secret office is 400 euros.", Some(&[])).await;
}

#[tokio::test]
async fn a_document_is_seen_by_its_groups_and_by_nobody_else() {
    let home = Home::new();
    let upstream = Upstream::start(Script::default());
    let setup = with_identity(&format!("cache.enabled=true\n{}", chat_on(&[&upstream])));
    let server = home.serve(&setup).await;
    let of = |groups: &str| As { server: &server, key: make_key(&home, &setup, &["x", "--groups", groups]) };
    let root =
        As { server: &server, key: make_key(&home, &setup, &["root", "--scopes=ask,write,admin", "--sees-all"]) };
    let (hr, it, both, none) =
        (of("hr"), of("it"), of("hr,it"), As { server: &server, key: make_key(&home, &setup, &["x"]) });
    let writer = As { server: &server, key: make_key(&home, &setup, &["w", "--scopes", "ask,write"]) };
    documents(&root).await;

    let sees: [(&As<'_>, &[&str]); 5] = [
        (&root, &["open.md", "hr.md", "it.md", "nobody.md"]),
        (&hr, &["open.md", "hr.md"]),
        (&it, &["open.md", "it.md"]),
        (&both, &["open.md", "hr.md", "it.md"]),
        (&none, &["open.md"]),
    ];
    for (who, seen) in sees {
        for mode in ["hybrid", "lexical", "vector"] {
            assert_eq!(who.found("budget of the office", mode).await, names(seen), "{mode}");
        }
        assert_eq!(who.listed("/v1/documents?limit=1").await, names(seen));
        // Not even as a place to go on from is another one named.
        let (_, page) = who.get("/v1/documents?limit=1&after=a").await;
        assert!(page["next"].as_str().is_none_or(|next| seen.contains(&next)), "{page}");
        let (_, collections) = who.get("/v1/collections").await;
        assert_eq!(collections["collections"], json!([{ "name": "default", "documents": seen.len() }]));
        for id in ["open.md", "hr.md", "it.md", "nobody.md"] {
            let known = who.get(&format!("/v1/documents/{id}")).await;
            match seen.contains(&id) {
                true => assert_eq!(known.0, StatusCode::OK),
                false => drop(problem(&known, 404, "not-found")),
            }
        }
        // A filter cannot widen what is seen.
        let filter = json!({ "any": [{ "metadata.visible_to": ["hr", "it", "board"] }, { "id": { "exists": true } }] });
        let (_, body) = who.post("/v1/search", json!({ "query": "budget", "limit": 100, "filter": filter })).await;
        assert_eq!(texts(&body["results"], "document_id").into_iter().collect::<BTreeSet<_>>(), names(seen));
        // Twice: the second one from the cache.
        for _ in 0..2 {
            let question = "What is the budget of the office?";
            let (status, answer) = who.post("/v1/answers", json!({ "question": question })).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            let sources: BTreeSet<String> = texts(&answer["sources"], "document_id").into_iter().collect();
            assert!(sources.is_subset(&names(seen)) && !sources.is_empty(), "{answer}");
            let messages = json!([{ "role": "user", "content": question }]);
            let (_, answer) =
                who.post("/v1/chat/completions", json!({ "model": "answerd", "messages": messages })).await;
            let sources: BTreeSet<String> = texts(&answer["sources"], "document_id").into_iter().collect();
            assert!(sources.is_subset(&names(seen)) && !sources.is_empty(), "{answer}");
        }
    }

    // An answer is its asker's.
    let response = server
        .http
        .post(server.url("/v1/answers"))
        .bearer_auth(&hr.key)
        .json(&json!({ "question": "What is the budget?" }));
    let place = response.send().await.expect("a response").headers()["location"].to_str().expect("text").to_owned();
    assert_eq!(hr.get(&place).await.0, StatusCode::OK);
    for other in [&it, &root, &none] {
        problem(&other.get(&place).await, 404, "not-found");
        problem(&other.get(&format!("{place}/events")).await, 404, "not-found");
        problem(&other.delete(&place).await, 404, "not-found");
    }

    // Who may write, may write what it does not see; and is not told what is there.
    let (status, body) = writer
        .send(
            Method::PUT,
            "/v1/documents/hr.md?wait=true",
            Some(json!({ "content": "# HR\n\nThe budget is a secret now.", "visible_to": ["hr"] })),
        )
        .await;
    assert_eq!((status, body.get("title")), (StatusCode::OK, None), "{body}");
    assert!(
        hr.found("budget secret", "lexical").await.contains("hr.md")
            && !it.found("secret", "lexical").await.contains("hr.md")
    );
    // Who may see it is a part of it: changed alone, it counts at once, in what is kept too.
    root.put("it.md", "# IT\n\nThe budget of the machine room is 300 euros.", Some(&["board"])).await;
    assert_eq!(it.found("budget of the machine room", "hybrid").await, names(&["open.md"]));
    let (_, answer) = it.post("/v1/answers", json!({ "question": "What is the budget of the office?" })).await;
    assert_eq!(texts(&answer["sources"], "document_id"), ["open.md"], "{answer}");

    // What names no groups is refused, with the reason.
    let wrong = json!({ "content": "x", "metadata": { "visible_to": 7 } });
    problem(&root.send(Method::PUT, "/v1/documents/x", Some(wrong)).await, 422, "invalid-request");
    let twice = json!({ "content": "x", "metadata": { "visible_to": ["a"] }, "visible_to": ["b"] });
    problem(&root.send(Method::PUT, "/v1/documents/x", Some(twice)).await, 422, "invalid-request");
    let event =
        json!({ "document": "event.md", "content": "The budget of events is 500 euros.", "visible_to": ["hr"] });
    assert_eq!(root.post("/v1/events", event).await.0, StatusCode::ACCEPTED);
    server.until("the event's document", async || hr.found("events", "lexical").await.contains("event.md")).await;
    assert!(!it.found("events", "lexical").await.contains("event.md"));
}

#[tokio::test]
async fn a_websocket_asks_who_calls_and_shows_it_what_it_sees() {
    let home = Home::new();
    let upstream = Upstream::start(Script::default());
    let setup = with_identity(&chat_on(&[&upstream]));
    let server = home.serve(&setup).await;
    let root = As { server: &server, key: make_key(&home, &setup, &["root", "--scopes=ask,write", "--sees-all"]) };
    documents(&root).await;
    let hr = make_key(&home, &setup, &["x", "--groups", "hr"]);
    let address = format!("{}/v1/ws", server.base.replace("http:", "ws:"));
    assert!(tokio_tungstenite::connect_async(&address).await.is_err());
    for (name, value) in
        [("authorization", format!("Bearer {hr}")), ("sec-websocket-protocol", format!("answerd, bearer.{hr}"))]
    {
        let mut request = address.as_str().into_client_request().expect("a request");
        request.headers_mut().insert(name, value.parse().expect("a value"));
        let (mut socket, response) = tokio_tungstenite::connect_async(request).await.expect("a connection");
        let protocol = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().expect("text"));
        assert_eq!(protocol, (name == "sec-websocket-protocol").then_some("answerd"));
        let ask = json!({ "type": "ask", "id": "q", "question": "What is the budget of the office?" }).to_string();
        socket.send(ask.into()).await.expect("sent");
        let sources = loop {
            let frame = socket.next().await.expect("a frame").expect("a frame").into_text().expect("text");
            let frame: Value = serde_json::from_str(&frame).expect("JSON");
            assert_ne!(frame["event"], "error", "{frame}");
            if frame["event"] == "sources" {
                break texts(&frame["data"]["sources"], "document_id");
            }
        };
        assert!(sources.iter().all(|id| id == "open.md" || id == "hr.md") && !sources.is_empty(), "{sources:?}");
    }
}

#[tokio::test]
async fn what_stays_open_does_not_outlive_its_key() {
    let home = Home::new();
    let upstream = Upstream::start(Script::default());
    let setup = with_identity(&chat_on(&[&upstream]));
    let server = home.serve(&setup).await;
    let root =
        As { server: &server, key: make_key(&home, &setup, &["root", "--scopes=ask,write,admin", "--sees-all"]) };
    let made = async |scope: &str| {
        let (_, made) = root.post("/admin/keys", json!({ "name": "x", "scopes": [scope] })).await;
        (made["id"].as_str().expect("an id").to_owned(), made["key"].as_str().expect("a key").to_owned())
    };
    let ((asker, ask_key), (watcher, admin_key)) = (made("ask").await, made("admin").await);
    let address = format!("{}/v1/ws", server.base.replace("http:", "ws:"));
    let mut request = address.into_client_request().expect("a request");
    request.headers_mut().insert("authorization", format!("Bearer {ask_key}").parse().expect("a value"));
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("a connection");
    let watching =
        server.http.get(server.url("/admin/events")).bearer_auth(&admin_key).send().await.expect("a response");
    let mut watching = watching.bytes_stream();
    assert!(watching.next().await.is_some());
    for id in [&asker, &watcher] {
        assert_eq!(root.delete(&format!("/admin/keys/{id}")).await.0, StatusCode::NO_CONTENT);
    }
    let ask = json!({ "type": "ask", "id": "q", "question": "What is the budget?" }).to_string();
    socket.send(ask.into()).await.expect("sent");
    // Nothing is said to it but that; and it is closed, whatever its client does.
    let closed = async {
        loop {
            match socket.next().await.expect("a frame").expect("a frame") {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).expect("JSON");
                    assert_eq!((&frame["event"], &frame["data"]["status"]), (&json!("error"), &json!(401)), "{frame}");
                }
                Message::Close(why) => return why.expect("a reason"),
                _ => {}
            }
        }
    };
    let why = tokio::time::timeout(common::PATIENCE, closed).await.expect("it is closed");
    assert_eq!(u16::from(why.code), 1008, "{why}");
    let end = async { while watching.next().await.is_some_and(|chunk| chunk.is_ok()) {} };
    tokio::time::timeout(common::PATIENCE, end).await.expect("it ends");
}

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// A document is for these groups from now on.
    Put { document: usize, groups: Option<BTreeSet<usize>> },
    /// Somebody of these groups asks.
    Ask { groups: usize, question: usize },
}

const GROUPS: [&str; 3] = ["hr", "it", "board"];
const QUESTIONS: [&str; 2] = ["What is the budget of the office?", "Which office has a budget?"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let groups = proptest::option::weighted(0.8, proptest::collection::btree_set(0..GROUPS.len(), 0..3));
    let put = (0..4_usize, groups).prop_map(|(document, groups)| Step::Put { document, groups });
    let ask =
        (0..1_usize << GROUPS.len(), 0..QUESTIONS.len()).prop_map(|(groups, question)| Step::Ask { groups, question });
    proptest::collection::vec(prop_oneof![1 => put, 4 => ask], 12..32)
}

/// Whatever is put and asked in whatever order, and whatever of it is kept: nobody is shown a passage that is not for it,
/// nor an answer that was made of one.
#[tokio::test(flavor = "multi_thread")]
async fn the_cache_shows_nobody_what_it_does_not_see() {
    let home = Home::new();
    // It says what it was given: a passage that somebody must not see would be seen in the answer, too.
    let upstream = Upstream::start(Script { echo: true, tokens: 400, ..Script::default() });
    let settings = format!("cache.enabled=true\nanswer.max_output_tokens=256\n{}", chat_on(&[&upstream]));
    let setup = with_identity(&settings);
    let server = home.serve(&setup).await;
    let root =
        As { server: &server, key: make_key(&home, &setup, &["root", "--scopes=ask,write,admin", "--sees-all"]) };
    let mut askers = Vec::new();
    for groups in 0..1 << GROUPS.len() {
        let of = (0..GROUPS.len()).filter(|n| groups >> n & 1 == 1).map(|n| GROUPS[n]).collect::<Vec<_>>();
        let new = json!({ "name": "asker", "scopes": ["ask"], "groups": of });
        let (_, made) = root.post("/admin/keys", new).await;
        askers.push(As { server: &server, key: made["key"].as_str().expect("a key").to_owned() });
    }
    let mut for_whom: Vec<Option<BTreeSet<usize>>> = vec![None; 4];
    let text = |document: usize| {
        format!("# Office {document}\n\nThe budget of office number {document} is marker{document} euros.")
    };
    for document in 0..4 {
        root.put(&format!("{document}.md"), &text(document), None).await;
    }
    let mut runner = TestRunner::new(Cases::with_cases(1));
    let mut kept = 0;
    for _ in 0..8 {
        let steps = steps().new_tree(&mut runner).expect("steps").current();
        for step in &steps {
            match step {
                Step::Put { document, groups } => {
                    let names: Option<Vec<&str>> =
                        groups.as_ref().map(|groups| groups.iter().map(|n| GROUPS[*n]).collect());
                    root.put(&format!("{document}.md"), &text(*document), names.as_deref()).await;
                    for_whom[*document] = groups.clone();
                }
                Step::Ask { groups, question } => {
                    let body = json!({ "question": QUESTIONS[*question] });
                    let (status, answer) = askers[*groups].post("/v1/answers", body).await;
                    assert_eq!(status, StatusCode::OK, "{answer}");
                    kept += usize::from(answer["cached"] == true);
                    let shown = answer.to_string();
                    for (document, whom) in for_whom.iter().enumerate() {
                        let sees = whom.as_ref().is_none_or(|whom| whom.iter().any(|n| groups >> n & 1 == 1));
                        let said =
                            shown.contains(&format!("marker{document}")) || shown.contains(&format!("{document}.md"));
                        assert!(
                            sees || !said,
                            "document {document} for {whom:?} shown to {groups:b}: {answer} after {steps:?}"
                        );
                    }
                }
            }
        }
    }
    assert!(kept > 10, "{kept} answers were kept: nothing of the cache was tested");
}

#[tokio::test]
async fn a_token_of_the_provider_says_who_calls() {
    let provider = Provider::start();
    let (first, second) = (Signer::new("first"), Signer::new("second"));
    provider.publish(Some(&[&first]));
    let home = Home::new();
    let setup = with_identity(&format!(
        "identity.jwt.issuer={}\nidentity.jwt.audience=docs\nidentity.jwt.groups_claim=realm.roles\nidentity.jwt.write=[\"editors\"]\nidentity.jwt.admin=[\"platform\"]",
        provider.issuer()
    ));
    let server = home.serve(&setup).await;
    let claims = |more: Value| {
        let mut claims = json!({
            "iss": provider.issuer(), "aud": "docs", "sub": "ann", "exp": now_s() + 600, "realm": { "roles": ["hr"] }
        });
        claims.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        claims
    };
    let bearer = |key: String| As { server: &server, key };
    let ann = bearer(first.sign(&claims(json!({}))));
    let (status, me) = ann.get("/v1/me").await;
    assert_eq!(status, StatusCode::OK, "{me}");
    assert_eq!(
        (&me["name"], &me["scopes"], &me["groups"]),
        (&json!("user:ann"), &json!(["ask"]), &json!(["hr", "user:ann"]))
    );
    problem(&ann.get("/admin/status").await, 403, "forbidden");
    let editor =
        bearer(first.sign(&claims(json!({ "sub": "bob", "realm": { "roles": "editors platform user:ann" } }))));
    let (status, body) = editor.get("/admin/status").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    // Of a provider's making is no group that is somebody's own.
    assert_eq!(editor.get("/v1/me").await.1["groups"], json!(["editors", "platform", "user:bob"]));
    editor.put("own.md", "# Own\n\nOnly for Ann.", Some(&["user:ann"])).await;
    assert_eq!(ann.found("only for Ann", "hybrid").await, names(&["own.md"]));
    assert_eq!(editor.found("only for Ann", "hybrid").await, names(&[]));

    let point = first.public().to_string();
    let shared = jsonwebtoken::encode(
        &jsonwebtoken::Header {
            kid: Some("first".into()),
            ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256)
        },
        &claims(json!({})),
        &jsonwebtoken::EncodingKey::from_secret(point.as_bytes()),
    );
    let good = first.sign(&claims(json!({})));
    let parts: Vec<&str> = good.split('.').collect();
    use base64::Engine;
    let unsigned = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"first"}"#);
    for (token, why) in [
        (first.sign(&claims(json!({ "aud": "others" }))), "audience"),
        (first.sign(&claims(json!({ "iss": "https://elsewhere.example" }))), "issuer"),
        (first.sign(&claims(json!({ "exp": now_s() - 600 }))), "expired"),
        (first.sign(&claims(json!({ "nbf": now_s() + 600 }))), "not yet"),
        (first.sign(&claims(json!({ "sub": null }))), "no subject"),
        (Signer::new("first").sign(&claims(json!({}))), "another key of the same name"),
        (shared.expect("a token"), "a shared secret"),
        (format!("{unsigned}.{}.", parts[1]), "unsigned"),
        (format!("{}.{}.{}", parts[0], parts[1], &parts[2][2..]), "a signature that is cut"),
        ("a.b.c".to_owned(), "no token"),
    ] {
        let refused = bearer(token).get("/v1/me").await;
        problem(&refused, 401, "unauthorized");
        println!("{why}: {}", refused.1["detail"]);
    }

    // A new key counts once it is published, one that is withdrawn no more with the next reading; and a provider is not
    // asked for each token that somebody makes up.
    problem(&bearer(second.sign(&claims(json!({})))).get("/v1/me").await, 401, "unauthorized");
    provider.publish(Some(&[&second]));
    let reads = provider.reads();
    for n in 0..50 {
        problem(
            &bearer(Signer::new(&format!("made up {n}")).sign(&claims(json!({})))).get("/v1/me").await,
            401,
            "unauthorized",
        );
    }
    assert!(provider.reads() <= reads + 2, "{} readings for 50 tokens", provider.reads() - reads);
    let rotated = bearer(second.sign(&claims(json!({}))));
    server.until("the new key counts", async || rotated.get("/v1/me").await.0 == StatusCode::OK).await;
    problem(&ann.get("/v1/me").await, 401, "unauthorized");
    // A provider that is away changes nothing for those whose keys are known.
    provider.publish(None);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rotated.get("/v1/me").await.0, StatusCode::OK);
    // API keys count beside tokens.
    assert_eq!(bearer(make_key(&home, &setup, &["x"])).get("/v1/me").await.0, StatusCode::OK);
}
