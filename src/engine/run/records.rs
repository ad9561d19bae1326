//! The runs of a request: one for all of its records, one for each group that the request is divided
//! into, or one for each record where the outputs cannot be divided by record.

use crate::tensor::{Inputs, Signature, Value};

/// Runs a request and returns the outputs of each run. `further` holds the inputs of the runs after
/// the first one, for a request that has been divided into groups. `apart` returns how many records
/// of any other request have to run one by one, if they do: before the run, from what is known of
/// the model, and after it, from its outputs.
pub fn run<E>(
    signature: &Signature,
    inputs: &Inputs,
    further: &[Inputs],
    apart: impl Fn(Option<&[Value]>) -> Option<usize>,
    run: impl Fn(&Inputs) -> Result<Vec<Value>, E>,
) -> Result<Vec<Vec<Value>>, E> {
    if !further.is_empty() {
        return std::iter::once(inputs).chain(further).map(run).collect();
    }
    let count = match apart(None) {
        Some(count) => count,
        None => {
            let outputs = run(inputs)?;
            match apart(Some(&outputs)) {
                None => return Ok(vec![outputs]),
                Some(count) => count,
            }
        }
    };
    (0..count).map(|index| run(&inputs.record(signature, index))).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::tensor::{DataType, Dim, InputSpec, Tensor};

    fn vector(values: &[i64]) -> Tensor {
        Tensor::from_vec(vec![values.len()], values.to_vec()).unwrap()
    }

    /// The number of outputs, and the inputs of each run, of a request of three records.
    fn runs(apart: impl Fn(Option<&[Value]>) -> Option<usize>) -> (usize, Vec<Tensor>) {
        let signature = Signature {
            optional: Vec::new(),
            inputs: vec![InputSpec {
                name: "x".into(),
                data_type: DataType::I64,
                dims: Some(vec![Dim::Dynamic(None)]),
            }],
            outputs: Vec::new(),
        };
        let seen = RefCell::new(Vec::new());
        let outputs = run(&signature, &vec![vector(&[1, 2, 3])].into(), &[], apart, |inputs| {
            seen.borrow_mut().push(inputs.tensors[0].clone());
            Ok::<_, ()>(Vec::new())
        });
        (outputs.unwrap().len(), seen.into_inner())
    }

    #[test]
    fn records_run_together_or_one_by_one() {
        let all = vector(&[1, 2, 3]);
        let each = [vector(&[1]), vector(&[2]), vector(&[3])];
        assert_eq!(runs(|_| None), (1, vec![all.clone()]));
        assert_eq!(runs(|_| Some(3)), (3, each.to_vec()));
        let after = |outputs: Option<&[Value]>| outputs.map(|_| 3);
        assert_eq!(runs(after), (3, [vec![all], each.to_vec()].concat()));
        assert_eq!(runs(|_| Some(0)), (0, vec![]));
    }

    #[test]
    fn groups_run_in_their_order_and_are_not_divided_again() {
        let signature = Signature::default();
        let [first, second] = [vector(&[1, 2]), vector(&[3])].map(|tensor| Inputs::from(vec![tensor]));
        let apart = |_: Option<&[Value]>| -> Option<usize> { panic!("the groups are settled") };
        let outputs = run(&signature, &first, &[second], apart, |inputs| {
            Ok::<_, ()>(vec![Value::Tensor(inputs.tensors[0].clone())])
        });
        let given = [vector(&[1, 2]), vector(&[3])].map(|tensor| vec![Value::Tensor(tensor)]);
        assert_eq!(outputs.unwrap(), given);
    }
}
