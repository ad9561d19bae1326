//! Reads the steps after the network from a folder of sentence-transformers.
//!
//! `modules.json` lists the steps. Each has a folder; that of pooling contains its settings:
//!
//! ```text
//! modules.json             [{"path": "", "type": "sentence_transformers.models.Transformer"}, ..]
//! 1_Pooling/config.json    {"pooling_mode_mean_tokens": true, ..}
//! 2_Normalize/
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::task::error::excerpt;
use crate::task::outputs::OutputInfo;
use crate::task::settings::Pooling;
use crate::task::{AnswerSettings, TaskError};
use crate::tensor::Signature;

/// The steps after the network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SentenceModules {
    /// The pooling, and whether embeddings are normalized.
    pub settings: AnswerSettings,
    /// The first unsupported step: its kind and its folder.
    pub unsupported: Option<String>,
}

impl SentenceModules {
    /// Parses `modules.json`. `read` returns the text of the files that it names, if they exist.
    pub fn parse(modules: &str, read: impl Fn(&str) -> Option<String>) -> Result<Self, TaskError> {
        let wrong = |what: &str| TaskError::Unsupported(format!("modules.json: {what}"));
        let list: Json = serde_json::from_str(modules).map_err(|error| wrong(&error.to_string()))?;
        let list = list.as_array().ok_or_else(|| wrong("expected a list of modules"))?;
        let mut steps = Self::default();
        for module in list {
            let name = module.get("type").and_then(Json::as_str).unwrap_or_default();
            let path = module.get("path").and_then(Json::as_str).unwrap_or_default();
            let kind = name.rsplit('.').next().unwrap_or_default();
            match kind {
                "Transformer" | "Dropout" | "CLIPModel" => {}
                "Normalize" => steps.settings.normalize = Some(true),
                "Pooling" => {
                    let file = format!("{path}/config.json");
                    let text = read(&file).ok_or_else(|| wrong(&format!("there is no {}", excerpt(&file))))?;
                    steps.settings.pooling = Some(pooling(&file, &text)?);
                }
                _ if steps.unsupported.is_none() => {
                    steps.unsupported = Some(format!("{} in {}", excerpt(kind), excerpt(path)));
                }
                _ => {}
            }
        }
        Ok(steps)
    }

    /// Returns the settings for a model with these outputs. An unsupported step does not matter if
    /// the model returns sentence embeddings itself.
    pub fn check(&self, signature: &Signature) -> Result<AnswerSettings, TaskError> {
        let infos = OutputInfo::declared(signature);
        let is_pooled = infos
            .iter()
            .any(|info| super::POOLED.contains(&info.plain_name().as_str()));
        match &self.unsupported {
            Some(step) if !is_pooled => Err(TaskError::Unsupported(format!(
                "modules.json: the module {step} is not supported after the network; export the model with an \
                 output sentence_embedding"
            ))),
            // The graph contains these steps.
            _ if is_pooled => Ok(AnswerSettings::default()),
            _ => Ok(self.settings.clone()),
        }
    }
}

/// Reads the poolings of `1_Pooling/config.json`: a flag for each, or a name.
fn pooling(file: &str, text: &str) -> Result<Vec<Pooling>, TaskError> {
    const FLAGS: [(&str, Pooling); 6] = [
        ("pooling_mode_cls_token", Pooling::Cls),
        ("pooling_mode_max_tokens", Pooling::Max),
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
        ("pooling_mode_weightedmean_tokens", Pooling::WeightedMean),
        ("pooling_mode_lasttoken", Pooling::LastToken),
    ];
    let wrong = |what: &str| TaskError::Unsupported(format!("{file}: {what}"));
    let config: Json = serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))?;
    if let Some(name) = config.get("pooling_mode").filter(|name| !name.is_null()) {
        let mut settings = AnswerSettings::default();
        settings
            .set("pooling", name)
            .map_err(|error| wrong(&error.to_string()))?;
        return settings.pooling.ok_or_else(|| wrong("no pooling"));
    }
    let is_set = |flag: &str| config.get(flag).and_then(Json::as_bool);
    // The mean is the default.
    let flags = FLAGS
        .into_iter()
        .filter(|&(flag, pooling)| is_set(flag).unwrap_or(pooling == Pooling::Mean));
    let poolings: Vec<Pooling> = flags.map(|(_, pooling)| pooling).collect();
    match poolings.is_empty() {
        true => Err(wrong("no pooling is set")),
        false => Ok(poolings),
    }
}
