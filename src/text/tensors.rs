//! Converts tokens to the tensors of a model's inputs.
//!
//! Exporters use few names for token inputs, and all of them have the shape [batch, tokens]. The
//! role of each input is decided once, when the model is loaded.

use half::f16;

use super::encoded::Encoded;
use super::error::TextError;
use super::options::Side;
use super::tokenizer::Tokenizer;
use crate::tensor::{DataType, Dim, InputSpec, Inputs, Signature, Tensor, TensorError};

/// The role of a token input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextRole {
    /// The ids of the tokens.
    Ids,
    /// 1 for tokens, 0 for padding.
    Mask,
    /// 1 for the tokens of the second text, if the tokenizer distinguishes the two texts of a pair.
    Types,
    /// The position of each token in its text.
    Positions,
}

impl TextRole {
    /// The role of an input with this name.
    pub fn of(name: &str) -> Option<Self> {
        // TensorFlow's exporters add a prefix and the number of the output.
        let name = name.strip_suffix(":0").unwrap_or(name);
        let name = name.strip_prefix("serving_default_").unwrap_or(name);
        Some(match name.to_ascii_lowercase().as_str() {
            "input_ids" | "inputs_ids" | "token_ids" | "tokens" | "ids" | "input_word_ids" | "input.1" | "input"
            | "text_input_ids" => Self::Ids,
            "attention_mask" | "input_mask" | "mask" | "text_attention_mask" => Self::Mask,
            "token_type_ids" | "segment_ids" | "input_type_ids" | "token_types" | "segments" | "type_ids" => {
                Self::Types
            }
            "position_ids" | "positions" => Self::Positions,
            _ => return None,
        })
    }

    /// The name of the role in transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ids => "input_ids",
            Self::Mask => "attention_mask",
            Self::Types => "token_type_ids",
            Self::Positions => "position_ids",
        }
    }
}

/// The token inputs of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextInputs {
    required: Vec<Bound>,
    /// Optional inputs, by their positions in the signature.
    optional: Vec<(usize, Bound)>,
    length: Option<usize>,
    batch: Option<usize>,
}

/// An input with its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    role: TextRole,
    data_type: DataType,
}

impl TextInputs {
    /// Finds the token inputs of a model; `None` if it has no input for ids. The error names inputs
    /// that texts cannot fill.
    pub fn bind(signature: &Signature) -> Result<Option<Self>, TextError> {
        let is_ids = |spec: &InputSpec| TextRole::of(&spec.name) == Some(TextRole::Ids) && is_whole(spec.data_type);
        if !signature.inputs.iter().any(is_ids) {
            return Ok(None);
        }
        let (mut length, mut batch) = (None, None);
        let mut missing = Vec::new();
        let mut required = Vec::new();
        for spec in &signature.inputs {
            match TextRole::of(&spec.name) {
                Some(role) => required.push(bound(spec, role, &mut batch, &mut length)?),
                None => missing.push(spec.name.as_str()),
            }
        }
        if !missing.is_empty() {
            missing.truncate(8);
            return Err(TextError::Inputs {
                names: missing.join(", "),
            });
        }
        let mut optional = Vec::new();
        for (position, spec) in signature.optional.iter().enumerate() {
            if let Some(role) = TextRole::of(&spec.name) {
                optional.push((position, bound(spec, role, &mut batch, &mut length)?));
            }
        }
        Ok(Some(Self {
            required,
            optional,
            length,
            batch,
        }))
    }

    /// The number of tokens in the model's inputs, if it is fixed.
    pub fn fixed_length(&self) -> Option<usize> {
        self.length
    }

    /// The number of texts in the model's inputs, if it is fixed.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.batch
    }

    /// Whether the model has a mask for padding. Without one, texts of different lengths in one run
    /// get wrong answers.
    pub fn has_mask(&self) -> bool {
        let optional = self.optional.iter().map(|(_, bound)| bound);
        self.required
            .iter()
            .chain(optional)
            .any(|bound| bound.role == TextRole::Mask)
    }

    /// Makes the tensors of the model's inputs, in its order.
    pub fn tensors(&self, encoded: &Encoded) -> Result<Inputs, TextError> {
        let tensor = |bound: &Bound| encoded.tensor(bound.role, bound.data_type);
        Ok(Inputs {
            tensors: self.required.iter().map(tensor).collect::<Result<_, _>>()?,
            optional: self
                .optional
                .iter()
                .map(|(position, bound)| Ok((*position, tensor(bound)?)))
                .collect::<Result<_, TextError>>()?,
        })
    }
}

const fn is_whole(data_type: DataType) -> bool {
    matches!(data_type, DataType::I64 | DataType::I32)
}

fn bound(
    spec: &InputSpec,
    role: TextRole,
    batch: &mut Option<usize>,
    length: &mut Option<usize>,
) -> Result<Bound, TextError> {
    let is_mask = role == TextRole::Mask;
    let may_be =
        is_whole(spec.data_type) || is_mask && matches!(spec.data_type, DataType::F32 | DataType::F16 | DataType::Bool);
    let refuse = |expected| TextError::InputType {
        name: spec.name.clone(),
        given: spec.to_string(),
        expected,
    };
    if !may_be {
        return Err(refuse("int64 or int32, a mask also float32, float16 or bool"));
    }
    let dims = match spec.dims.as_deref() {
        None => [&Dim::Dynamic(None), &Dim::Dynamic(None)],
        Some([rows, columns]) => [rows, columns],
        Some(_) => return Err(refuse("the shape [texts, tokens]")),
    };
    for (dim, fixed) in dims.into_iter().zip([batch, length]) {
        match (dim, *fixed) {
            (Dim::Dynamic(_), _) => {}
            (Dim::Fixed(size), None) if *size > 0 => *fixed = Some(*size),
            (Dim::Fixed(size), Some(other)) if *size == other => {}
            (Dim::Fixed(_), _) => return Err(refuse("one shape for all inputs")),
        }
    }
    Ok(Bound {
        role,
        data_type: spec.data_type,
    })
}

impl Tokenizer {
    /// The names and roles of the tensors that the tokenizer returns if it runs without a model.
    pub fn outputs(&self) -> Vec<(String, TextRole)> {
        let named = self.config().model_input_names.as_ref();
        let named: Vec<_> = named
            .into_iter()
            .flatten()
            .filter_map(|name| Some((name.clone(), TextRole::of(name)?)))
            .collect();
        if named.iter().any(|(_, role)| *role == TextRole::Ids) {
            return named;
        }
        let mut roles = vec![TextRole::Ids, TextRole::Mask];
        if self.makes_types() {
            roles.insert(1, TextRole::Types);
        }
        roles.into_iter().map(|role| (role.name().to_owned(), role)).collect()
    }
}

impl Encoded {
    /// Makes the tensor [texts, tokens] of a role. `data_type` is int64, int32 or, for a mask,
    /// float32, float16 or bool.
    pub fn tensor(&self, role: TextRole, data_type: DataType) -> Result<Tensor, TextError> {
        match data_type {
            DataType::I64 => self.fill(role, i64::from, Tensor::from_vec),
            DataType::I32 => self.fill(role, |id| i32::try_from(id).unwrap_or(i32::MAX), Tensor::from_vec),
            DataType::F32 => self.fill(role, |id| if id == 0 { 0.0f32 } else { 1.0 }, Tensor::from_vec),
            DataType::F16 => self.fill(role, |id| if id == 0 { f16::ZERO } else { f16::ONE }, Tensor::from_vec),
            DataType::Bool => self.fill(role, |id| u8::from(id != 0), Tensor::from_bools),
            _ => Err(TextError::InputType {
                name: role.name().to_owned(),
                given: data_type.to_string(),
                expected: "int64 or int32, a mask also float32, float16 or bool",
            }),
        }
    }

    fn fill<T: Copy>(
        &self,
        role: TextRole,
        convert: impl Fn(u32) -> T,
        tensor: impl FnOnce(Vec<usize>, Vec<T>) -> Result<Tensor, TensorError>,
    ) -> Result<Tensor, TextError> {
        let length = self.length();
        let count = length.checked_mul(self.rows.len()).ok_or(TextError::OutOfMemory)?;
        let mut values: Vec<T> = Vec::new();
        values.try_reserve_exact(count).map_err(|_| TextError::OutOfMemory)?;
        for row in &self.rows {
            let padding = std::iter::repeat_n(self.pad(role), length - row.len()).map(&convert);
            if self.pad_side == Side::Left {
                values.extend(padding.clone());
            }
            match (role, self.pad_side) {
                (TextRole::Ids, _) => values.extend(row.ids.iter().map(|&id| convert(id))),
                (TextRole::Types, _) => values.extend(row.type_ids.iter().map(|&id| convert(id))),
                (TextRole::Mask, _) => values.extend(std::iter::repeat_n(convert(1), row.len())),
                (TextRole::Positions, Side::Left) => values.extend(places(row.len()).map(&convert)),
                // Positions continue in the padding after a text, as with torch.arange.
                (TextRole::Positions, Side::Right) => {
                    values.extend(places(length).map(&convert));
                    continue;
                }
            }
            if self.pad_side == Side::Right {
                values.extend(padding);
            }
        }
        tensor(vec![self.rows.len(), length], values).map_err(|_| TextError::OutOfMemory)
    }

    /// The value for padding.
    fn pad(&self, role: TextRole) -> u32 {
        match role {
            TextRole::Ids => self.pad_id,
            TextRole::Types => self.pad_type_id,
            TextRole::Mask => 0,
            // transformers uses this position for padding before a text.
            TextRole::Positions => 1,
        }
    }
}

fn places(count: usize) -> impl Iterator<Item = u32> {
    (0..=u32::MAX).take(count)
}
