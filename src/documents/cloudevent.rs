//! CloudEvents 1.0 about documents: what a bus or an HTTP client delivers, to an [`Operation`].
//!
//! Read are the binary mode (attributes in headers), the structured mode (one JSON object) and plain JSON without an
//! envelope, after the CloudEvents specification 1.0.2 with its NATS and HTTP bindings. `docs/events.md` is the
//! contract for publishers. Nothing here knows a transport: it hands over headers and bytes.

use base64::Engine;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::event::{COLLECTION_DEFAULT, DocumentId, JsonDocument, Metadata, Operation, Upsert};
use super::excerpt;
use super::parse::essence;
use crate::retrieval::sight::{groups_of, with_groups};

/// An event as it was delivered.
#[derive(Debug, Clone)]
pub struct Delivery<'a> {
    /// Headers, names in any case. `Content-Type` among them.
    pub headers: Vec<(String, String)>,
    /// The payload.
    pub body: &'a [u8],
    /// The bus subject it came on, `documents.<collection>.<upserted|deleted>`; none over HTTP.
    pub bus_subject: Option<&'a str>,
    /// The id of an event that has none of its own: what identifies this delivery and no other.
    pub fallback_id: String,
}

/// Which event it is: two deliveries with the same key are the same event (CloudEvents 1.0, `source` + `id`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventKey {
    /// The publisher.
    pub source: String,
    /// Its number of the event.
    pub id: String,
}

impl EventKey {
    /// A short form to remember it by: the first 16 bytes of a SHA-256 over both parts.
    pub fn hash(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update((self.source.len() as u64).to_le_bytes());
        hash.update(&self.source);
        hash.update(&self.id);
        let mut short = [0; 16];
        short.copy_from_slice(&hash.finalize()[..16]);
        short
    }
}

/// An event about a document.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentEvent {
    /// Which event.
    pub key: EventKey,
    /// What it says.
    pub operation: Operation,
    /// Where the content is, where it is not in the event (the `dataref` extension). The operation's content is
    /// empty then.
    pub dataref: Option<String>,
    /// The trace it belongs to, as it says itself (the `traceparent` extension).
    pub traceparent: Option<String>,
}

/// Why an event cannot be taken, whoever tries: for its publisher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidEvent(pub String);

fn invalid<T>(reason: impl Into<String>) -> Result<T, InvalidEvent> {
    Err(InvalidEvent(reason.into()))
}

/// The collection a bus subject names, for where an event that cannot be read belongs.
pub fn collection_of(bus_subject: &str) -> Option<&str> {
    let mut tokens = bus_subject.split('.').skip(1);
    match (tokens.next(), tokens.next()) {
        (Some(collection), Some(_)) => Some(collection),
        _ => None,
    }
}

/// Reads an event.
///
/// # Errors
/// What is wrong with it, in a sentence for its publisher.
pub fn read(delivery: &Delivery<'_>) -> Result<DocumentEvent, InvalidEvent> {
    let header = |name: &str| {
        delivery.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    };
    let content_type = header("content-type");
    let essence = content_type.map(essence).unwrap_or_default();
    if essence == "application/cloudevents-batch+json" {
        return invalid("a batch of events in one message is not taken: publish each by itself");
    }
    if header("ce-specversion").is_some() {
        return binary(delivery, content_type);
    }
    let Some(Value::Object(object)) = serde_json::from_slice(delivery.body).ok() else {
        return invalid(
            "it is no event: it has neither the header ce-specversion nor a JSON object as its body; see docs/events.md",
        );
    };
    if essence == "application/cloudevents+json" || object.contains_key("specversion") {
        structured(delivery, object)
    } else {
        plain(delivery, object)
    }
}

/// The context attributes, as far as they matter here.
#[derive(Default)]
struct Attributes(Map<String, Value>);

impl Attributes {
    /// A text that may be left out.
    fn text(&self, name: &str) -> Result<Option<String>, InvalidEvent> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => invalid(format!("`{name}` is {}, it must be a text", excerpt(&other.to_string()))),
        }
    }

    fn required(&self, name: &str) -> Result<String, InvalidEvent> {
        match self.text(name)? {
            Some(text) if !text.is_empty() => Ok(text),
            _ => invalid(format!("it has no `{name}`, which every CloudEvent must have")),
        }
    }

    fn revision(&self) -> Result<Option<u64>, InvalidEvent> {
        let value = match self.0.get("revision") {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        let number = match value {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        match number.filter(|number| *number <= i64::MAX as u64) {
            Some(number) => Ok(Some(number)),
            None => {
                let value = value.to_string();
                invalid(format!("`revision` is {}, it must be a whole number from 0 to {}", excerpt(&value), i64::MAX))
            }
        }
    }

    fn metadata(&self) -> Result<Option<Metadata>, InvalidEvent> {
        let parsed = match self.0.get("metadata") {
            None | Some(Value::Null) => return Ok(None),
            // In a header it is JSON as a text.
            Some(Value::String(text)) => serde_json::from_str(text),
            Some(value) => serde_json::from_value(value.clone()),
        };
        match parsed {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) => invalid(format!("`metadata` is no JSON object: {error}")),
        }
    }
}

/// The payload of an event.
enum Data {
    None,
    Bytes(Vec<u8>),
    Json(Value),
}

/// NATS binding, 3.1: attributes are headers with the prefix `ce-`, percent-encoded.
fn binary(delivery: &Delivery<'_>, content_type: Option<&str>) -> Result<DocumentEvent, InvalidEvent> {
    let mut attributes = Attributes::default();
    for (name, value) in &delivery.headers {
        let name = name.to_ascii_lowercase();
        let Some(name) = name.strip_prefix("ce-") else { continue };
        let Ok(value) = percent_decode_str(value).decode_utf8() else {
            return invalid(format!("the header ce-{name} is not UTF-8 when percent-decoded"));
        };
        attributes.0.insert(name.to_owned(), value.into_owned().into());
    }
    if let Some(content_type) = content_type {
        attributes.0.entry("datacontenttype").or_insert_with(|| content_type.into());
    }
    let data = match attributes.text("datacontenttype")?.as_deref().map(essence).as_deref() {
        _ if delivery.body.is_empty() => Data::None,
        Some("application/json") => match serde_json::from_slice(delivery.body) {
            Ok(value) => Data::Json(value),
            Err(error) => return invalid(format!("its data is declared as JSON and is not: {error}")),
        },
        _ => Data::Bytes(delivery.body.to_vec()),
    };
    event(delivery, &attributes, data)
}

/// JSON event format: attributes and data in one object.
fn structured(delivery: &Delivery<'_>, mut object: Map<String, Value>) -> Result<DocumentEvent, InvalidEvent> {
    let (data, base64) = (object.remove("data"), object.remove("data_base64"));
    let attributes = Attributes(object);
    let data = match (data, base64) {
        (Some(_), Some(_)) => return invalid("it has both `data` and `data_base64`"),
        (None | Some(Value::Null), None | Some(Value::Null)) => Data::None,
        (_, Some(Value::String(text))) => match base64::engine::general_purpose::STANDARD.decode(&text) {
            Ok(bytes) => Data::Bytes(bytes),
            Err(error) => return invalid(format!("`data_base64` is no Base64: {error}")),
        },
        (_, Some(_)) => return invalid("`data_base64` must be a text"),
        (Some(Value::String(text)), None) => Data::Bytes(text.into_bytes()),
        (Some(value), None) => Data::Json(value),
    };
    event(delivery, &attributes, data)
}

fn event(delivery: &Delivery<'_>, attributes: &Attributes, data: Data) -> Result<DocumentEvent, InvalidEvent> {
    let version = attributes.required("specversion")?;
    if version != "1.0" {
        return invalid(format!("its `specversion` is {:?}, answerd reads 1.0", excerpt(&version)));
    }
    let key = EventKey { source: attributes.required("source")?, id: attributes.required("id")? };
    let action = action_of_type(&attributes.required("type")?)?;
    let subject = attributes.text("subject")?.unwrap_or_default();
    let document = document_id("subject", &subject)?;
    let mut body = match data {
        Data::None => None,
        Data::Json(value) => Some(json_document(value)?),
        Data::Bytes(bytes) => Some(JsonDocument {
            content: Some(bytes),
            media_type: attributes.text("datacontenttype")?,
            ..JsonDocument::default()
        }),
    }
    .unwrap_or_default();
    body.revision = attributes.revision()?.or(body.revision);
    body.title = attributes.text("title")?.or(body.title);
    body.url = attributes.text("url")?.or(body.url);
    body.collection = attributes.text("collection")?.or(body.collection);
    if let Some(metadata) = attributes.metadata()? {
        body.metadata = metadata;
    }
    body.visible_to = groups_of(attributes.text("visibleto")?.as_deref()).or(body.visible_to);
    // With the content elsewhere, the content type is that of what is there.
    let dataref = attributes.text("dataref")?;
    if dataref.is_some() {
        body.media_type = attributes.text("datacontenttype")?.or(body.media_type);
    }
    let event = finish(delivery, key, action, document, body, dataref)?;
    // One that is no text is no reason to refuse the event.
    Ok(DocumentEvent { traceparent: attributes.text("traceparent").unwrap_or(None), ..event })
}

/// JSON without an envelope: `{"document": "...", "content": "..."}`.
fn plain(delivery: &Delivery<'_>, mut object: Map<String, Value>) -> Result<DocumentEvent, InvalidEvent> {
    let mut take = |name: &str| match object.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => invalid(format!("`{name}` is {}, it must be a text", excerpt(&other.to_string()))),
    };
    let document = document_id("document", &take("document")?.unwrap_or_default())?;
    let action = match take("action")? {
        Some(action) => Some(action_of_type(&action)?),
        None => None,
    };
    let key = EventKey {
        source: take("source")?
            .or_else(|| delivery.bus_subject.map(str::to_owned))
            .unwrap_or_else(|| "http".to_owned()),
        id: take("event_id")?.unwrap_or_else(|| delivery.fallback_id.clone()),
    };
    let dataref = take("dataref")?;
    let body = json_document(Value::Object(object))?;
    let action = action.or_else(|| bus_action(delivery)).unwrap_or(Action::Upserted);
    finish(delivery, key, action, document, body, dataref)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Upserted,
    Deleted,
}

/// `com.example.document.upserted`, `....deleted.v1`, or just the last word.
fn action_of_type(kind: &str) -> Result<Action, InvalidEvent> {
    let version = |part: &&str| part.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
    match kind.rsplit('.').find(|part| !version(part)) {
        Some("upserted") => Ok(Action::Upserted),
        Some("deleted") => Ok(Action::Deleted),
        _ => invalid(format!("its type {:?} does not end with `upserted` or `deleted`", excerpt(kind))),
    }
}

fn bus_action(delivery: &Delivery<'_>) -> Option<Action> {
    match delivery.bus_subject?.rsplit('.').next()? {
        "upserted" => Some(Action::Upserted),
        "deleted" => Some(Action::Deleted),
        _ => None,
    }
}

fn document_id(name: &str, id: &str) -> Result<DocumentId, InvalidEvent> {
    let wrong = |error| InvalidEvent(format!("`{name}` names the document, and {:?} cannot: {error}", excerpt(id)));
    DocumentId::parse(id).map_err(wrong)
}

fn json_document(value: Value) -> Result<JsonDocument, InvalidEvent> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        InvalidEvent(format!("in the document's JSON at `{}`: {}", excerpt(&path), error.inner()))
    })
}

fn finish(
    delivery: &Delivery<'_>,
    key: EventKey,
    action: Action,
    id: DocumentId,
    body: JsonDocument,
    dataref: Option<String>,
) -> Result<DocumentEvent, InvalidEvent> {
    if bus_action(delivery).is_some_and(|bus| bus != action) {
        return invalid("the subject it came on and its type do not say the same: one upserts, the other deletes");
    }
    if body.revision.is_some_and(|revision| revision > i64::MAX as u64) {
        return invalid(format!("`revision` is larger than {}", i64::MAX));
    }
    if action == Action::Deleted {
        let operation = Operation::Delete { id, revision: body.revision };
        return Ok(DocumentEvent { key, operation, dataref: None, traceparent: None });
    }
    let bus_collection = delivery.bus_subject.and_then(collection_of).map(str::to_owned);
    let upsert = Upsert {
        id,
        revision: body.revision,
        media_type: body.media_type,
        title: body.title,
        url: body.url,
        collection: body.collection.or(bus_collection).unwrap_or_else(|| COLLECTION_DEFAULT.to_owned()),
        metadata: with_groups(body.metadata, body.visible_to).map_err(InvalidEvent)?,
        content: body.content.unwrap_or_default(),
    };
    match (&dataref, upsert.content.is_empty()) {
        (None, true) => return invalid("it has no content and no `dataref` that says where the content is"),
        (Some(_), false) => return invalid("it has both content and a `dataref`"),
        _ => {}
    }
    upsert.check_description().map_err(InvalidEvent)?;
    Ok(DocumentEvent { key, operation: Operation::Upsert(upsert), dataref, traceparent: None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const BINARY: [(&str, &str); 6] = [
        ("CE-SpecVersion", "1.0"),
        ("ce-type", "com.example.document.upserted.v1"),
        ("Ce-Source", "//wiki"),
        ("ce-id", "7"),
        ("ce-subject", "guides/%C3%BCber%20uns.md"),
        ("ce-revision", "12"),
    ];

    fn deliver(pairs: &[(&str, &str)], body: &[u8]) -> Result<DocumentEvent, InvalidEvent> {
        read(&Delivery {
            headers: headers(pairs),
            body,
            bus_subject: Some("documents.wiki.upserted"),
            fallback_id: "S:1".to_owned(),
        })
    }

    fn upsert(event: DocumentEvent) -> Upsert {
        match event.operation {
            Operation::Upsert(upsert) => upsert,
            Operation::Delete { .. } => panic!("it deletes"),
        }
    }

    #[test]
    fn binary_mode_reads_headers_in_any_case_and_decodes_them_once() {
        let mut pairs = BINARY.to_vec();
        pairs.extend([
            ("content-type", "text/markdown"),
            ("ce-title", "100%2525"),
            ("ce-metadata", r#"{"lang":"de"}"#),
        ]);
        let event = deliver(&pairs, b"# Hello").unwrap();
        assert_eq!(event.key, EventKey { source: "//wiki".into(), id: "7".into() });
        let upsert = upsert(event);
        assert_eq!(upsert.id.as_str(), "guides/über uns.md");
        assert_eq!((upsert.revision, upsert.collection.as_str()), (Some(12), "wiki"));
        assert_eq!(upsert.title.as_deref(), Some("100%25"));
        assert_eq!(upsert.media_type.as_deref(), Some("text/markdown"));
        assert_eq!(upsert.metadata["lang"], json!("de"));
        assert_eq!(upsert.content, b"# Hello");
    }

    #[test]
    fn what_a_binary_event_lacks_is_named() {
        for (missing, said) in
            [("ce-type", "`type`"), ("Ce-Source", "`source`"), ("ce-id", "`id`"), ("ce-subject", "`subject`")]
        {
            let pairs: Vec<_> = BINARY.iter().copied().filter(|(name, _)| *name != missing).collect();
            let error = deliver(&pairs, b"x").unwrap_err().0;
            assert!(error.contains(said), "{missing}: {error}");
        }
        let long = "é".repeat(1000);
        let with = |name: &'static str, value| {
            let mut pairs = BINARY.to_vec();
            pairs.retain(|(key, _)| *key != name);
            pairs.push((name, value));
            deliver(&pairs, b"x").unwrap_err().0
        };
        assert!(with("ce-revision", "soon").contains("whole number"));
        assert!(with("ce-revision", "-1").contains("whole number"));
        assert!(with("CE-SpecVersion", "0.3").contains("1.0"));
        assert!(with("ce-type", "com.example.document.renamed").contains("upserted"));
        assert!(with("ce-type", "com.example.document.deleted").contains("do not say the same"));
        assert!(with("ce-title", "%ff").contains("UTF-8"));
        assert!(with("ce-subject", "../etc").contains("path segment"));
        // Of a value however long its beginning is shown, and then what is wrong with it.
        for (name, wrong) in [
            ("ce-subject", "512 bytes"),
            ("ce-type", "does not end with"),
            ("ce-revision", "a whole number"),
            ("ce-collection", "is not"),
            ("ce-specversion", "reads 1.0"),
        ] {
            let error = with(name, &long);
            assert!(error.contains("ééé…") && error.contains(wrong) && error.len() < 500, "{error}");
        }
        assert!(deliver(&BINARY, b"").unwrap_err().0.contains("dataref"));
    }

    #[test]
    fn structured_mode_is_read_with_and_without_its_content_type() {
        let body = json!({
            "specversion": "1.0", "type": "x.upserted", "source": "s", "id": "1", "subject": "a", "revision": 3,
            "datacontenttype": "text/plain", "data": "Hello", "collection": "c", "unknown": true
        });
        for pairs in [&[][..], &[("Content-Type", "application/cloudevents+json; charset=utf-8")][..]] {
            let upsert = upsert(deliver(pairs, body.to_string().as_bytes()).unwrap());
            assert_eq!((upsert.content.as_slice(), upsert.collection.as_str()), (&b"Hello"[..], "c"));
        }
        let with = |name: &str, value: Value| {
            let mut body = body.clone();
            body.as_object_mut().unwrap().remove("data");
            body[name] = value;
            deliver(&[], body.to_string().as_bytes())
        };
        assert_eq!(upsert(with("data_base64", json!("SGk=")).unwrap()).content, b"Hi");
        assert!(with("data_base64", json!("S*")).unwrap_err().0.contains("Base64"));
        let document = upsert(with("data", json!({"content": "x", "title": "T"})).unwrap());
        assert_eq!((document.title.as_deref(), document.content.as_slice()), (Some("T"), &b"x"[..]));
        assert!(with("data", json!({"contents": "x"})).unwrap_err().0.contains("contents"));
        assert_eq!(with("dataref", json!("nats-object://b/n")).unwrap().dataref.as_deref(), Some("nats-object://b/n"));
    }

    #[test]
    fn the_published_schema_and_the_reader_take_and_refuse_the_same() {
        // Cargo starts tests in the root of the clone.
        let schema = std::fs::read_to_string("docs/document-event.schema.json").unwrap();
        let schema = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
        let whole = json!({
            "specversion": "1.0", "type": "x.upserted.v2", "source": "s", "id": "1", "subject": "a/b", "data": "text",
        });
        let with = |changes: Value| {
            let mut event = whole.clone();
            for (name, value) in changes.as_object().unwrap() {
                match value {
                    Value::Null => drop(event.as_object_mut().unwrap().remove(name)),
                    value => event[name] = value.clone(),
                }
            }
            event
        };
        let reads = |event: &Value| {
            let body = event.to_string();
            read(&Delivery { headers: vec![], body: body.as_bytes(), bus_subject: None, fallback_id: "1".into() })
        };
        let metadata = json!({ "lang": "en", "year": 2024, "tags": ["a", 1, true, null] });
        for good in [
            json!({}),
            json!({ "revision": 7, "title": "T", "url": "https://x/", "collection": "wiki", "metadata": metadata }),
            json!({ "revision": "7", "time": "2026-01-01T00:00:00Z", "traceparent": "00-x" }),
            json!({ "data": null, "data_base64": "SGk=", "datacontenttype": "text/plain" }),
            json!({ "data": { "content": "x", "media_type": "text/html", "metadata": { "a": 1 }, "revision": 2 } }),
            json!({ "data": null, "dataref": "https://wiki.example.com/a" }),
            json!({ "data": null, "dataref": "nats-object://bucket/name" }),
            json!({ "type": "deleted", "data": null }),
        ] {
            let event = with(good);
            assert!(schema.is_valid(&event), "{event}: {:?}", schema.iter_errors(&event).next());
            assert!(reads(&event).is_ok(), "{event}: {:?}", reads(&event));
        }
        for bad in [
            json!({ "specversion": "0.3" }),
            json!({ "type": "x.renamed" }),
            json!({ "source": null }),
            json!({ "id": "" }),
            json!({ "subject": null }),
            json!({ "subject": "x".repeat(513) }),
            json!({ "revision": -1 }),
            json!({ "revision": "soon" }),
            json!({ "revision": 1.5 }),
            json!({ "collection": "Wiki" }),
            json!({ "title": 3 }),
            json!({ "title": "x".repeat(1025) }),
            json!({ "metadata": { "deep": { "a": 1 } } }),
            json!({ "metadata": { "a b": 1 } }),
            json!({ "data": null }),
            json!({ "data_base64": "SGk=" }),
            json!({ "dataref": "https://wiki.example.com/a" }),
            json!({ "data": { "contents": "x" } }),
            json!({ "data": 3 }),
        ] {
            let event = with(bad);
            assert!(!schema.is_valid(&event), "the schema takes {event}");
            assert!(reads(&event).is_err(), "the reader takes {event}");
        }
    }

    #[test]
    fn a_deletion_needs_no_content() {
        let event = read(&Delivery {
            headers: headers(&[]),
            body: br#"{"document": "a"}"#,
            bus_subject: Some("documents.wiki.deleted"),
            fallback_id: "S:9".into(),
        });
        let event = event.unwrap();
        assert!(matches!(event.operation, Operation::Delete { .. }));
        assert_eq!(event.key, EventKey { source: "documents.wiki.deleted".into(), id: "S:9".into() });
    }

    #[test]
    fn plain_json_is_a_document_with_its_name() {
        let event = deliver(&[], br#"{"document": "a", "event_id": "1", "source": "s", "content": "x"}"#).unwrap();
        assert_eq!(event.key, EventKey { source: "s".into(), id: "1".into() });
        assert!(deliver(&[], br#"{"content": "x"}"#).unwrap_err().0.contains("document"));
        assert!(deliver(&[], b"hello").unwrap_err().0.contains("docs/events.md"));
        assert!(deliver(&[], b"[1]").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200), value in "\\PC{0,40}") {
            let _ = deliver(&[("ce-specversion", "1.0"), ("ce-type", &value), ("ce-subject", &value)], &body);
            let _ = deliver(&[], &body);
        }

        #[test]
        fn two_keys_have_one_hash_only_where_they_are_equal(a in "[ab]{0,3}", b in "[ab]{0,3}", c in "[ab]{0,3}", d in "[ab]{0,3}") {
            let (one, other) = (EventKey { source: a, id: b }, EventKey { source: c, id: d });
            prop_assert_eq!(one.hash() == other.hash(), one == other);
        }
    }
}
