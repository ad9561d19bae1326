//! Whether the first line of a CSV body is a header, decided by the names of the model's inputs.
//!
//! A table has column names only where each input is one column. A first line that holds exactly these names, in any
//! order, is a header: the columns are dealt to the inputs by name. The media type's `header` parameter (RFC 4180) is
//! heard: `absent` makes the first line a record in any case, `present` makes it a header in any case.

use std::borrow::Cow;

use crate::codec::element::{Kind, with_kind};
use crate::codec::error::{excerpt, takes};
use crate::tensor::{DataType, Dim, InputSpec, Signature};

/// What a request says of its first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::codec) enum Said {
    Nothing,
    Present,
    Absent,
}

impl Said {
    /// Reads the `header` parameter of a media type.
    pub fn parse(parameter: Option<&str>) -> Option<Self> {
        match parameter {
            None => Some(Self::Nothing),
            Some(value) if value.eq_ignore_ascii_case("present") => Some(Self::Present),
            Some(value) if value.eq_ignore_ascii_case("absent") => Some(Self::Absent),
            Some(_) => None,
        }
    }
}

/// What a first line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FirstLine {
    Record,
    /// A header, and for each input the position of its column; `None` where the columns are in the model's order.
    Header(Option<Vec<usize>>),
}

/// Decides what the line with these `cells` is.
pub(super) fn first_line(signature: &Signature, cells: &[Cow<'_, str>], said: Said) -> Result<FirstLine, String> {
    let named = columns_by_name(signature, cells);
    match (said, named) {
        (Said::Absent, _) | (Said::Nothing, None) => Ok(FirstLine::Record),
        (Said::Nothing, Some(_)) if is_numbers(signature, cells) => Ok(FirstLine::Record),
        (Said::Nothing | Said::Present, Some(order)) => {
            let is_in_order = order.iter().enumerate().all(|(input, column)| input == *column);
            Ok(FirstLine::Header((!is_in_order).then_some(order)))
        }
        // The columns of an input have no names of their own.
        (Said::Present, None) if !signature.inputs.iter().all(may_be_one_column) => Ok(FirstLine::Header(None)),
        (Said::Present, None) => match signature.inputs.as_slice() {
            [_] if cells.len() != 1 => Ok(FirstLine::Header(None)),
            _ => Err(format!(
                "the header must name each input of the model once, as it takes {}; it begins with {}",
                takes(signature),
                excerpt(cells.first().map_or("", |cell| cell))
            )),
        },
    }
}

/// For each input the position of the cell that is its name, when the cells are all names and nothing else.
fn columns_by_name(signature: &Signature, cells: &[Cow<'_, str>]) -> Option<Vec<usize>> {
    if cells.len() != signature.inputs.len() || !signature.inputs.iter().all(may_be_one_column) {
        return None;
    }
    // Names of inputs differ from each other, so as many names found are all cells.
    let position = |input: &InputSpec| cells.iter().position(|cell| name_in(cell) == input.name.trim());
    let order = signature.inputs.iter().map(position).collect::<Option<Vec<usize>>>()?;
    let mut seen = vec![false; cells.len()];
    order
        .iter()
        .all(|&column| !std::mem::replace(&mut seen[column], true))
        .then_some(order)
}

/// A cell without blanks around it, and without quotes that blanks before them have made part of the text.
fn name_in(cell: &str) -> &str {
    let text = cell.trim();
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    quoted.map_or(text, str::trim)
}

/// Whether a row of the input can be one cell.
fn may_be_one_column(input: &InputSpec) -> bool {
    let dims = input.dims.iter().flatten().skip(1);
    dims.into_iter().all(|dim| match dim {
        Dim::Fixed(size) => *size == 1,
        Dim::Dynamic(_) => true,
    })
}

/// Whether the names are numbers, as those of old exporters, and the inputs take them: the line is a record then.
fn is_numbers(signature: &Signature, cells: &[Cow<'_, str>]) -> bool {
    let mut pairs = signature.inputs.iter().zip(cells);
    pairs.all(|(input, cell)| {
        input.data_type != DataType::String && with_kind!(input.data_type, K => K::from_cell(cell.trim()).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::{input, signature};

    fn decided(inputs: &[InputSpec], line: &str, said: Said) -> Result<FirstLine, String> {
        let cells: Vec<Cow<'_, str>> = line.split(',').map(Cow::Borrowed).collect();
        first_line(&signature(inputs, &[]), &cells, said)
    }

    #[test]
    fn a_line_that_holds_the_names_of_the_inputs_is_a_header() {
        use DataType::{F32, String as Text};
        use FirstLine::{Header, Record};
        use Said::{Absent, Nothing, Present};
        let texts = [input("name", Text, &[-1]), input("city", Text, &[-1, 1])];
        let mixed = [input("age", F32, &[-1, 1]), input("city", Text, &[-1, 1])];
        let wide = [input("x", Text, &[-1, 13])];
        let open = [input("x", Text, &[-1, -1])];
        let number = [input("0", F32, &[-1, 1])];
        let table: [(&[InputSpec], &str, Said, FirstLine); 18] = [
            (&texts, "name,city", Nothing, Header(None)),
            (&texts, " city ,name", Nothing, Header(Some(vec![1, 0]))),
            (&texts, "name, \"city\"", Nothing, Header(None)),
            (&texts, "name,city", Absent, Record),
            (&texts, "name,town", Nothing, Record),
            (&texts, "name,name", Nothing, Record),
            (&texts, "name", Nothing, Record),
            (&texts, "Name,City", Nothing, Record),
            (&mixed, "age,city", Nothing, Header(None)),
            (&mixed, "7,city", Nothing, Record),
            (&wide, "x", Nothing, Record),
            (&wide, "a,b,c", Present, Header(None)),
            (&open, "x", Nothing, Header(None)),
            (&open, "a,b", Nothing, Record),
            (&open, "a,b", Present, Header(None)),
            (&number, "0", Nothing, Record),
            (&number, "0", Present, Header(None)),
            (&[], "x", Nothing, Record),
        ];
        for (inputs, line, said, expected) in table {
            assert_eq!(decided(inputs, line, said), Ok(expected), "{line} {said:?} {inputs:?}");
        }
        let refusal = decided(&texts, "name,town", Present).unwrap_err();
        assert!(
            refusal.starts_with("the header must name each input of the model once"),
            "{refusal}"
        );
    }

    #[test]
    fn the_parameter_is_present_or_absent() {
        assert_eq!(Said::parse(None), Some(Said::Nothing));
        assert_eq!(Said::parse(Some("Present")), Some(Said::Present));
        assert_eq!(Said::parse(Some("absent")), Some(Said::Absent));
        assert_eq!(Said::parse(Some("maybe")), None);
    }
}
