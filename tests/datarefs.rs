//! Content that is not in its event but at an address of the service that owns the document: a real HTTP server in this
//! process, and nats-server's own HTTPS port.

use crate::common;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::http::header::{CONTENT_TYPE, LOCATION};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use common::nats::{Nats, all_taken, publish, stream_is_there};
use common::{Home, Server, Setup, problem};
use parking_lot::Mutex;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// A service that owns documents, and counts who asks for what.
struct Owner {
    address: SocketAddr,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    /// What lies below `/late/` is there from when this is set; until then it hangs.
    awake: Arc<AtomicBool>,
}

impl Owner {
    fn start() -> Self {
        let asked = Arc::<Mutex<HashMap<String, usize>>>::default();
        let (sender, receiver) = std::sync::mpsc::channel();
        let counted = Arc::clone(&asked);
        let awake = Arc::<AtomicBool>::default();
        let flag = Arc::clone(&awake);
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    let (counted, flag) = (Arc::clone(&counted), Arc::clone(&flag));
                    let serve = move |request| serve(request, Arc::clone(&counted), Arc::clone(&flag));
                    App::new().default_service(web::to(serve))
                });
                let server = server.workers(1).bind(("127.0.0.1", 0)).expect("a port");
                sender.send(server.addrs()[0]).expect("somebody waits");
                server.run().await
            })
        });
        Self { address: receiver.recv().expect("an address"), asked, awake }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().get(path).copied().unwrap_or_default()
    }

    /// Settings with which it may be called.
    fn allowed(&self) -> String {
        format!("fetch.hosts={}\nfetch.allow_private=true\nfetch.timeout_s=2", self.address)
    }
}

async fn serve(
    request: HttpRequest,
    counted: Arc<Mutex<HashMap<String, usize>>>,
    awake: Arc<AtomicBool>,
) -> HttpResponse {
    let path = request.path().to_owned();
    let times = {
        let mut counted = counted.lock();
        let times = counted.entry(path.clone()).or_default();
        *times += 1;
        *times
    };
    let document = |media_type: &str, text: &str| {
        HttpResponse::Ok().insert_header((CONTENT_TYPE, media_type)).body(text.to_owned())
    };
    match path.as_str() {
        "/guide" => document("text/html; charset=utf-8", "<h1>Guide</h1><p>Fetched from its owner.</p>"),
        "/unknown" => document("application/octet-stream", "# Unknown\n\nOf no stated kind."),
        "/flaky" if times < 3 => HttpResponse::ServiceUnavailable().finish(),
        "/flaky" => document("text/plain", "It came at last."),
        "/slow" if times == 1 => {
            actix_web::rt::time::sleep(Duration::from_secs(6)).await;
            HttpResponse::Ok().finish()
        }
        "/slow" => document("text/plain", "It took its time."),
        "/empty" => HttpResponse::Ok().finish(),
        "/large" => document("text/plain", &"large ".repeat(1 << 18)),
        "/endless" => {
            let more = futures_util::stream::repeat_with(|| Ok::<_, actix_web::Error>(web::Bytes::from("endless ")));
            HttpResponse::Ok().insert_header((CONTENT_TYPE, "text/plain")).streaming(more)
        }
        late if late.starts_with("/late/") => {
            while !awake.load(Ordering::Relaxed) {
                actix_web::rt::time::sleep(Duration::from_millis(50)).await;
            }
            document("text/plain", "It was worth the wait.")
        }
        "/packed" => HttpResponse::Ok().insert_header(("content-encoding", "gzip")).body("x"),
        "/to" => HttpResponse::Found().insert_header((LOCATION, request.query_string())).finish(),
        _ => HttpResponse::NotFound().finish(),
    }
}

/// Sends an event by HTTP whose content is at `dataref`.
async fn send(server: &Server, document: &str, dataref: &str) -> (StatusCode, Value) {
    server.post("/v1/events", json!({ "document": document, "dataref": dataref })).await
}

#[tokio::test]
async fn an_event_on_nats_brings_what_its_owner_has_and_tries_again_while_it_is_away() {
    let (nats, owner, home) = (Nats::start().await, Owner::start(), Home::new());
    let settings = format!("{}\n{}\ningest.max_document_bytes=1000000", nats.settings(), owner.allowed());
    let setup = Setup { settings, ..Setup::default() };
    let server = home.serve(&setup).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    let moved = format!("/to?{}", owner.url("/guide"));
    let elsewhere = "/to?http://elsewhere.example/x";
    let paths = [
        "/guide", "/unknown", "/flaky", "/slow", &moved, "/gone", "/empty", "/large", "/endless", "/packed", elsewhere,
    ];
    for (n, path) in paths.iter().enumerate() {
        let address = owner.url(path);
        publish(&bus, &format!("d{n}"), "upserted", &n.to_string(), &[("ce-dataref", &address)], "").await;
    }
    publish(&bus, "inline", "upserted", "inline", &[], &"x".repeat(1_010_000)).await;
    let odd = "nats-object://bucket/";
    publish(&bus, "odd", "upserted", "odd", &[("ce-dataref", odd)], "").await;
    // Its own media type wins over the one it is served with.
    let typed = [("ce-dataref", owner.url("/guide")), ("content-type", "text/plain".to_owned())];
    let typed: Vec<(&str, &str)> = typed.iter().map(|(name, value)| (*name, value.as_str())).collect();
    publish(&bus, "typed", "upserted", "typed", &typed, "").await;
    all_taken(&server, &bus).await;

    assert_eq!(server.text("d0").await.as_deref().map(str::trim), Some("# Guide\n\nFetched from its owner."));
    assert!(server.text("d1").await.is_some_and(|text| text.contains("Of no stated kind")));
    assert_eq!(server.text("d2").await.as_deref(), Some("It came at last."));
    assert_eq!(server.text("d3").await.as_deref(), Some("It took its time."));
    assert!(server.text("d4").await.is_some_and(|text| text.contains("Fetched from its owner")));
    assert_eq!((owner.asked("/flaky"), owner.asked("/slow")), (3, 2));
    let (_, typed) = server.get("/v1/documents/typed").await;
    let refused = home.run(&setup, &["dlq", "list"]);
    let refused = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(typed["media_type"], "text/plain", "{typed}\n{refused}");
    let reasons = [
        "/gone answers with 404",
        "there is nothing at",
        "more than 1000000 bytes ([ingest] max_document_bytes)",
        "encoded as gzip",
        "the document has 1010000 bytes, the limit is 1000000",
        "it must be nats-object://<bucket>/<name>",
        "it redirects, and the host elsewhere.example is not among [fetch] hosts",
    ];
    for reason in reasons {
        assert!(refused.contains(reason), "{reason} is not in\n{refused}");
    }
    assert_eq!((refused.lines().count(), refused.matches("max_document_bytes").count()), (8, 3), "{refused}");
    assert!(owner.asked("/gone") == 1 && owner.asked("/endless") == 1);
}

#[tokio::test]
async fn an_owner_that_hangs_holds_up_its_own_documents_only() {
    let (nats, owner, home) = (Nats::start().await, Owner::start(), Home::new());
    let settings = format!("{}\n{}\nfetch.concurrency=2\nnats.max_in_flight=4", nats.settings(), owner.allowed());
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    for n in 0..12 {
        let address = owner.url(&format!("/late/{n}"));
        publish(&bus, &format!("late{n}"), "upserted", &format!("late{n}"), &[("ce-dataref", &address)], "").await;
    }
    for n in 0..12 {
        publish(&bus, &format!("here{n}"), "upserted", &format!("here{n}"), &[], "It is here.").await;
    }
    server.until("the others are there", async || server.found("here", "lexical").await.len() == 12).await;
    server.until("it says so", async || server.degraded().await.contains("wait to be tried again")).await;
    // What they wait for may be nobody's to know.
    assert!(!server.degraded().await.contains("/late/"));
    let held_up = async || server.get("/admin/status").await.1["events"]["held_up"].to_string();
    server.until("the page of administrators says why", async || held_up().await.contains("/late/")).await;
    let (_, status) = server.get("/admin/status").await;
    assert_eq!(status["events"]["fetching"], 12, "{status}");
    owner.awake.store(true, Ordering::Relaxed);
    server.until("the late ones are there", async || server.found("worth", "lexical").await.len() == 12).await;
    all_taken(&server, &bus).await;
    assert_eq!(server.degraded().await, "[]");
    assert_eq!(server.get("/admin/status").await.1["events"]["dead_letters"], 0);
}

#[tokio::test]
async fn an_event_by_http_is_answered_when_its_content_is_on_disk() {
    let (owner, home) = (Owner::start(), Home::new());
    let server = home.serve(&Setup { settings: owner.allowed(), ..Setup::default() }).await;
    let (status, body) = send(&server, "guide", &owner.url("/guide")).await;
    assert_eq!((status, &body["outcome"]), (StatusCode::ACCEPTED, &json!("accepted")), "{body}");
    server.until("the document", async || server.text("guide").await.is_some()).await;
    // What follows the question mark may be a permission: it is for nobody else to see.
    let detail = problem(&send(&server, "x", &owner.url("/gone?signature=s3cr3t")).await, 422, "invalid-request");
    assert!(detail.contains("/gone answers with 404") && !detail.contains("s3cr3t"), "{detail}");
    let detail = problem(&send(&server, "x", &owner.url("/flaky")).await, 503, "unavailable");
    assert!(detail.contains("503"), "{detail}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    for (dataref, part) in [
        ("nats-object://bucket/name", "[nats] servers is empty"),
        ("nats-object://bucket", "nats-object://<bucket>/<name>"),
        ("file:///etc/passwd", "must begin with"),
        ("http://", "no address"),
        (&format!("http://{free}/"), "not among [fetch] hosts"),
    ] {
        let detail = problem(&send(&server, "x", dataref).await, 422, "invalid-request");
        assert!(detail.contains(part), "{dataref}: {detail}");
    }
    let (_, documents) = server.get("/v1/documents").await;
    assert_eq!(common::texts(&documents["documents"], "id"), ["guide"]);
}

#[tokio::test]
async fn nobody_is_called_who_is_not_allowed() {
    let (owner, home) = (Owner::start(), Home::new());
    let port = owner.address.port();
    // Its address and its name are listed, and stand for this machine.
    let settings = format!("fetch.hosts=127.0.0.1:{port}, localhost:{port}, [::ffff:127.0.0.1]:{port}");
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    for host in ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"] {
        let detail = problem(&send(&server, "x", &format!("http://{host}:{port}/guide")).await, 422, "invalid-request");
        assert!(detail.contains("private network"), "{host}: {detail}");
    }
    assert_eq!(owner.asked("/guide"), 0);
    server.kill();
    // A host that is allowed sends it to one that is not.
    let server = home.serve(&Setup { settings: owner.allowed(), ..Setup::default() }).await;
    let redirect = owner.url(&format!("/to?http://localhost:{port}/guide"));
    let detail = problem(&send(&server, "x", &redirect).await, 422, "invalid-request");
    assert!(detail.contains(&format!("the host localhost:{port} is not among [fetch] hosts")), "{detail}");
    assert_eq!((owner.asked("/to"), owner.asked("/guide")), (1, 0));
    let round = owner.url("/to?/to?/to");
    let detail = problem(&send(&server, "x", &round).await, 422, "invalid-request");
    assert!(detail.contains("more than 5 redirects"), "{detail}");
}

#[tokio::test]
async fn tls_needs_an_authority_that_is_known() {
    let port = common::free_port();
    let mut nats = Nats::configured(&format!(
        "https: \"127.0.0.1:{port}\"\ntls {{ cert_file: \"{{folder}}/server.pem\", key_file: \"{{folder}}/server.key\" }}"
    ));
    let folder = nats.folder().to_owned();
    let authority = common::tls::certificate(&folder, "ca", None);
    common::tls::certificate(&folder, "server", Some(&authority));
    nats.run().await;
    let home = Home::new();
    let allowed = format!("fetch.hosts=127.0.0.1:{port}\nfetch.allow_private=true");
    let address = format!("https://127.0.0.1:{port}/healthz");
    let server = home.serve(&Setup { settings: allowed.clone(), ..Setup::default() }).await;
    let detail = problem(&send(&server, "health", &address).await, 503, "unavailable");
    assert!(detail.contains("certificate"), "{detail}");
    server.kill();
    let settings = format!("{allowed}\nfetch.tls_ca_file={}", folder.join("ca.pem").display());
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    // What it serves calls itself JSON.
    let event = json!({ "document": "health", "dataref": address, "media_type": "text/plain" });
    let (status, body) = server.post("/v1/events", event).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    server.until("the document", async || server.text("health").await.is_some_and(|text| text.contains("ok"))).await;
}
