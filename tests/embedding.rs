//! What is promised about embeddings: they are those of sentence-transformers, alone and in any company.

use crate::common;

use base64::Engine;
use std::fs;

use answerd::models::Embedder;
use answerd::models::minilm::MiniLm;
use serde_json::Value;

fn folder() -> std::path::PathBuf {
    common::models().join("all-MiniLM-L6-v2")
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The passages of `golden/minilm.json` with the vectors that sentence-transformers gave them.
fn golden() -> Vec<(String, Vec<f32>)> {
    let rows: Vec<Value> = serde_json::from_str(include_str!("golden/minilm.json")).unwrap();
    let vector = |text: &str| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    rows.iter().map(|row| (row["text"].as_str().unwrap().to_owned(), vector(row["vector"].as_str().unwrap()))).collect()
}

#[test]
fn vectors_are_those_of_the_reference_implementation() {
    let model = MiniLm::load(&folder()).unwrap();
    let golden = golden();
    assert_eq!(golden.len(), 100);
    let texts: Vec<&str> = golden.iter().map(|(text, _)| text.as_str()).collect();
    let vectors = model.embed(&texts).unwrap();
    let mut worst = 1.0f64;
    for ((text, expected), vector) in golden.iter().zip(&vectors) {
        assert_eq!(vector.len(), 384);
        let cosine = cosine(expected, vector);
        assert!(cosine >= 0.9999, "{cosine}: {text:?}");
        worst = worst.min(cosine);
    }
    println!("the lowest cosine to the reference is {worst:.8}");
}

#[test]
fn a_text_has_the_same_vector_alone_and_in_any_company() {
    let model = MiniLm::load(&folder()).unwrap();
    let golden = golden();
    let texts: Vec<&str> = golden.iter().map(|(text, _)| text.as_str()).collect();
    let together = model.embed(&texts).unwrap();
    let backwards: Vec<&str> = texts.iter().rev().copied().collect();
    let reversed = model.embed(&backwards).unwrap();
    for (n, text) in texts.iter().enumerate() {
        let alone = model.embed(&[text]).unwrap().remove(0);
        assert!(cosine(&alone, &together[n]) > 0.99999, "{text:?}");
        assert!(cosine(&alone, &reversed[texts.len() - 1 - n]) > 0.99999, "{text:?}");
    }
}

#[test]
fn what_lies_beyond_the_last_token_that_counts_makes_no_difference() {
    let model = MiniLm::load(&folder()).unwrap();
    let long = "one two three four five ".repeat(100);
    assert!(model.count_tokens(&long) == 500);
    let vectors = model.embed(&[&long, &format!("{long}and something else altogether")]).unwrap();
    assert!(cosine(&vectors[0], &vectors[1]) > 0.999_999);
    let huge = "word ".repeat(400_000);
    assert_eq!(model.embed(&[&huge]).unwrap()[0].len(), 384);
}

#[test]
fn damaged_model_files_are_refused_with_their_name_and_what_to_do() {
    let copy = tempfile::tempdir().unwrap();
    let names = ["config.json", "tokenizer.json", "model.safetensors"];
    let restore = || {
        for name in names {
            fs::copy(folder().join(name), copy.path().join(name)).unwrap();
        }
    };
    let refused = |name: &str, what: &str| {
        let error = MiniLm::load(copy.path()).err().unwrap_or_else(|| panic!("{name} {what} was taken")).to_string();
        assert!(error.contains(name), "{name} {what}: {error}");
        restore();
    };
    restore();
    for name in names {
        let path = copy.path().join(name);
        fs::remove_file(&path).unwrap();
        refused(name, "missing");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        refused(name, "cut short");
        fs::write(&path, "<!doctype html><title>404</title>").unwrap();
        refused(name, "foreign");
        fs::write(&path, "").unwrap();
        refused(name, "empty");
    }
    let config = fs::read_to_string(copy.path().join("config.json")).unwrap();
    fs::write(copy.path().join("config.json"), config.replace("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7"))
        .unwrap();
    refused("model.safetensors", "without a layer");
    assert!(MiniLm::load(copy.path()).is_ok());
}
