//! What is promised about models on servers elsewhere: the order they are tried in, what failures mean, what it costs.

use crate::common;

use common::upstream::{Fault, Script, Upstream, chat_on, said};
use common::{Event, Home, Server, Setup, one, problem, read_events, text_of};
use reqwest::StatusCode;
use serde_json::{Value, json};

async fn serve(home: &Home, settings: String) -> Server {
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    server.put_visible("leave.md", "# Leave\n\nEvery employee has 28 days of annual leave.").await;
    server
}

async fn ask(server: &Server) -> Vec<Event> {
    let response =
        server.ask(json!({ "question": "How many days of annual leave are there?", "max_tokens": 100 })).await;
    assert_eq!(response.status(), StatusCode::OK);
    read_events(response).await
}

async fn upstreams(server: &Server) -> Value {
    server.actor("read/model-pool/worker-1").await["detail"]["engine"]["upstreams"].clone()
}

async fn nobody_is_inside(server: &Server, upstreams: &[&Upstream]) {
    server.until_idle().await;
    for upstream in upstreams {
        server.until("no stream is open", async || upstream.open() == 0).await;
    }
}

#[tokio::test]
async fn a_server_that_fails_before_its_first_token_is_followed_by_the_next_one() {
    let first = Upstream::start(Script::default());
    let second = Upstream::start(Script::paced(7, 0));
    let home = Home::new();
    let server = serve(&home, chat_on(&[&first, &second])).await;
    assert_eq!(text_of(&ask(&server).await), said(20), "the first in order");
    let faults = [
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(429),
        Fault::Status(401),
        Fault::Page,
        Fault::Breaks(0),
        Fault::Rubbish(0),
        Fault::Error(0),
        Fault::Silent,
        Fault::Hangs(0),
    ];
    for fault in faults {
        first.play(Script::failing(fault));
        // A server that failed is tried last for a while.
        server.until("it is trusted again", async || upstreams(&server).await[0]["healthy"] == true).await;
        let events = ask(&server).await;
        assert_eq!(text_of(&events), said(7), "{fault:?}: {events:?}");
        let health = upstreams(&server).await;
        assert_eq!((&health[0]["healthy"], &health[1]["healthy"]), (&json!(false), &json!(true)), "{fault:?}");
        assert!(health[0]["last_error"].is_string(), "{health}");
        // It comes back as the first once it answers.
        first.play(Script::default());
        let before = first.asked().len();
        assert_eq!(text_of(&ask(&server).await), said(7), "while it is not trusted the other one is asked");
        assert_eq!(first.asked().len(), before);
        server.until("it is trusted again", async || upstreams(&server).await[0]["healthy"] == true).await;
        assert_eq!(text_of(&ask(&server).await), said(20), "{fault:?}");
    }
    nobody_is_inside(&server, &[&first, &second]).await;
}

#[tokio::test]
async fn a_server_that_breaks_off_after_its_first_token_ends_the_answer_and_is_not_paid_twice() {
    let first = Upstream::start(Script::default());
    let second = Upstream::start(Script::default());
    let home = Home::new();
    let server = serve(&home, chat_on(&[&first, &second])).await;
    for fault in [Fault::Breaks(5), Fault::Rubbish(5), Fault::Error(5), Fault::Hangs(5)] {
        first.play(Script { fault: Some(fault), ..Script::paced(20, 20) });
        server.until("it is trusted again", async || upstreams(&server).await[0]["healthy"] == true).await;
        let events = ask(&server).await;
        let error = one(&events, "error");
        assert_eq!((&error["type"], &error["status"]), (&json!("urn:answerd:problem:unavailable"), &json!(503)));
        assert_eq!(text_of(&events).trim_end(), said(5).trim_end(), "{fault:?}");
    }
    assert!(second.asked().is_empty());
    nobody_is_inside(&server, &[&first]).await;
}

#[tokio::test]
async fn what_a_server_refuses_is_not_asked_of_the_next_and_where_all_fail_it_is_said_what_each_said() {
    let (first, second) = (Upstream::start(Script::failing(Fault::Status(400))), Upstream::start(Script::default()));
    let home = Home::new();
    let server = serve(&home, chat_on(&[&first, &second])).await;
    let body = json!({ "question": "How many days of annual leave are there?" });
    let detail = problem(&server.post("/v1/answers", body.clone()).await, 422, "invalid-request");
    assert!(detail.contains("scripted 400"), "{detail}");
    assert!(second.asked().is_empty());

    first.play(Script::failing(Fault::Status(503)));
    second.play(Script::failing(Fault::Page));
    let detail = problem(&server.post("/v1/answers", body).await, 503, "unavailable");
    assert!(
        detail.contains(&first.url()) && detail.contains(&second.url()) && detail.contains("scripted 503"),
        "{detail}"
    );
    let degraded = server.degraded().await;
    assert!(degraded.contains("far") && degraded.contains("503"), "{degraded}");
    // Its own words may be a question: they are for who asked it.
    assert!(!degraded.contains("scripted") && !server.log_text().contains("scripted"), "{degraded}");
    assert_eq!(server.get("/readyz").await.0, StatusCode::OK, "documents and searches work");
    second.play(Script::default());
    server.until("it answers", async || text_of(&ask(&server).await) == said(20)).await;
    nobody_is_inside(&server, &[&first, &second]).await;
}

#[tokio::test]
async fn usage_is_the_servers_own_or_else_counted_and_a_server_that_does_not_stop_is_stopped() {
    let upstream = Upstream::start(Script::default());
    let home = Home::new();
    let server = serve(&home, chat_on(&[&upstream])).await;
    let told = ask(&server).await;
    let usage = one(&told, "usage");
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(11), &json!(20)));
    assert_eq!(usage["cached_prompt_tokens"], 3);
    upstream.play(Script { usage: false, ..Script::default() });
    let counted = ask(&server).await;
    let usage = one(&counted, "usage");
    assert_eq!(usage["completion_tokens"], 20);
    assert!(usage["prompt_tokens"].as_u64().unwrap() > 20, "{usage}");
    upstream.play(Script::failing(Fault::Endless));
    let events = ask(&server).await;
    assert_eq!(one(&events, "done")["finish_reason"], "length");
    nobody_is_inside(&server, &[&upstream]).await;

    // Each is on record, for whoever bills.
    server.stop().await;
    let folder = home.data().join("usage");
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let records: Vec<Value> =
        std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 3, "{records:?}");
    assert_eq!(records[0]["answer"], told[0].id.rsplit_once(':').unwrap().0);
    assert_eq!((&records[0]["prompt_tokens"], &records[0]["completion_tokens"]), (&json!(11), &json!(20)));
    assert_eq!((&records[0]["model"], &records[0]["outcome"]), (&json!("far"), &json!("stop")));
    assert_eq!(records[2]["outcome"], "length");
}

#[tokio::test]
async fn a_key_comes_from_the_environment_or_a_file_and_is_shown_nowhere() {
    let upstream = Upstream::start(Script::default());
    let home = Home::new();
    let file = home.folder.path().join("key");
    std::fs::write(&file, "from-a-file\n").unwrap();
    let more = |key: &str| chat_on(&[&upstream]).replace("serves = \"far\"", &format!("serves = \"far\", {key}"));
    let server = serve(&home, more(&format!("api_key_file = {:?}", file.display().to_string()))).await;
    ask(&server).await;
    assert_eq!(upstream.asked().last().unwrap().authorization.as_deref(), Some("Bearer from-a-file"));
    // It can be changed while the service runs.
    std::fs::write(&file, "another\n").unwrap();
    ask(&server).await;
    assert_eq!(upstream.asked().last().unwrap().authorization.as_deref(), Some("Bearer another"));
    std::fs::remove_file(&file).unwrap();
    let detail = problem(
        &server.post("/v1/answers", json!({ "question": "How many days of annual leave?" })).await,
        503,
        "unavailable",
    );
    assert!(detail.contains("key"), "{detail}");
    let (_, status) = server.get("/admin/status").await;
    let shown = format!("{status}{}", server.log_text());
    assert!(!shown.contains("from-a-file") && !shown.contains("another"), "a key is shown");
    server.stop().await;

    let home = Home::new();
    let settings = format!("{}\ntest_key=of-the-environment", more("api_key_env = \"ANSWERD__TEST_KEY\""));
    // What is no setting is a mistake in the configuration: the key has a name of its own.
    let settings = settings.replace("ANSWERD__TEST_KEY", "PATH").replace("\ntest_key=of-the-environment", "");
    let server = serve(&home, settings).await;
    ask(&server).await;
    let path = format!("Bearer {}", std::env::var("PATH").unwrap());
    assert_eq!(upstream.asked().last().unwrap().authorization, Some(path));
}

#[tokio::test]
async fn vectors_can_come_from_a_server_too() {
    let upstream = Upstream::start(Script::default());
    let home = Home::new();
    let settings = format!(
        "embedding.engine=openai\nembedding.name=far-vectors\nembedding.dimensions=8\n\
         models.upstreams=[{{ serves = \"far-vectors\", url = \"{}\", first_token_timeout_ms = 1500 }}]",
        upstream.url()
    );
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    server.put_visible("a.md", "The narwhal lives in the Arctic.").await;
    server.put_visible("b.md", "Zebras graze.").await;
    // Equal texts have equal vectors there; what stands around a passage is embedded with it.
    let found = server.found("The narwhal lives in the Arctic.", "vector").await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(upstream.asked().iter().all(|asked| asked.path == "/v1/embeddings"));
    let (_, body) = server.post("/v1/embeddings", json!({ "model": "far-vectors", "input": "x" })).await;
    assert_eq!(body["data"][0]["embedding"].as_array().unwrap().len(), 8, "{body}");
    // Away, it holds up what needs it, and nothing is lost.
    upstream.play(Script::failing(Fault::Status(503)));
    let (status, _) = server.put("/v1/documents/c.md", "text/markdown", "Okapis hide.").await;
    assert!(status.is_success());
    assert_eq!(server.found("narwhal", "lexical").await, ["a.md"]);
    upstream.play(Script::default());
    server.until("it is found", async || server.found("okapis", "lexical").await == ["c.md"]).await;
}
