//! Document events: from a real nats-server, and by HTTP.

use crate::common;

use common::nats::{Nats, all_taken, publish, stream_is_there};
use common::{Home, Server, Setup, problem};
use reqwest::StatusCode;
use serde_json::{Value, json};

fn setup(nats: &Nats) -> Setup {
    let settings = format!("{}\nfetch.buckets=answerd-documents, files, none", nats.settings());
    Setup { settings, ..Setup::default() }
}

#[tokio::test]
async fn events_in_every_mode_become_documents() {
    let nats = Nats::start().await;
    let home = Home::new();
    let server = home.serve(&setup(&nats)).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    publish(
        &bus,
        "b/%C3%BC.md",
        "upserted",
        "1",
        &[("ce-revision", "3"), ("content-type", "text/markdown")],
        "# Alpha",
    )
    .await;
    publish(&bus, "gone", "upserted", "2", &[], "to be deleted").await;
    publish(&bus, "gone", "deleted", "3", &[], "").await;
    let structured = json!({ "specversion": "1.0", "type": "x.upserted", "source": "s", "id": "1", "subject": "s.txt", "data": "Beta" });
    let plain = json!({ "document": "p.md", "content": "Gamma", "title": "Plain", "metadata": { "lang": "en" } });
    for body in [structured, plain] {
        bus.publish("documents.other.upserted", body.to_string().into())
            .await
            .expect("published")
            .await
            .expect("stored");
    }
    let bucket = async_nats::jetstream::object_store::Config { bucket: "files".into(), ..Default::default() };
    let store = bus.create_object_store(bucket).await.expect("a bucket");
    store.put("o.md", &mut "# Delta\n\nFrom the store.".as_bytes()).await.expect("an object");
    publish(&bus, "o.md", "upserted", "4", &[("ce-dataref", "nats-object://files/o.md")], "").await;
    all_taken(&server, &bus).await;

    let (_, document) = server.get("/v1/documents/b/%C3%BC.md").await;
    assert_eq!(
        (&document["status"], &document["revision"], &document["collection"]),
        (&json!("visible"), &json!(3), &json!("wiki"))
    );
    assert_eq!(server.text("gone").await, None);
    assert_eq!(server.text("s.txt").await.as_deref(), Some("Beta"));
    let (_, document) = server.get("/v1/documents/p.md").await;
    assert_eq!(
        (&document["title"], &document["collection"], &document["metadata"]["lang"]),
        (&json!("Plain"), &json!("other"), &json!("en"))
    );
    assert_eq!(server.found("Delta", "lexical").await, ["o.md"]);
    let (_, ready) = server.get("/readyz").await;
    assert_eq!(ready["degraded"], json!([]));

    // Larger than a message may be.
    let folder = tempfile::tempdir().expect("a folder");
    let large = format!("<h1>Large</h1><!-- {} --><p>Epsilon at its end.</p>", "much text ".repeat(120_000));
    std::fs::write(folder.path().join("large & ü.html"), &large).expect("a file");
    let output = home.run(&setup(&nats), &["publish", folder.path().to_str().expect("a path")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.until("the large one", async || server.found("Epsilon", "lexical").await == ["large & ü.html"]).await;
}

#[tokio::test]
async fn repeated_reordered_and_replayed_events_change_nothing_that_is_right() {
    let nats = Nats::start().await;
    let home = Home::new();
    let server = home.serve(&setup(&nats)).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    publish(&bus, "a", "upserted", "2", &[("ce-revision", "2")], "the second").await;
    publish(&bus, "a", "upserted", "1", &[("ce-revision", "1")], "the first, late").await;
    publish(&bus, "a", "upserted", "2", &[("ce-revision", "2")], "the second").await;
    // A deletion that comes before what it deletes.
    publish(&bus, "d", "deleted", "9", &[("ce-revision", "9")], "").await;
    publish(&bus, "d", "upserted", "8", &[("ce-revision", "8")], "too late").await;
    // Without revisions the bus decides; the last one repeats an event that was taken.
    publish(&bus, "n", "upserted", "n1", &[], "one").await;
    publish(&bus, "n", "upserted", "n2", &[], "two").await;
    publish(&bus, "n", "upserted", "n1", &[], "one").await;
    for n in 0..30 {
        let document = format!("n{n}");
        for (id, text) in [("one", "one"), ("two", "two"), ("one", "one")] {
            publish(&bus, &document, "upserted", &format!("{document}-{id}"), &[], text).await;
        }
    }
    all_taken(&server, &bus).await;
    for n in 0..30 {
        assert_eq!(server.text(&format!("n{n}")).await.as_deref(), Some("two"), "n{n}");
    }
    let state = async |server: &Server| (server.text("a").await, server.text("d").await, server.text("n").await);
    let right = (Some("the second".to_owned()), None, Some("two".to_owned()));
    assert_eq!(state(&server).await, right);
    let seq = server.get("/admin/status").await.1["freshness"]["seq"].clone();
    server.kill();

    // The whole stream once more, for a consumer that begins anew.
    bus.get_stream("DOCUMENTS").await.expect("the stream").delete_consumer("answerd").await.expect("deleted");
    let server = home.serve(&setup(&nats)).await;
    all_taken(&server, &bus).await;
    assert_eq!(state(&server).await, right);
    assert_eq!(server.get("/admin/status").await.1["freshness"]["seq"], seq);
}

#[tokio::test]
async fn poison_goes_to_the_dead_letters_once_with_its_reason_and_the_rest_goes_on() {
    let nats = Nats::start().await;
    let home = Home::new();
    let setup = setup(&nats);
    let server = home.serve(&setup).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    publish(&bus, "bad", "upserted", "1", &[("ce-revision", "soon"), ("x-own", "kept")], "x").await;
    publish(&bus, "binary", "upserted", "2", &[("content-type", "text/plain")], "a\0\u{1}\u{2}b\0\0").await;
    publish(&bus, "nothing", "upserted", "3", &[], "").await;
    publish(&bus, "astray", "upserted", "4", &[("ce-dataref", "nats-object://none/x")], "").await;
    publish(&bus, "foreign", "upserted", "6", &[("ce-dataref", "nats-object://private/x")], "").await;
    bus.publish("documents.wiki.upserted", "no event".into()).await.expect("published").await.expect("stored");
    publish(&bus, "good", "upserted", "5", &[], "fine").await;
    publish(&bus, "binary", "upserted", "2", &[("content-type", "text/plain")], "a\0\u{1}\u{2}b\0\0").await;
    all_taken(&server, &bus).await;
    assert_eq!(server.text("good").await.as_deref(), Some("fine"));
    let dead_letters = async || server.get("/admin/status").await.1["events"]["dead_letters"].clone();
    server.until("they are counted", async || dead_letters().await == 6).await;
    assert!(server.log_text().contains("went to the dead letters") && !server.log_text().contains("whole number"));

    let output = |args: &[&str]| {
        let output = home.run(&setup, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let list = output(&["dlq", "list"]);
    assert_eq!(list.lines().count(), 6, "{list}");
    for reason in [
        "whole number",
        "declared as text/plain",
        "no content",
        "no bucket none",
        "private is not among",
        "docs/events.md",
    ] {
        assert!(list.contains(reason), "{reason} is not in\n{list}");
    }
    let number = list.lines().find(|line| line.contains("whole number")).unwrap().split_whitespace().next().unwrap();
    let shown = output(&["dlq", "show", number]);
    assert!(shown.contains("x-own: kept") && shown.contains("documents.wiki.upserted"), "{shown}");

    // The object is put where it should have been: the event is taken now.
    let bucket = async_nats::jetstream::object_store::Config { bucket: "none".into(), ..Default::default() };
    let store = bus.create_object_store(bucket).await.expect("a bucket");
    store.put("x", &mut "found".as_bytes()).await.expect("an object");
    let number = list.lines().find(|line| line.contains("no bucket none")).unwrap().split_whitespace().next().unwrap();
    output(&["dlq", "retry", number]);
    server.until("the document", async || server.text("astray").await.as_deref() == Some("found")).await;
    assert_eq!(output(&["dlq", "list"]).lines().count(), 5);
    let audit = output(&["audit"]);
    let notes: Vec<Value> = audit.lines().map(|note| serde_json::from_str(note).expect("JSON")).collect();
    let retried: Vec<_> = notes.iter().filter(|note| note["act"] == "dead-letter.retry").collect();
    assert_eq!(retried.len(), 1, "{audit}");
    assert_eq!((&retried[0]["by"], &retried[0]["about"]["id"]), (&json!("command line"), &json!(number)), "{audit}");
    server.until("what an operator took out is counted no more", async || dead_letters().await == 5).await;

    // A link is no way into another bucket.
    let private = async_nats::jetstream::object_store::Config { bucket: "private".into(), ..Default::default() };
    let private = bus.create_object_store(private).await.expect("a bucket");
    let object = private.put("x", &mut "not theirs".as_bytes()).await.expect("an object");
    store.add_link("way", &object).await.expect("a link");
    publish(&bus, "linked", "upserted", "7", &[("ce-dataref", "nats-object://none/way")], "").await;
    server.until("it is refused", async || output(&["dlq", "list"]).matches("private is not among").count() == 2).await;
    assert_eq!(server.text("linked").await, None);
}

/// JetStream keeps 64 KiB of headers: what is wrong with an event may be longer, and its own headers may be nearly that.
#[tokio::test]
async fn poison_is_buried_also_where_its_headers_or_what_is_wrong_with_it_are_large() {
    let nats = Nats::start().await;
    let home = Home::new();
    let setup = setup(&nats);
    let server = home.serve(&setup).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    let long = "\u{200b}".repeat(100_000);
    for event in
        [json!({ "document": "long", "dataref": long }), json!({ "document": "long", "content": "x", &*long: 1 })]
    {
        bus.publish("documents.wiki.upserted", event.to_string().into())
            .await
            .expect("published")
            .await
            .expect("stored");
    }
    let large = "v".repeat(65_000);
    publish(&bus, "large", "upserted", "2", &[("ce-dataref", "x"), ("x-small", "kept"), ("x-large", &large)], "").await;
    publish(&bus, "good", "upserted", "3", &[], "fine").await;
    server.until("they are there", async || server.get("/admin/status").await.1["events"]["dead_letters"] == 3).await;
    all_taken(&server, &bus).await;
    assert_eq!(server.text("good").await.as_deref(), Some("fine"));

    let output = |args: &[&str]| home.run(&setup, args);
    let text = |args: &[&str]| String::from_utf8(output(args).stdout).expect("a text");
    let list = text(&["dlq", "list"]);
    let line = |words: &[&str]| list.lines().find(|line| words.iter().all(|word| line.contains(word))).expect("a line");
    assert!(list.lines().all(|line| line.len() < 5000), "{list:.9000}");
    let number = |line: &str| line.split_whitespace().next().expect("a number").to_owned();
    for line in [line(&["200b", "must begin with https://"]), line(&["unknown field"])] {
        assert!(text(&["dlq", "show", &number(line)]).contains(&long), "its payload is whole");
    }
    let large = line(&["begins with \"x\"", "must begin with https://"]);
    let shown = text(&["dlq", "show", &number(large)]);
    assert!(shown.contains("x-small: kept") && shown.contains("ce-subject: large"), "{shown:.2000}");
    assert!(!shown.contains("x-large"), "{shown:.2000}");
    let retried = output(&["dlq", "retry", &number(large)]);
    let said = String::from_utf8_lossy(&retried.stderr);
    assert!(!retried.status.success() && said.contains("publish the document itself again"), "{said}");
}

/// Answerd dies when an event has failed and is not with the dead letters, and a later one on its document is stored.
#[tokio::test]
async fn poison_is_buried_also_where_a_newer_event_and_a_crash_come_first() {
    let nats = Nats::start().await;
    let home = Home::new();
    let mut setup = setup(&nats);
    setup.failpoints = "burial=return".to_owned();
    let server = home.serve(&setup).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    publish(&bus, "d", "upserted", "1", &[("content-type", "text/plain")], "a\0\u{1}\u{2}b\0\0").await;
    server.until("it has failed", async || server.get("/v1/documents/d").await.1["status"] == "failed").await;
    publish(&bus, "d", "upserted", "2", &[], "fine").await;
    server.until("the newer one", async || server.text("d").await.as_deref() == Some("fine")).await;
    server.kill();

    setup.failpoints.clear();
    let server = home.serve(&setup).await;
    all_taken(&server, &bus).await;
    let (_, status) = server.get("/admin/status").await;
    assert_eq!((&status["events"]["dead_letters"], &status["catalog"]["failed"]), (&json!(1), &json!(0)), "{status}");
    let list = String::from_utf8_lossy(&home.run(&setup, &["dlq", "list"]).stdout).into_owned();
    assert!(list.contains("declared as text/plain"), "{list}");
    // It is forgotten with the next one.
    publish(&bus, "d", "upserted", "3", &[], "finer").await;
    server.until("the next one", async || server.text("d").await.as_deref() == Some("finer")).await;
    all_taken(&server, &bus).await;
    assert_eq!(server.get("/admin/status").await.1["events"]["dead_letters"], 1);
}

#[tokio::test]
async fn a_killed_answerd_and_a_panicking_source_lose_nothing() {
    let nats = Nats::start().await;
    let home = Home::new();
    let mut setup = setup(&nats);
    setup.failpoints = "source=3*panic".to_owned();
    let server = home.serve(&setup).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    for n in 0..60 {
        publish(&bus, &format!("d{n}"), "upserted", &n.to_string(), &[], &format!("text of number{n}")).await;
    }
    server.until("some are there", async || server.text("d5").await.is_some()).await;
    assert!(server.actor("write/source").await["panics"].as_u64() >= Some(1));
    server.kill();
    setup.failpoints.clear();
    let server = home.serve(&setup).await;
    all_taken(&server, &bus).await;
    for n in 0..60 {
        assert_eq!(server.text(&format!("d{n}")).await, Some(format!("text of number{n}")));
    }
    let (_, status) = server.get("/admin/status").await;
    // Each was stored once. (A `seq` that was given to what a kill undid is given to nothing else in Postgres.)
    assert_eq!((&status["catalog"]["documents"], &status["catalog"]["commit"]), (&json!(60), &json!(60)), "{status}");
}

#[tokio::test]
async fn searches_and_answers_say_how_many_events_they_have_not_seen() {
    let nats = Nats::start().await;
    let home = Home::new();
    let settings = format!("{}\nnats.max_in_flight=1", nats.settings());
    let server = home.serve(&Setup { settings, failpoints: "document=sleep(3000)".into(), ..Setup::default() }).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    for n in 0..4 {
        publish(&bus, &format!("d{n}"), "upserted", &n.to_string(), &[], &format!("text of number{n}")).await;
    }
    let search = async || server.post("/v1/search", json!({ "query": "number", "limit": 1 })).await.1;
    // One at work, the others in the stream.
    server.until("it has begun", async || search().await["lag_events"].as_u64() >= Some(3)).await;
    let early = search().await;
    server.until("it is behind", async || search().await["lag_ms"].as_u64() >= Some(1000)).await;
    let answer = server.answer("What is the text of number1?").await;
    let done = common::one(&answer, "done");
    assert!(done["lag_events"].as_u64() > Some(0) && done["lag_ms"].as_u64() > Some(0), "{early} {done}");
    all_taken(&server, &bus).await;
    let (_, status) = server.get("/admin/status").await;
    assert_eq!((&status["freshness"]["lag_events"], &status["freshness"]["lag_ms"]), (&json!(0), &json!(0)));
    // Each took longer than its acknowledgement may: the server was told that work goes on.
    let stream = bus.get_stream("DOCUMENTS").await.expect("the stream");
    assert_eq!(stream.consumer_info("answerd").await.expect("the consumer").num_redelivered, 0);
    let (_, document) = server.get("/v1/documents/d3").await;
    let time = |stage: &str| document["times"][stage].as_i64().unwrap_or_else(|| panic!("no {stage} in {document}"));
    assert!(time("published_ms") + 3000 <= time("visible_ms"), "{document}");
}

#[tokio::test]
async fn events_come_by_http_too() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    let send = async |id: &str, body: &str| {
        let request = server.http.post(server.url("/v1/events")).header("ce-specversion", "1.0").header("ce-id", id);
        let request = request.header("ce-type", "x.upserted").header("ce-source", "s").header("ce-subject", "h.md");
        let response =
            request.header("content-type", "text/markdown").body(body.to_owned()).send().await.expect("a response");
        let status = response.status();
        (status, response.json::<Value>().await.expect("JSON"))
    };
    let (status, first) = send("1", "# One").await;
    assert_eq!((status, &first["outcome"]), (StatusCode::ACCEPTED, &json!("accepted")));
    assert_eq!(send("2", "# Two").await.1["outcome"], "accepted");
    assert_eq!(send("1", "# One").await.1["outcome"], "repeated");
    server.until("the second", async || server.text("h.md").await.as_deref() == Some("# Two")).await;
    assert!(problem(&send("3", "").await, 422, "invalid-request").contains("dataref"));
    let refused = server.post("/v1/events", json!({ "content": "x" })).await;
    assert!(problem(&refused, 422, "invalid-request").contains("document"));

    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("published.md"), "# Published\n\nBy the command line.").expect("a file");
    let path = folder.path().to_str().expect("a path");
    let publish = |args: &[&str]| {
        let output = home.run(&Setup::default(), &[&["publish", "--server", &server.base], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    publish(&[path]);
    server.until("it is published", async || server.text("published.md").await.is_some()).await;
    publish(&["--delete", "published.md"]);
    server.until("it is deleted", async || server.text("published.md").await.is_none()).await;
}
