//! Runs the post-processor of a tokenizer file, which adds special tokens around texts and pairs.
//!
//! The library does not check templates and panics when one refers to a missing token or text. They
//! are checked here, when the model is loaded.

use serde_json::Value;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{Encoding, PostProcessor};

use super::error::{TextError, excerpt};
use super::limits::{STEPS, TEMPLATE_PIECES, TEMPLATE_TOKENS};

#[derive(Debug, Default)]
pub(super) struct PostProcess {
    library: Option<PostProcessorWrapper>,
}

impl PostProcess {
    /// Reads the value of `post_processor`.
    pub fn parse(value: &Value) -> Result<Self, TextError> {
        if value.is_null() {
            return Ok(Self::default());
        }
        check(value, &mut 0)?;
        let library: PostProcessorWrapper = serde_json::from_value(value.clone())
            .map_err(|error| TextError::file(format!("post-processor: {error}")))?;
        let added = library.added_tokens(true).max(library.added_tokens(false));
        if added > TEMPLATE_TOKENS {
            return Err(TextError::FileTooLarge {
                what: "tokens that the post-processor adds",
                given: added as u64,
                limit: TEMPLATE_TOKENS as u64,
            });
        }
        Ok(Self { library: Some(library) })
    }

    /// The number of tokens that it adds to a text, or to a pair.
    pub fn added(&self, is_pair: bool) -> usize {
        self.library.as_ref().map_or(0, |library| library.added_tokens(is_pair))
    }

    pub fn apply(
        &self,
        first: Encoding,
        second: Option<Encoding>,
        add_special_tokens: bool,
    ) -> Result<Encoding, TextError> {
        let processed = match &self.library {
            Some(library) => library.process(first, second, add_special_tokens),
            None => {
                let encodings = std::iter::once(first).chain(second).collect();
                <dyn PostProcessor>::default_process(encodings, add_special_tokens)
                    .map(|encodings| Encoding::merge(encodings, false))
            }
        };
        processed
            .map_err(|error| TextError::Options(format!("the post-processor failed: {}", excerpt(&error.to_string()))))
    }
}

/// Checks a post-processor and its parts recursively. `steps` counts them.
fn check(value: &Value, steps: &mut usize) -> Result<(), TextError> {
    *steps += 1;
    if *steps > STEPS {
        return Err(TextError::FileTooLarge {
            what: "steps of the post-processor",
            given: *steps as u64,
            limit: STEPS as u64,
        });
    }
    // The library ignores the type: an object with a list of parts is a sequence to it, and one
    // with a template is a template.
    if let Some(parts) = value.get("processors").and_then(Value::as_array) {
        parts.iter().try_for_each(|part| check(part, steps))?;
    }
    if value.get("single").is_some() || value.get("pair").is_some() {
        let tokens = value.get("special_tokens").unwrap_or(&Value::Null);
        check_template(value.get("single"), tokens, false)?;
        check_template(value.get("pair"), tokens, true)?;
    }
    Ok(())
}

fn check_template(template: Option<&Value>, tokens: &Value, is_pair: bool) -> Result<(), TextError> {
    let pieces = template.and_then(Value::as_array);
    let pieces = pieces.ok_or_else(|| TextError::file("a template must be a list of pieces"))?;
    if pieces.len() > TEMPLATE_PIECES {
        return Err(TextError::FileTooLarge {
            what: "pieces of a template",
            given: pieces.len() as u64,
            limit: TEMPLATE_PIECES as u64,
        });
    }
    for piece in pieces {
        let id = |kind: &str| {
            piece
                .get(kind)
                .and_then(|piece| piece.get("id"))
                .and_then(Value::as_str)
        };
        if let Some(id) = id("SpecialToken") {
            let count = |key: &str| tokens.get(id)?.get(key)?.as_array().map(Vec::len);
            let count = count("ids").filter(|ids| count("tokens") == Some(*ids));
            if count.is_none() {
                return Err(TextError::file(format!(
                    "a template has the special token {}, which is not in \"special_tokens\"",
                    excerpt(id)
                )));
            }
        } else if id("Sequence") == Some("B") && !is_pair {
            return Err(TextError::file(
                "the template for a single text refers to a second one, $B",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(single: Value, pair: Value, tokens: Value) -> Value {
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
    }

    #[test]
    fn rejects_templates_that_would_make_the_library_panic() {
        let a = json!({"Sequence": {"id": "A", "type_id": 0}});
        let b = json!({"Sequence": {"id": "B", "type_id": 1}});
        let cls = json!({"SpecialToken": {"id": "[CLS]", "type_id": 0}});
        let known = json!({"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}});
        let uneven = json!({"[CLS]": {"id": "[CLS]", "ids": [1, 2], "tokens": ["[CLS]"]}});
        let many = json!({"[CLS]": {"id": "[CLS]", "ids": vec![1; 2000], "tokens": vec!["[CLS]"; 2000]}});
        PostProcess::parse(&template(json!([cls, a]), json!([cls, a, b]), known.clone())).unwrap();
        let table = [
            (
                template(json!([cls, a]), json!([a, b]), json!({})),
                "is not in \"special_tokens\"",
            ),
            (
                template(json!([cls, a]), json!([a, b]), uneven),
                "is not in \"special_tokens\"",
            ),
            (
                template(json!([cls, a]), json!([a, b]), many),
                "tokens that the post-processor adds",
            ),
            (
                template(json!([a, b]), json!([a, b]), known.clone()),
                "a second one, $B",
            ),
            (
                template(json!([a]), json!(vec![a.clone(); 65]), known),
                "pieces of a template",
            ),
            (
                template(json!("$A"), json!([a, b]), json!({})),
                "must be a list of pieces",
            ),
        ];
        for (value, problem) in table {
            let error = PostProcess::parse(&value).unwrap_err().to_string();
            assert!(error.contains(problem), "{value}: {error}");
        }
    }
}
