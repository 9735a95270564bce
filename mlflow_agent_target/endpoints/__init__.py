"""One agent, and what a workspace knows of its endpoints."""
