//! Real exports behind the endpoint: the SageMaker SDK's predictors with their own defaults, and
//! containers in series.

use super::{endpoint, run, run_in};
use crate::harness::EXPORTS;

#[test]
fn the_sagemaker_sdks_predictors_get_the_results_of_the_libraries() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display().to_string();
    let models = ["sklearn_arrays", "xgboost_regressor", "sklearn_columns"];
    let arguments = std::iter::once(folder.as_str()).chain(models);
    EXPORTS.run("tests/exports/make.py", arguments, []);
    run(&endpoint().start(), "predictors.py", &[folder]);
}

#[test]
fn a_pipeline_accepts_and_returns_every_format() {
    run_in(EXPORTS, &endpoint().start(), "tests/exports/series.py", &[]);
}
