//! Instances, one after the other, as they become rows of the inputs: the row form of TF-Serving and JSON Lines.
//!
//! An instance is an object by input name, or, for a model with one input, that input's row itself. A model with one
//! input also takes the name `features`, which is what SageMaker's own algorithms call theirs.

use std::collections::HashMap;

use jiter::Peek;

use crate::codec::column::{Column, column};
use crate::codec::element::Kind;
use crate::codec::error::{DecodeError, Fault, InputError, excerpt, takes};
use crate::codec::fit::Form;
use crate::codec::json_reader::Reader;
use crate::tensor::{Signature, Tensor};

/// SageMaker's name for the only input.
const ALIAS: &str = "features";
/// From this many inputs on, names are looked up in a table.
const MANY: usize = 16;

/// The inputs of a signature by name.
pub(super) struct Names<'s> {
    signature: &'s Signature,
    table: HashMap<&'s str, usize>,
    /// Where the next name probably is: objects mostly have their keys in the model's order.
    guess: usize,
}

impl<'s> Names<'s> {
    pub fn new(signature: &'s Signature) -> Self {
        let inputs = signature.inputs.iter().enumerate();
        Self {
            signature,
            table: if signature.inputs.len() < MANY {
                HashMap::new()
            } else {
                inputs.map(|(i, input)| (input.name.as_str(), i)).collect()
            },
            guess: 0,
        }
    }

    pub fn find(&mut self, name: &str) -> Option<usize> {
        let inputs = &self.signature.inputs;
        let found = if inputs.get(self.guess).is_some_and(|input| input.name == name) {
            Some(self.guess)
        } else if self.table.is_empty() {
            inputs.iter().position(|input| input.name == name)
        } else {
            self.table.get(name).copied()
        };
        let found = found.or_else(|| (name == ALIAS && inputs.len() == 1).then_some(0));
        self.guess = found.map_or(0, |i| i + 1);
        found
    }
}

#[cold]
pub(super) fn unknown_input(signature: &Signature, name: &str, at: String) -> Fault {
    InputError::Unknown {
        name: excerpt(name),
        at,
        takes: takes(signature),
    }
    .into()
}

#[cold]
pub(super) fn missing_input(signature: &Signature, index: usize, at: String) -> Fault {
    InputError::Missing {
        name: excerpt(&signature.inputs[index].name),
        at,
        takes: takes(signature),
    }
    .into()
}

#[cold]
pub(super) fn duplicate_input(signature: &Signature, index: usize, at: String) -> Fault {
    InputError::Duplicate {
        name: excerpt(&signature.inputs[index].name),
        at,
    }
    .into()
}

/// Whether the object that comes next is a binary string (`{"b64": ".."}`) of a model with one string input, and not
/// an object by input name.
pub(super) fn is_binary_string(reader: &Reader<'_>, signature: &Signature) -> Result<bool, Fault> {
    let [input] = signature.inputs.as_slice() else {
        return Ok(false);
    };
    if input.data_type != <String as Kind>::DATA_TYPE || input.name == "b64" {
        return Ok(false);
    }
    let mut ahead = reader.clone();
    Ok(ahead.peek()? == Peek::Object && ahead.enter_object()? == Some("b64"))
}

/// The inputs while instances are added to them.
pub(super) struct Rows<'s> {
    signature: &'s Signature,
    names: Names<'s>,
    columns: Vec<Box<dyn Column + 's>>,
    /// For each input the number of instances after which it was last seen.
    seen: Vec<usize>,
    count: usize,
}

impl<'s> Rows<'s> {
    /// `most` is a bound on the number of elements that can come, of all inputs together.
    pub fn new(signature: &'s Signature, most: usize) -> Self {
        let most = most / signature.inputs.len().max(1);
        Self {
            signature,
            names: Names::new(signature),
            columns: signature.inputs.iter().map(|input| column(input, most)).collect(),
            seen: vec![0; signature.inputs.len()],
            count: 0,
        }
    }

    /// Adds the instance that `first` begins.
    pub fn read(&mut self, reader: &mut Reader<'_>, first: Peek) -> Result<(), Fault> {
        self.count += 1;
        if first == Peek::Object && !is_binary_string(reader, self.signature)? {
            return self.read_object(reader);
        }
        match self.columns.as_mut_slice() {
            [only] => only.read(reader, first, 1),
            _ => Err(InputError::Unnamed {
                what: "an instance that is not an object",
                takes: takes(self.signature),
                instead: "give objects by input name",
            }
            .into()),
        }
    }

    fn read_object(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let mut given = 0;
        let mut key = reader.enter_object()?;
        while let Some(name) = key {
            let Some(index) = self.names.find(name) else {
                let name = name.to_owned();
                return Err(unknown_input(self.signature, &name, self.place(reader)));
            };
            if std::mem::replace(&mut self.seen[index], self.count) == self.count {
                return Err(duplicate_input(self.signature, index, self.place(reader)));
            }
            given += 1;
            let first = reader.peek()?;
            self.columns[index].read(reader, first, 1)?;
            key = reader.next_key()?;
        }
        if given < self.columns.len()
            && let Some(index) = self.seen.iter().position(|&seen| seen != self.count)
        {
            return Err(missing_input(self.signature, index, self.place(reader)));
        }
        Ok(())
    }

    fn place(&self, reader: &Reader<'_>) -> String {
        match reader.line_number() {
            Some(line) => format!(" at line {line}"),
            None => format!(" in instance [{}]", self.count - 1),
        }
    }

    /// The inputs, and the number of instances in them.
    pub fn finish(self) -> Result<(Vec<Tensor>, usize), DecodeError> {
        let none = self.count == 0;
        let finish = |column: Box<dyn Column + 's>| {
            if none {
                column.finish_shaped(vec![0], Form::Rows)
            } else {
                column.finish(Form::Rows)
            }
        };
        let inputs = self.columns.into_iter().map(finish).collect::<Result<_, _>>()?;
        Ok((inputs, self.count))
    }
}
