//! Raw settings: TOML text and environment variables laid over the defaults, key by key.
//!
//! A deserializer stops at its first mistake. So each key that is given is tried alone, in a copy of the
//! defaults: every mistake is found, each with its own path, and what is right goes on to validation.
//! Nothing here reads a file or the environment, and no rule about values is stated here.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Table, Value};

use super::settings::{Config, FolderConfig};
use super::shown::is_secret;
use super::{
    BudgetConfig, BudgetsConfig, ChatModelConfig, ConfigError, ModelsConfig, Origin, UpstreamConfig, VARIABLE_PREFIX,
};

/// Settings laid over the defaults, and the mistakes found on the way.
pub(super) struct Reader {
    /// The defaults, with one entry in every array of tables: which keys there are, and of which type.
    schema: Value,
    merged: Value,
    origins: BTreeMap<String, Origin>,
    errors: Vec<ConfigError>,
}

/// One step of a path: a key, or the index of an array's entry.
#[derive(Clone)]
enum Step {
    Key(String),
    Index(usize),
}

impl Reader {
    pub(super) fn new() -> Self {
        let (schema, merged) = (as_value(&with_examples()), as_value(&Config::default()));
        Self { schema, merged, origins: BTreeMap::new(), errors: Vec::new() }
    }

    /// Lays the text of a file over what is there.
    pub(super) fn file(&mut self, name: &Path, text: &str) {
        let name: Arc<Path> = name.into();
        let origin = |at: usize| Origin::File { name: Arc::clone(&name), line: Some(line_of(text, at)) };
        let (root, broken) = DeTable::parse_recoverable(text);
        for error in &broken {
            let origin = origin(error.span().map_or(0, |span| span.start));
            // A parser that lost its way complains on and on about the same line.
            if !self.errors.iter().any(|error| error.origin == origin) {
                self.error(String::new(), format!("this is not TOML: {}", one_line(error.message())), origin);
            }
        }
        let schema = self.schema.clone();
        let value = Spanned::new(0..0, DeValue::Table(root.into_inner()));
        if let Some(merged) = self.walk(&mut Vec::new(), &schema, value, &origin) {
            self.merged = merged;
        }
    }

    /// Lays one environment variable over what is there: `ANSWERD__MODELS__CHAT__SLOTS=4`.
    pub(super) fn variable(&mut self, name: &str, text: &str) {
        let origin = Origin::Environment(name.to_owned());
        let keys = name.strip_prefix(VARIABLE_PREFIX).unwrap_or(name).to_lowercase();
        let mut path = Vec::new();
        let mut schema = &self.schema;
        for key in keys.split("__") {
            let Some(next) = schema.as_table().and_then(|table| table.get(key)) else {
                path.push(Step::Key(key.to_owned()));
                let message = match schema {
                    Value::Table(table) => unknown(key, table, &self.schema),
                    Value::Array(_) => "an entry cannot be set by itself: give the whole list as a TOML array".into(),
                    _ => "there is nothing below this key".into(),
                };
                return self.error(render(&path), message, origin);
            };
            path.push(Step::Key(key.to_owned()));
            schema = next;
        }
        if schema.is_table() {
            return self.error(render(&path), "this is a section: set its keys one by one".into(), origin);
        }
        // A text is taken as it stands; what does not parse is kept as text, for the message about its type.
        let given = match (schema, DeValue::parse(text)) {
            (Value::String(_), _) | (_, Err(_)) => Spanned::new(0..0, DeValue::String(text.into())),
            (_, Ok(value)) => value,
        };
        let schema = schema.clone();
        // Nothing of what a file said here is left.
        let place = render(&path);
        self.origins.retain(|known, _| !known.strip_prefix(&place).is_some_and(|rest| rest.starts_with('[')));
        self.origins.insert(place, origin.clone());
        if let Some(value) = self.walk(&mut path, &schema, given, &|_| origin.clone()) {
            set(&mut self.merged, &path, value);
        }
    }

    /// Notes why an environment variable gives no value.
    pub(super) fn refuse(&mut self, name: &str, message: String) {
        self.error(String::new(), message, Origin::Environment(name.to_owned()));
    }

    /// The settings, where a mistake left the default in its place, and the mistakes so far.
    pub(super) fn finish(mut self) -> (Option<Config>, Merged, Vec<ConfigError>) {
        let config = match serde_path_to_error::deserialize(self.merged.clone()) {
            Ok(config) => Some(config),
            Err(error) => {
                let path = error.path().to_string();
                let message = plain(error.inner().message());
                let origin = origin_of(&self.origins, &path);
                self.error(path, message, origin);
                None
            }
        };
        (config, Merged { values: self.merged, origins: self.origins }, self.errors)
    }

    fn error(&mut self, path: String, message: String, origin: Origin) {
        self.errors.push(ConfigError { path, message, origin });
    }

    /// Checks `given` against `schema` key by key; `None` where nothing of it is fit.
    fn walk(
        &mut self,
        path: &mut Vec<Step>,
        schema: &Value,
        given: Spanned<DeValue<'_>>,
        origin: &dyn Fn(usize) -> Origin,
    ) -> Option<Value> {
        let at = given.span().start;
        let given_type = given.get_ref().type_str();
        match (schema, given.into_inner()) {
            (Value::Table(known), DeValue::Table(given)) => {
                let mut merged = known.clone();
                for (key, value) in given {
                    let place = origin(key.span().start);
                    let key = key.into_inner().into_owned();
                    path.push(Step::Key(key.clone()));
                    match known.get(&key) {
                        None => self.error(render(path), unknown(&key, known, &self.schema), place),
                        Some(schema) => {
                            self.origins.insert(render(path), place);
                            match self.walk(path, schema, value, origin) {
                                Some(value) => merged.insert(key, value),
                                // The default of the list, which the schema holds an example entry of.
                                None => get(&self.merged, path).and_then(|value| merged.insert(key, value.clone())),
                            };
                        }
                    }
                    path.pop();
                }
                // What is not given is not what the schema's example holds, but what is there.
                let entry = path.iter().any(|step| matches!(step, Step::Index(_)));
                let there = if entry { None } else { get(&self.merged, path).and_then(Value::as_table) };
                for (key, value) in there.into_iter().flatten() {
                    path.push(Step::Key(key.clone()));
                    if known.contains_key(key) && !self.origins.contains_key(&render(path)) {
                        merged.insert(key.clone(), value.clone());
                    }
                    path.pop();
                }
                Some(Value::Table(merged))
            }
            (Value::Array(example), DeValue::Array(given)) if is_of_tables(example) => {
                let example = &example[0];
                let mut entries = Vec::new();
                for (n, value) in given.into_iter().enumerate() {
                    path.push(Step::Index(n));
                    self.origins.insert(render(path), origin(value.span().start));
                    entries.push(self.walk(path, example, value, origin).unwrap_or_else(|| example.clone()));
                    path.pop();
                }
                Some(Value::Array(entries))
            }
            (Value::Table(_), _) => {
                let message = format!("this is a section, [{}], and {given_type} was given", render(path));
                self.error(render(path), message, self.origin_or(path, origin(at)));
                None
            }
            (Value::Array(example), _) if is_of_tables(example) => {
                let message = format!("write [[{}]], once for each entry", render(path));
                self.error(render(path), message, self.origin_or(path, origin(at)));
                None
            }
            (_, given) => {
                let value = Value::deserialize(ValueDeserializer::from(Spanned::new(at..at, given)));
                match value.map_err(|error| plain(error.message())).and_then(|value| self.fits(path, value)) {
                    Ok(value) => Some(value),
                    Err(message) => {
                        self.error(render(path), message, self.origin_or(path, origin(at)));
                        None
                    }
                }
            }
        }
    }

    fn origin_or(&self, path: &[Step], otherwise: Origin) -> Origin {
        self.origins.get(&render(path)).cloned().unwrap_or(otherwise)
    }

    /// Tries one value alone, in a copy of the defaults.
    fn fits(&self, path: &[Step], value: Value) -> Result<Value, String> {
        // No setting has a use for them, and no range catches one that is not a number.
        if value.as_float().is_some_and(|number| !number.is_finite()) {
            return Err(format!("{value} is not a finite number"));
        }
        let mut trial = self.schema.clone();
        let first: Vec<Step> = path
            .iter()
            .map(|step| match step {
                Step::Index(_) => Step::Index(0),
                key => key.clone(),
            })
            .collect();
        set(&mut trial, &first, value.clone());
        match Config::deserialize(trial) {
            Ok(_) => Ok(value),
            Err(_) if matches!(path.last(), Some(Step::Key(name)) if is_secret(name)) => {
                Err(format!("must be text, in quotes; it is {}, which is not shown", value.type_str()))
            }
            Err(error) => Err(plain(error.message())),
        }
    }
}

/// What was given, by path: for messages about values.
pub(super) struct Merged {
    values: Value,
    origins: BTreeMap<String, Origin>,
}

impl Merged {
    /// Where the value at `path` comes from.
    pub(super) fn origin(&self, path: &str) -> Origin {
        origin_of(&self.origins, path)
    }

    /// Whether the value at `path` itself was given.
    pub(super) fn given(&self, path: &str) -> bool {
        self.origins.contains_key(path)
    }

    /// The number at `path`.
    pub(super) fn number(&self, path: &str) -> Option<&Value> {
        get(&self.values, &parse(path)).filter(|value| value.is_integer() || value.is_float())
    }
}

/// That of the value itself, else of what it is in.
fn origin_of(origins: &BTreeMap<String, Origin>, path: &str) -> Origin {
    let mut path = path;
    loop {
        if let Some(origin) = origins.get(path) {
            return origin.clone();
        }
        match path.rfind(['.', '[']) {
            Some(end) => path = &path[..end],
            None => return Origin::Default,
        }
    }
}

/// The defaults, with one entry in every array of tables: all keys there are.
pub(super) fn with_examples() -> Config {
    let models = ModelsConfig {
        more: vec![ChatModelConfig::default()],
        upstreams: vec![UpstreamConfig::default()],
        ..ModelsConfig::default()
    };
    let budgets = BudgetsConfig { more: vec![BudgetConfig::default()], ..BudgetsConfig::default() };
    Config { folders: vec![FolderConfig::default()], models, budgets, ..Config::default() }
}

fn as_value(config: &Config) -> Value {
    Value::try_from(config).expect("settings are tables of plain values")
}

fn render(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(n) => text.push_str(&format!("[{n}]")),
        }
    }
    text
}

fn parse(path: &str) -> Vec<Step> {
    path.split(['.', '['])
        .map(|part| match part.strip_suffix(']').and_then(|n| n.parse().ok()) {
            Some(n) => Step::Index(n),
            None => Step::Key(part.to_owned()),
        })
        .collect()
}

fn get<'v>(value: &'v Value, path: &[Step]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(n) => value.get(n),
    })
}

/// Puts a value where the path leads; does nothing where that place does not exist.
fn set(root: &mut Value, path: &[Step], value: Value) {
    let place = path.iter().try_fold(root, |at, step| match step {
        Step::Key(key) => at.get_mut(key),
        Step::Index(n) => at.get_mut(n),
    });
    if let Some(place) = place {
        *place = value;
    }
}

/// Whether the entries of an array are sections of their own, `[[folders]]`; otherwise it is a value, as a whole.
fn is_of_tables(example: &[Value]) -> bool {
    example.first().is_some_and(Value::is_table)
}

/// Says that there is no such key, and which one may have been meant.
fn unknown(key: &str, known: &Table, all: &Value) -> String {
    let near = known.keys().map(|known| (distance(key, known), known)).min();
    if let Some((_, meant)) = near.filter(|(distance, _)| *distance <= 1 + key.chars().count() / 4) {
        return format!("there is no such key; did you mean `{meant}`?");
    }
    let mut homes = Vec::new();
    sections_with(key, all, "", &mut homes);
    match homes.as_slice() {
        [] => {
            let keys: Vec<&str> = known.keys().map(String::as_str).collect();
            format!("there is no such key; there are {}", keys.join(", "))
        }
        homes => format!("there is no such key here; `{key}` belongs in {}", homes.join(" or ")),
    }
}

fn sections_with(key: &str, value: &Value, section: &str, homes: &mut Vec<String>) {
    let (table, [open, close]) = match value {
        Value::Table(table) => (table, ["[", "]"]),
        Value::Array(entries) => match entries.first() {
            Some(Value::Table(table)) => (table, ["[[", "]]"]),
            _ => return,
        },
        _ => return,
    };
    if table.contains_key(key) && !section.is_empty() {
        homes.push(format!("{open}{section}{close}"));
    }
    for (name, value) in table {
        let name = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        sections_with(key, value, &name, homes);
    }
}

/// Levenshtein distance of two keys.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The line that the byte `at` of `text` is on, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// serde's message without the names of Rust's types.
fn plain(message: &str) -> String {
    let mut message = one_line(message);
    for (of, said) in [("usize", "a whole number from 0 on"), ("u64", "a whole number from 0 on")]
        .into_iter()
        .chain([("u32", "a whole number from 0 on"), ("f32", "a number")])
        .chain([("path string", "a path, as a string")])
    {
        if let Some(start) = message.strip_suffix(&format!("expected {of}")) {
            message = format!("{start}expected {said}");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_distance_of_keys_is_a_metric(a in "[a-c]{0,6}", b in "[a-c]{0,6}", c in "[a-c]{0,6}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c));
        }

        #[test]
        fn a_path_survives_being_written(keys in prop::collection::vec(("[a-z_]{1,8}", prop::option::of(0usize..20)), 1..5)) {
            let path: Vec<Step> = keys
                .into_iter()
                .flat_map(|(key, n)| std::iter::once(Step::Key(key)).chain(n.map(Step::Index)))
                .collect();
            prop_assert_eq!(render(&parse(&render(&path))), render(&path));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "(\\[{1,2}[a-z.]{1,9}\\]{1,2}\n|[a-z_]{1,7} ?= ?[-0-9a-z\"{}\\[\\]]{0,6}\n|\\PC{0,9}\n){0,12}") {
            let mut reader = Reader::new();
            reader.file(Path::new("config.toml"), &text);
            reader.variable("ANSWERD__SEARCH__RRF_K", &text);
            reader.variable("ANSWERD__FOLDERS", &text);
            reader.finish();
        }
    }

    #[test]
    fn a_path_is_read_as_it_is_written() {
        assert_eq!(render(&parse("folders[3].path")), "folders[3].path");
        assert_eq!(line_of("a\nb\nc", 4), 3);
        assert_eq!(distance("slot", "slots"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
