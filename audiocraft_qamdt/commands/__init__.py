"""The subcommands of `qamdt`: a module for each topic, whose `add_parsers` tells the command line about them."""
