//! What is said of documents, as Postgres can hold it.

use serde_json::Value;

use crate::documents::event::Metadata;

/// A text that Postgres can hold: it knows no character 0.
pub(super) fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The same for JSON.
pub(super) fn clean_json(value: &Value) -> Value {
    match value {
        Value::String(text) => clean(text).into(),
        Value::Array(values) => values.iter().map(clean_json).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (clean(name), clean_json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// The same for metadata.
pub(super) fn clean_metadata(metadata: &Metadata) -> Value {
    metadata.iter().map(|(name, value)| (clean(name), clean_json(value))).collect::<serde_json::Map<_, _>>().into()
}
