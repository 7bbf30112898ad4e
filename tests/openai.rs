//! What is promised to programs that speak OpenAI's protocol.

use crate::common;

use std::process::Command;

use common::upstream::{Script, Upstream, chat_on, said};
use common::{Home, Server, Setup, here};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::StatusCode;
use serde_json::{Value, json};

const LEAVE: &str = "# Leave\n\nEvery employee has 28 days of annual leave. Leave is asked for in the portal.";

/// An answerd whose chat model is a scripted server, with one document.
async fn serve(home: &Home, upstream: &Upstream) -> Server {
    let server = home.serve(&Setup { settings: chat_on(&[upstream]), ..Setup::default() }).await;
    server.put_visible("people/leave.md", LEAVE).await;
    server
}

fn hello(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "How many days of annual leave are there?" }] })
}

fn with(mut body: Value, member: &str, value: Value) -> Value {
    body[member] = value;
    body
}

/// The data of a stream's events.
async fn chunks(server: &Server, body: Value) -> Vec<String> {
    let request = server.http.post(server.url("/v1/chat/completions")).json(&body);
    let response = request.send().await.expect("a response");
    assert_eq!(response.status(), StatusCode::OK);
    response.bytes_stream().eventsource().map(|event| event.expect("an event").data).collect().await
}

/// An error in OpenAI's form.
fn error(response: &(StatusCode, Value), status: u16, param: Option<&str>) -> String {
    let (found, body) = response;
    assert_eq!(found.as_u16(), status, "{body}");
    let error = &body["error"];
    assert!(error["type"].is_string() && body.as_object().is_some_and(|body| body.len() == 1), "{body}");
    assert_eq!(error["param"].as_str(), param, "{body}");
    error["message"].as_str().expect("a message").to_owned()
}

#[tokio::test]
async fn a_completion_comes_whole_or_in_chunks_with_its_usage() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::default()));
    let server = serve(&home, &upstream).await;

    let (status, body) = server.post("/v1/chat/completions", hello("far")).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("far")));
    let choice = &body["choices"][0];
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("stop")));
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"], said(20));
    assert!(body["sources"].is_null(), "{body}");
    let usage = json!({
        "prompt_tokens": 11, "completion_tokens": 20, "total_tokens": 31, "prompt_tokens_details": { "cached_tokens": 3 }
    });
    assert_eq!(body["usage"], usage);

    let streamed = with(hello("far"), "stream", json!(true));
    let plain = chunks(&server, streamed.clone()).await;
    assert_eq!(plain.last().map(String::as_str), Some("[DONE]"));
    let parsed: Vec<Value> =
        plain[..plain.len() - 1].iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    assert_eq!(parsed[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let text = |chunks: &[Value]| -> String {
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
    };
    assert_eq!(text(&parsed), said(20));
    assert_eq!(parsed.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert!(parsed.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == parsed[0]["id"]));
    assert!(parsed.iter().all(|chunk| chunk.get("usage").is_none()));

    let counted = chunks(&server, with(streamed, "stream_options", json!({ "include_usage": true }))).await;
    let parsed: Vec<Value> =
        counted[..counted.len() - 1].iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    let (last, before) = parsed.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage));
    assert!(before.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)), "{before:?}");
    server.until_idle().await;
}

#[tokio::test]
async fn the_model_of_the_documents_tells_its_sources_beside_the_text_and_on_request_in_it() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::default()));
    let server = serve(&home, &upstream).await;
    let (status, body) = server.post("/v1/chat/completions", hello("answerd")).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["sources"][0]["document_id"], "people/leave.md");
    assert!(!body["choices"][0]["message"]["content"].as_str().unwrap().contains("Sources:"));
    // The model is given the passages.
    let asked = upstream.asked();
    let messages = asked.last().unwrap().body["messages"].to_string();
    assert!(messages.contains("28 days of annual leave"), "{messages}");

    let (_, body) = server.post("/v1/chat/completions", with(hello("answerd"), "sources", json!("text"))).await;
    let text = body["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("Sources:\n[1] Leave") && text.contains("people/leave.md"), "{text}");

    let streamed = chunks(&server, with(hello("answerd"), "stream", json!(true))).await;
    let with_sources: Vec<Value> = streamed
        .iter()
        .filter_map(|chunk| serde_json::from_str::<Value>(chunk).ok())
        .filter(|chunk| !chunk["sources"].is_null())
        .collect();
    assert_eq!(with_sources.len(), 1);
    assert_eq!(with_sources[0]["sources"][0]["document_id"], "people/leave.md");
}

#[tokio::test]
async fn sampling_limits_and_stop_texts_reach_the_model_and_hold_here_too() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::default()));
    let server = serve(&home, &upstream).await;
    let body = json!({
        "model": "far", "temperature": 0.5, "top_p": 0.25, "seed": 7, "max_tokens": 9, "presence_penalty": 0.5,
        "frequency_penalty": -0.5, "stop": ["never said", "nor this"], "user": "somebody", "store": false,
        "messages": [
            { "role": "developer", "content": "Be brief." },
            { "role": "user", "content": [{ "type": "text", "text": "Count" }, { "type": "text", "text": " up." }] }
        ]
    });
    let (status, answer) = server.post("/v1/chat/completions", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][0]["message"]["content"], said(9));
    let sent = upstream.asked().last().unwrap().body.clone();
    for (member, value) in [
        ("model", json!("far-away")),
        ("temperature", json!(0.5)),
        ("top_p", json!(0.25)),
        ("seed", json!(7)),
        ("max_tokens", json!(9)),
        ("presence_penalty", json!(0.5)),
        ("frequency_penalty", json!(-0.5)),
        ("stop", json!(["never said", "nor this"])),
    ] {
        assert_eq!(sent[member], value, "{member}: {sent}");
    }
    let messages = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Count up." }]);
    assert_eq!(sent["messages"], messages);

    // A server that does not know stop texts says more: none of it is passed on.
    let (_, answer) = server.post("/v1/chat/completions", with(hello("far"), "stop", json!("3 w4"))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "w0 w1 w2 w");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn models_are_listed_and_one_that_is_not_there_is_refused_by_name() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::default()));
    let server = serve(&home, &upstream).await;
    let (_, body) = server.get("/v1/models").await;
    assert_eq!(body["object"], "list");
    assert_eq!(common::texts(&body["data"], "id"), ["answerd", "far", "all-MiniLM-L6-v2"]);
    assert!(
        body["data"].as_array().unwrap().iter().all(|model| model["object"] == "model" && model["created"].is_u64())
    );
    assert_eq!(server.get("/v1/models/far").await.1["id"], "far");
    error(&server.get("/v1/models/near").await, 404, Some("model"));
    let response = server.post("/v1/chat/completions", hello("near")).await;
    let message = error(&response, 404, Some("model"));
    assert!(message.contains("near") && message.contains("far") && message.contains("answerd"), "{message}");
    assert_eq!(response.1["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn embeddings_are_the_same_as_numbers_and_as_bytes_and_of_norm_1() {
    use base64::Engine as _;
    let (home, upstream) = (Home::new(), Upstream::start(Script::default()));
    let server = serve(&home, &upstream).await;
    let ask = async |input: Value, format: Value| {
        let body = json!({ "model": "all-MiniLM-L6-v2", "input": input, "encoding_format": format });
        server.post("/v1/embeddings", body).await
    };
    let (status, body) = ask(json!(["annual leave", "a hotel"]), json!("float")).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["data"].as_array().unwrap().len(), 2);
    let numbers: Vec<f32> = serde_json::from_value(body["data"][0]["embedding"].clone()).unwrap();
    assert_eq!(numbers.len(), 384);
    assert!((numbers.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4);
    assert_eq!(body["usage"]["prompt_tokens"], body["usage"]["total_tokens"]);
    assert!(body["usage"]["prompt_tokens"].as_u64().unwrap() >= 4);
    let (_, body) = ask(json!("annual leave"), json!("base64")).await;
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(body["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let decoded: Vec<f32> = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    let cosine: f32 = decoded.iter().zip(&numbers).map(|(a, b)| a * b).sum();
    assert!(cosine > 0.9999, "{cosine}");

    error(&ask(json!([]), Value::Null).await, 400, Some("input"));
    error(&ask(json!(""), Value::Null).await, 400, Some("input"));
    error(&ask(json!([1, 2, 3]), Value::Null).await, 400, Some("input"));
    error(&ask(json!("word ".repeat(2000)), Value::Null).await, 400, Some("input"));
    let wrong = json!({ "model": "far", "input": "x" });
    error(&server.post("/v1/embeddings", wrong).await, 404, Some("model"));
    let wrong = json!({ "model": "all-MiniLM-L6-v2", "input": "x", "dimensions": 12 });
    error(&server.post("/v1/embeddings", wrong).await, 400, Some("dimensions"));
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_in_openais_form_and_nothing_is_left_behind() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::default()));
    let server = serve(&home, &upstream).await;
    let long = "word ".repeat(100_000);
    let user = |content: Value| json!([{ "role": "user", "content": content }]);
    let cases = [
        (with(hello("far"), "n", json!(2)), "n"),
        (with(hello("far"), "max_tokens", json!(0)), "max_tokens"),
        (with(hello("far"), "max_tokens", json!(-5)), "max_tokens"),
        (with(hello("far"), "max_completion_tokens", json!(-5)), "max_completion_tokens"),
        (with(hello("far"), "logprobs", json!(true)), "logprobs"),
        (with(hello("far"), "tools", json!([{ "type": "function" }])), "tools"),
        (with(hello("far"), "response_format", json!({ "type": "json_object" })), "response_format"),
        (with(hello("far"), "messages", json!([{ "role": "wizard", "content": "x" }])), "messages[0].role"),
        (with(hello("far"), "messages", json!([{ "role": "user" }])), "messages[0].content"),
        (
            with(hello("far"), "messages", user(json!([{ "type": "image_url", "image_url": {} }]))),
            "messages[0].content",
        ),
        (with(hello("answerd"), "messages", json!([{ "role": "assistant", "content": "x" }])), "messages"),
        (with(hello("answerd"), "messages", json!([])), "messages"),
    ];
    for (body, param) in cases {
        error(&server.post("/v1/chat/completions", body).await, 400, Some(param));
    }
    for body in [
        with(hello("far"), "temperature", json!(-1)),
        with(hello("far"), "temperature", json!(1e30)),
        with(hello("far"), "top_p", json!(2)),
        with(hello("far"), "presence_penalty", json!(99)),
        with(hello("far"), "stop", json!(["1", "2", "3", "4", "5"])),
        with(hello("far"), "stop", json!([""])),
        with(hello("far"), "timeout_ms", json!(0)),
        with(hello("far"), "messages", json!([])),
        with(hello("far"), "messages", user(json!("  "))),
        with(hello("far"), "messages", json!(vec![json!({ "role": "user", "content": "x" }); 1000])),
        json!({ "model": "far" }),
        json!([1, 2]),
        json!("text"),
    ] {
        error(&server.post("/v1/chat/completions", body).await, 400, None);
    }
    for model in ["far", "answerd"] {
        let response = server.post("/v1/chat/completions", with(hello(model), "messages", user(json!(long)))).await;
        error(&response, 400, None);
        assert_eq!(response.1["error"]["code"], "context_length_exceeded", "{}", response.1);
    }
    let raw = async |bytes: Vec<u8>| {
        let request = server.http.post(server.url("/v1/chat/completions")).header("content-type", "application/json");
        let request = request.body(bytes);
        let response = request.send().await.expect("a response");
        (response.status(), response.json::<Value>().await.expect("JSON"))
    };
    error(&raw(b"{\"model\": \"far\", ".to_vec()).await, 400, None);
    error(&raw(b"{\"model\": \"far\xff\"}".to_vec()).await, 400, None);
    error(&raw(vec![b' '; 2 << 20]).await, 413, None);
    error(&server.get("/v1/chat/completions").await, 405, None);
    // What a page of another site could send without asking first.
    let request = server.http.post(server.url("/v1/chat/completions")).header("content-type", "text/plain");
    let response = request.body(hello("far").to_string()).send().await.expect("a response");
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    server.until_idle().await;
}

/// JSON of any kind.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop_oneof!["user", "system", "assistant", "text", "<\\|im_end\\|>", "stop"].prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::hash_map("(role|content|type|text|include_usage|[a-z]{1,6})", inner, 0..4)
                .prop_map(|object| Value::Object(object.into_iter().collect())),
        ]
    })
}

#[tokio::test]
async fn whatever_json_comes_is_answered_or_refused_and_the_counts_return_to_zero() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(2, 0)));
    let server = serve(&home, &upstream).await;
    const MEMBERS: [&str; 22] = [
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "n",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logprobs",
        "tools",
        "functions",
        "response_format",
        "modalities",
        "filter",
        "min_seq",
        "sources",
        "priority",
    ];
    let changes = proptest::collection::vec((proptest::sample::select(MEMBERS.to_vec()), anything()), 1..4);
    let bodies = (proptest::sample::select(vec!["far", "answerd"]), changes);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for _ in 0..400 {
        let tree = bodies.new_tree(&mut runner).expect("a value");
        let (model, changes) = proptest::strategy::ValueTree::current(&tree);
        let body = changes.into_iter().fold(hello(model), |body, (member, value)| with(body, member, value));
        let request = server.http.post(server.url("/v1/chat/completions")).json(&body);
        let response = request.send().await.expect("a response");
        let status = response.status();
        let text = response.text().await.expect("a body");
        // Without a word of when, an operation that never was is waited for in vain.
        let waited = status == StatusCode::SERVICE_UNAVAILABLE && !body["min_seq"].is_null();
        assert!(status.is_success() || status.is_client_error() || waited, "{status} for {body}: {text}");
        if !status.is_success() {
            let said: Value = serde_json::from_str(&text).expect("JSON");
            assert!(said["error"]["message"].is_string(), "{body}: {text}");
        }
    }
    server.until_idle().await;
    assert_eq!(upstream.open(), 0);
}

/// Runs a program of `tests/clients` against answerd. Its own assertions decide.
fn run_client(command: &mut Command, server: &Server) {
    let output = command.arg(&server.base).output().expect("the client's language is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_official_python_client_works_unchanged() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::default()));
    let server = serve(&home, &upstream).await;
    let tools = std::env::var_os("ANSWERD_TEST_PYTHON").expect("ANSWERD_TEST_PYTHON: `make test` sets it");
    let mut python = Command::new(tools);
    run_client(python.arg(here("tests/clients/openai_client.py")), &server);
}

#[tokio::test]
async fn the_official_javascript_client_works_unchanged() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::default()));
    let server = serve(&home, &upstream).await;
    common::npm_packages(&here("tests/clients"), "openai");
    let mut node = Command::new("node");
    run_client(node.arg(here("tests/clients/openai_client.mjs")), &server);
}
