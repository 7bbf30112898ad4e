//! What is promised about the command line, and about starting with something wrong.

use crate::common;

use std::fs;
use std::process::Output;

use common::{Home, Setup, models, sample};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn check_prints_every_mistake_at_once_with_its_path() {
    let home = Home::new();
    let path = home.folder.path().join("wrong.toml");
    fs::write(
        &path,
        "[server]\nbind = \"nowhere\"\nworkerz = 3\n[chunking]\nmax_tokens = 0\n[models.chat]\nslots = \"many\"\n[sreach]\nlimit_max = 1\n",
    )
    .unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_answerd"))
        .args(["check", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let message = stderr(&output);
    for part in ["server.bind", "server.workerz", "chunking.max_tokens", "models.chat.slots", "sreach"] {
        assert!(message.contains(part), "{part} is not named in:\n{message}");
    }
    assert!(message.contains("workers"), "the nearest known key is suggested:\n{message}");
}

#[test]
fn check_accepts_the_configuration_that_is_delivered() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_answerd"))
        .args(["check", "--config", "config.toml"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[tokio::test]
async fn the_commands_work_with_a_server_and_without_one() {
    let home = Home::new();
    let setup = Setup::default();
    let folder = sample();
    let folder = folder.to_str().unwrap();

    // Without one: on the data folder itself.
    let ingest = home.run(&setup, &["ingest", folder]);
    assert!(ingest.status.success(), "{}", stderr(&ingest));
    assert!(stdout(&ingest).contains("0 failed"), "{}", stdout(&ingest));
    let search = home.run(&setup, &["search", "meal limit per day", "--limit", "3"]);
    assert!(search.status.success(), "{}", stderr(&search));
    assert!(stdout(&search).starts_with("1. "), "{}", stdout(&search));
    let ask = home.run(&setup, &["ask", "How much may I spend on meals?"]);
    assert!(ask.status.success(), "{}", stderr(&ask));
    assert!(stdout(&ask).contains("[1] "), "{}", stdout(&ask));

    // With one: the same, over HTTP.
    let server = home.serve(&setup).await;
    let base = server.base.clone();
    let search = home.run(&setup, &["search", "meal limit per day", "--json", "--server", &base]);
    assert!(search.status.success(), "{}", stderr(&search));
    let found: serde_json::Value = serde_json::from_str(&stdout(&search)).unwrap();
    assert!(found["seq"].as_u64().unwrap() > 0);
    let ask = home.run(&setup, &["ask", "How much may I spend on meals?", "--server", &base]);
    assert!(ask.status.success() && stdout(&ask).contains("[1] "), "{}{}", stdout(&ask), stderr(&ask));
    let again = home.run(&setup, &["ingest", folder, "--server", &base]);
    assert!(again.status.success(), "{}", stderr(&again));
    let nobody = home.run(&setup, &["search", "x", "--server", "http://127.0.0.1:1"]);
    assert!(!nobody.status.success());
    assert!(stderr(&nobody).contains("no answerd at"), "{}", stderr(&nobody));
}

#[tokio::test]
async fn a_port_in_use_is_said_at_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = taken.local_addr().unwrap();
    let home = Home::new();
    let output = home.run(&Setup { settings: format!("server.bind = {bind}"), ..Setup::default() }, &["serve"]);
    assert!(!output.status.success());
    let message = stderr(&output);
    assert!(message.contains(&bind.to_string()) && message.contains("[server] bind"), "{message}");
}

#[test]
fn a_missing_truncated_or_foreign_model_file_is_named_with_what_to_do() {
    let home = Home::new();
    let folder = home.folder.path();
    let whole = fs::read(models().join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let truncated = folder.join("truncated.gguf");
    fs::write(&truncated, &whole[..whole.len() / 2]).unwrap();
    let foreign = folder.join("foreign.gguf");
    fs::write(&foreign, "<!doctype html><html>404</html>").unwrap();
    for path in [folder.join("missing.gguf"), truncated, foreign] {
        let settings = format!("models.chat.path = {}", path.display());
        let output = home.run(&Setup { settings, ..Setup::default() }, &["serve"]);
        assert!(!output.status.success(), "{}", path.display());
        let message = stderr(&output);
        assert!(message.contains(path.file_name().unwrap().to_str().unwrap()), "{message}");
        assert_eq!(output.status.code(), Some(1), "it ends by itself: {message}");
    }
    let empty = folder.join("no-model");
    fs::create_dir(&empty).unwrap();
    let settings = format!("embedding.model = {}", empty.display());
    let output = home.run(&Setup { settings, ..Setup::default() }, &["serve"]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("no-model"), "{}", stderr(&output));
}

#[test]
fn eval_measures_a_collection_in_beir_layout() {
    let home = Home::new();
    let folder = home.folder.path().join("tiny");
    fs::create_dir(&folder).unwrap();
    fs::write(
        folder.join("corpus.jsonl"),
        "{\"_id\": \"1\", \"title\": \"Bees\", \"text\": \"Bees make honey from nectar.\"}\n{\"_id\": \"2\", \"title\": \"Ants\", \"text\": \"Ants build hills of sand.\"}\n",
    )
    .unwrap();
    fs::write(folder.join("queries.jsonl"), "{\"_id\": \"q\", \"text\": \"what do bees make of nectar\"}\n").unwrap();
    fs::write(folder.join("qrels.tsv"), "query-id\tcorpus-id\tscore\nq\t1\t1\n").unwrap();
    let output = home.run(&Setup::default(), &["eval", folder.to_str().unwrap(), "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    for mode in ["hybrid", "lexical", "vector"] {
        assert_eq!(report["modes"][mode]["ndcg_at_10"], 1.0, "{report}");
        assert_eq!(report["modes"][mode]["recall_at_100"], 1.0, "{report}");
    }
    let missing = home.run(&Setup::default(), &["eval", home.folder.path().join("none").to_str().unwrap()]);
    assert!(stderr(&missing).contains("corpus.jsonl"), "{}", stderr(&missing));
}
