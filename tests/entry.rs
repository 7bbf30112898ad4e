//! What stands before every request: the size of its head, and the sites whose pages may call.

use crate::common;

use common::{Home, Setup, problem};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const PAGE: &str = "https://intranet.example.com";

fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response.headers().get(name).map(|value| value.to_str().expect("text"))
}

#[tokio::test]
async fn pages_of_the_sites_that_are_named_may_call_and_of_no_others() {
    let home = Home::new();
    let settings = format!("server.allowed_origins=[\"{PAGE}\"]\nidentity.enabled=true");
    let setup = Setup { settings, ..Setup::default() };
    let key = common::make_key(&home, &setup, &["--scopes", "ask,write", "page"]);
    let server = home.serve(&setup).await;
    // A browser asks first, and without the key.
    let preflight = async |origin: &str, method: &str, headers: &str| {
        let request = server.http.request(Method::OPTIONS, server.url("/v1/documents/a.md")).header("origin", origin);
        let request = request.header("access-control-request-method", method);
        request.header("access-control-request-headers", headers).send().await.expect("a response")
    };
    let asked = preflight(PAGE, "PUT", "authorization,content-type,traceparent").await;
    assert_eq!((asked.status(), header(&asked, "access-control-allow-origin")), (StatusCode::OK, Some(PAGE)));
    assert!(header(&asked, "access-control-allow-methods").is_some_and(|methods| methods.contains("PUT")), "{asked:?}");
    // No cookies: a page brings its key by itself.
    assert_eq!(header(&asked, "access-control-allow-credentials"), None);
    for (origin, method, headers) in [
        ("https://elsewhere.example.com", "PUT", "authorization"),
        ("https://intranet.example.com.evil.example", "PUT", "authorization"),
        ("http://intranet.example.com", "PUT", "authorization"),
        ("null", "PUT", "authorization"),
        (PAGE, "PATCH", "authorization"),
        (PAGE, "PUT", "x-forwarded-for"),
    ] {
        let asked = preflight(origin, method, headers).await;
        problem(&common::outcome(asked).await, 422, "invalid-request");
    }
    let search = |origin: &str| {
        let request = server.http.post(server.url("/v1/search")).header("origin", origin).bearer_auth(&key);
        request.json(&json!({ "query": "leave" })).send()
    };
    let found = search(PAGE).await.expect("a response");
    assert_eq!((found.status(), header(&found, "access-control-allow-origin")), (StatusCode::OK, Some(PAGE)));
    assert!(header(&found, "access-control-expose-headers").is_some_and(|names| names.contains("x-request-id")));
    assert!(header(&found, "vary").is_some_and(|names| names.to_ascii_lowercase().contains("origin")));
    let refused = search("https://elsewhere.example.com").await.expect("a response");
    assert_eq!(header(&refused, "access-control-allow-origin"), None);
    problem(&common::outcome(refused).await, 403, "other-site");
    // Browsers ask for no leave to open a WebSocket: the service looks itself.
    for (path, origin, opens) in [
        ("/v1/ws", PAGE, true),
        ("/v1/ws", server.base.as_str(), true),
        ("/v1/ws", "https://elsewhere.example.com", false),
        // Written otherwise, it is the same.
        ("/v1/w%73", server.base.as_str(), true),
        ("/v1/w%73", "https://elsewhere.example.com", false),
    ] {
        let mut request = format!("{}{path}", server.base.replace("http://", "ws://")).into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        assert_eq!(connect_async(request).await.is_ok(), opens, "{path} {origin}");
    }
}

#[tokio::test]
async fn without_named_sites_no_page_of_another_one_may_call() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    server.put_visible("leave.md", "# Leave\n\nEverybody has 28 days.").await;
    // No browser asks for leave before it sends such a text, nor where a page does not want to read the response.
    let delete = async |header: (&str, &str)| {
        let request =
            server.http.post(server.url("/v1/events")).header("content-type", "text/plain").header(header.0, header.1);
        let event = json!({ "document": "leave.md", "action": "deleted" }).to_string();
        common::outcome(request.body(event).send().await.expect("a response")).await
    };
    for header in
        [("origin", PAGE), ("origin", "null"), ("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site")]
    {
        problem(&delete(header).await, 403, "other-site");
    }
    // A name that somebody else's server leads here.
    let rebound = server.http.get(server.url("/v1/documents/leave.md")).header("host", "evil.example:8080");
    problem(&common::outcome(rebound.send().await.expect("a response")).await, 403, "other-site");
    assert_eq!(server.get("/v1/documents/leave.md").await.1["status"], "visible");
    assert_eq!(delete(("origin", server.base.as_str())).await.0, StatusCode::ACCEPTED);
    let wrong = home.run(
        &Setup { settings: "server.allowed_origins=[\"https://a.example/path\", \"*\"]".into(), ..Setup::default() },
        &["check"],
    );
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && said.contains("allowed_origins") && said.contains("no origin"), "{said}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_the_next_request_is_served() {
    let home = Home::new();
    let server = home.serve(&Setup { settings: "server.max_header_bytes=4096".into(), ..Setup::default() }).await;
    let send = async |padding: usize| {
        let request = server.http.get(server.url("/v1/me")).header("x-padding", "x".repeat(padding));
        common::outcome(request.send().await.expect("a response")).await
    };
    assert_eq!(send(3000).await.0, StatusCode::OK);
    let detail = problem(&send(5000).await, 431, "head-too-large");
    assert!(detail.contains("4096") && detail.contains("max_header_bytes"), "{detail}");
    let long = server.http.get(server.url(&format!("/v1/documents?prefix={}", "x".repeat(5000)))).send().await;
    problem(&common::outcome(long.expect("a response")).await, 431, "head-too-large");
    // Beyond what the parser holds there is no answer of ours, and no harm.
    let huge = server.http.get(server.url("/v1/me")).header("x-padding", "x".repeat(200_000)).send().await;
    assert!(huge.is_err() || huge.is_ok_and(|response| response.status().is_client_error()));
    // On another connection: that one was broken off.
    let after = answerd::http::client().expect("a client").get(server.url("/v1/me")).send().await;
    assert_eq!(after.expect("a response").status(), StatusCode::OK);
}
