//! Sound to samples at the rate of the model.
