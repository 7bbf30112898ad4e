//! The configuration, described: `docs/configuration.md` for people and `docs/config.schema.json` for editors, both made of
//! the code. What a key is for is its field's doc comment, its limits are garde's, its default is the one of `Default`, and
//! whether it takes effect without a restart is what `live` declares.

use std::fmt::Write;

use garde::Validate;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::live::is_reloadable;
use super::read::with_examples;
use super::{Config, VARIABLE_PREFIX};

/// What stands before the sections.
const HEAD: &str = "\
# Configuration

*Made from the code by `answerd config reference`; `answerd config schema` gives the same for editors, as `docs/config.schema.json`
(`#:schema` in the first line of a `config.toml`).*

Settings are the defaults, over them the file (`--config`, `ANSWERD_CONFIG`, or `./config.toml`), over it the environment: each key has a
variable, which is named below it. A text is given as it is, a list as a TOML array, an array of sections as a whole; with `__FILE` at its
end a variable names a file that holds the value, for secrets. An unknown key is a mistake, and so is a value beyond its limits; `answerd check` tells all mistakes at once. Relative paths are relative to the folder of the
file; `~/` is the home folder. Units are in the names: `_ms`, `_s`, `_bytes`, `_tokens`.

**Reload**: `SIGHUP` or `POST /admin/reload` has file and environment read again. Keys with *yes* take effect at once for requests that begin
then; those with *no* need a restart, and are named where they differ. A mistake changes nothing.
";

/// A section, or an entry of an array of sections.
struct Section {
    /// Such as `models.chat`.
    name: String,
    /// Written `[[...]]`.
    list: bool,
    /// Its keys in their order, with their defaults as TOML.
    keys: Vec<(String, String)>,
}

impl Section {
    /// The path of a key, as mistakes name it.
    fn path(&self, key: &str) -> String {
        format!("{}{}.{key}", self.name, if self.list { "[0]" } else { "" })
    }

    /// Whether a key takes effect without a restart. An array of sections is one setting.
    fn is_reloadable(&self, key: &str) -> bool {
        if self.list { is_reloadable(&self.name) } else { is_reloadable(&self.path(key)) }
    }

    /// What describes it in the schema.
    fn of<'s>(&self, schema: &'s mut Value) -> &'s mut Value {
        let found = self.name.split('.').fold(schema, |schema, part| &mut schema["properties"][part]);
        if self.list { &mut found["items"] } else { found }
    }
}

/// All sections with all keys, in the order of the code.
fn sections() -> Vec<Section> {
    let text = toml::to_string(&with_examples()).expect("settings are tables of plain values");
    let mut sections = Vec::new();
    for line in text.lines() {
        let inside = |open: &str, close: &str| line.strip_prefix(open)?.strip_suffix(close).map(str::to_owned);
        if let Some(name) = inside("[[", "]]") {
            sections.push(Section { name, list: true, keys: Vec::new() });
        } else if let Some(name) = inside("[", "]") {
            sections.push(Section { name, list: false, keys: Vec::new() });
        } else if let (Some(section), Some((key, default))) = (sections.last_mut(), line.split_once(" = ")) {
            section.keys.push((key.to_owned(), default.to_owned()));
        }
    }
    sections.retain(|section| !section.keys.is_empty());
    sections
}

/// The paths of the keys whose default is refused: they must be given.
fn must_be_given() -> Vec<String> {
    let report = with_examples().validate().err();
    report.iter().flat_map(|report| report.iter()).map(|(path, _)| path.to_string()).collect()
}

/// A JSON schema of the configuration (draft 7, which editors of TOML know).
pub fn schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    schema["title"] = "answerd's configuration".into();
    tidy(&mut schema);
    let given = must_be_given();
    for section in sections() {
        let part = section.of(&mut schema);
        for (key, default) in &section.keys {
            let property = &mut part["properties"][key];
            if section.is_reloadable(key) {
                let says = property["description"].as_str().unwrap_or_default();
                property["description"] = format!("{says} Takes effect with a reload.").into();
            }
            let property = property.as_object_mut().expect("a schema");
            if given.contains(&section.path(key)) {
                property.remove("default");
                let required = part.as_object_mut().expect("a schema").entry("required").or_insert_with(|| json!([]));
                required.as_array_mut().expect("a list").push(key.as_str().into());
            } else {
                property.insert("default".to_owned(), value_of(default));
            }
        }
    }
    schema
}

/// Makes plain text of doc comments, and leaves out the defaults of sections: each key has its own.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.contains_key("properties") {
                members.remove("default");
            }
            if let Some(Value::String(text)) = members.get_mut("description") {
                let words: Vec<&str> = text.split_whitespace().collect();
                *text = words.join(" ").replace("[`", "`").replace("`]", "`");
            }
            members.values_mut().for_each(tidy);
        }
        Value::Array(values) => values.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// A TOML value as JSON.
fn value_of(toml: &str) -> Value {
    let table: toml::Table = format!("v = {toml}").parse().expect("it was written as TOML");
    serde_json::to_value(&table["v"]).unwrap_or_default()
}

/// The reference, as Markdown.
pub fn markdown() -> String {
    let (mut schema, given) = (schema(), must_be_given());
    let mut text = HEAD.to_owned();
    for section in sections() {
        let part = section.of(&mut schema).clone();
        let (open, close) = if section.list { ("[[", "]]") } else { ("[", "]") };
        let _ = writeln!(text, "\n## {open}{}{close}\n\n{}", section.name, intro(&part));
        if section.list {
            let _ = writeln!(text, "\nAll of them at once: `{}`.", variable(&section.name));
        }
        text.push_str("\n| key | default | value | reload | what it is for |\n| --- | --- | --- | --- | --- |\n");
        for (key, default) in &section.keys {
            let property = &part["properties"][key];
            let mut name = format!("`{key}`");
            if !section.list {
                let _ = write!(name, "<br>`{}`", variable(&section.path(key)));
            }
            let default = match given.contains(&section.path(key)) {
                true => "must be given".to_owned(),
                false => format!("`{}`", grouped(default)),
            };
            let reload = if section.is_reloadable(key) { "yes" } else { "no" };
            let says = property["description"].as_str().unwrap_or_default();
            let says = says.strip_suffix(" Takes effect with a reload.").unwrap_or(says);
            let cells =
                [name, default, value_type(property), reload.to_owned(), format!("{says}{}", choices(property))];
            let _ = writeln!(text, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
        }
    }
    text
}

/// The environment variable of a path.
fn variable(path: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", path.replace('.', "__").to_uppercase())
}

/// What a section is for, without its name, which is the heading.
fn intro(section: &Value) -> String {
    let says = section["description"].as_str().unwrap_or_default();
    let says = says.strip_prefix("`[").and_then(|says| says.split_once("`: ")).map_or(says, |(_, says)| says);
    let mut letters = says.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// The type of a value and its limits.
fn value_type(property: &Value) -> String {
    if let Some(values) = variants(property) {
        return values.iter().map(|(name, _)| format!("`\"{name}\"`")).collect::<Vec<_>>().join(", ");
    }
    let (name, low, high, unit) = match property["type"].as_str() {
        Some("integer") => ("whole number", "minimum", "maximum", ""),
        Some("number") => ("number", "minimum", "maximum", ""),
        Some("string") => ("text", "minLength", "maxLength", " bytes"),
        Some("array") => ("list of texts", "minItems", "maxItems", " entries"),
        Some("boolean") => ("`true` or `false`", "", "", ""),
        _ => ("", "", "", ""),
    };
    let bound = |name: &str| property.get(name).and_then(Value::as_f64).map(|bound| grouped(&bound.to_string()));
    match (bound(low).filter(|low| low != "0" || name == "number"), bound(high)) {
        (Some(low), Some(high)) => format!("{name}, {low} to {high}{unit}"),
        (Some(low), None) => format!("{name}, {low} or more{unit}"),
        (None, Some(high)) => format!("{name}, up to {high}{unit}"),
        (None, None) => name.to_owned(),
    }
}

/// What each of some fixed values means.
fn choices(property: &Value) -> String {
    let said = variants(property).unwrap_or_default().into_iter().filter(|(_, says)| !says.is_empty());
    said.map(|(name, says)| format!("<br>`{name}`: {says}")).collect()
}

/// The fixed values of a setting, with what each means.
fn variants(property: &Value) -> Option<Vec<(String, String)>> {
    let text = |value: &Map<String, Value>, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let one = |value: &Value| {
        let value = value.as_object()?;
        Some((text(value, "const")?, text(value, "description").unwrap_or_default()))
    };
    property["oneOf"].as_array()?.iter().map(one).collect()
}

/// A number with its thousands apart, as TOML writes it; anything else as it is.
fn grouped(text: &str) -> String {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.len() < 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.to_owned();
    }
    let mut grouped = String::new();
    for (n, digit) in text.char_indices() {
        if n > 0 && (text.len() - n).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push('_');
        }
        grouped.push(digit);
    }
    grouped
}
