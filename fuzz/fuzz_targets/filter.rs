//! Filters: what they mean here, against the same written once more, and as SQL; and what a caller may see.
//!
//! Input: the filter as JSON, a document as JSON, and the caller's groups with commas, between separators.
#![no_main]

use std::borrow::Cow;
use std::collections::BTreeSet;

use answerd_fuzz::documents::event::Metadata;
use answerd_fuzz::harness::{MOST_ERROR_BYTES, texts};
use answerd_fuzz::retrieval::filter::{DocumentFields, Fields, Filter};
use answerd_fuzz::retrieval::sight::{Sight, groups_of, validate_visibility, with_groups};
use answerd_fuzz::stores::postgres::condition;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde::Deserialize;
use serde_json::Value;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    id: String,
    collection: String,
    title: String,
    media_type: Option<String>,
    url: Option<String>,
    updated_at: i64,
    metadata: Metadata,
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let mut parts = texts(input);
    let filter = parts.next().unwrap_or_default();
    let document: Document = parts.next().and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    let groups = groups_of(parts.next().as_deref());
    let fields = DocumentFields {
        id: &document.id,
        collection: &document.collection,
        title: &document.title,
        media_type: document.media_type.as_deref(),
        url: document.url.as_deref(),
        updated_ms: document.updated_at,
        metadata: &document.metadata,
    };
    let sight = groups.as_ref().map_or(Sight::All, |groups| Sight::Groups(groups.iter().cloned().collect()));
    let seen = sight.sees(&document.metadata);
    assert_eq!(sight.narrow(None).is_none_or(|filter| filter.matches(&fields)), seen, "a search and a look");
    let _ = validate_visibility(&document.metadata);
    if let Ok(metadata) = with_groups(Metadata::new(), groups)
        && let Some(groups) = metadata.get("visible_to").and_then(Value::as_array).filter(|groups| !groups.is_empty())
    {
        let names: BTreeSet<String> = groups.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        assert!(Sight::Groups(names).sees(&metadata), "its own groups see it: {metadata:?}");
        assert!(!Sight::Groups(BTreeSet::new()).sees(&metadata), "nobody else does: {metadata:?}");
    }

    let json = serde_json::from_str::<Value>(&filter);
    let filter = match serde_json::from_str::<Filter>(&filter) {
        Ok(filter) => filter,
        Err(error) => {
            assert!(error.to_string().len() <= 2 * filter.len() + MOST_ERROR_BYTES);
            return if json.is_ok() { Corpus::Keep } else { Corpus::Reject };
        }
    };
    let found = filter.matches(&fields);
    assert_eq!(found, means(&json.expect("a filter is JSON"), &fields), "{filter:?}");
    let written = serde_json::to_string(&filter).expect("JSON");
    let again: Filter = serde_json::from_str(&written).unwrap_or_else(|error| panic!("{written}: {error}"));
    assert_eq!(again.matches(&fields), found, "{written}");
    assert!(sight.narrow(Some(filter.clone())).is_none_or(|both| both.matches(&fields) == (found && seen)));
    check_sql(&filter);
    Corpus::Keep
});

/// What a filter means, by the documentation of its JSON.
fn means(filter: &Value, document: &dyn Fields) -> bool {
    let filters = |value: &Value| value.as_array().cloned().unwrap_or_default();
    filter.as_object().expect("an object").iter().all(|(name, value)| match name.as_str() {
        "all" => filters(value).iter().all(|filter| means(filter, document)),
        "any" => filters(value).iter().any(|filter| means(filter, document)),
        "not" => !means(value, document),
        name => {
            let found = document.field(name).map(Cow::into_owned).unwrap_or_default();
            let found: Vec<Value> = match found {
                Value::Null => Vec::new(),
                Value::Array(values) => values,
                value => vec![value],
            };
            let there = document.field(name).is_some_and(|value| !value.is_null());
            let is = |wanted: &Value| found.iter().any(|value| order(value, wanted) == Some(0));
            let among = |wanted: &Value| wanted.as_array().expect("a list").iter().any(is);
            let any = |holds: &dyn Fn(i8) -> bool, with: &Value| {
                let ordered = !with.is_boolean();
                ordered && found.iter().any(|value| order(value, with).is_some_and(holds))
            };
            match value {
                Value::Object(tests) => tests.iter().all(|(operator, with)| match operator.as_str() {
                    "eq" => is(with),
                    "ne" => !is(with),
                    "in" => among(with),
                    "not_in" => !among(with),
                    "gt" => any(&|order| order > 0, with),
                    "gte" => any(&|order| order >= 0, with),
                    "lt" => any(&|order| order < 0, with),
                    "lte" => any(&|order| order <= 0, with),
                    "exists" => with.as_bool() == Some(there),
                    "prefix" => {
                        let prefix = with.as_str().expect("a text");
                        found.iter().any(|value| value.as_str().is_some_and(|text| text.starts_with(prefix)))
                    }
                    other => panic!("no operator {other} was to be taken"),
                }),
                list @ Value::Array(_) => among(list),
                value => is(value),
            }
        }
    })
}

/// -1, 0 or 1 for values of one type; booleans are equal or not.
fn order(a: &Value, b: &Value) -> Option<i8> {
    let order = match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => return (a == b).then_some(0),
        (Value::String(a), Value::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?)?,
        },
        _ => return None,
    };
    Some(order as i8)
}

/// All that a filter says is in parameters: its SQL is made of known words.
fn check_sql(filter: &Filter) {
    const WORDS: &str = "AND OR NOT true false coalesce null jsonb d metadata document title media_type url updated_ms \
        collection starts_with jsonb_typeof e string COLLATE C number EXISTS SELECT FROM jsonb_array_elements CASE WHEN \
        array THEN ELSE jsonb_build_array END AS elements WHERE text to_jsonb";
    let known: BTreeSet<&str> = WORDS.split_whitespace().collect();
    let (sql, parameters) = condition(filter);
    let plain = |c: char| c.is_ascii_alphanumeric() || " ()$'{}#|@<>=.,:->\"_".contains(c);
    assert!(sql.chars().all(plain), "{sql}");
    for word in
        sql.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '$')).filter(|word| !word.is_empty())
    {
        match word.strip_prefix('$') {
            Some(number) => {
                let number: usize = number.parse().unwrap_or_else(|_| panic!("{word} in {sql}"));
                assert!((1..=parameters).contains(&number), "{word} of {parameters} in {sql}");
            }
            None => assert!(known.contains(word) || word == "1", "{word} in {sql}"),
        }
    }
}
