//! Events about documents: CloudEvents in both modes, and plain JSON.
//!
//! Input: the bus subject on a line (empty for HTTP), `name: value` on a line for each header, an empty line, the body.
#![no_main]

use std::path::{Component, Path};

use answerd_fuzz::documents::cloudevent::{Delivery, DocumentEvent, InvalidEvent, collection_of, read};
use answerd_fuzz::documents::event::{DocumentId, Operation, content_hash};
use answerd_fuzz::harness::{MOST_ERROR_BYTES, first_line};
use base64::Engine;
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

fuzz_target!(|input: &[u8]| {
    let (subject, mut rest) = first_line(input);
    let subject = String::from_utf8_lossy(subject);
    let mut headers = Vec::new();
    loop {
        let (line, after) = first_line(rest);
        rest = after;
        if line.is_empty() {
            break;
        }
        let line = String::from_utf8_lossy(line).into_owned();
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let bus_subject = Some(&*subject).filter(|subject| !subject.is_empty());
    let delivery = Delivery { headers, body: rest, bus_subject, fallback_id: "S:1".to_owned() };
    let event = match read(&delivery) {
        Ok(event) => event,
        Err(InvalidEvent(reason)) => {
            assert!(!reason.is_empty());
            // What is wrong is quoted, once.
            assert!(reason.len() <= 8 * input.len() + MOST_ERROR_BYTES, "{:.400}", reason);
            return;
        }
    };
    check(&event);
    bus_subject.and_then(collection_of);

    let shouted = delivery.headers.iter().map(|(name, value)| (name.to_ascii_uppercase(), value.clone())).collect();
    assert_eq!(read(&Delivery { headers: shouted, ..delivery.clone() }).as_ref(), Ok(&event), "names in upper case");
    if let Some((content_type, body)) = structured(&delivery) {
        let headers = vec![("content-type".to_owned(), content_type)];
        let again = read(&Delivery { headers, body: &body, ..delivery });
        assert_eq!(again.as_ref(), Ok(&event), "the same in structured mode: {}", String::from_utf8_lossy(&body));
    }
});

fn check(event: &DocumentEvent) {
    let id = event.operation.id();
    assert_eq!(DocumentId::parse(id.as_str()).as_ref(), Ok(id));
    let inside = Path::new(id.as_str()).components().all(|part| matches!(part, Component::Normal(_)));
    assert!(inside, "{id} leaves its folder");
    assert!(event.operation.revision().is_none_or(|revision| revision <= i64::MAX as u64));
    event.key.hash();
    match &event.operation {
        Operation::Upsert(upsert) => {
            assert_eq!(upsert.check_description(), Ok(()));
            assert_eq!(upsert.content.is_empty(), event.dataref.is_some());
            content_hash(upsert);
        }
        Operation::Delete { .. } => assert_eq!(event.dataref, None),
    }
}

/// An event of the binary mode in structured mode: its content type and body.
fn structured(delivery: &Delivery<'_>) -> Option<(String, Vec<u8>)> {
    let mut object = Map::new();
    let mut content_type = None;
    for (name, value) in &delivery.headers {
        let name = name.to_ascii_lowercase();
        if name == "content-type" {
            content_type.get_or_insert(value.clone());
        } else if let Some(name) = name.strip_prefix("ce-") {
            object.insert(name.to_owned(), percent_decode_str(value).decode_utf8().ok()?.into());
        }
    }
    if !object.contains_key("specversion") || object.contains_key("data") || object.contains_key("data_base64") {
        return None;
    }
    if let Some(content_type) = content_type {
        object.entry("datacontenttype").or_insert(content_type.into());
    }
    let declared = object.get("datacontenttype").and_then(Value::as_str).unwrap_or_default();
    let json = declared.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json");
    if json && !delivery.body.is_empty() {
        let data: Value = serde_json::from_slice(delivery.body).ok()?;
        // Those stand for other things there.
        if data.is_string() || data.is_null() {
            return None;
        }
        object.insert("data".to_owned(), data);
    } else if !delivery.body.is_empty() {
        let text = base64::engine::general_purpose::STANDARD.encode(delivery.body);
        object.insert("data_base64".to_owned(), text.into());
    }
    Some(("application/cloudevents+json".to_owned(), serde_json::to_vec(&object).ok()?))
}
