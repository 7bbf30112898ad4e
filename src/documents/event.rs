//! The identity of a document and the operations on it: what a publisher says, validated, before
//! anything is parsed or stored. Pure rules; the transports (HTTP, folder, message bus) build these
//! values and the catalog orders them by revision. Nothing here knows a format or a store.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::excerpt;
use crate::retrieval::sight::validate_visibility;

/// The collection of a document whose publisher names none.
pub const COLLECTION_DEFAULT: &str = "default";

/// Most bytes in a [`DocumentId`].
pub const MAX_ID_BYTES: usize = 512;
/// Most bytes in the name of a collection.
pub const MAX_COLLECTION_BYTES: usize = 64;
/// Most keys in [`Metadata`].
pub const MAX_METADATA_KEYS: usize = 64;
/// Most bytes in a key of [`Metadata`].
pub const MAX_METADATA_KEY_BYTES: usize = 64;
/// Most bytes in a title.
pub const MAX_TITLE_BYTES: usize = 1024;
/// Most bytes in a media type, its parameters included.
pub const MAX_MEDIA_TYPE_BYTES: usize = 1024;
/// Most bytes in an address.
pub const MAX_URL_BYTES: usize = 4096;
/// Most bytes of [`Metadata`] written as JSON.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;

/// The identity of a document: a path-like name its publisher chose, such as `handbook/travel.md`.
///
/// 1 to 512 bytes, without control characters, without white space at either end, and without
/// empty, `.` or `..` segments between slashes, so that it can stand in a URL or name a file below
/// a folder and never leaves it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DocumentId(String);

/// Which rule a text breaks that was meant to be a [`DocumentId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDocumentId {
    /// There is no text.
    #[error("a document id must not be empty")]
    Empty,
    /// More than [`MAX_ID_BYTES`] bytes.
    #[error("a document id has at most {MAX_ID_BYTES} bytes, and this one has {0}")]
    TooLong(usize),
    /// A control character, such as a line break.
    #[error("a document id must not contain control characters, and this one has {0:?}")]
    ControlCharacter(char),
    /// White space at the start or the end.
    #[error("a document id must not start or end with white space")]
    OuterWhitespace,
    /// An empty segment: a slash at the start or the end, or two in a row.
    #[error("a document id must not start or end with a slash, nor have two in a row")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("a document id must not contain the path segment {0:?}")]
    DotSegment(String),
}

impl DocumentId {
    /// Checks `id` against the rules of the type.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn parse(id: &str) -> Result<DocumentId, InvalidDocumentId> {
        if id.is_empty() {
            return Err(InvalidDocumentId::Empty);
        }
        if id.len() > MAX_ID_BYTES {
            return Err(InvalidDocumentId::TooLong(id.len()));
        }
        if let Some(control) = id.chars().find(|c| c.is_control()) {
            return Err(InvalidDocumentId::ControlCharacter(control));
        }
        if id.trim() != id {
            return Err(InvalidDocumentId::OuterWhitespace);
        }
        for segment in id.split('/') {
            match segment {
                "" => return Err(InvalidDocumentId::EmptySegment),
                "." | ".." => return Err(InvalidDocumentId::DotSegment(segment.to_owned())),
                _ => {}
            }
        }
        Ok(DocumentId(id.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for DocumentId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for DocumentId {
    type Err = InvalidDocumentId;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        DocumentId::parse(id)
    }
}

impl TryFrom<String> for DocumentId {
    type Error = InvalidDocumentId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        DocumentId::parse(&id)
    }
}

impl From<DocumentId> for String {
    fn from(id: DocumentId) -> String {
        id.0
    }
}

/// What a publisher says about a document beside its content: filters match on it.
pub type Metadata = BTreeMap<String, Value>;

/// Checks metadata: at most 64 keys of 1 to 64 bytes of `[A-Za-z0-9_.-]`, values that are a
/// string, number, boolean, null or a flat array of those, 16 KiB as JSON in all.
///
/// # Errors
/// A sentence that names the key and the rule.
pub fn validate_metadata(metadata: &Metadata) -> Result<(), String> {
    if metadata.len() > MAX_METADATA_KEYS {
        return Err(format!("metadata has at most {MAX_METADATA_KEYS} keys, and this has {}", metadata.len()));
    }
    for (key, value) in metadata {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if key.is_empty() || key.len() > MAX_METADATA_KEY_BYTES || !key.bytes().all(allowed) {
            return Err(format!(
                "a metadata key is 1 to {MAX_METADATA_KEY_BYTES} of the characters A-Z a-z 0-9 _ . -, and {:?} is not",
                excerpt(key)
            ));
        }
        let flat = match value {
            Value::Array(items) => items.iter().all(is_scalar),
            other => is_scalar(other),
        };
        if !flat {
            return Err(format!(
                "the metadata value of {key:?} must be a string, number, boolean, null, or an array of those without further nesting"
            ));
        }
    }
    let bytes = serde_json::to_vec(metadata).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_METADATA_BYTES {
        return Err(format!("metadata has at most {MAX_METADATA_BYTES} bytes as JSON, and this has {bytes}"));
    }
    Ok(())
}

fn is_scalar(value: &Value) -> bool {
    !matches!(value, Value::Array(_) | Value::Object(_))
}

/// Checks the name of a collection: 1 to 64 of `[a-z0-9_-]`.
///
/// # Errors
/// A sentence that names the rule.
pub fn validate_collection(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    if name.is_empty() || name.len() > MAX_COLLECTION_BYTES || !name.bytes().all(allowed) {
        return Err(format!(
            "a collection is named with 1 to {MAX_COLLECTION_BYTES} of the characters a-z 0-9 _ -, and {:?} is not",
            excerpt(name)
        ));
    }
    Ok(())
}

/// A new version of a document, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Upsert {
    /// Which document.
    pub id: DocumentId,
    /// Number of the version, rising; `None` means newer than whatever is stored.
    pub revision: Option<u64>,
    /// Media type the publisher states (a hint only), such as `text/markdown; charset=utf-8`.
    pub media_type: Option<String>,
    /// Title the publisher states; without it the document's own is used.
    pub title: Option<String>,
    /// Where a reader finds the document.
    pub url: Option<String>,
    /// Collection it belongs to ([`validate_collection`]).
    pub collection: String,
    /// What filters match on ([`validate_metadata`]).
    pub metadata: Metadata,
    /// The bytes, as published.
    pub content: Vec<u8>,
}

impl Upsert {
    /// Checks what is said about the content: sizes, collection, metadata, revision.
    ///
    /// # Errors
    /// A sentence that names the field and the rule.
    pub fn check_description(&self) -> Result<(), String> {
        if self.title.as_ref().is_some_and(|title| title.len() > MAX_TITLE_BYTES) {
            return Err(format!("`title` has more than {MAX_TITLE_BYTES} bytes"));
        }
        if self.media_type.as_ref().is_some_and(|media_type| media_type.len() > MAX_MEDIA_TYPE_BYTES) {
            return Err(format!("`media_type` has more than {MAX_MEDIA_TYPE_BYTES} bytes"));
        }
        if self.url.as_ref().is_some_and(|url| url.len() > MAX_URL_BYTES) {
            return Err(format!("`url` has more than {MAX_URL_BYTES} bytes"));
        }
        if self.revision.is_some_and(|revision| revision > i64::MAX as u64) {
            return Err(format!("`revision` is larger than {}", i64::MAX));
        }
        validate_collection(&self.collection)?;
        validate_metadata(&self.metadata)?;
        validate_visibility(&self.metadata)
    }
}

/// A document as a JSON object: the body of a `PUT` or the data of an event.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonDocument {
    /// The text.
    #[serde(default, deserialize_with = "text_as_bytes")]
    pub content: Option<Vec<u8>>,
    /// See [`Upsert::media_type`].
    pub media_type: Option<String>,
    /// See [`Upsert::title`].
    pub title: Option<String>,
    /// See [`Upsert::url`].
    pub url: Option<String>,
    /// See [`Upsert::collection`].
    pub collection: Option<String>,
    /// See [`Upsert::metadata`].
    #[serde(default)]
    pub metadata: Metadata,
    /// The groups that may see it, as in the metadata; see [`crate::retrieval::sight`].
    pub visible_to: Option<Vec<String>>,
    /// See [`Upsert::revision`].
    pub revision: Option<u64>,
}

fn text_as_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|text| text.map(String::into_bytes))
}

/// One operation on one document.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Create it, or replace it whole.
    Upsert(Upsert),
    /// Remove it.
    Delete {
        /// Which document.
        id: DocumentId,
        /// Number of the version that is its end; `None` means newer than whatever is stored.
        revision: Option<u64>,
    },
}

impl Operation {
    /// The document it is about.
    pub fn id(&self) -> &DocumentId {
        match self {
            Operation::Upsert(upsert) => &upsert.id,
            Operation::Delete { id, .. } => id,
        }
    }

    /// The revision the publisher states.
    pub fn revision(&self) -> Option<u64> {
        match self {
            Operation::Upsert(upsert) => upsert.revision,
            Operation::Delete { revision, .. } => *revision,
        }
    }
}

/// SHA-256 of everything in an upsert that changes what is served: content, media type, title,
/// url, collection and metadata, each with its length before it (so no two different upserts make
/// the same input). Id and revision are not part of it: an unchanged document published again
/// under a new revision has the same hash, and costs no embedding.
pub fn content_hash(upsert: &Upsert) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut field = |bytes: Option<&[u8]>| {
        // Absent and empty are different: a presence byte, then the length.
        hash.update([u8::from(bytes.is_some())]);
        let bytes = bytes.unwrap_or_default();
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(Some(&upsert.content));
    field(upsert.media_type.as_deref().map(str::as_bytes));
    field(upsert.title.as_deref().map(str::as_bytes));
    field(upsert.url.as_deref().map(str::as_bytes));
    field(Some(upsert.collection.as_bytes()));
    for (key, value) in &upsert.metadata {
        field(Some(key.as_bytes()));
        field(Some(value.to_string().as_bytes()));
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn upsert() -> Upsert {
        Upsert {
            id: DocumentId::parse("a/b.md").unwrap(),
            revision: Some(1),
            media_type: None,
            title: None,
            url: None,
            collection: COLLECTION_DEFAULT.to_owned(),
            metadata: Metadata::new(),
            content: b"text".to_vec(),
        }
    }

    #[test]
    fn a_good_id_is_kept_as_it_is() {
        for id in ["a", "handbook/Über uns.md", "日本/語", "a..b", "...", "a b"] {
            assert_eq!(DocumentId::parse(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn each_broken_rule_of_an_id_is_named() {
        use InvalidDocumentId::*;
        let cases = [
            ("", Empty),
            ("a\nb", ControlCharacter('\n')),
            ("\u{85}a", ControlCharacter('\u{85}')),
            (" a", OuterWhitespace),
            ("a\u{3000}", OuterWhitespace),
            ("/a", EmptySegment),
            ("a/", EmptySegment),
            ("a//b", EmptySegment),
            ("..", DotSegment("..".into())),
            ("a/./b", DotSegment(".".into())),
            ("a/../b", DotSegment("..".into())),
        ];
        for (id, error) in cases {
            assert_eq!(DocumentId::parse(id), Err(error), "{id:?}");
        }
        assert!(DocumentId::parse(&"x".repeat(512)).is_ok());
        assert_eq!(DocumentId::parse(&"x".repeat(513)), Err(TooLong(513)));
    }

    #[test]
    fn an_id_from_json_is_checked() {
        let id: DocumentId = serde_json::from_str("\"a/b\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"a/b\"");
        let error = serde_json::from_str::<DocumentId>("\"a/../b\"").unwrap_err();
        assert!(error.to_string().contains("path segment"), "{error}");
    }

    #[test]
    fn metadata_outside_its_limits_is_refused_with_the_key() {
        let one = |key: &str, value: Value| validate_metadata(&Metadata::from([(key.to_owned(), value)]));
        assert_eq!(one("lang", json!("de")), Ok(()));
        assert_eq!(one("a.b-c_9", json!([1, "x", null, true])), Ok(()));
        assert!(one("", json!(1)).is_err());
        assert!(one("a b", json!(1)).unwrap_err().contains("a b"));
        assert!(one(&"k".repeat(65), json!(1)).is_err());
        assert!(one("deep", json!([[1]])).unwrap_err().contains("deep"));
        assert!(one("map", json!({"a": 1})).is_err());
        assert!(one("big", json!("x".repeat(17_000))).unwrap_err().contains("bytes"));
        let many = (0..65).map(|i| (format!("k{i}"), json!(i))).collect();
        assert!(validate_metadata(&many).unwrap_err().contains("65"));
    }

    #[test]
    fn a_collection_is_a_plain_lower_case_name() {
        for good in ["default", "a-b_9"] {
            assert_eq!(validate_collection(good), Ok(()));
        }
        for bad in ["", "A", "a.b", "ä", &"x".repeat(65)] {
            assert!(validate_collection(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_said_of_a_document_is_bounded() {
        for (field, most) in [("title", MAX_TITLE_BYTES), ("url", MAX_URL_BYTES), ("media_type", MAX_MEDIA_TYPE_BYTES)]
        {
            let with = |bytes: usize| {
                let (mut upsert, text) = (upsert(), Some("x".repeat(bytes)));
                match field {
                    "title" => upsert.title = text,
                    "url" => upsert.url = text,
                    _ => upsert.media_type = text,
                }
                upsert.check_description()
            };
            assert_eq!(with(most), Ok(()), "{field}");
            assert!(with(most + 1).is_err_and(|error| error.contains(field)), "{field}");
        }
    }

    #[test]
    fn everything_served_changes_the_hash_and_nothing_else() {
        let base = content_hash(&upsert());
        let same = Upsert { revision: None, id: DocumentId::parse("other").unwrap(), ..upsert() };
        assert_eq!(content_hash(&same), base);
        let changed = [
            Upsert { content: b"text2".to_vec(), ..upsert() },
            Upsert { media_type: Some(String::new()), ..upsert() },
            Upsert { title: Some("t".into()), ..upsert() },
            Upsert { url: Some("t".into()), ..upsert() },
            Upsert { collection: "t".into(), ..upsert() },
            Upsert { metadata: Metadata::from([("k".into(), json!(1))]), ..upsert() },
            Upsert { metadata: Metadata::from([("k".into(), json!("1"))]), ..upsert() },
        ];
        let mut hashes: Vec<_> = changed.iter().map(content_hash).collect();
        hashes.push(base);
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), changed.len() + 1);
    }

    proptest! {
        #[test]
        fn an_accepted_id_never_leaves_its_folder(id in "[a./\\\\ \u{0}-\u{20}é]{0,12}") {
            if let Ok(id) = DocumentId::parse(&id) {
                let path = std::path::Path::new(id.as_str());
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}
