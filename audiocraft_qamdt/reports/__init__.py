"""Reports on models: a run's page, judged against requested quality, and the table of `qamdt demo`."""
