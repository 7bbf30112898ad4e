//! A filter as a condition in SQL on a row `d` of `documents`.
//!
//! It means what [`Filter::matches`] means. Equality with a value in the metadata can use the index on it.

use serde_json::{Value, json};
use tokio_postgres::types::ToSql;

use super::{clean, clean_json};
use crate::retrieval::filter::{Filter, Test};

/// The parameters of a statement, in their order.
#[derive(Default)]
pub(super) struct Parameters(Vec<Box<dyn ToSql + Sync + Send>>);

impl Parameters {
    /// Adds one; gives its name in the statement.
    pub(super) fn add(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.0.push(Box::new(value));
        format!("${}", self.0.len())
    }

    /// As the driver takes them.
    pub(super) fn list(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.0.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect()
    }
}

/// The condition that a filter is. It is true or false, never null.
pub(super) fn condition(filter: &Filter, parameters: &mut Parameters) -> String {
    let mut joined = |filters: &[Filter], word: &str, none: &str| {
        let parts: Vec<String> = filters.iter().map(|filter| condition(filter, parameters)).collect();
        if parts.is_empty() { none.to_owned() } else { format!("({})", parts.join(word)) }
    };
    match filter {
        Filter::All(filters) => joined(filters, " AND ", "true"),
        Filter::Any(filters) => joined(filters, " OR ", "false"),
        Filter::Not(filter) => format!("NOT {}", condition(filter, parameters)),
        Filter::Field(name, test) => test_of(name, test, parameters),
    }
}

fn test_of(name: &str, test: &Test, parameters: &mut Parameters) -> String {
    let mut any = |values: &[Value]| {
        let parts: Vec<String> = values.iter().map(|value| equals(name, value, parameters)).collect();
        if parts.is_empty() { "false".to_owned() } else { format!("({})", parts.join(" OR ")) }
    };
    match test {
        Test::Eq(value) => any(std::slice::from_ref(value)),
        Test::Ne(value) => format!("NOT {}", any(std::slice::from_ref(value))),
        Test::In(values) => any(values),
        Test::NotIn(values) => format!("NOT {}", any(values)),
        Test::Gt(with) => compares(name, ">", with, parameters),
        Test::Gte(with) => compares(name, ">=", with, parameters),
        Test::Lt(with) => compares(name, "<", with, parameters),
        Test::Lte(with) => compares(name, "<=", with, parameters),
        Test::Exists(wanted) => {
            let value = json_of(name, parameters);
            format!("(coalesce({value}, 'null'::jsonb) <> 'null'::jsonb) = {wanted}")
        }
        Test::Prefix(prefix) if name == "id" => {
            format!("starts_with(d.document, {})", parameters.add(clean(prefix)))
        }
        Test::Prefix(prefix) => {
            let prefix = parameters.add(clean(prefix));
            some(name, &format!("jsonb_typeof(e) = 'string' AND starts_with(e #>> '{{}}', {prefix})"), parameters)
        }
    }
}

/// The field's value equals a text, a number or a boolean, or is an array that has it.
fn equals(name: &str, value: &Value, parameters: &mut Parameters) -> String {
    match (name.strip_prefix("metadata."), value) {
        (Some(key), _) => {
            let key = clean(key);
            let value = clean_json(value);
            let plain = parameters.add(json!({ key.as_str(): value }));
            let inside = parameters.add(json!({ key.as_str(): [value] }));
            format!("(d.metadata @> {plain} OR d.metadata @> {inside})")
        }
        (None, Value::String(text)) if name != "updated_at" => {
            format!("coalesce(d.{} = {}, false)", column(name), parameters.add(clean(text)))
        }
        (None, _) => {
            let value = parameters.add(clean_json(value));
            some(name, &format!("e = {value}"), parameters)
        }
    }
}

/// The field's value, or one of its elements, is of the value's type and compares so with it.
fn compares(name: &str, operator: &str, with: &Value, parameters: &mut Parameters) -> String {
    let condition = match with {
        Value::String(text) => {
            let text = parameters.add(clean(text));
            format!("jsonb_typeof(e) = 'string' AND (e #>> '{{}}') COLLATE \"C\" {operator} {text}")
        }
        Value::Number(_) => {
            // As JSON: numbers of one type there, whatever they are in Rust.
            let number = parameters.add(with.clone());
            format!("jsonb_typeof(e) = 'number' AND e {operator} {number}")
        }
        // Nothing is greater or less than a boolean.
        _ => return "false".to_owned(),
    };
    some(name, &condition, parameters)
}

/// The field's value, or one of its elements where it is an array, meets a condition on `e`.
fn some(name: &str, condition: &str, parameters: &mut Parameters) -> String {
    let value = json_of(name, parameters);
    format!(
        "EXISTS (SELECT 1 FROM jsonb_array_elements(CASE jsonb_typeof({value}) WHEN 'array' THEN {value} ELSE jsonb_build_array({value}) END) AS elements(e) WHERE {condition})"
    )
}

/// The field's value as JSON; null where there is none.
fn json_of(name: &str, parameters: &mut Parameters) -> String {
    match name.strip_prefix("metadata.") {
        Some(key) => format!("(d.metadata -> {}::text)", parameters.add(clean(key))),
        None => format!("to_jsonb(d.{})", column(name)),
    }
}

/// The column of a field that every document has.
fn column(name: &str) -> &'static str {
    match name {
        "id" => "document",
        "title" => "title",
        "media_type" => "media_type",
        "url" => "url",
        "updated_at" => "updated_ms",
        _ => "collection",
    }
}
