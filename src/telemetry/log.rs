//! The log, on standard error: lines for people, or a JSON object a line for machines.

use std::fmt::{self, Write};
use std::io::IsTerminal;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::{JsonFields, Writer, debug_fn};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Lines for people.
pub fn text<S: Subscriber + for<'s> LookupSpan<'s>>() -> impl Layer<S> + Send + Sync {
    let colours = std::io::stderr().is_terminal();
    // One by one with a space before each, so that one that is left out leaves nothing behind.
    let fields = debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        name if is_of_traces(name) => Ok(()),
        name => write!(writer, " {name}={value:?}"),
    });
    let layer = tracing_subscriber::fmt::layer().fmt_fields(fields).with_writer(std::io::stderr);
    layer.with_ansi(colours).with_target(false)
}

/// Whether a field is for traces alone: those have the names of OpenTelemetry's conventions, with dots in them.
fn is_of_traces(name: &str) -> bool {
    name.contains('.')
}

/// A JSON object a line.
pub fn json<S: Subscriber + for<'s> LookupSpan<'s>>() -> impl Layer<S> + Send + Sync {
    tracing_subscriber::fmt::layer().fmt_fields(JsonFields::new()).event_format(Json).with_writer(std::io::stderr)
}

/// One flat object an event: `timestamp`, `level`, `target`, `message`, its own fields, and those of the spans it happened in
/// (`request_id`, `trace_id`, `answer`, ...), the innermost first.
struct Json;

impl<S: Subscriber + for<'s> LookupSpan<'s>> FormatEvent<S, JsonFields> for Json {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        let mut now = String::new();
        SystemTime.format_time(&mut Writer::new(&mut now))?;
        line.insert("timestamp".to_owned(), now.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        event.record(&mut Fields(&mut line));
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(fields) = extensions.get::<FormattedFields<JsonFields>>() else { continue };
            let fields: Map<String, Value> = serde_json::from_str(fields).unwrap_or_default();
            for (name, value) in fields.into_iter().filter(|(name, _)| !is_of_traces(name)) {
                line.entry(name).or_insert(value);
            }
        }
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

/// The fields of an event, as members of an object.
struct Fields<'l>(&'l mut Map<String, Value>);

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = write!(text, "{value:?}");
        self.0.insert(field.name().to_owned(), text.into());
    }
}
