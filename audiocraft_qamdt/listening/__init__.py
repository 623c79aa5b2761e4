"""Listening tests: a blind page for raters, a server that takes their answers, and a report on them."""
