"""Many rows. Knows an endpoint only as a callable."""
