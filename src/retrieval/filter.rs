//! Filters over the fields of documents, as JSON:
//!
//! ```json
//! { "collection": "handbook", "metadata.team": ["red", "blue"], "metadata.year": { "gte": 2024 },
//!   "any": [{ "id": { "prefix": "people/" } }, { "not": { "metadata.draft": true } }] }
//! ```
//!
//! A value means *equals*, an array *any of these*, an object the operators [`Test`] has. All members must hold.
//! Numbers compare as numbers, texts by their bytes (so RFC 3339 dates compare as dates); values of different types
//! never match. A field that is an array matches when one of its elements does.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::documents::event::Metadata;

/// Where a filter looks fields up.
pub trait Fields {
    /// The value of a field; `None` where the document has none.
    fn field(&self, name: &str) -> Option<Cow<'_, Value>>;
}

/// What filters ask of a document, wherever it is kept.
#[derive(Debug, Clone, Copy)]
pub struct DocumentFields<'d> {
    /// Its id.
    pub id: &'d str,
    /// Its collection.
    pub collection: &'d str,
    /// Its title.
    pub title: &'d str,
    /// Its media type.
    pub media_type: Option<&'d str>,
    /// Its address.
    pub url: Option<&'d str>,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub updated_ms: i64,
    /// Its metadata.
    pub metadata: &'d Metadata,
}

impl<'d> DocumentFields<'d> {
    /// The value of a field, see [`Fields::field`].
    pub fn get(&self, name: &str) -> Option<Cow<'d, Value>> {
        let text = |text: &str| Some(Cow::Owned(Value::from(text)));
        match name {
            "id" => text(self.id),
            "collection" => text(self.collection),
            "title" => text(self.title),
            "media_type" => self.media_type.and_then(text),
            "url" => self.url.and_then(text),
            "updated_at" => Some(Cow::Owned(self.updated_ms.into())),
            _ => name.strip_prefix("metadata.").and_then(|key| self.metadata.get(key)).map(Cow::Borrowed),
        }
    }
}

impl Fields for DocumentFields<'_> {
    fn field(&self, name: &str) -> Option<Cow<'_, Value>> {
        self.get(name)
    }
}

/// Fields that every document has, beside `metadata.<key>`.
pub const FIELDS: [&str; 6] = ["id", "collection", "title", "media_type", "url", "updated_at"];

/// The most tests in a filter, and its greatest depth.
const MOST_TESTS: usize = 100;
const GREATEST_DEPTH: usize = 8;

/// What is asked of one value.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// It equals this.
    Eq(Value),
    /// It does not equal this, or is not there.
    Ne(Value),
    /// It equals one of these.
    In(Vec<Value>),
    /// It equals none of these, or is not there.
    NotIn(Vec<Value>),
    /// It is greater.
    Gt(Value),
    /// It is greater or equal.
    Gte(Value),
    /// It is less.
    Lt(Value),
    /// It is less or equal.
    Lte(Value),
    /// It is there (`true`), or not (`false`).
    Exists(bool),
    /// It is a text that begins so.
    Prefix(String),
}

/// A filter; see the module. The empty one matches every document.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Every one of these holds.
    All(Vec<Filter>),
    /// At least one of these holds.
    Any(Vec<Filter>),
    /// This does not hold.
    Not(Box<Filter>),
    /// This is asked of a field.
    Field(String, Test),
}

impl Filter {
    /// Whether a document matches.
    pub fn matches(&self, document: &dyn Fields) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.matches(document)),
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(document)),
            Self::Not(filter) => !filter.matches(document),
            Self::Field(name, test) => {
                let value = document.field(name).filter(|value| !value.is_null());
                test.holds(value.as_deref())
            }
        }
    }
}

impl Test {
    fn holds(&self, value: Option<&Value>) -> bool {
        let some = |holds: &dyn Fn(&Value) -> bool| match value {
            Some(Value::Array(elements)) => elements.iter().any(holds),
            Some(value) => holds(value),
            None => false,
        };
        let compares = |with: &Value, wanted: &[Ordering]| {
            some(&|value| compare(value, with).is_some_and(|order| wanted.contains(&order)))
        };
        match self {
            Self::Eq(wanted) => some(&|value| equal(value, wanted)),
            Self::Ne(wanted) => !some(&|value| equal(value, wanted)),
            Self::In(wanted) => some(&|value| wanted.iter().any(|w| equal(value, w))),
            Self::NotIn(wanted) => !some(&|value| wanted.iter().any(|w| equal(value, w))),
            Self::Gt(with) => compares(with, &[Ordering::Greater]),
            Self::Gte(with) => compares(with, &[Ordering::Greater, Ordering::Equal]),
            Self::Lt(with) => compares(with, &[Ordering::Less]),
            Self::Lte(with) => compares(with, &[Ordering::Less, Ordering::Equal]),
            Self::Exists(wanted) => value.is_some() == *wanted,
            Self::Prefix(prefix) => some(&|value| value.as_str().is_some_and(|text| text.starts_with(prefix))),
        }
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a == b,
        _ => compare(a, b) == Some(Ordering::Equal),
    }
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        // As integers where both are: floats lose the last digits of large ones.
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        _ => None,
    }
}

fn parse(value: &Value, depth: usize, tests: &mut usize) -> Result<Filter, String> {
    if depth > GREATEST_DEPTH {
        return Err(format!("the filter is nested deeper than {GREATEST_DEPTH}"));
    }
    let before = *tests;
    let Value::Object(members) = value else {
        return Err(format!("a filter is an object, this is `{value}`"));
    };
    let mut filters = Vec::new();
    for (name, value) in members {
        match name.as_str() {
            "all" | "any" => {
                let Value::Array(parts) = value else {
                    return Err(format!("`{name}` takes an array of filters"));
                };
                let parts = parts.iter().map(|part| parse(part, depth + 1, tests)).collect::<Result<_, _>>()?;
                filters.push(if name == "all" { Filter::All(parts) } else { Filter::Any(parts) });
            }
            "not" => filters.push(Filter::Not(Box::new(parse(value, depth + 1, tests)?))),
            field => {
                let known =
                    FIELDS.contains(&field) || field.strip_prefix("metadata.").is_some_and(|key| !key.is_empty());
                if !known {
                    return Err(format!(
                        "there is no field `{field}`; there are {}, metadata.<key>, and all, any, not to combine",
                        FIELDS.join(", ")
                    ));
                }
                for test in parse_tests(field, value)? {
                    count(tests)?;
                    filters.push(Filter::Field(field.to_owned(), test));
                }
            }
        }
    }
    // One without a test costs as much as a test: it is work as well.
    if *tests == before {
        count(tests)?;
    }
    Ok(if filters.len() == 1 { filters.remove(0) } else { Filter::All(filters) })
}

fn count(tests: &mut usize) -> Result<(), String> {
    *tests += 1;
    if *tests > MOST_TESTS { Err(format!("the filter has more than {MOST_TESTS} tests")) } else { Ok(()) }
}

fn parse_tests(field: &str, value: &Value) -> Result<Vec<Test>, String> {
    let list = |operator: &str, value: &Value| match value {
        Value::Array(values) if values.len() <= 1000 && values.iter().all(is_scalar) => Ok(values.clone()),
        _ => Err(format!("`{operator}` of `{field}` takes an array of at most 1000 texts, numbers or booleans")),
    };
    let operators = match value {
        Value::Object(operators) if !operators.is_empty() => operators,
        Value::Object(_) => return Err(format!("`{field}` has no operator")),
        Value::Array(_) => return Ok(vec![Test::In(list("in", value)?)]),
        Value::Null => return Err(format!("`{field}` cannot be compared with null; use {{\"exists\": false}}")),
        scalar => return Ok(vec![Test::Eq(scalar.clone())]),
    };
    let test = |(operator, value): (&String, &Value)| {
        let scalar = || {
            if is_scalar(value) {
                Ok(value.clone())
            } else {
                Err(format!("`{operator}` of `{field}` takes a text, a number or a boolean"))
            }
        };
        Ok(match operator.as_str() {
            "eq" => Test::Eq(scalar()?),
            "ne" => Test::Ne(scalar()?),
            "in" => Test::In(list("in", value)?),
            "not_in" => Test::NotIn(list("not_in", value)?),
            "gt" => Test::Gt(scalar()?),
            "gte" => Test::Gte(scalar()?),
            "lt" => Test::Lt(scalar()?),
            "lte" => Test::Lte(scalar()?),
            "exists" => Test::Exists(value.as_bool().ok_or(format!("`exists` of `{field}` takes true or false"))?),
            "prefix" => Test::Prefix(value.as_str().ok_or(format!("`prefix` of `{field}` takes a text"))?.to_owned()),
            _ => {
                return Err(format!(
                    "`{field}` has no operator `{operator}`; there are eq, ne, in, not_in, gt, gte, lt, lte, exists, prefix"
                ));
            }
        })
    };
    operators.iter().map(test).collect()
}

fn is_scalar(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        parse(&value, 1, &mut 0).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl PartialSchema for Filter {
    fn schema() -> RefOr<Schema> {
        // The names of fields are a pattern, for which the types of utoipa have no word: `Filter::json_schema` has it.
        ObjectBuilder::new().schema_type(Type::Object).description(Some("See the reference.")).into()
    }
}

impl ToSchema for Filter {}

impl Filter {
    /// What is a filter, as JSON Schema for the reference, where it is `#/components/schemas/Filter`.
    pub fn json_schema() -> Value {
        let this = || json!({ "$ref": "#/components/schemas/Filter" });
        let scalar = json!({ "type": ["string", "number", "boolean"] });
        let list = json!({ "type": "array", "maxItems": 1000, "items": scalar });
        let operators = json!({
            "type": "object", "minProperties": 1, "additionalProperties": false,
            "properties": {
                "eq": scalar, "ne": scalar, "gt": scalar, "gte": scalar, "lt": scalar, "lte": scalar,
                "in": list, "not_in": list,
                "exists": { "type": "boolean" }, "prefix": { "type": "string" },
            },
        });
        let test = json!({ "anyOf": [scalar, list, operators] });
        let mut properties: Map<String, Value> =
            FIELDS.iter().map(|field| ((*field).to_owned(), test.clone())).collect();
        properties.insert("all".into(), json!({ "type": "array", "items": this() }));
        properties.insert("any".into(), json!({ "type": "array", "items": this() }));
        properties.insert("not".into(), this());
        json!({
            "description": format!(
                "Which documents count: fields, each with a value it must equal, an array of which it must equal one, or \
                 operators. All members must hold; `all`, `any` and `not` combine filters. Numbers compare as numbers, texts by \
                 their bytes (so RFC 3339 dates compare as dates), values of different types never match, and a field that is an \
                 array matches when one of its elements does. At most {MOST_TESTS} tests, {GREATEST_DEPTH} deep."
            ),
            "type": "object",
            "properties": properties,
            "patternProperties": { "^metadata\\..": test },
            "additionalProperties": false,
            "examples": [{
                "collection": "handbook", "metadata.team": ["red", "blue"], "metadata.year": { "gte": 2024 },
                "any": [{ "id": { "prefix": "people/" } }, { "not": { "metadata.draft": true } }],
            }],
        })
    }

    fn to_value(&self) -> Value {
        let mut members = Map::new();
        match self {
            // As members of one object where each has a name of its own, as it was read: in an array they would be one
            // level deeper, and a filter of the greatest depth could not be read again.
            Self::All(filters) if distinct(filters) => filters.iter().for_each(|filter| filter.write(&mut members)),
            filter => filter.write(&mut members),
        }
        Value::Object(members)
    }

    /// Adds itself to the members of an object.
    fn write(&self, members: &mut Map<String, Value>) {
        let list = |filters: &[Self]| Value::Array(filters.iter().map(Self::to_value).collect());
        let value = match self {
            Self::All(filters) | Self::Any(filters) => list(filters),
            Self::Not(filter) => filter.to_value(),
            Self::Field(name, test) => {
                let operators = members.entry(name.as_str()).or_insert_with(|| Value::Object(Map::new()));
                operators[test.operator()] = test.operand();
                return;
            }
        };
        members.insert(self.key().0.to_owned(), value);
    }

    /// Name of its member, and the operator in it.
    fn key(&self) -> (&str, &str) {
        match self {
            Self::All(_) => ("all", ""),
            Self::Any(_) => ("any", ""),
            Self::Not(_) => ("not", ""),
            Self::Field(name, test) => (name, test.operator()),
        }
    }
}

/// Whether these can be members of one object.
fn distinct(filters: &[Filter]) -> bool {
    let mut keys = BTreeSet::new();
    filters.iter().all(|filter| keys.insert(filter.key()))
}

impl Test {
    fn operator(&self) -> &'static str {
        match self {
            Self::Eq(_) => "eq",
            Self::Ne(_) => "ne",
            Self::In(_) => "in",
            Self::NotIn(_) => "not_in",
            Self::Gt(_) => "gt",
            Self::Gte(_) => "gte",
            Self::Lt(_) => "lt",
            Self::Lte(_) => "lte",
            Self::Exists(_) => "exists",
            Self::Prefix(_) => "prefix",
        }
    }

    fn operand(&self) -> Value {
        match self {
            Self::Eq(value) | Self::Ne(value) => value.clone(),
            Self::Gt(value) | Self::Gte(value) | Self::Lt(value) | Self::Lte(value) => value.clone(),
            Self::In(values) | Self::NotIn(values) => values.clone().into(),
            Self::Exists(wanted) => (*wanted).into(),
            Self::Prefix(prefix) => prefix.as_str().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Document(Value);

    impl Fields for Document {
        fn field(&self, name: &str) -> Option<Cow<'_, Value>> {
            self.0.get(name).map(Cow::Borrowed)
        }
    }

    fn matches(filter: Value) -> bool {
        let document = Document(json!({
            "id": "people/leave.md", "collection": "handbook", "updated_at": 1_700_000_000_000_i64,
            "metadata.year": 2024, "metadata.tags": ["hr", "eu"], "metadata.draft": false, "metadata.none": null
        }));
        let filter: Filter = serde_json::from_value(filter).expect("a filter");
        let again: Filter = serde_json::from_value(serde_json::to_value(&filter).expect("JSON")).expect("the same");
        assert_eq!(again.matches(&document), filter.matches(&document));
        filter.matches(&document)
    }

    #[test]
    fn every_operator_means_what_its_name_says() {
        for (filter, expected) in [
            (json!({}), true),
            (json!({ "collection": "handbook" }), true),
            (json!({ "collection": ["other", "handbook"] }), true),
            (json!({ "collection": "handbook", "id": "x" }), false),
            (json!({ "metadata.year": { "gte": 2024, "lt": 2025 } }), true),
            (json!({ "metadata.year": { "gt": 2023.5 } }), true),
            (json!({ "metadata.year": "2024" }), false),
            (json!({ "metadata.tags": "eu" }), true),
            (json!({ "metadata.tags": { "ne": "eu" } }), false),
            (json!({ "metadata.tags": { "not_in": ["us"] } }), true),
            (json!({ "metadata.draft": false }), true),
            (json!({ "metadata.none": { "exists": false } }), true),
            (json!({ "metadata.absent": { "ne": 1 } }), true),
            (json!({ "id": { "prefix": "people/" } }), true),
            (json!({ "any": [{ "id": "x" }, { "not": { "metadata.draft": true } }] }), true),
            (json!({ "any": [] }), false),
        ] {
            assert_eq!(matches(filter.clone()), expected, "{filter}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_with_what_there_is() {
        let mut deep = json!({ "id": "x" });
        for _ in 0..20 {
            deep = json!({ "not": deep });
        }
        for (filter, part) in [
            (json!({ "colection": "x" }), "collection"),
            (json!({ "metadata.": "x" }), "metadata.<key>"),
            (json!({ "id": { "like": "x" } }), "prefix"),
            (json!({ "id": null }), "exists"),
            (json!({ "id": { "eq": [1] } }), "eq"),
            (json!({ "all": {} }), "array"),
            (json!("x"), "object"),
            (deep, "nested"),
            (json!({ "all": vec![json!({ "id": "x" }); 101] }), "100"),
            (json!({ "any": vec![json!({}); 101] }), "100"),
        ] {
            let error = serde_json::from_value::<Filter>(filter.clone()).expect_err("no filter").to_string();
            assert!(error.contains(part), "{filter}: {error}");
        }
    }

    /// Filters as a caller may write them, so deep that some are refused.
    fn any_filter() -> impl Strategy<Value = Value> {
        let tests = prop_oneof![
            Just(json!(1)),
            Just(json!(["a", 2])),
            Just(json!({ "gte": 1, "lt": 3 })),
            Just(json!({ "prefix": "a", "exists": true })),
        ];
        let leaf = proptest::collection::btree_map(prop_oneof!["id", "metadata\\.[ab]"], tests, 0..3)
            .prop_map(|members| Value::Object(members.into_iter().collect()));
        leaf.clone().prop_recursive(9, 60, 3, move |inner| {
            (leaf.clone(), prop_oneof!["all", "any", "not"], proptest::collection::vec(inner, 1..4)).prop_map(
                |(mut filter, name, mut parts)| {
                    filter[&name] = if name == "not" { parts.remove(0) } else { parts.into() };
                    filter
                },
            )
        })
    }

    proptest! {
        #[test]
        fn a_filter_that_was_read_can_be_written_and_read_again(
            given in any_filter(), a in 0..4i64, b in proptest::option::of("[ab]"), id in "[ab]{0,2}"
        ) {
            let Ok(filter) = serde_json::from_value::<Filter>(given) else { return Ok(()) };
            let written = serde_json::to_value(&filter).expect("JSON");
            let again: Filter = serde_json::from_value(written.clone()).map_err(|e| TestCaseError::fail(format!("{written}: {e}")))?;
            let document = Document(json!({ "id": id, "metadata.a": a, "metadata.b": b }));
            prop_assert_eq!(again.matches(&document), filter.matches(&document), "{}", written);
        }
    }

    #[test]
    fn a_filter_of_the_greatest_depth_can_be_read_again() {
        let mut deepest = json!({ "id": "x", "title": "y" });
        for _ in 1..GREATEST_DEPTH {
            deepest = json!({ "id": "x", "title": { "gt": "a", "lt": "b" }, "not": deepest });
        }
        let filter: Filter = serde_json::from_value(deepest).expect("a filter");
        let written = serde_json::to_value(&filter).expect("JSON");
        assert_eq!(serde_json::from_value::<Filter>(written).expect("the same"), filter);
    }
}
