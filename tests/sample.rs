//! The sample documents, asked as a new user would: the sources must be right.

use crate::common;

use common::{Home, Setup, one, read_events, sample, text_of};
use serde_json::{Value, json};

#[tokio::test]
async fn questions_about_the_sample_documents_rest_on_the_right_sources() {
    let home = Home::new();
    let server = home.serve(&Setup { folder: Some(sample()), ..Setup::default() }).await;
    let files =
        walkdir::WalkDir::new(sample()).into_iter().filter(|e| e.as_ref().unwrap().file_type().is_file()).count();
    server
        .until("all documents visible", async || {
            let (_, status) = server.get("/admin/status").await;
            status["catalog"]["documents"] == files && status["freshness"]["lag_events"] == 0
        })
        .await;

    let questions: Vec<Value> = serde_json::from_str(include_str!("sample_questions.json")).unwrap();
    let (mut right, mut answerable, mut declined, mut off_topic) = (0, 0, 0, 0);
    for case in &questions {
        let mut body = json!({ "question": case["question"], "max_tokens": 24 });
        if let Some(messages) = case.get("messages") {
            body["messages"] = messages.clone();
        }
        let events = read_events(server.ask(body).await).await;
        let sources = one(&events, "sources")["sources"].as_array().unwrap().clone();
        if case["document"].is_null() {
            off_topic += 1;
            declined += usize::from(one(&events, "done")["finish_reason"] == "not_found");
            continue;
        }
        answerable += 1;
        let mut found = false;
        for source in sources.iter().filter(|source| source["document_id"] == case["document"]) {
            let path = format!("/v1/documents/{}", source["document_id"].as_str().unwrap());
            let text = server.get(&path).await.1["text"].as_str().unwrap().to_owned();
            let at = |name: &str| source[name].as_u64().unwrap() as usize;
            found |= text[at("start")..at("end")].contains(case["must_contain"].as_str().unwrap());
        }
        right += usize::from(found);
        if !found {
            println!("not among the sources: {} ({})", case["question"], case["must_contain"]);
        }
        assert!(!text_of(&events).is_empty());
    }
    println!(
        "{right} of {answerable} answers rest on the right passage; {declined} of {off_topic} others are declined"
    );
    assert!(right * 5 >= answerable * 4, "{right} of {answerable}");
    assert!(declined >= 1, "a question about something else altogether is declined");
}
