//! What is promised of `/metrics`.

use crate::common;

use common::upstream::{Fault, Script, Upstream, chat_on};
use common::{Home, Server, Setup, read_events};
use serde_json::json;

async fn text(server: &Server) -> String {
    let response = server.http.get(server.url("/metrics")).send().await.expect("a response");
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(content_type.starts_with("application/openmetrics-text"), "{content_type}");
    response.text().await.expect("a text")
}

/// The value of the first line of a metric whose attributes contain `about`.
fn value(text: &str, metric: &str, about: &str) -> f64 {
    let line = text.lines().find(|line| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        name == metric && line.contains(about)
    });
    let line = line.unwrap_or_else(|| panic!("no {metric} with {about} in:\n{text}"));
    line.rsplit(' ').next().unwrap().parse().expect("a number")
}

#[tokio::test]
async fn what_models_did_and_how_far_the_index_is_stands_in_the_metrics() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(20, 5)));
    let server = home.serve(&Setup { settings: chat_on(&[&upstream]), ..Setup::default() }).await;
    server.put_visible("leave.md", "# Leave\n\nEvery employee has 28 days of annual leave.").await;
    let ask = async || {
        let body = json!({ "question": "How many days of annual leave are there?", "max_tokens": 20 });
        read_events(server.ask(body).await).await
    };
    ask().await;
    ask().await;
    upstream.play(Script::failing(Fault::Status(500)));
    ask().await;
    server.post("/v1/embeddings", json!({ "model": "all-MiniLM-L6-v2", "input": "annual leave" })).await;

    let text = text(&server).await;
    assert!(text.ends_with("# EOF\n"));
    let chat =
        "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"openai\",gen_ai_request_model=\"far\",error_type=\"\"";
    assert_eq!(value(&text, "gen_ai_server_request_duration_seconds_count", chat), 2.0);
    assert_eq!(value(&text, "gen_ai_server_time_to_first_token_seconds_count", chat), 2.0);
    let each = value(&text, "gen_ai_server_time_per_output_token_seconds_sum", chat) / 2.0;
    assert!((0.004..0.1).contains(&each), "{each}");
    assert_eq!(value(&text, "gen_ai_client_inference_usage_input_tokens_total", chat), 22.0);
    assert_eq!(value(&text, "gen_ai_client_inference_usage_output_tokens_total", chat), 40.0);
    assert_eq!(value(&text, "gen_ai_client_inference_usage_cache_read_input_tokens_total", chat), 6.0);
    let failed = "error_type=\"unavailable\"";
    assert_eq!(value(&text, "gen_ai_server_request_duration_seconds_count", failed), 1.0);
    let embeddings = "gen_ai_operation_name=\"embeddings\"";
    assert!(value(&text, "gen_ai_client_inference_usage_input_tokens_total", embeddings) >= 2.0);
    assert_eq!(value(&text, "answerd_model_running", "model=\"far\""), 0.0);
    assert_eq!(value(&text, "answerd_model_slots", "model=\"far\""), 64.0);
    assert_eq!((value(&text, "answerd_documents", ""), value(&text, "answerd_index_seq", "")), (1.0, 1.0));
    assert_eq!(
        (value(&text, "answerd_index_lag_events", ""), value(&text, "answerd_index_lag_seconds", "")),
        (0.0, 0.0)
    );
    assert!(value(&text, "answerd_resident_memory_bytes", "") > 1e6);
}
