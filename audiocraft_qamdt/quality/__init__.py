"""Quality: p-MOS predictors, the annotator, and the rules that turn a p-MOS into a level and a text prefix."""
