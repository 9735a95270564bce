"""Where requests go, and who sends them."""
