"""What is made of models: a run's page, the quality heard against the quality asked for, and `qamdt demo`'s table."""
