//! What is promised of a deletion: nothing that rests on the document can be had afterwards, whatever had been kept of it and
//! wherever, and a receipt says so.

use std::path::Path;

use crate::common;

use common::nats::{Nats, publish, stream_is_there};
use common::redis::Redis;
use common::upstream::{Script, Upstream, chat_on, said};
use common::{Event, Home, Server, Setup, make_key, one, outcome, problem, read_events, text_of};
use futures_util::{SinkExt, StreamExt, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// A word that is in the deleted document and nowhere else.
const MARKER: &str = "quokkaberry";
const MEALS: &str = "# Expenses\n\nThe daily limit for meals is 48 quokkaberry euros.";
const QUESTION: &str = "What is the daily limit for meals?";
const TRAVEL: &str = "# Travel\n\nOnly the head of a team may approve travel to other countries.";
const OTHER: &str = "Who may approve travel to other countries?";

/// A model that says again what it is given, passages and all.
fn echo() -> Upstream {
    Upstream::start(Script { echo: true, ..Script::default() })
}

fn setup(upstream: &Upstream, settings: &str) -> Setup {
    let own = "cache.enabled=true\nanswer.max_passages=1\nanswer.max_output_tokens=800";
    Setup { settings: format!("{}\n{own}\n{settings}", chat_on(&[upstream])), ..Setup::default() }
}

fn with_redis(upstream: &Upstream, redis: &Redis) -> Setup {
    setup(upstream, &format!("redis.url={}", redis.url()))
}

async fn serve(home: &Home, setup: &Setup) -> Server {
    let server = home.serve(setup).await;
    server.put_visible("expenses.md", MEALS).await;
    server.put_visible("travel.md", TRAVEL).await;
    server
}

async fn ask(server: &Server, question: &str) -> Vec<Event> {
    read_events(server.ask(json!({ "question": question, "max_tokens": 400 })).await).await
}

fn id_of(events: &[Event]) -> String {
    events[0].id.rsplit_once(':').expect("an id").0.to_owned()
}

fn is_cached(events: &[Event]) -> bool {
    one(events, "done")["cached"] == true
}

/// Asks for what is kept, and nothing else.
async fn ask_kept(server: &Server, question: &str) -> reqwest::Response {
    let request = server.http.post(server.url("/v1/answers")).header("cache-control", "only-if-cached");
    request.json(&json!({ "question": question, "max_tokens": 400 })).send().await.expect("a response")
}

/// Waits until the answer that was given is kept: its end is told before it is. What is asked too soon makes no answer.
async fn until_kept(server: &Server, question: &str) {
    let is_kept = async || ask_kept(server, question).await.status() == StatusCode::OK;
    server.until("the answer is kept", is_kept).await;
}

/// Deletes, and gives the receipt.
async fn delete(server: &Server, document: &str) -> Value {
    let (status, body) = server.delete(&format!("/v1/documents/{document}?wait=true")).await;
    assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("deleted")), "{body}");
    assert_eq!(body["receipt"]["document_id"], document, "{body}");
    body["receipt"].clone()
}

/// What a receipt says of a place: how much, and what became of it.
fn place(receipt: &Value, what: &str) -> (u64, String) {
    let all = receipt["removed_from"].as_array().expect("places");
    let found: Vec<&Value> =
        all.iter().filter(|place| place["what"].as_str().is_some_and(|w| w.starts_with(what))).collect();
    let [found] = found.as_slice() else { panic!("{what} is not there once: {receipt}") };
    assert!(found["at_ms"].as_u64().is_some_and(|at| at > 0), "{receipt}");
    (found["entries"].as_u64().expect("a number"), found["state"].as_str().expect("a state").to_owned())
}

fn removed(entries: u64) -> (u64, String) {
    (entries, "removed".to_owned())
}

async fn receipt(server: &Server, document: &str) -> Value {
    let found = std::cell::RefCell::new(Value::Null);
    server
        .until("there is a receipt", async || {
            let (status, body) = server.get(&format!("/v1/deletions/{document}")).await;
            *found.borrow_mut() = body;
            status == StatusCode::OK
        })
        .await;
    found.into_inner()
}

#[tokio::test]
async fn what_rests_on_a_deleted_document_is_gone_from_everywhere_and_the_receipt_says_so() {
    let (redis, upstream, home) = (Redis::start(&[]).await, echo(), Home::new());
    let setup = with_redis(&upstream, &redis);
    let server = serve(&home, &setup).await;
    let first = ask(&server, QUESTION).await;
    assert!(text_of(&first).contains(MARKER), "{first:?}");
    until_kept(&server, QUESTION).await;
    assert!(!is_cached(&ask(&server, OTHER).await));
    until_kept(&server, OTHER).await;
    let id = id_of(&first);
    let feedback = json!({ "rating": "up", "note": "right" });
    let (status, _) = server.post(&format!("/v1/answers/{id}/feedback"), feedback.clone()).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let exported = || String::from_utf8(home.run(&setup, &["feedback"]).stdout).expect("text");
    assert!(exported().contains(MARKER));
    server.until("it is mirrored", async || redis.everything().await.matches(MARKER).count() >= 3).await;
    let shown = server.get(&format!("/v1/answers/{id}")).await;
    assert!(shown.1.to_string().contains(MARKER), "{shown:?}");

    let (_, document) = server.get("/v1/documents/expenses.md").await;
    let receipt = delete(&server, "expenses.md").await;
    println!("{receipt:#}");
    // Evidence, and of the answer two entries; all of its answers can be read.
    assert_eq!(place(&receipt, "evidence cache"), removed(1));
    assert_eq!(place(&receipt, "answer cache"), removed(2));
    assert_eq!(place(&receipt, "stream buffers"), removed(2));
    assert_eq!(place(&receipt, "feedback"), removed(1));
    assert_eq!(place(&receipt, "shared cache"), removed(3));
    // Of the others, as many as were mirrored by then.
    assert!(place(&receipt, "shared streams").0 >= 1, "{receipt}");
    assert_eq!(
        (&receipt["collection"], &receipt["revision"], &receipt["complete"]),
        (&json!("default"), &document["revision"], &json!(true))
    );
    assert!(receipt["by"].as_str().is_some_and(|by| by.starts_with("ip:")), "{receipt}");
    assert!(receipt["deleted_ms"].as_u64() >= receipt["accepted_ms"].as_u64(), "{receipt}");
    assert!(receipt["remains"].to_string().contains("backups"), "{receipt}");

    // Redis has nothing of it any more, and no later tick of this process brings it back.
    assert!(!redis.everything().await.contains(MARKER), "{}", redis.everything().await);
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert!(!redis.everything().await.contains(MARKER), "{}", redis.everything().await);
    // Nor is it had from any address.
    for path in ["", "/events"] {
        problem(&server.get(&format!("/v1/answers/{id}{path}")).await, 410, "document-deleted");
    }
    let resumed =
        server.http.get(server.url(&format!("/v1/answers/{id}/events"))).header("last-event-id", format!("{id}:0"));
    problem(&outcome(resumed.send().await.expect("a response")).await, 410, "document-deleted");
    problem(&server.post(&format!("/v1/answers/{id}/feedback"), feedback).await, 410, "document-deleted");
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("{}/v1/ws", server.base.replace("http:", "ws:")))
        .await
        .expect("a connection");
    let resume = json!({ "type": "resume", "id": "q", "last_event_id": format!("{id}:0") }).to_string();
    socket.send(resume.into()).await.expect("sent");
    let Message::Text(frame) = socket.next().await.expect("a frame").expect("a frame") else { panic!("no text") };
    assert!(frame.contains("document-deleted"), "{frame}");
    assert!(!ask_kept(&server, QUESTION).await.text().await.expect("text").contains(MARKER));
    assert!(!text_of(&ask(&server, QUESTION).await).contains(MARKER));
    let (_, found) = server.post("/v1/search", json!({ "query": format!("{MARKER} {QUESTION}") })).await;
    assert!(!found.to_string().contains("expenses.md"), "{found}");
    for path in [
        "/v1/documents",
        "/v1/documents/expenses.md",
        "/v1/collections",
        "/admin/status",
        "/admin/audit",
        "/admin/series",
    ] {
        let (_, body) = server.get(path).await;
        assert!(!body.to_string().contains(MARKER), "{path}: {body}");
    }
    let exported = exported();
    assert!(exported.contains(&id) && exported.contains("right") && !exported.contains(MARKER), "{exported}");

    // The rest is as it was.
    let other = ask(&server, OTHER).await;
    assert!(is_cached(&other), "{other:?}");
    // An auditor finds the receipt.
    let (_, audit) = server.get("/admin/audit").await;
    let acts: Vec<&Value> = audit["acts"].as_array().expect("acts").iter().collect();
    let [act] = acts.as_slice() else { panic!("one act: {audit}") };
    assert_eq!((&act["act"], &act["by"]), (&json!("document.delete"), &receipt["by"]));
    assert_eq!(act["about"]["removed_from"], receipt["removed_from"]);
    let printed = String::from_utf8(home.run(&setup, &["audit"]).stdout).expect("text");
    assert!(printed.contains("document.delete") && printed.contains("expenses.md"), "{printed}");
    for path in ["/v1/deletions/expenses.md".to_owned(), format!("/v1/deletions/expenses.md?seq={}", receipt["seq"])] {
        assert_eq!(server.get(&path).await, (StatusCode::OK, receipt.clone()));
    }
    problem(&server.get(&format!("/v1/deletions/travel.md?seq={}", receipt["seq"])).await, 404, "not-found");
    problem(&server.get("/v1/deletions/travel.md").await, 404, "not-found");
}

#[tokio::test]
async fn an_answer_that_is_being_written_ends_with_its_document_and_is_not_kept() {
    let (upstream, home) = (Upstream::start(Script::paced(200, 50)), Home::new());
    let server = serve(&home, &setup(&upstream, "")).await;
    let stream = server.ask(json!({ "question": QUESTION, "max_tokens": 400 })).await;
    let reading = tokio::spawn(read_events(stream));
    server.until("it is asked", async || upstream.open() == 1).await;
    let receipt = delete(&server, "expenses.md").await;
    assert_eq!(place(&receipt, "stream buffers"), removed(1));
    let events = reading.await.expect("events");
    let last = events.last().expect("an event");
    assert_eq!((last.name.as_str(), &last.data["type"]), ("error", &json!("urn:answerd:problem:document-deleted")));
    for (position, event) in events.iter().enumerate() {
        assert!(event.id.ends_with(&format!(":{position}")), "{event:?}");
    }
    server.until("the model stops", async || upstream.open() == 0).await;
    server.until_idle().await;
    // As it was, under a newer revision: it can be asked of, and kept, like any other.
    server.put_visible("expenses.md", MEALS).await;
    upstream.play(Script::default());
    let again = ask(&server, QUESTION).await;
    assert!(!is_cached(&again) && text_of(&again).trim() == said(20).trim(), "{again:?}");
    until_kept(&server, QUESTION).await;
    // The receipt of what was is found by its number.
    let (status, _) = server.get("/v1/deletions/expenses.md").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (_, first) = server.get(&format!("/v1/deletions/expenses.md?seq={}", receipt["seq"])).await;
    assert_eq!(first, receipt);
}

#[tokio::test]
async fn other_replicas_forget_what_they_have_of_it_and_the_receipt_names_them() {
    let (redis, upstream) = (Redis::start(&[]).await, echo());
    let (here, there, setup) = (Home::new(), Home::new(), with_redis(&upstream, &redis));
    // Each with documents of its own.
    let (a, b) = (serve(&here, &setup).await, serve(&there, &setup).await);
    let first = ask(&a, QUESTION).await;
    let (id, asked) = (id_of(&first), upstream.asked().len());
    redis.until_kept(&a).await;
    // What the other one wrote is in the memory of this one now, and what it keeps can be read here.
    assert!(is_cached(&ask(&b, QUESTION).await));
    let shown = async || b.get(&format!("/v1/answers/{id}")).await;
    b.until("it can be read there", async || shown().await.1.to_string().contains(MARKER)).await;
    let only = async || outcome(ask_kept(&b, QUESTION).await).await;
    assert_eq!(only().await.0, StatusCode::OK);
    let receipt = delete(&a, "expenses.md").await;
    println!("{receipt:#}");
    // The answer that it had found in Redis, and the one that was read there.
    assert_eq!(place(&receipt, "memory of replica"), removed(2));
    problem(&shown().await, 410, "document-deleted");
    problem(&only().await, 504, "not-cached");
    assert_eq!(upstream.asked().len(), asked);
    // It has the document itself, though, and goes on with it.
    let own = ask(&b, QUESTION).await;
    assert!(!is_cached(&own) && text_of(&own).contains(MARKER));
    until_kept(&b, QUESTION).await;
    assert!(delete(&b, "expenses.md").await["complete"] == true);
    b.until("nothing is left of it", async || !redis.everything().await.contains(MARKER)).await;
    // One that is killed cannot say that it did.
    b.kill();
    let receipt = delete(&a, "travel.md").await;
    assert_eq!(place(&receipt, "memory of replica"), (0, "told".to_owned()), "{receipt}");
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn who_reads_on_elsewhere_is_told_of_the_deletion_before_the_notice_is_there() {
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script::paced(400, 50)));
    let (here, there, setup) = (Home::new(), Home::new(), with_redis(&upstream, &redis));
    // The other one hears of no deletion: all it sees is that the answer is gone.
    let deaf = Setup { failpoints: "deletion::look=return".into(), ..setup.clone() };
    let (a, b) = (serve(&here, &setup).await, there.serve(&deaf).await);
    let ask = async |question: &str| {
        let request = a.http.post(a.url("/v1/answers")).header("accept", "text/event-stream").bearer_auth("one");
        let stream =
            request.json(&json!({ "question": question, "max_tokens": 400 })).send().await.expect("a response");
        let place = stream.headers()["location"].to_str().expect("text").to_owned();
        (place, tokio::spawn(read_events(stream)))
    };
    let get = async |path: &str, key: &str| b.http.get(b.url(path)).bearer_auth(key).send().await.expect("a response");
    let (place, here) = ask(QUESTION).await;
    let events = async || get(&format!("{place}/events"), "one").await;
    b.until("it can be found there", async || events().await.status() == StatusCode::OK).await;
    let there = tokio::spawn(read_events(events().await));
    // Nobody looks for this one there until it is gone.
    let (unseen, unseen_here) = ask("How much may meals cost a day?").await;
    let list = format!("answerd:answer:{{{}}}", unseen.rsplit('/').next().expect("an id"));
    a.until("it can be found there", async || redis.keys(&list).await.len() == 1).await;
    delete(&a, "expenses.md").await;
    for path in [unseen.clone(), format!("{unseen}/events")] {
        problem(&outcome(get(&path, "one").await).await, 410, "document-deleted");
        problem(&outcome(get(&path, "two").await).await, 404, "not-found");
    }
    assert_eq!(unseen_here.await.expect("events").last().expect("an event").name, "error");
    for read in [here.await.expect("events"), there.await.expect("events")] {
        let last = read.last().expect("an event");
        assert_eq!((last.name.as_str(), &last.data["type"]), ("error", &json!("urn:answerd:problem:document-deleted")));
    }
    let left = redis.keys("answerd:answer").await;
    assert!(left.iter().all(|key| key.ends_with(":withdrawn")) && left.len() == 2, "{left:?}");
    assert!(!redis.everything().await.contains(MARKER));
}

#[tokio::test]
async fn a_redis_that_is_away_is_named_and_made_good_for() {
    let (mut redis, upstream, home) = (Redis::start(&["--appendonly", "yes"]).await, echo(), Home::new());
    let server = serve(&home, &with_redis(&upstream, &redis)).await;
    ask(&server, QUESTION).await;
    redis.until_kept(&server).await;
    // It writes what it has to its disk each second.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    redis.kill();
    let first = delete(&server, "expenses.md").await;
    assert_eq!(first["complete"], false, "{first}");
    assert_eq!(place(&first, "shared cache"), (0, "unreachable".to_owned()));
    assert_eq!(place(&first, "evidence cache"), removed(1));
    redis.run().await;
    server.until("it is done there too", async || receipt(&server, "expenses.md").await["complete"] == true).await;
    let last = receipt(&server, "expenses.md").await;
    println!("{last:#}");
    assert_eq!((place(&last, "shared cache"), place(&last, "evidence cache")), (removed(3), removed(1)));
    assert!(!redis.everything().await.contains(MARKER));
}

#[tokio::test]
async fn a_deletion_by_an_event_or_from_a_folder_has_a_receipt_that_says_who() {
    let (nats, upstream, home) = (Nats::start().await, echo(), Home::new());
    let watched = tempfile::tempdir().expect("a folder");
    std::fs::write(watched.path().join("file.md"), MEALS).expect("a file");
    let mut setup = setup(&upstream, &nats.settings());
    setup.folder = Some(watched.path().to_owned());
    let server = home.serve(&setup).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    server.until("the file is there", async || server.found(MARKER, "lexical").await == ["file.md"]).await;
    let first = ask(&server, QUESTION).await;
    assert_eq!(one(&first, "sources")["sources"][0]["document_id"], "file.md");
    until_kept(&server, QUESTION).await;
    std::fs::remove_file(watched.path().join("file.md")).expect("it goes");
    let receipt_of_file = receipt(&server, "file.md").await;
    assert!(receipt_of_file["by"].as_str().is_some_and(|by| by.starts_with("folder:/")), "{receipt_of_file}");
    assert_eq!(
        (place(&receipt_of_file, "answer cache"), &receipt_of_file["collection"]),
        (removed(2), &json!("watched"))
    );

    publish(&bus, "event.md", "upserted", "1", &[("content-type", "text/markdown")], MEALS).await;
    server.until("the event is there", async || server.found(MARKER, "lexical").await == ["event.md"]).await;
    ask(&server, QUESTION).await;
    until_kept(&server, QUESTION).await;
    publish(&bus, "event.md", "deleted", "2", &[], "").await;
    let receipt_of_event = receipt(&server, "event.md").await;
    let by = receipt_of_event["by"].as_str().expect("who");
    assert!(by.starts_with("event:") && by.ends_with("#2"), "{receipt_of_event}");
    assert_eq!(place(&receipt_of_event, "answer cache"), removed(2), "{receipt_of_event}");
    assert!(receipt_of_event["remains"].to_string().contains("NATS"));
    problem(&server.get(&format!("/v1/answers/{}", id_of(&first))).await, 410, "document-deleted");
}

#[tokio::test]
async fn with_identity_the_receipt_names_the_key_and_is_for_those_who_write() {
    let (upstream, home) = (echo(), Home::new());
    let setup = setup(&upstream, "identity.enabled=true");
    let (writer, reader) =
        (make_key(&home, &setup, &["w", "--scopes=write"]), make_key(&home, &setup, &["r", "--scopes=ask"]));
    let server = home.serve(&setup).await;
    let send = async |method: reqwest::Method, path: &str, key: &str, body: &'static str| {
        let request = server.http.request(method, server.url(path)).bearer_auth(key).body(body);
        outcome(request.header("content-type", "text/markdown").send().await.expect("a response")).await
    };
    let (status, body) =
        send(reqwest::Method::PUT, "/v1/documents/a%20b/c.md?wait=true&visible_to=hr", &writer, MEALS).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    // Without waiting it is as it was, and says where the receipt will be.
    let (status, body) = send(reqwest::Method::DELETE, "/v1/documents/a%20b/c.md", &writer, "").await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    let at = body["receipt_at"].as_str().expect("an address").to_owned();
    assert!(body.get("receipt").is_none(), "{body}");
    server
        .until("there is a receipt", async || send(reqwest::Method::GET, &at, &writer, "").await.0 == StatusCode::OK)
        .await;
    let (_, receipt) = send(reqwest::Method::GET, &at, &writer, "").await;
    let id = writer.split('_').nth(1).expect("an id");
    assert_eq!((&receipt["by"], &receipt["document_id"]), (&json!(format!("key:{id}")), &json!("a b/c.md")));
    problem(&send(reqwest::Method::GET, &at, &reader, "").await, 403, "forbidden");
}

#[tokio::test]
async fn a_deletion_that_was_interrupted_has_its_receipt_after_the_next_start() {
    let (redis, upstream, home) = (Redis::start(&[]).await, echo(), Home::new());
    let setup = with_redis(&upstream, &redis);
    let server = serve(&home, &setup).await;
    ask(&server, QUESTION).await;
    redis.until_kept(&server).await;
    // What is done for it begins, and does not come to its end.
    redis.signal(libc::SIGSTOP);
    let (status, body) = server.delete("/v1/documents/expenses.md").await;
    assert!(status.is_success(), "{body}");
    server.until("it is not found any more", async || server.text("expenses.md").await.is_none()).await;
    server.kill();
    redis.signal(libc::SIGCONT);
    let server = home.serve(&setup).await;
    server.until("it is complete", async || receipt(&server, "expenses.md").await["complete"] == true).await;
    let receipt = receipt(&server, "expenses.md").await;
    assert!(receipt["by"].as_str().is_some_and(|by| by.starts_with("ip:")), "{receipt}");
    assert_eq!((&receipt["collection"], place(&receipt, "shared cache")), (&json!("default"), removed(3)));
    assert!(!redis.everything().await.contains(MARKER));
}

#[tokio::test]
async fn a_deletion_that_a_later_write_came_before_forgets_what_was_there_and_has_a_receipt() {
    let (redis, upstream, home) = (Redis::start(&[]).await, echo(), Home::new());
    let server = serve(&home, &with_redis(&upstream, &redis)).await;
    let first = ask(&server, QUESTION).await;
    assert!(text_of(&first).contains(MARKER), "{first:?}");
    redis.until_kept(&server).await;
    // Many on one document, at the same time as what writes it anew: now one is taken first, now the other.
    let rounds = (0..60).map(async |n| {
        let write = async {
            let text = format!("# Expenses\n\nThe daily limit for meals is {n} euros.");
            let (status, body) = server.put("/v1/documents/expenses.md", "text/markdown", text).await;
            assert!(status.is_success(), "{body}");
        };
        let (deleted, ()) = tokio::join!(server.delete("/v1/documents/expenses.md"), write);
        let (status, body) = deleted;
        assert!(status.is_success() || status == StatusCode::NOT_FOUND, "{body}");
        body["receipt_at"].as_str().map(str::to_owned)
    });
    // Fewer at once than there is room for.
    let places: Vec<String> = stream::iter(rounds).buffer_unordered(16).filter_map(std::future::ready).collect().await;
    assert!(!places.is_empty());
    for place in &places {
        let told = async || {
            let (status, body) = server.get(place).await;
            assert!(status == StatusCode::OK || status == StatusCode::ACCEPTED, "{place}: {body}");
            status == StatusCode::OK && body["complete"] == true
        };
        server.until("there is a receipt", told).await;
    }
    let (_, acts) = server.get("/admin/audit").await;
    let replaced = acts.to_string().matches("which replaced this deletion").count();
    println!("{} deletions, {replaced} of them replaced by a later write", places.len());
    problem(&server.get(&format!("/v1/answers/{}", id_of(&first))).await, 410, "document-deleted");
    assert!(!redis.everything().await.contains(MARKER));
    // The last word is another write's: it is served, and kept like any other.
    server.put_visible("expenses.md", MEALS).await;
    ask(&server, QUESTION).await;
    until_kept(&server, QUESTION).await;
}

#[tokio::test]
async fn what_says_where_shared_things_are_is_not_taken_for_room_and_goes_with_them() {
    let (redis, upstream, home) = (Redis::start(&[]).await, echo(), Home::new());
    let server = serve(&home, &with_redis(&upstream, &redis)).await;
    ask(&server, QUESTION).await;
    redis.until_kept(&server).await;
    let indexes = redis.keys("answerd:rests").await;
    assert!(!indexes.is_empty());
    for index in indexes {
        // Without a time of its own it is none of those that a Redis with `volatile-lru` takes.
        assert_eq!(redis.command::<i64>("PTTL", &[&index]).await, -1, "{index}");
        let document = index.trim_start_matches("answerd:rests:{").trim_end_matches('}');
        let gone: Option<f64> = redis.command("ZSCORE", &["answerd:indexes:{deletions}", document]).await;
        assert!(gone.is_some(), "{index} would stay for good");
    }
}

/// The files below a folder that have a word in them.
fn files_with(folder: &Path, word: &str) -> Vec<String> {
    let files =
        walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok).filter(|entry| entry.file_type().is_file());
    let has = |path: &Path| {
        std::fs::read(path).is_ok_and(|bytes| bytes.windows(word.len()).any(|part| part == word.as_bytes()))
    };
    files.filter(|file| has(file.path())).map(|file| file.path().display().to_string()).collect()
}

/// Chunks that the segments of the lexical index have beside those that count.
fn deleted_in_segments(data: &Path) -> u64 {
    let meta = std::fs::read_to_string(data.join("lexical/meta.json")).expect("meta.json");
    let meta: Value = serde_json::from_str(&meta).expect("JSON");
    let segments = meta["segments"].as_array().expect("segments").iter();
    segments.map(|segment| segment["deletes"]["num_deleted_docs"].as_u64().unwrap_or(0)).sum()
}

#[tokio::test]
async fn nothing_of_it_is_left_in_the_files_of_the_embedded_store() {
    if std::env::var("ANSWERD_TEST_STORE").is_ok_and(|store| store != "embedded") {
        return;
    }
    let (upstream, home) = (echo(), Home::new());
    let run = |expunge_s: u64| setup(&upstream, &format!("index.expunge_s={expunge_s}\nindex.save_interval_s=1"));
    let server = home.serve(&run(86_400)).await;
    let data = home.data();
    let many = (0..20).map(async |n| {
        let note = format!("# Note {n}\n\nAbout glaciers and narwhals, part {n}.");
        server.put(&format!("/v1/documents/{n}.md"), "text/markdown", note).await
    });
    futures_util::future::join_all(many).await;
    server.put_visible("expenses.md", MEALS).await;
    let answer = ask(&server, QUESTION).await;
    let (status, _) =
        server.post(&format!("/v1/answers/{}/feedback", id_of(&answer)), json!({ "rating": "down" })).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    // Made again from the catalog it has all of them in one segment.
    assert!(server.stop().await.success());
    std::fs::remove_dir_all(data.join("lexical")).expect("the lexical index");
    let server = home.serve(&run(86_400)).await;
    server.until("all are there", async || server.found("glaciers narwhals", "lexical").await.len() == 20).await;
    let before = files_with(&data, MARKER);
    assert!(
        before.iter().any(|file| file.contains("catalog")) && before.iter().any(|file| file.contains("records")),
        "{before:?}"
    );

    let receipt_at_first = delete(&server, "expenses.md").await;
    for what in ["catalog", "lexical index", "vector index"] {
        assert_eq!(place(&receipt_at_first, what), (1, "hidden".to_owned()), "{receipt_at_first}");
    }
    assert!(deleted_in_segments(&data) > 0);
    let tombstones = async |server: &Server| {
        server.actor("write/indexer").await["detail"]["vectors"]["tombstones"].as_u64().expect("a number")
    };
    assert!(tombstones(&server).await > 0);
    assert!(server.stop().await.success());
    println!("a stopped process leaves it in {:?}", files_with(&data, MARKER));

    let server = home.serve(&run(0)).await;
    server
        .until("the receipt is final", async || {
            let receipt = receipt(&server, "expenses.md").await;
            ["catalog", "lexical index", "vector index"].iter().all(|what| place(&receipt, what) == removed(1))
        })
        .await;
    assert_eq!((files_with(&data, MARKER), deleted_in_segments(&data), tombstones(&server).await), (vec![], 0, 0));
    assert_eq!(server.found("glaciers narwhals", "hybrid").await.len(), 20);
    // While it runs, too, and while others come and go.
    server.put_visible("expenses.md", MEALS).await;
    server.put_visible("1.md", "# Note 1\n\nAnother text about glaciers.").await;
    assert!(!files_with(&data, MARKER).is_empty());
    delete(&server, "expenses.md").await;
    server
        .until("nothing is left", async || files_with(&data, MARKER).is_empty() && tombstones(&server).await == 0)
        .await;
    assert_eq!(server.found("glaciers narwhals", "hybrid").await.len(), 20);
    assert!(server.stop().await.success());
    assert_eq!(files_with(&data, MARKER), Vec::<String>::new());
}
