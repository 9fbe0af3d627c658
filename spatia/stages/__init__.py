"""One module per verb: read the files, call the pure functions, write the files."""
