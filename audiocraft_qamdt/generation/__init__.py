"""Generation: parameters, the pipeline from noise to audio, the `QAMDT` class, files, exports and the web page."""
