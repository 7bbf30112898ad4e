//! What is promised about documents put by HTTP.

use crate::common;

use common::{Home, Server, Setup, problem};
use reqwest::StatusCode;
use serde_json::json;

#[tokio::test]
async fn a_document_is_visible_when_waited_for_and_gone_when_deleted() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    let body = server.put_visible("notes/kettle.md", "# Kettle\n\nThe zanzibar kettle boils in 90 seconds.").await;
    assert_eq!(body["title"], "Kettle");
    for mode in ["hybrid", "lexical", "vector"] {
        assert_eq!(server.found("zanzibar kettle", mode).await, ["notes/kettle.md"], "{mode}");
    }
    let (status, document) = server.get("/v1/documents/notes/kettle.md").await;
    assert_eq!(status, StatusCode::OK);
    assert!(document["text"].as_str().unwrap().contains("90 seconds"));
    let (status, _) = server.delete("/v1/documents/notes/kettle.md?wait=true").await;
    assert_eq!(status, StatusCode::OK);
    for mode in ["hybrid", "lexical", "vector"] {
        assert!(server.found("zanzibar kettle", mode).await.is_empty(), "{mode}");
    }
    problem(&server.get("/v1/documents/notes/kettle.md").await, 404, "not-found");
    problem(&server.delete("/v1/documents/notes/kettle.md").await, 404, "not-found");
}

#[tokio::test]
async fn what_is_said_of_a_document_may_stand_in_the_address_and_its_text_be_left_out() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    let about = "wait=true&title=Travel&collection=hr&visible_to=hr,board&metadata=%7B%22year%22%3A2024%7D";
    let (status, put) =
        server.put(&format!("/v1/documents/t.md?{about}"), "text/markdown", "# Trains\n\nBy train.").await;
    assert_eq!(status, StatusCode::OK, "{put}");
    let (_, document) = server.get("/v1/documents/t.md?text=false").await;
    assert_eq!(document.get("text"), None);
    assert_eq!(
        [&document["title"], &document["collection"], &document["visible_to"], &document["metadata"]["year"]],
        [&json!("Travel"), &json!("hr"), &json!(["hr", "board"]), &json!(2024)]
    );
    assert_eq!(server.get("/v1/collections").await.1, json!({ "collections": [{ "name": "hr", "documents": 1 }] }));
    let wrong = server.put("/v1/documents/x?metadata=%5B1%5D", "text/plain", "x").await;
    problem(&wrong, 422, "invalid-request");
}

#[tokio::test]
async fn a_replaced_document_is_swapped_whole_and_its_old_text_is_never_found_again() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    for round in 0..12 {
        let text = format!(
            "# Report\n\nThe colour of round{round} is marker{round}.\n\n## Details\n\nmarker{round} again, at length."
        );
        server.put_visible("report", &text).await;
        let (_, body) = server.post("/v1/search", json!({ "query": "report colour marker", "limit": 50 })).await;
        let results = body["results"].as_array().unwrap();
        assert!(!results.is_empty());
        for passage in results {
            assert!(passage["text"].as_str().unwrap().contains(&format!("marker{round}")), "round {round}: {passage}");
        }
    }
}

#[tokio::test]
async fn a_document_says_when_it_came_to_each_stage() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    server.put_visible("d", "# Report\n\nSomething to embed.").await;
    let stages = ["received_ms", "parsed_ms", "embedded_ms", "stored_ms", "visible_ms"];
    let times = async |server: &Server| {
        let (_, document) = server.get("/v1/documents/d").await;
        let times = &document["times"];
        stages.map(|stage| times[stage].as_i64().unwrap_or_else(|| panic!("no {stage} in {document}")))
    };
    let first = times(&server).await;
    assert!(first.is_sorted(), "{first:?}");
    // They outlive the process, once it had the time to note them.
    assert!(server.stop().await.success());
    let server = home.serve(&Setup::default()).await;
    assert_eq!(times(&server).await, first);
    let (_, failed) = server.put("/v1/documents/f?wait=true", "text/plain", "a\0\u{1}b\0").await;
    assert!(failed["times"]["failed_ms"].is_i64() && failed["times"]["visible_ms"].is_null(), "{failed}");
}

#[tokio::test]
async fn older_and_equal_revisions_and_unchanged_content_change_nothing() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    let put = async |query: &str, text: &str| {
        server.put(&format!("/v1/documents/d?wait=true{query}"), "text/markdown", text.to_owned()).await.1
    };
    assert_eq!(put("&revision=5", "the fifth revision").await["outcome"], "accepted");
    assert_eq!(put("&revision=5", "another fifth").await["outcome"], "outdated");
    assert_eq!(put("&revision=4", "the fourth revision").await["outcome"], "outdated");
    assert_eq!(put("", "the fifth revision").await["outcome"], "unchanged");
    let body = put("&revision=9", "the ninth revision").await;
    assert_eq!((&body["outcome"], &body["revision"]), (&json!("accepted"), &json!(9)));
    let (_, document) = server.get("/v1/documents/d").await;
    assert_eq!(document["text"], "the ninth revision");
    // A delete is remembered: an older upsert that comes late does not bring the document back.
    server.delete("/v1/documents/d?wait=true&revision=12").await;
    assert_eq!(put("&revision=11", "a late one").await["outcome"], "outdated");
    problem(&server.get("/v1/documents/d").await, 404, "not-found");
    assert_eq!(put("&revision=13", "a new life").await["status"], "visible");
}

#[tokio::test]
async fn unchanged_chunks_are_not_embedded_again() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    let section = |n: usize| format!("## Part {n}\n\n{}\n\n", format!("Sentence {n} about subject {n}. ").repeat(40));
    // So many that all of them would take several messages to the embedder.
    let text: String = (0..70).map(section).collect();
    server.put_visible("long", &text).await;
    assert!(server.actor("embedder").await["handled"].as_u64().unwrap() >= 3);
    let before = server.actor("embedder").await["handled"].as_u64().unwrap();
    // The same content with another title in the request body's metadata is a new revision with the same chunks.
    let envelope = json!({ "content": text, "metadata": { "team": "a" } }).to_string();
    let (_, body) = server.put("/v1/documents/long?wait=true", "application/json", envelope).await;
    assert_eq!(body["status"], "visible", "{body}");
    assert_eq!(server.actor("embedder").await["handled"].as_u64().unwrap(), before);
    // One changed section costs one message to the embedder.
    server.put_visible("long", &text.replace("subject 7.", "another subject.")).await;
    assert_eq!(server.actor("embedder").await["handled"].as_u64().unwrap(), before + 1);
}

#[tokio::test]
async fn the_list_of_documents_comes_in_pages_and_by_collection() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    for n in 0..7 {
        let collection = if n % 2 == 0 { "even" } else { "odd" };
        let path = format!("/v1/documents/doc-{n}?wait=true&collection={collection}");
        server.put(&path, "text/plain", format!("text number {n}")).await;
    }
    let mut pages = Vec::new();
    let mut after = String::new();
    loop {
        let (status, page) = server.get(&format!("/v1/documents?limit=3{after}")).await;
        assert_eq!(status, StatusCode::OK);
        pages.push(page["documents"].clone());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(pages.len(), 3);
    let all = pages.iter().filter_map(|page| page.as_array()).flatten().cloned().collect();
    assert_eq!(common::listed(&all), (0..7).map(|n| format!("doc-{n}")).collect::<Vec<_>>());
    let (_, odd) = server.get("/v1/documents?collection=odd").await;
    assert_eq!(common::listed(&odd["documents"]), ["doc-1", "doc-3", "doc-5"]);
}

#[tokio::test]
async fn a_failed_revision_says_why_and_leaves_the_old_one_serving() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    server.put_visible("d", "The original walrus text.").await;
    let (status, body) = server
        .put("/v1/documents/d?wait=true", "text/plain", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec())
        .await;
    assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("failed")), "{body}");
    assert!(!body["reason"].as_str().unwrap().is_empty());
    assert_eq!(body["served_revision"], 1);
    assert_eq!(server.found("walrus", "lexical").await, ["d"]);
}

#[tokio::test]
async fn ids_may_have_slashes_and_unicode_but_never_climb() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    for (path, id) in [
        ("Gru%C3%9F%2FW%C3%A4rme%20und%20K%C3%A4lte.md", "Gruß/Wärme und Kälte.md"),
        ("plain/deep/er.md", "plain/deep/er.md"),
        ("%E6%97%A5%E6%9C%AC", "日本"),
        ("with%3Fquestion%23mark", "with?question#mark"),
    ] {
        let (status, body) = server.put(&format!("/v1/documents/{path}?wait=true"), "text/plain", "some text").await;
        assert_eq!((status, &body["id"]), (StatusCode::OK, &json!(id)), "{body}");
        assert_eq!(server.get(&format!("/v1/documents/{path}")).await.1["id"], id);
    }
    // As bytes on the wire: a client's library would resolve the dots itself.
    for path in ["a/%2E%2E/b", "%2e%2e", "a/../b", "a//b", "%00", "%FF", "a/"] {
        let response = server.raw_put(&format!("/v1/documents/{path}"), "text");
        assert!(response.starts_with("HTTP/1.1 422"), "{path}: {response}");
        assert!(response.contains("urn:answerd:problem:invalid-request"), "{path}: {response}");
    }
    let long = "x".repeat(600);
    problem(&server.put(&format!("/v1/documents/{long}"), "text/plain", "text").await, 422, "invalid-request");
}

#[tokio::test]
async fn every_encoding_of_a_text_is_read_as_the_same_text() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    let text = "Die Größe der Straße beträgt fünf Meter – „genau“, sagt Zoë.";
    let (windows, _, _) = encoding_rs::WINDOWS_1252.encode(text);
    let utf16 = |little: bool| -> Vec<u8> {
        let bom = if little { [0xff, 0xfe] } else { [0xfe, 0xff] };
        let units = text.encode_utf16().flat_map(|u| if little { u.to_le_bytes() } else { u.to_be_bytes() });
        bom.into_iter().chain(units).collect()
    };
    let with_bom = [b"\xef\xbb\xbf", text.as_bytes()].concat();
    for (id, bytes) in [
        ("utf8", text.as_bytes().to_vec()),
        ("utf8-bom", with_bom),
        ("utf16-le", utf16(true)),
        ("utf16-be", utf16(false)),
        ("windows-1252", windows.into_owned()),
    ] {
        let (_, body) = server.put(&format!("/v1/documents/{id}?wait=true"), "text/plain", bytes).await;
        assert_eq!(body["status"], "visible", "{id}: {body}");
        assert_eq!(server.get(&format!("/v1/documents/{id}")).await.1["text"], text, "{id}");
    }
}

#[tokio::test]
async fn min_seq_holds_a_search_until_its_own_write_is_visible() {
    let home = Home::new();
    let server = home.serve(&Setup { settings: "search.min_seq_timeout_ms = 20000".into(), ..Setup::default() }).await;
    for n in 0..5 {
        let (status, body) = server.put(&format!("/v1/documents/w{n}"), "text/plain", format!("unique word{n}x")).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        let query = json!({ "query": format!("word{n}x"), "mode": "lexical", "min_seq": body["seq"] });
        let (_, found) = server.post("/v1/search", query).await;
        assert_eq!(common::texts(&found["results"], "document_id"), [format!("w{n}")]);
        assert!(found["seq"].as_u64() >= body["seq"].as_u64());
    }
    let far = json!({ "query": "x", "min_seq": 1_000_000 });
    let quick = Home::new();
    let server = quick.serve(&Setup { settings: "search.min_seq_timeout_ms = 100".into(), ..Setup::default() }).await;
    problem(&server.post("/v1/search", far).await, 503, "not-yet-visible");
}
