"""An answer as it comes."""
