//! What is promised of traces and of the log: work is followed from its request or event through every actor to the engine
//! and back, under one trace, and by ids in the log; and neither has a word of what was asked or written.

use crate::common;

use common::collector::{Collector, Span};
use common::nats::{Nats, all_taken, publish, stream_is_there};
use common::upstream::{Script, Upstream, chat_on};
use common::{Home, Setup, read_events};
use reqwest::StatusCode;
use serde_json::{Value, json};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traceparent(trace: &str) -> String {
    format!("00-{trace}-{PARENT}-01")
}

/// The names from a span up to the one without a parent here.
fn way(spans: &[Span], span: &Span) -> Vec<String> {
    let mut names = vec![span.name.clone()];
    let mut parent = span.parent.clone();
    while let Some(above) = spans.iter().find(|span| span.id == parent) {
        names.push(above.name.clone());
        parent = above.parent.clone();
    }
    names
}

#[tokio::test]
async fn a_question_is_one_trace_from_its_request_to_the_model_and_back() {
    let (home, collector, upstream) = (Home::new(), Collector::start(), Upstream::start(Script::paced(20, 5)));
    let settings = format!("{}\n{}", chat_on(&[&upstream]), collector.settings());
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    let put = server
        .http
        .put(server.url("/v1/documents/leave.md?wait=true"))
        .header("content-type", "text/markdown")
        .header("traceparent", traceparent("1af7651916cd43dd8448eb211c80319c"))
        .body("# Leave\n\nEvery employee has 28 days of annual leave.");
    assert_eq!(put.send().await.expect("a response").status(), StatusCode::OK);
    let response = server
        .http
        .post(server.url("/v1/answers"))
        .header("accept", "text/event-stream")
        .header("traceparent", traceparent(TRACE))
        .header("tracestate", "vendor=opaque")
        .json(&json!({ "question": "How many days of annual leave are there?", "max_tokens": 20 }))
        .send()
        .await
        .expect("a response");
    let events = read_events(response).await;
    assert_eq!(events.last().map(|event| event.name.as_str()), Some("done"));

    let request = collector.span("the request", |span| span.name == "POST /v1/answers").await;
    let decode = collector.span("decode", |span| span.name == "decode").await;
    let spans: Vec<Span> = collector.spans().into_iter().filter(|span| span.trace == TRACE).collect();
    let named = |name: &str| {
        let mut found = spans.iter().filter(|span| span.name == name);
        let span = found.next().unwrap_or_else(|| panic!("no {name} in {spans:#?}"));
        assert!(found.next().is_none(), "{name} is there twice: {spans:#?}");
        span.clone()
    };
    assert_eq!((request.trace.as_str(), request.parent.as_str(), request.service.as_str()), (TRACE, PARENT, "answerd"));
    assert_eq!(request.attributes["http.route"], "/v1/answers");
    assert_eq!(request.attributes["http.response.status_code"], "200");
    for (name, above) in [
        ("answer", &["POST /v1/answers"][..]),
        ("read/retriever", &["answer", "POST /v1/answers"]),
        ("embedder", &["read/retriever", "answer", "POST /v1/answers"]),
        ("search", &["read/retriever", "answer", "POST /v1/answers"]),
        ("pack", &["answer", "POST /v1/answers"]),
        ("chat far", &["answer", "POST /v1/answers"]),
        ("read/model-pool", &["chat far", "answer", "POST /v1/answers"]),
        ("line", &["chat far", "answer", "POST /v1/answers"]),
        ("prefill", &["chat far", "answer", "POST /v1/answers"]),
        ("decode", &["chat far", "answer", "POST /v1/answers"]),
    ] {
        assert_eq!(way(&spans, &named(name))[1..], *above, "{name}");
    }
    let chat = named("chat far");
    let attribute = |name: &str| chat.attributes.get(name).map(String::as_str);
    assert_eq!(attribute("gen_ai.operation.name"), Some("chat"));
    assert_eq!(attribute("gen_ai.provider.name"), Some("openai"));
    assert_eq!(attribute("gen_ai.request.model"), Some("far"));
    assert_eq!(attribute("gen_ai.usage.output_tokens"), Some("20"));
    assert_eq!(attribute("gen_ai.usage.input_tokens"), Some("11"));
    // The response was streamed: its span is as long as that took.
    assert!(request.time.end - request.time.start >= 19 * 5_000_000, "{request:?}");
    assert!(decode.time.end - decode.time.start >= 19 * 5_000_000, "{decode:?}");

    // The model's server is asked within the trace.
    let asked = upstream.asked();
    let asked = asked.last().expect("it was asked").traceparent.clone().expect("a traceparent");
    assert_eq!(asked, format!("00-{TRACE}-{}-01", chat.id));

    // The answer names how its passage came here.
    let document = collector.span("the document", |span| span.name == "document").await;
    assert_eq!(document.trace, "1af7651916cd43dd8448eb211c80319c");
    assert_eq!(named("answer").links, [(document.trace.clone(), document.id.clone())]);
    let all = collector.spans();
    let written: Vec<&Span> = all.iter().filter(|span| span.trace == document.trace).collect();
    for name in ["PUT /v1/documents/{id:.*}", "write/ingestor", "write/documents", "parse", "chunk", "store"] {
        assert!(written.iter().any(|span| span.name == name), "no {name} in {written:#?}");
    }
    // No word of what was asked, said or written.
    let said = common::text_of(&events);
    let said: Vec<&str> = said.split_whitespace().take(2).collect();
    let told = format!("{all:?}");
    for word in ["annual", "How many", "employee", &said.join(" ")] {
        assert!(!told.contains(word), "{word:?} is in {told}");
    }
}

#[tokio::test]
async fn an_event_goes_on_with_the_trace_of_its_publisher() {
    let (home, collector, nats) = (Home::new(), Collector::start(), Nats::start().await);
    let settings = format!("{}\n{}", nats.settings(), collector.settings());
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    let (of_header, of_extension) = ("2af7651916cd43dd8448eb211c80319c", "3af7651916cd43dd8448eb211c80319c");
    publish(&bus, "a.md", "upserted", "1", &[("traceparent", &traceparent(of_header))], "# A\n\nAbout aspens.").await;
    publish(&bus, "b.md", "upserted", "2", &[("ce-traceparent", &traceparent(of_extension))], "# B\n\nBirches.").await;
    publish(&bus, "c.md", "upserted", "3", &[("traceparent", "no trace at all")], "# C\n\nCedars.").await;
    all_taken(&server, &bus).await;
    for trace in [of_header, of_extension] {
        let event = collector.span("the event", |span| span.trace == trace && span.name.starts_with("process ")).await;
        assert_eq!((event.name.as_str(), event.parent.as_str()), ("process documents.wiki.upserted", PARENT));
        assert_eq!(event.attributes["messaging.system"], "nats");
        let store = collector.span("stored", |span| span.trace == trace && span.name == "store").await;
        let spans: Vec<Span> = collector.spans().into_iter().filter(|span| span.trace == trace).collect();
        let way = way(&spans, &store);
        assert_eq!(way, ["store", "write/documents", "document", "write/ingestor", &event.name], "{spans:#?}");
    }
    // One without a trace begins one.
    let third =
        collector.span("the third event", |span| span.attributes.get("event").is_some_and(|id| id == "3")).await;
    assert!(third.parent.is_empty() && third.trace.len() == 32, "{third:?}");
}

#[tokio::test]
async fn what_is_not_taken_is_told_on_and_begins_no_trace_further_on() {
    let (home, collector, upstream) = (Home::new(), Collector::start(), Upstream::start(Script::paced(5, 1)));
    let settings = format!("{}\n{}\ntraces.sample=0", chat_on(&[&upstream]), collector.settings());
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    server.put_visible("leave.md", "# Leave\n\nEvery employee has 28 days of annual leave.").await;
    let ask = async |traceparent: Option<&str>| {
        let question = json!({ "question": format!("How many days of leave are there, {traceparent:?}?") });
        let request = server.http.post(server.url("/v1/answers")).json(&question);
        let request = traceparent.into_iter().fold(request, |request, value| request.header("traceparent", value));
        assert_eq!(request.send().await.expect("a response").status(), StatusCode::OK);
        let asked = upstream.asked().last().expect("it was asked").traceparent.clone().expect("a traceparent");
        let parts: Vec<String> = asked.split('-').map(str::to_owned).collect();
        let trace = parts[1].clone();
        // The lines about the request, and those about its answer.
        server
            .until("the trace is in the log", async || server.log_text().contains(&format!("trace_id={trace}")))
            .await;
        (trace, parts[2].clone(), parts[3].clone())
    };
    let (own, _, flags) = ask(None).await;
    assert_eq!((own.len(), flags.as_str()), (32, "00"));
    let untaken = "4af7651916cd43dd8448eb211c80319c";
    let told = ask(Some(&format!("00-{untaken}-{PARENT}-00"))).await;
    assert_eq!(told, (untaken.to_owned(), PARENT.to_owned(), "00".to_owned()));
    // Whoever came with one that is taken has it taken.
    let (trace, parent, flags) = ask(Some(&traceparent(TRACE))).await;
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    assert_ne!(parent, PARENT);
    collector.span("the request", |span| span.name == "POST /v1/answers").await;
    assert!(server.stop().await.success());
    let spans = collector.spans();
    for name in ["POST /v1/answers", "answer", "chat far", "line", "prefill", "decode", "read/retriever"] {
        assert!(spans.iter().any(|span| span.name == name), "no {name} in {spans:#?}");
    }
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
}

#[tokio::test]
async fn a_line_of_the_log_says_which_request_answer_and_trace_it_is_about_and_nothing_of_what_was_asked() {
    let (home, collector, upstream) = (Home::new(), Collector::start(), Upstream::start(Script::paced(5, 1)));
    let settings = format!("{}\n{}\nlog.format=json", chat_on(&[&upstream]), collector.settings());
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    server.put_visible("leave.md", "# Leave\n\nEvery employee has 28 days of annual leave.").await;
    let ask = |question: &str| {
        server
            .http
            .post(server.url("/v1/answers"))
            .header("x-request-id", "order-4711")
            .header("traceparent", traceparent(TRACE))
            .json(&json!({ "question": question, "max_tokens": 5 }))
            .send()
    };
    let response = ask("How many days of annual leave are there?").await.expect("a response");
    assert_eq!(response.headers()["x-request-id"], "order-4711");
    let answer: Value = response.json().await.expect("JSON");
    assert_eq!(ask("").await.expect("a response").status(), StatusCode::UNPROCESSABLE_ENTITY);
    // The line may come after the answer.
    server.until("the answer is in the log", async || server.log_text().contains("\"answered\"")).await;
    let own = server.http.get(server.url("/healthz")).header("x-request-id", "no id").send().await.expect("a response");
    let own = own.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert!(own.len() == 32 && own.bytes().all(|byte| byte.is_ascii_hexdigit()), "{own}");

    let log = server.log_text();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect();
    let line = |message: &str| {
        lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("no {message:?} in {log}"))
    };
    let answered = line("answered");
    assert_eq!(answered["answer"], answer["id"], "{answered}");
    let refused = line("a request failed");
    assert_eq!((&refused["status"], &refused["route"]), (&json!(422), &json!("/v1/answers")));
    for line in [answered, refused] {
        assert_eq!((&line["request_id"], &line["trace_id"]), (&json!("order-4711"), &json!(TRACE)), "{line}");
        assert!(line["timestamp"].is_string() && line["level"] == "INFO" && line["target"].is_string(), "{line}");
        assert!(line["caller"].as_str().is_some_and(|caller| !caller.is_empty()), "{line}");
    }
    for word in ["annual", "How many", "employee"] {
        assert!(!log.contains(word), "{word:?} is in {log}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nobody_up_and_is_told_of_once() {
    let (home, collector) = (Home::new(), Collector::start());
    collector.refuse(true);
    let server = home.serve(&Setup { settings: collector.settings(), ..Setup::default() }).await;
    for n in 0..3 {
        server.put_visible(&format!("{n}.md"), "# A\n\nAbout aspens.").await;
    }
    let lost = "traces cannot be sent";
    server.until("it says that traces are lost", async || server.log_text().contains(lost)).await;
    collector.refuse(false);
    server
        .until("it says that they are sent again", async || {
            server.put_visible("later.md", &format!("# A\n\nAbout {:?}.", std::time::Instant::now())).await;
            server.log_text().contains("traces are sent again")
        })
        .await;
    // What was not sent yet is sent at the end.
    server.put_visible("last.md", "# Z\n\nAbout zinnias.").await;
    let log = server.log.clone();
    assert!(server.stop().await.success());
    let stored =
        |span: &Span| span.name == "document" && span.attributes.get("document").is_some_and(|id| id == "last.md");
    assert!(collector.spans().iter().any(stored), "{:#?}", collector.spans());
    assert_eq!(std::fs::read_to_string(log).expect("the log").matches(lost).count(), 1);
}
