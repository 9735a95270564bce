"""One request to one host: sent, tried again, its answer's bytes or an error."""
