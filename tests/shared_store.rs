//! What is promised of every store of documents that replicas share. That it keeps all that the embedded store keeps, the
//! tests of documents, searches and events say: `make test` runs them with each.
//!
//! [`promises!`] makes the tests of a store.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use answerd::config::Config;
use answerd::documents::event::{DocumentId, Metadata, Operation, Upsert};
use answerd::documents::{Format, ParsedDocument};
use answerd::retrieval::filter::{Fields, Filter};
use answerd::stores::document_store::{DocumentStore, Lookup, NewChunk, Progress};
use async_trait::async_trait;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::common::nats::{Nats, publish, stream_is_there};
use crate::common::redis::Redis;
use crate::common::upstream::{Script, Upstream, chat_on, said};
use crate::common::{Home, Server, Setup, one, problem, read_events, text_of, variables};

/// A store that replicas share, for one test.
#[async_trait]
pub trait SharedStore: Send + Sync {
    /// Its name in `[store] engine`.
    fn name(&self) -> &'static str;

    /// The settings of an answerd that keeps its documents here.
    fn settings(&self) -> String;

    /// Opens it in this process, for vectors of so many dimensions.
    async fn open(&self, config: Arc<Config>, dimensions: usize) -> Box<dyn DocumentStore>;

    /// Has it lose one document, and say something else about a chunk of another one.
    async fn damage(&self, lost: &str, changed: &str);
}

/// The tests of a store, each with a new one; `ignored` says why they are skipped where they are not asked for.
macro_rules! promises {
    ($store:expr $(, ignored: $why:literal)?) => {
        $crate::shared_store::promises! { @all ($store) ($($why)?)
            what_one_replica_takes_another_finds_and_an_older_revision_never_comes_back
            what_waits_longer_than_it_may_for_another_replica_is_told_so
            #[cfg(feature = "failpoints")] clocks_that_disagree_decide_nothing
            #[cfg(feature = "failpoints")] what_a_killed_replica_had_begun_another_carries_out
            #[cfg(feature = "failpoints")] a_replica_that_was_frozen_and_comes_back_spoils_nothing
            events_are_taken_once_by_replicas_on_one_consumer_while_one_is_killed
            a_filter_means_there_what_it_means_here
            #[cfg(feature = "failpoints")] documents_move_there_and_back_as_they_are
            a_rolling_restart_loses_no_event_and_breaks_no_stream
        }
    };
    (@all $store:tt $why:tt $($(#[$attribute:meta])* $name:ident)*) => {
        $($crate::shared_store::promises! { @one $store $why $(#[$attribute])* $name })*
    };
    (@one ($store:expr) ($($why:literal)?) $(#[$attribute:meta])* $name:ident) => {
        $(#[$attribute])*
        #[tokio::test]
        $(#[ignore = $why])?
        async fn $name() {
            $crate::shared_store::$name(&$store).await;
        }
    };
}
pub(crate) use promises;

pub fn setup(store: &dyn SharedStore, more: &str) -> Setup {
    Setup { settings: format!("{}{more}", store.settings()), ..Setup::default() }
}

/// Waits until a replica shows a text, or none.
pub async fn until_text(server: &Server, id: &str, text: Option<&str>) {
    server.until(&format!("{id} is {text:?}"), async || server.text(id).await.as_deref() == text).await;
}

pub async fn what_one_replica_takes_another_finds_and_an_older_revision_never_comes_back(store: &dyn SharedStore) {
    let (here, there) = (Home::new(), Home::new());
    let (a, b) = (here.serve(&setup(store, "")).await, there.serve(&setup(store, "")).await);
    for n in 0..20 {
        let (status, taken) =
            a.put("/v1/documents/shared.md", "text/markdown", format!("# Shared\n\nVersion {n}.")).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{taken}");
        // The other one holds the question until it is true there.
        let search = json!({ "query": "version", "min_seq": taken["seq"], "mode": "lexical" });
        let (status, found) = b.post("/v1/search", search).await;
        assert_eq!(status, StatusCode::OK, "{found}");
        assert!(found["seq"].as_u64() >= taken["seq"].as_u64(), "{found}");
        assert!(found["results"][0]["text"].as_str().unwrap().contains(&format!("Version {n}.")), "{found}");
    }
    // Both at once, with revisions in any order: the highest stays, and its text.
    let revisions = [7, 3, 12, 9, 1, 11, 5, 10, 2, 8, 4, 6].map(|n| n + 100);
    let put = |server: &Server, n: u64| {
        let url = server.url(&format!("/v1/documents/race?revision={n}&wait=true"));
        let request = server.http.put(url).header("content-type", "text/plain").body(format!("revision {n}"));
        async move { request.send().await.expect("a response").status() }
    };
    let puts = revisions.iter().enumerate().map(|(i, &n)| put(if i % 2 == 0 { &a } else { &b }, n));
    for status in futures_util::future::join_all(puts).await {
        assert!(status.is_success(), "{status}");
    }
    for server in [&a, &b] {
        until_text(server, "race", Some("revision 112")).await;
        assert_eq!(server.get("/v1/documents/race").await.1["revision"], 112);
    }
    let (status, gone) = b.delete("/v1/documents/shared.md").await;
    assert_eq!(status, StatusCode::ACCEPTED, "{gone}");
    let (_, found) = a.post("/v1/search", json!({ "query": "version", "min_seq": gone["seq"] })).await;
    assert!(!found["results"].to_string().contains("shared.md"), "{found}");
}

pub async fn what_waits_longer_than_it_may_for_another_replica_is_told_so(store: &dyn SharedStore) {
    let home = Home::new();
    let server = home.serve(&setup(store, "search.min_seq_timeout_ms=300")).await;
    let said = server.post("/v1/search", json!({ "query": "anything", "min_seq": 1000 })).await;
    problem(&said, 503, "not-yet-visible");
}

/// One replica's clock is a day ahead.
pub async fn clocks_that_disagree_decide_nothing(store: &dyn SharedStore) {
    let (here, there) = (Home::new(), Home::new());
    let clock =
        "export LD_PRELOAD=$(echo /usr/lib/*/faketime/libfaketimeMT.so.1) FAKETIME=+1d FAKETIME_DONT_FAKE_MONOTONIC=1";
    let slow = "document=1*sleep(16000)".to_owned();
    let ahead = Setup { before: Some(clock.to_owned()), failpoints: slow, ..setup(store, "") };
    let (a, b) = (here.serve(&ahead).await, there.serve(&setup(store, "")).await);
    let date = async |server: &Server| {
        let response = server.http.get(server.url("/healthz")).send().await.expect("a response");
        let date = httpdate::parse_http_date(response.headers()["date"].to_str().expect("a text")).expect("a date");
        date.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() as i64
    };
    let ahead_s = date(&a).await - date(&b).await;
    assert!((86_000..87_000).contains(&ahead_s), "{ahead_s} s ahead: is the Debian package faketime there?");
    // It holds this one for a while, and nobody takes it away.
    let (_, held) = a.put("/v1/documents/held?revision=1", "text/plain", "the first").await;
    tokio::time::sleep(Duration::from_secs(13)).await;
    assert_eq!(b.get("/v1/documents/held").await.1["status"], "received");
    let search = json!({ "query": "first", "min_seq": held["seq"], "mode": "lexical" });
    let (status, found) = b.post("/v1/search", search).await;
    assert_eq!((status, &found["results"][0]["document_id"]), (StatusCode::OK, &json!("held")), "{found}");
    // The last word is the last word, whatever time it was said to have.
    for n in 0..6 {
        let (writer, reader) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let text = format!("version {n}");
        let (_, taken) = writer.put("/v1/documents/held?wait=true", "text/plain", text.clone()).await;
        assert_eq!((&taken["outcome"], &taken["status"]), (&json!("accepted"), &json!("visible")), "{taken}");
        assert_eq!(reader.text("held").await, Some(text));
        let (_, found) = reader.post("/v1/search", json!({ "query": "version" })).await;
        assert_eq!((&found["lag_events"], &found["lag_ms"]), (&json!(0), &json!(0)), "{found}");
    }
    let (_, outdated) = b.put("/v1/documents/held?revision=2", "text/plain", "too late").await;
    assert_eq!(outdated["outcome"], "outdated", "{outdated}");
}

pub async fn what_a_killed_replica_had_begun_another_carries_out(store: &dyn SharedStore) {
    let (here, there) = (Home::new(), Home::new());
    let slow = Setup { failpoints: "document=sleep(600000)".into(), ..setup(store, "") };
    let (a, b) = (here.serve(&slow).await, there.serve(&setup(store, "")).await);
    for n in 0..5 {
        let (status, _) = a.put(&format!("/v1/documents/{n}"), "text/plain", format!("text {n}")).await;
        assert_eq!(status, StatusCode::ACCEPTED);
    }
    // It is at work, and says so: nobody takes its work away.
    tokio::time::sleep(Duration::from_secs(13)).await;
    assert_eq!(b.get("/v1/documents/0").await.1["status"], "received");
    a.kill();
    for n in 0..5 {
        until_text(&b, &n.to_string(), Some(&format!("text {n}"))).await;
    }
}

pub async fn a_replica_that_was_frozen_and_comes_back_spoils_nothing(store: &dyn SharedStore) {
    let (here, there) = (Home::new(), Home::new());
    // The first one holds each document for as long as it takes to freeze it.
    let slow = Setup { failpoints: "document=sleep(1500)".into(), ..setup(store, "") };
    let (a, b) = (here.serve(&slow).await, there.serve(&setup(store, "")).await);
    a.put("/v1/documents/d?revision=1", "text/plain", "the first").await;
    a.put("/v1/documents/other", "text/plain", "another one").await;
    a.signal(libc::SIGSTOP);
    until_text(&b, "other", Some("another one")).await;
    until_text(&b, "d", Some("the first")).await;
    let (_, newer) = b.put("/v1/documents/d?revision=2&wait=true", "text/plain", "the second").await;
    assert_eq!(newer["status"], "visible", "{newer}");
    a.signal(libc::SIGCONT);
    // Long enough for it to end what it had begun.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for server in [&a, &b] {
        until_text(server, "d", Some("the second")).await;
        let (_, document) = server.get("/v1/documents/d").await;
        assert_eq!((&document["revision"], &document["seq"]), (&json!(2), &newer["seq"]), "{document}");
        assert_eq!(server.found("first", "lexical").await, Vec::<String>::new());
    }
    let (_, status) = b.get("/admin/status").await;
    assert_eq!((&status["catalog"]["documents"], &status["catalog"]["pending"]), (&json!(2), &json!(0)), "{status}");
}

pub async fn events_are_taken_once_by_replicas_on_one_consumer_while_one_is_killed(store: &dyn SharedStore) {
    let nats = Nats::start().await;
    let settings = format!("{}\nnats.ack_wait_s=5", nats.settings());
    let (here, there) = (Home::new(), Home::new());
    let (a, b) = (here.serve(&setup(store, &settings)).await, there.serve(&setup(store, &settings)).await);
    let bus = nats.jetstream().await;
    stream_is_there(&a, &bus).await;
    stream_is_there(&b, &bus).await;
    const DOCUMENTS: u64 = 60;
    let event = async |document: u64, revision: u64| {
        let (document, id) = (format!("d{document}"), format!("{document}-{revision}"));
        let more = [("ce-revision", &*revision.to_string())];
        if revision == 4 && document.ends_with('7') {
            return publish(&bus, &document, "deleted", &id, &more, "").await;
        }
        publish(&bus, &document, "upserted", &id, &more, &format!("{document} in revision {revision}")).await;
    };
    let mut a = Some(a);
    // Late, twice, out of order, and both documents' events in both replicas' hands.
    for revision in [2, 1, 3, 3, 4, 2] {
        for document in 0..DOCUMENTS {
            event(document, revision).await;
        }
        if revision == 1 {
            a.take().expect("it runs").kill();
        }
        if revision == 4 {
            a = Some(here.serve(&setup(store, &settings)).await);
        }
    }
    let a = a.expect("it runs");
    for server in [&a, &b] {
        for document in 0..DOCUMENTS {
            let id = format!("d{document}");
            let text = (document % 10 != 7).then(|| format!("{id} in revision 4"));
            until_text(server, &id, text.as_deref()).await;
        }
    }
    let consumer = async || {
        let stream = bus.get_stream("DOCUMENTS").await.expect("the stream");
        let info = stream.consumer_info("answerd").await.expect("the consumer");
        (info.num_pending, info.num_ack_pending)
    };
    b.until("everything is acknowledged", async || consumer().await == (0, 0)).await;
    let status: Value = a.get("/admin/status").await.1;
    assert_eq!(status["events"]["dead_letters"], 0, "{status}");
    let counts = ["documents", "chunks", "pending", "failed"].map(|name| status["catalog"][name].as_u64());
    assert_eq!(counts, [Some(54), Some(54), Some(0), Some(0)], "one version and one chunk of each document");
}

/// What a filter sees of a document.
struct Seen {
    id: String,
    title: String,
    media_type: Option<String>,
    url: Option<String>,
    metadata: Metadata,
}

impl Fields for Seen {
    fn field(&self, name: &str) -> Option<Cow<'_, Value>> {
        let text = |text: &str| Some(Cow::Owned(Value::from(text)));
        match name {
            "id" => text(&self.id),
            "collection" => text("default"),
            "title" => text(&self.title),
            "media_type" => self.media_type.as_deref().and_then(text),
            "url" => self.url.as_deref().and_then(text),
            "updated_at" => Some(Cow::Owned(1.into())),
            _ => name.strip_prefix("metadata.").and_then(|key| self.metadata.get(key)).map(Cow::Borrowed),
        }
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec!["a", "b", "ab", "B", "ä", "it's", "10", "%_\\"]).prop_map(Value::from),
        prop::sample::select(vec![
            json!(1),
            json!(1.0),
            json!(2.5),
            json!(-3),
            json!(10),
            json!(9_007_199_254_740_993_i64)
        ]),
        any::<bool>().prop_map(Value::from),
    ]
}

fn filter() -> impl Strategy<Value = Value> {
    let field = prop::sample::select(vec![
        "metadata.k",
        "metadata.l",
        "metadata.it's",
        "id",
        "title",
        "media_type",
        "url",
        "collection",
    ]);
    let test = prop_oneof![
        scalar().prop_map(|value| json!({ "eq": value })),
        scalar().prop_map(|value| json!({ "ne": value })),
        prop::collection::vec(scalar(), 0..3).prop_map(|values| json!({ "in": values })),
        prop::collection::vec(scalar(), 0..3).prop_map(|values| json!({ "not_in": values })),
        (prop::sample::select(vec!["gt", "gte", "lt", "lte"]), scalar())
            .prop_map(|(operator, value)| json!({ operator: value })),
        any::<bool>().prop_map(|wanted| json!({ "exists": wanted })),
        prop::sample::select(vec!["a", "", "d1", "%", "text/"]).prop_map(|prefix| json!({ "prefix": prefix })),
    ];
    let leaf = (field, test).prop_map(|(field, test)| json!({ field: test }));
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|filters| json!({ "all": filters })),
            prop::collection::vec(inner.clone(), 0..3).prop_map(|filters| json!({ "any": filters })),
            inner.prop_map(|filter| json!({ "not": filter })),
        ]
    })
}

fn document() -> impl Strategy<Value = (Option<&'static str>, Option<&'static str>, Option<&'static str>, Metadata)> {
    let some = |values: &'static [&'static str]| prop::option::of(prop::sample::select(values));
    let value = prop_oneof![scalar(), prop::collection::vec(scalar(), 0..3).prop_map(Value::from)];
    let key = prop::sample::select(vec!["k", "l", "it's"]).prop_map(str::to_owned);
    (
        some(&["a", "b", "ab", "10"]),
        some(&["text/plain", "text/markdown"]),
        some(&["a", "https://example.com/"]),
        prop::collection::btree_map(key, value, 0..3),
    )
}

pub async fn a_filter_means_there_what_it_means_here(store: &dyn SharedStore) {
    let variables = variables(&store.settings());
    let config = std::sync::Arc::new(Config::load_with(None, variables).expect("settings"));
    let store = store.open(config, 3).await;
    let mut runner = TestRunner::deterministic();
    let mut seen = Vec::new();
    for n in 0..60 {
        let (title, media_type, url, metadata) = document().new_tree(&mut runner).expect("a document").current();
        let id = format!("d{n}");
        let upsert = Upsert {
            id: DocumentId::parse(&id).expect("an id"),
            revision: None,
            media_type: media_type.map(str::to_owned),
            title: title.map(str::to_owned),
            url: url.map(str::to_owned),
            collection: "default".to_owned(),
            metadata: metadata.clone(),
            content: id.clone().into_bytes(),
        };
        let receipt = store.receive(Operation::Upsert(upsert), None, 0).await.expect("received");
        let text = "everywhere".to_owned();
        let chunk = NewChunk {
            section: Vec::new(),
            span: 0..text.len(),
            page: None,
            tokens: 1,
            hash: [0; 32],
            vector: vec![0.6, 0.8, 0.0],
        };
        let parsed = ParsedDocument::new(Format::Text, None, text);
        store.store_version(receipt.seq, parsed, vec![chunk], Progress::default(), 0).await.expect("stored");
        let (title, media_type, url) = (title.unwrap_or(&id).to_owned(), media_type, url);
        seen.push(Seen { id, title, media_type: media_type.map(str::to_owned), url: url.map(str::to_owned), metadata });
    }
    let mut hits = 0;
    for n in 0..600 {
        let written = filter().new_tree(&mut runner).expect("a filter").current();
        let Ok(filter) = serde_json::from_value::<Filter>(written.clone()) else { continue };
        let right: BTreeSet<&str> = seen.iter().filter(|seen| filter.matches(*seen)).map(|seen| &*seen.id).collect();
        let (words, vector) = match n % 3 {
            0 => (Some("everywhere".to_owned()), None),
            1 => (None, Some(vec![1.0, 0.0, 0.0])),
            _ => (Some("everywhere".to_owned()), Some(vec![1.0, 0.0, 0.0])),
        };
        let lookup = Lookup { words, vector, filter: Some(filter), limit: 100, settings: Default::default() };
        let found = store.search(lookup).await.unwrap_or_else(|error| panic!("{written}: {error}"));
        let found: BTreeSet<&str> = found.passages.iter().map(|passage| &*passage.document_id).collect();
        assert_eq!(found, right, "{written}");
        hits += usize::from(!right.is_empty() && right.len() < seen.len());
    }
    assert!(hits > 100, "only {hits} filters were worth a test");
}

pub async fn documents_move_there_and_back_as_they_are(store: &dyn SharedStore) {
    let (home, back) = (Home::new(), Home::new());
    let embedded = |home: &Home| {
        let dir = home.data().display().to_string();
        Setup {
            settings: format!("{}\nstore.engine = embedded\ndata.dir = {dir}", store.settings()),
            ..Setup::default()
        }
    };
    let server = home.serve(&embedded(&home)).await;
    for n in 0..30 {
        let (status, _) = server
            .put(
                &format!("/v1/documents/d{n}?revision=5"),
                "text/markdown",
                format!("# Document {n}\n\nIts text is number {n}."),
            )
            .await;
        assert_eq!(status, StatusCode::ACCEPTED);
    }
    let envelope = json!({ "content": "Said \u{0} with care.", "title": "A \u{0} title", "metadata": { "n": 1.0, "of": ["x", 2] }, "revision": 3 });
    let put = server.http.put(server.url("/v1/documents/odd?wait=true")).json(&envelope).send().await.unwrap();
    assert!(put.status().is_success());
    server.put("/v1/documents/broken?wait=true", "application/pdf", "%PDF-1.7 and no more").await;
    let (_, gone) = server.delete("/v1/documents/d3?revision=9&wait=true").await;
    server.until("all is settled", async || server.get("/admin/status").await.1["freshness"]["lag_events"] == 0).await;
    let described = async |server: &Server| {
        let mut all = Vec::new();
        for id in ["d0", "d29", "odd", "broken", "d3"] {
            let mut document = server.get(&format!("/v1/documents/{id}")).await.1;
            // Where it is visible from its storing on, that is told.
            document["times"].as_object_mut().map(|times| times.remove("visible_ms"));
            all.push(document.to_string().replace("\\u0000", "\u{fffd}").replace("1.0,", "1,"));
        }
        all
    };
    let before = described(&server).await;
    let found = server.found("number", "vector").await;
    assert!(server.stop().await.success());
    crate::common::make_key(&home, &embedded(&home), &["moves along"]);
    let keys =
        |home: &Home, setup: &Setup| String::from_utf8_lossy(&home.run(setup, &["keys", "list"]).stdout).into_owned();

    let moved = home.run(&embedded(&home), &["migrate", "--from", "embedded", "--to", store.name()]);
    let said = String::from_utf8_lossy(&moved.stdout).into_owned();
    assert!(moved.status.success() && said.contains("32 documents (0 were there already)"), "{moved:?}");
    // What was interrupted is gone on with.
    store.damage("d7", "d8").await;
    let again = home.run(&embedded(&home), &["migrate", "--from", "embedded", "--to", store.name()]);
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && said.contains("32 documents (30 were there already)"), "{again:?}");

    // The service's own records with them.
    let made = keys(&home, &embedded(&home));
    assert!(made.contains("moves along"), "{made}");
    assert_eq!(keys(&home, &setup(store, "")), made);
    let server = home.serve(&setup(store, "")).await;
    assert_eq!(described(&server).await, before);
    assert_eq!(server.found("number", "vector").await, found);
    // It remembers what was deleted, and goes on counting.
    let (_, late) = server.put("/v1/documents/d3?revision=8", "text/plain", "too late").await;
    assert_eq!(late["outcome"], "outdated", "{late}");
    let (_, new) = server.put("/v1/documents/new?wait=true", "text/plain", "A new one.").await;
    assert!(new["seq"].as_u64() > gone["seq"].as_u64(), "{new}");
    let after = described(&server).await;
    assert!(server.stop().await.success());

    // A document that is there and not here stops it, and so does what waits.
    let wrong = home.run(&embedded(&home), &["migrate", "--from", "embedded", "--to", store.name()]);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("\"new\""), "{wrong:?}");
    let moved = back.run(&embedded(&back), &["migrate", "--from", store.name(), "--to", "embedded"]);
    assert!(moved.status.success(), "{moved:?}");
    // One that waits; its file is another one's.
    let slow = Setup { failpoints: "document=sleep(600000)".into(), ..setup(store, "") };
    let server = home.serve(&slow).await;
    server.put("/v1/documents/waits", "text/plain", "Not yet.").await;
    server.kill();
    let waits = back.run(&embedded(&back), &["migrate", "--from", store.name(), "--to", "embedded"]);
    assert!(
        !waits.status.success() && String::from_utf8_lossy(&waits.stderr).contains("1 operations wait"),
        "{waits:?}"
    );
    let server = back.serve(&embedded(&back)).await;
    // Both indexes are made of what came.
    server
        .until("it has caught up", async || server.get("/admin/status").await.1["freshness"]["lag_events"] == 0)
        .await;
    assert_eq!(described(&server).await, after);
    assert!(server.found("new", "hybrid").await.contains(&"new".to_owned()));
    let (_, late) = server.put("/v1/documents/d3?revision=8", "text/plain", "too late").await;
    assert_eq!(late["outcome"], "outdated", "{late}");
}

pub async fn a_rolling_restart_loses_no_event_and_breaks_no_stream(store: &dyn SharedStore) {
    let (nats, redis) = (Nats::start().await, Redis::start(&[]).await);
    let upstream = Upstream::start(Script::paced(40, 50));
    let settings = format!(
        "{}\n{}\nredis.url={}\ncache.enabled=true\nnats.ack_wait_s=5\nserver.shutdown_timeout_s=10",
        nats.settings(),
        chat_on(&[&upstream]),
        redis.url()
    );
    let setup = setup(store, &settings);
    let homes = [Home::new(), Home::new()];
    let mut replicas = Vec::new();
    for home in &homes {
        replicas.push(home.serve(&setup).await);
    }
    let bus = nats.jetstream().await;
    stream_is_there(&replicas[0], &bus).await;
    replicas[0].put_visible("expenses.md", "# Expenses\n\nThe daily limit for meals is 48 euros.").await;
    let mut published = 0;
    for (n, home) in homes.iter().enumerate() {
        let leaving = replicas.remove(0);
        // A question of its own each time: the other replica would know the answer.
        let question = format!("What is the daily limit for meals in case {n}?");
        let stream = leaving.ask(json!({ "question": question, "max_tokens": 64 })).await;
        let reading = tokio::spawn(read_events(stream));
        leaving.until("it is asked", async || upstream.open() == 1).await;
        let stopping = tokio::spawn(leaving.stop());
        for _ in 0..30 {
            let id = format!("e{published}");
            publish(&bus, &id, "upserted", &id, &[], &format!("the text of {id}")).await;
            published += 1;
        }
        let events = reading.await.expect("read");
        assert_eq!(
            (text_of(&events).trim(), &one(&events, "done")["finish_reason"]),
            (said(40).trim(), &json!("stop"))
        );
        assert!(stopping.await.expect("stopped").success());
        // What began there is read where it did not, from the start.
        let id = events[0].id.split(':').next().expect("an id").to_owned();
        let elsewhere = &replicas[0];
        let again =
            elsewhere.http.get(elsewhere.url(&format!("/v1/answers/{id}/events"))).send().await.expect("a response");
        let again = read_events(again).await;
        assert_eq!((text_of(&again), one(&again, "done")), (text_of(&events), one(&events, "done")));
        replicas.push(home.serve(&setup).await);
    }
    for n in 0..published {
        let id = format!("e{n}");
        until_text(&replicas[n % 2], &id, Some(&format!("the text of {id}"))).await;
    }
}
