//! Filters as conditions on the points of chunks.
//!
//! Every value of a document's fields is a *mark* on its chunks: one indexed payload field answers what equals, is there
//! or is one of, whatever the fields are called. Numbers are there once more, for ranges. What Qdrant cannot ask, texts
//! that begin with something or lie between two, is resolved into the documents it is true of first.

use qdrant_client::qdrant::{Condition, Filter as Conditions, Range};
use serde_json::Value as Json;

use super::server::is;
use crate::documents::event::Metadata;
use crate::retrieval::filter::{DocumentFields, FIELDS, Fields, Filter, Test};

/// The payload fields.
pub(super) const MARKS: &str = "marks";
pub(super) const NUMBERS: &str = "numbers";

/// Integers from here on are not all of them floats: they are compared by the documents, not by Qdrant.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The mark of a field that is there.
fn there(field: &str) -> String {
    format!("{field}\u{1}")
}

/// The mark of a field that has a value; none for what equals nothing.
fn equals(field: &str, value: &Json) -> Option<String> {
    Some(match value {
        Json::String(text) => format!("{field}\u{1}s{text}"),
        // 1 is 1.0, and 0 is -0.
        Json::Number(number) => format!("{field}\u{1}n{:?}", number.as_f64()? + 0.0),
        Json::Bool(value) => format!("{field}\u{1}b{value}"),
        _ => return None,
    })
}

/// The mark of a document whose id begins with a folder, its slash included.
fn below(folder: &str) -> String {
    format!("id\u{1}/{folder}")
}

/// The names of a document's fields.
fn names(metadata: &Metadata) -> impl Iterator<Item = String> + '_ {
    FIELDS.iter().map(|name| (*name).to_owned()).chain(metadata.keys().map(|key| format!("metadata.{key}")))
}

/// The marks of a document.
pub(super) fn marks(document: &DocumentFields<'_>) -> Vec<String> {
    let mut marks: Vec<String> = document.id.match_indices('/').map(|(at, _)| below(&document.id[..=at])).collect();
    for name in names(document.metadata) {
        let Some(value) = document.field(&name).filter(|value| !value.is_null()) else { continue };
        marks.push(there(&name));
        match &*value {
            Json::Array(elements) => marks.extend(elements.iter().filter_map(|element| equals(&name, element))),
            value => marks.extend(equals(&name, value)),
        }
    }
    marks
}

/// The numbers of a document, by field.
pub(super) fn numbers(document: &DocumentFields<'_>) -> serde_json::Map<String, Json> {
    let numbers = names(document.metadata).filter_map(|name| {
        let value = document.field(&name)?;
        let numbers: Vec<f64> = match &*value {
            Json::Array(elements) => elements.iter().filter_map(Json::as_f64).collect(),
            value => value.as_f64().into_iter().collect(),
        };
        (!numbers.is_empty()).then(|| (name, Json::from(numbers)))
    });
    numbers.collect()
}

/// The condition that a filter is; none where Qdrant cannot ask it.
pub(super) fn condition(filter: &Filter) -> Option<Conditions> {
    let all =
        |filters: &[Filter]| filters.iter().map(|f| condition(f).map(Condition::from)).collect::<Option<Vec<_>>>();
    Some(match filter {
        Filter::All(filters) => Conditions::must(all(filters)?),
        Filter::Any(filters) if filters.is_empty() => nothing(),
        Filter::Any(filters) => Conditions::should(all(filters)?),
        Filter::Not(filter) => Conditions::must_not([condition(filter)?.into()]),
        Filter::Field(name, test) => test_of(name, test)?,
    })
}

/// The payload field of the numbers of a field.
pub(super) fn number_of(name: &str) -> String {
    format!("{NUMBERS}.\"{name}\"")
}

/// What no chunk is.
fn nothing() -> Conditions {
    Conditions::must([is(MARKS, "")])
}

fn test_of(name: &str, test: &Test) -> Option<Conditions> {
    let any = |values: &[Json]| {
        if !values.iter().all(is_exact) {
            return None;
        }
        let marks: Vec<String> = values.iter().filter_map(|value| equals(name, value)).collect();
        Some(if marks.is_empty() { nothing() } else { Conditions::must([Condition::matches(MARKS, marks)]) })
    };
    let not = |conditions: Conditions| Conditions::must_not([conditions.into()]);
    let range = |value: &Json, range: &dyn Fn(f64) -> Range| match value {
        // No document has a field of such a name, and no path can be made of it.
        Json::Number(_) if name.contains(['"', '\\']) => Some(nothing()),
        Json::Number(number) if is_exact(value) => {
            Some(Conditions::must([Condition::range(number_of(name), range(number.as_f64()?))]))
        }
        // Truth values have no order.
        Json::Bool(_) => Some(nothing()),
        _ => None,
    };
    match test {
        Test::Eq(value) => any(std::slice::from_ref(value)),
        Test::In(values) => any(values),
        Test::Ne(value) => any(std::slice::from_ref(value)).map(not),
        Test::NotIn(values) => any(values).map(not),
        Test::Exists(wanted) => {
            let is_there = Conditions::must([is(MARKS, &there(name))]);
            Some(if *wanted { is_there } else { not(is_there) })
        }
        Test::Gt(value) => range(value, &|v| Range { gt: Some(v), ..Range::default() }),
        Test::Gte(value) => range(value, &|v| Range { gte: Some(v), ..Range::default() }),
        Test::Lt(value) => range(value, &|v| Range { lt: Some(v), ..Range::default() }),
        Test::Lte(value) => range(value, &|v| Range { lte: Some(v), ..Range::default() }),
        Test::Prefix(folder) if name == "id" && folder.ends_with('/') => {
            Some(Conditions::must([is(MARKS, &below(folder))]))
        }
        Test::Prefix(_) => None,
    }
}

fn is_exact(value: &Json) -> bool {
    value.as_f64().is_none_or(|number| number.abs() < EXACT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(filter: Json) -> Filter {
        serde_json::from_value(filter).expect("a filter")
    }

    #[test]
    fn a_document_has_a_mark_for_each_value_and_folder() {
        let metadata: Metadata =
            serde_json::from_value(json!({ "tags": ["hr", 7, null], "year": 2024, "none": null })).expect("metadata");
        let document = DocumentFields {
            id: "people/hr/leave.md",
            collection: "handbook",
            title: "Leave",
            media_type: None,
            url: None,
            updated_ms: 5,
            metadata: &metadata,
        };
        let marks = marks(&document);
        for mark in [
            "id\u{1}/people/",
            "id\u{1}/people/hr/",
            "id\u{1}speople/hr/leave.md",
            "collection\u{1}shandbook",
            "metadata.tags\u{1}",
            "metadata.tags\u{1}shr",
            "metadata.tags\u{1}n7.0",
            "metadata.year\u{1}n2024.0",
            "updated_at\u{1}n5.0",
        ] {
            assert!(marks.iter().any(|found| found == mark), "{mark:?} in {marks:?}");
        }
        assert!(!marks.iter().any(|mark| mark.starts_with("metadata.none") || mark.starts_with("url")));
        let numbers = Json::Object(numbers(&document));
        assert_eq!(numbers, json!({ "metadata.tags": [7.0], "metadata.year": [2024.0], "updated_at": [5.0] }));
    }

    #[test]
    fn what_qdrant_cannot_ask_is_left_to_the_documents() {
        for filter in [
            json!({ "id": { "prefix": "people" } }),
            json!({ "metadata.date": { "gte": "2024-01-01" } }),
            json!({ "metadata.n": 9_007_199_254_740_993_u64 }),
            json!({ "any": [{ "collection": "a" }, { "not": { "title": { "prefix": "x" } } }] }),
        ] {
            assert_eq!(condition(&read(filter.clone())), None, "{filter}");
        }
        for filter in [
            json!({}),
            json!({ "id": { "prefix": "people/" } }),
            json!({ "metadata.n": { "gte": 1, "lt": 2.5, "ne": true } }),
            json!({ "any": [], "not": { "url": { "exists": true } } }),
            json!({ "metadata.a\"b": { "gt": 1 } }),
        ] {
            assert!(condition(&read(filter.clone())).is_some(), "{filter}");
        }
    }
}
