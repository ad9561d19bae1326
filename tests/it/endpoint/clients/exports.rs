//! Real exports behind the endpoint: the SageMaker SDK's predictors with their own defaults, and
//! containers in series.

use super::{endpoint, run, run_in};
use crate::harness::EXPORTS;

#[test]
fn the_sagemaker_sdks_predictors_are_answered_as_the_libraries_answer() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display().to_string();
    let models = ["sklearn_arrays", "xgboost_regressor", "sklearn_columns"];
    let arguments = std::iter::once(folder.as_str()).chain(models);
    EXPORTS.run("tests/exports/make.py", arguments, []);
    run(&endpoint().start(), "predictors.py", &[folder]);
}

#[test]
fn every_format_goes_in_between_two_containers_and_out() {
    run_in(EXPORTS, &endpoint().start(), "tests/exports/series.py", &[]);
}
