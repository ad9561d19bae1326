//! Decides whether the first line of a CSV body is a header.
//!
//! The first line is a header if all its cells are names of inputs or of the manifest's columns, in
//! any order. The columns are then assigned by name. The media type's `header` parameter (RFC 4180)
//! and the manifest override this: with `absent` the first line is always a record, with `present`
//! always a header.

use std::borrow::Cow;

use crate::codec::element::{ElementKind, with_kind};
use crate::codec::error::{DecodeError, InputError, describe_inputs, excerpt, listed};
use crate::codec::schema::{NameTarget, Schema};
use crate::codec::table::{NamedLayout, TableLayout};
use crate::tensor::DataType;

/// The role of the first line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FirstLine {
    Record,
    /// A header. `None` if the columns of the model have no names, so that they are assigned by
    /// position anyway.
    Header(Option<TableLayout>),
}

/// Decides the role of the first line, which has these `cells`. `is_header` is the setting of the
/// request or the manifest.
pub(super) fn first_line(
    schema: &Schema,
    cells: &[Cow<'_, str>],
    is_header: Option<bool>,
) -> Result<FirstLine, DecodeError> {
    let names: Vec<&str> = cells.iter().map(|cell| name_in(cell)).collect();
    match is_header {
        Some(false) => Ok(FirstLine::Record),
        None => {
            // In most bodies, the first cell already shows that the line is not a header.
            if !schema.ignores_unknown() && names.first().is_none_or(|name| schema.find(name).is_none()) {
                return Ok(FirstLine::Record);
            }
            let named = TableLayout::by_name(schema, &names);
            let is_all_names = named.unknown.is_empty() || (schema.ignores_unknown() && named.layout.is_ok());
            if named.known == 0 || named.repeated.is_some() || !is_all_names || is_numbers(schema, &names) {
                return Ok(FirstLine::Record);
            }
            by_name(schema, named)
        }
        Some(true) => {
            let named = TableLayout::by_name(schema, &names);
            if named.known == 0 && !schema.has_named_columns(cells.len()) {
                return Ok(FirstLine::Header(None));
            }
            by_name(schema, named)
        }
    }
}

fn by_name(schema: &Schema, named: NamedLayout<'_>) -> Result<FirstLine, DecodeError> {
    if let Some(name) = named.repeated {
        let (name, at) = (excerpt(name), " in the header".to_owned());
        return Err(InputError::Duplicate { name, at }.into());
    }
    if !named.unknown.is_empty() && !schema.ignores_unknown() {
        let unknown = listed(named.unknown.iter().map(|name| excerpt(name)));
        return Err(schema.layout_error(format!(
            "the header names {unknown}, which the model does not take; leave them out, or set unknown_inputs to \"ignore\" \
             in longshore.json"
        )));
    }
    match named.layout {
        Ok(layout) => Ok(FirstLine::Header(Some(layout))),
        Err(missing) => Err(InputError::Missing {
            name: excerpt(&missing),
            at: " in the header".to_owned(),
            takes: describe_inputs(schema.signature()),
        }
        .into()),
    }
}

/// Trims a cell and removes its quotes. Quotes after leading blanks are part of the cell's text.
fn name_in(cell: &str) -> &str {
    let text = cell.trim();
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    quoted.map_or(text, str::trim)
}

/// Whether all names are also valid numbers for their inputs, as some old exporters name inputs.
/// The line is then a record.
fn is_numbers(schema: &Schema, names: &[&str]) -> bool {
    names.iter().all(|name| {
        let input = match schema.find(name) {
            Some(NameTarget::Input(input)) => input,
            Some(NameTarget::Column(column)) => schema.columns()[column].input,
            Some(NameTarget::Optional(_)) | None => return true,
        };
        let data_type = schema.signature().inputs[input].data_type;
        data_type != DataType::String && with_kind!(data_type, K => K::from_cell(name).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::schema::{SchemaAdditions, TableColumn};
    use crate::codec::testing::{input, signature};
    use crate::tensor::InputSpec;

    /// The decision about a first line.
    #[derive(Debug, PartialEq)]
    enum Decided {
        Record,
        ByName,
        ByPosition,
        Refused(String),
    }

    fn decided(schema: &Schema, line: &str, is_header: Option<bool>) -> Decided {
        let cells: Vec<Cow<'_, str>> = line.split(',').map(Cow::Borrowed).collect();
        match first_line(schema, &cells, is_header) {
            Ok(FirstLine::Record) => Decided::Record,
            Ok(FirstLine::Header(Some(_))) => Decided::ByName,
            Ok(FirstLine::Header(None)) => Decided::ByPosition,
            Err(error) => Decided::Refused(error.to_string()),
        }
    }

    #[test]
    fn a_line_of_the_models_names_is_a_header() {
        use DataType::{F32, String as Text};
        use Decided::{ByName, ByPosition, Record};
        let texts = [input("name", Text, &[-1]), input("city", Text, &[-1, 1])];
        let mixed = [input("age", F32, &[-1, 1]), input("city", Text, &[-1, 1])];
        let wide = [input("x", Text, &[-1, 13])];
        let open = [input("x", Text, &[-1, -1])];
        let number = [input("0", F32, &[-1, 1])];
        let exported = [input("Culmen_Length__mm_", F32, &[-1, 1]), input("x:0", F32, &[-1, 1])];
        let (present, absent) = (Some(true), Some(false));
        let table: [(&[InputSpec], &str, Option<bool>, Decided); 18] = [
            (&texts, "name,city", None, ByName),
            (&texts, " city ,name", None, ByName),
            (&texts, "name, \"city\"", None, ByName),
            (&texts, "name,city", absent, Record),
            (&texts, "name,town", None, Record),
            (&texts, "name,name", None, Record),
            (&texts, "Name,City", None, Record),
            (&mixed, "age,city", None, ByName),
            (&mixed, "7,city", None, Record),
            (&wide, "x", None, Record),
            (&wide, "a,b,c", present, ByPosition),
            (&open, "x", None, ByName),
            (&open, "a,b", None, Record),
            (&open, "a,b", present, ByPosition),
            (&number, "0", None, Record),
            (&number, "0", present, ByName),
            (&exported, "Culmen Length (mm),x", None, ByName),
            (&[], "x", None, Record),
        ];
        for (inputs, line, is_header, expected) in table {
            let schema = Schema::of(signature(inputs, &[]));
            assert_eq!(
                decided(&schema, line, is_header),
                expected,
                "{line} {is_header:?} {inputs:?}"
            );
        }
    }

    #[test]
    fn a_header_may_name_the_manifests_columns_and_errors_name_missing_and_unknown_ones() {
        let column = |name: &str, default: Option<&str>| TableColumn {
            name: name.to_owned(),
            aliases: vec![format!("{name}_old")],
            input: 0,
            default: default.map(ToOwned::to_owned),
        };
        let schema = |ignores_unknown| {
            Schema::new(
                signature(&[input("x", DataType::F32, &[-1, 3])], &[]),
                SchemaAdditions {
                    columns: vec![column("a", None), column("b", None), column("c", Some("0"))],
                    ignores_unknown,
                    ..SchemaAdditions::default()
                },
            )
        };
        let (strict, lenient) = (schema(false), schema(true));
        let missing = "input \"b\" is missing in the header";
        let unknown = "the header names \"other\", which the model does not take";
        let table = [
            (&strict, "c,b,a", None, Ok(Decided::ByName)),
            (&strict, "b_old,a", None, Ok(Decided::ByName)),
            (&strict, "1,2,3", None, Ok(Decided::Record)),
            (&strict, "a,b,other", None, Ok(Decided::Record)),
            (&strict, "a,c", None, Err(missing)),
            (&strict, "a,b,other", Some(true), Err(unknown)),
            (
                &strict,
                "a,a_old,b",
                Some(true),
                Err("input \"a_old\" is given twice in the header"),
            ),
            (&lenient, "other,b,a", None, Ok(Decided::ByName)),
            (&lenient, "other,a", None, Ok(Decided::Record)),
            (&lenient, "other,a", Some(true), Err(missing)),
        ];
        for (schema, line, is_header, expected) in table {
            let decided = decided(schema, line, is_header);
            match (expected, decided) {
                (Err(beginning), Decided::Refused(refusal)) => {
                    assert!(refusal.starts_with(beginning), "{line}: {refusal}")
                }
                (expected, decided) => assert_eq!(Ok(decided), expected, "{line} {is_header:?}"),
            }
        }
    }
}
