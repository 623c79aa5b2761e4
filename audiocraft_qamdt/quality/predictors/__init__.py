"""p-MOS predictors behind one protocol (`base.Predictor`), loaded by name with `base.load_predictor`."""
