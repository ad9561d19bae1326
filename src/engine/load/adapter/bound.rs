//! An adapter that was checked against the inputs of its base model.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Adapter, AdapterError, Parameter, brief};
use crate::engine::load::axes::{Axes, OutputAxis};
use crate::engine::load::content::ContentHash;
use crate::engine::load::output_rows;
use crate::engine::onnxruntime::session::InputPlace;
use crate::tensor::{InputSpec, Signature, Tensor};

/// Number of the model's inputs that an error names.
const MAX_INPUTS: usize = 8;

/// An adapter together with its base model: what requests give, and what the adapter adds.
#[derive(Debug)]
pub struct BoundAdapter {
    adapter: Arc<Adapter>,
    /// The base model's content with the adapter's.
    content: ContentHash,
    /// The base model's signature without the inputs that the adapter gives.
    signature: Signature,
    /// For each input of `signature` its place in the session.
    required: Vec<InputPlace>,
    /// The same for the optional inputs.
    optional: Vec<InputPlace>,
    /// For each parameter of the adapter its place in the session.
    parameters: Vec<InputPlace>,
}

impl BoundAdapter {
    /// Binds `adapter` to the model with the content `base` and the signature `of_base`.
    pub fn new(adapter: Arc<Adapter>, base: &ContentHash, of_base: &Signature) -> Result<Self, AdapterError> {
        let required = of_base.inputs.iter().enumerate();
        let required = required.map(|(index, spec)| (spec, InputPlace::Required(index)));
        let optional = of_base.optional.iter().enumerate();
        let optional = optional.map(|(index, spec)| (spec, InputPlace::Optional(index)));
        let places = required.clone().chain(optional.clone());
        let places: HashMap<&str, _> = places.map(|(spec, place)| (&*spec.name, (spec, place))).collect();
        let mut parameters = Vec::with_capacity(adapter.parameters.len());
        for parameter in &adapter.parameters {
            let known = places.get(&*parameter.name);
            let (spec, place) = known.ok_or_else(|| unknown_input(parameter, of_base))?;
            check(parameter, spec)?;
            parameters.push(*place);
        }
        let taken: HashSet<InputPlace> = parameters.iter().copied().collect();
        let is_left = |(_, place): &(&InputSpec, InputPlace)| !taken.contains(place);
        let left = |(spec, place): (&InputSpec, InputPlace)| (spec.clone(), place);
        let (inputs, required): (Vec<_>, Vec<_>) = required.filter(is_left).map(left).unzip();
        let (optional_inputs, optional): (Vec<_>, Vec<_>) = optional.filter(is_left).map(left).unzip();
        let mut signature = Signature {
            inputs,
            optional: optional_inputs,
            outputs: of_base.outputs.clone(),
        };
        for output in &mut signature.outputs {
            // What the shapes say changes with the inputs; what a trial has shown does not.
            if output.rows == output_rows::declared(&of_base.inputs, &output.value_type) {
                output.rows = output_rows::declared(&signature.inputs, &output.value_type);
            }
        }
        Ok(Self {
            content: base.with(&ContentHash::of(&adapter.hash)),
            adapter,
            signature,
            required,
            optional,
            parameters,
        })
    }

    /// The hash of the base model and the adapter.
    pub fn content(&self) -> &ContentHash {
        &self.content
    }

    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }

    /// The inputs and outputs that requests see.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Sets the rows of the outputs for which an analysis with the adapter's inputs proves them.
    pub fn set_proven_rows(&mut self, axes: &Axes) {
        for output in &mut self.signature.outputs {
            let proven = axes.of(&output.name).and_then(OutputAxis::proven_rows);
            output.rows = proven.unwrap_or(output.rows);
        }
    }

    /// The session's inputs for a request with these inputs, and the values of the adapter.
    pub fn given<'a>(
        &'a self,
        tensors: &'a [Tensor],
        optional: &'a [(usize, Tensor)],
    ) -> impl Iterator<Item = (InputPlace, &'a Tensor)> + Clone {
        let required = self.required.iter().copied().zip(tensors);
        let places = optional
            .iter()
            .filter_map(|(position, tensor)| Some((*self.optional.get(*position)?, tensor)));
        let values = self.adapter.parameters.iter().map(|parameter| &parameter.value);
        required
            .chain(places)
            .chain(self.parameters.iter().copied().zip(values))
    }
}

fn check(parameter: &Parameter, spec: &InputSpec) -> Result<(), AdapterError> {
    let Parameter { name, value } = parameter;
    if value.data_type() == spec.data_type && spec.accepts(value.shape()) {
        return Ok(());
    }
    Err(AdapterError::Mismatch {
        name: brief(name),
        given: parameter.value_type(),
        takes: spec.to_string(),
    })
}

fn unknown_input(parameter: &Parameter, of_base: &Signature) -> AdapterError {
    let count = of_base.all_inputs().count();
    let names = of_base.all_inputs().take(MAX_INPUTS);
    let names: Vec<String> = names.map(|input| format!("{:?}", brief(&input.name))).collect();
    let mut inputs = names.join(", ");
    if count > MAX_INPUTS {
        inputs.push_str(&format!(" and {} more", count - MAX_INPUTS));
    }
    AdapterError::UnknownInput {
        name: brief(&parameter.name),
        inputs,
    }
}
