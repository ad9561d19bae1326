//! A record of the log as one JSON object.
//!
//! The fields of the spans around an event are members of the object, like the event's own. So
//! each line about a model has `model` at the same place, whether the event itself or the load
//! around it names the model. An event therefore has no field named `timestamp`, `level` or
//! `message` of its own.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes events as JSON, with the fields of their spans.
#[derive(Debug)]
pub(super) struct JsonRecords;

/// The members of a record, in the order in which they are written.
#[derive(Default)]
struct Members(Vec<(String, Value)>);

impl Members {
    /// Adds a member unless a more specific one has the name.
    fn add(&mut self, name: &str, value: Value) {
        if self.0.iter().all(|(taken, _)| taken != name) {
            self.0.push((name.to_owned(), value));
        }
    }

    /// Adds a field of the event, which must not be lost.
    fn add_field(&mut self, field: &Field, value: Value) {
        debug_assert!(
            self.0.iter().all(|(taken, _)| taken != field.name()),
            "a record has two members named {}",
            field.name()
        );
        self.add(field.name(), value);
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Visit for Members {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add_field(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add_field(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add_field(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add_field(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_field(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_field(field, format!("{value:?}").into());
    }
}

impl<S> FormatEvent<S, JsonFields> for JsonRecords
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut members = Members::default();
        members.add("timestamp", time.into());
        members.add("level", event.metadata().level().as_str().into());
        event.record(&mut members);
        // The innermost span comes first, because its fields are more specific.
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>();
            let fields = fields.and_then(|fields| serde_json::from_str::<Map<String, Value>>(&fields.fields).ok());
            for (name, value) in fields.into_iter().flatten() {
                members.add(&name, value);
            }
        }
        let record = serde_json::to_string(&members).map_err(|_| fmt::Error)?;
        writeln!(writer, "{record}")
    }
}

/// A line of a container's log as a record of ours, with its newline. Records of our own servers
/// keep their members.
pub(super) fn forwarded(container: &str, line: &str) -> String {
    let mut members = match serde_json::from_str(line) {
        Ok(Value::Object(record)) => Members(record.into_iter().collect()),
        Ok(_) | Err(_) => Members(vec![("message".to_owned(), line.into())]),
    };
    members.add("container", container.into());
    serde_json::to_string(&members).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Written {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn record(log: impl FnOnce()) -> Value {
        let written = Written::default();
        let layer = tracing_subscriber::fmt::layer().json().event_format(JsonRecords);
        let subscriber = tracing_subscriber::registry().with(layer.with_writer(written.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn fields_of_spans_are_members_of_the_record() {
        let record = record(|| {
            let _outer = tracing::error_span!("load", model = "outer", target_model = "a.tar.gz").entered();
            let _inner = tracing::error_span!("step", model = "inner").entered();
            tracing::info!(load_ms = 1.5, count = 2, ready = true, "model loaded");
        });
        let text = |name: &str| record[name].as_str().unwrap_or_else(|| panic!("{name}: {record:?}"));
        assert_eq!((text("message"), text("level")), ("model loaded", "INFO"));
        assert_eq!((text("model"), text("target_model")), ("inner", "a.tar.gz"));
        assert_eq!(
            (&record["load_ms"], &record["count"], &record["ready"]),
            (&1.5.into(), &2.into(), &true.into())
        );
        assert!(text("timestamp").ends_with('Z'));
    }

    #[test]
    fn a_line_of_a_container_becomes_a_record() {
        let text = forwarded("a/b", "plain \"text\"");
        assert_eq!(text, "{\"message\":\"plain \\\"text\\\"\",\"container\":\"a/b\"}\n");
        let record: Value = serde_json::from_str(&forwarded("a/b", r#"{"message":"x","model":"m"}"#)).unwrap();
        assert_eq!(
            record,
            serde_json::json!({"message": "x", "model": "m", "container": "a/b"})
        );
    }

    #[test]
    fn an_event_keeps_its_own_fields() {
        let record = record(|| {
            let _span = tracing::error_span!("load", model = "of the span").entered();
            tracing::warn!(model = "of the event", "x");
        });
        assert_eq!(record["model"], "of the event");
    }

    #[test]
    #[should_panic(expected = "two members named level")]
    fn a_field_with_a_reserved_name_is_found_by_tests() {
        record(|| tracing::warn!(level = "mine", "x"));
    }
}
