"""No agent: running this file fails."""

1 / 0  # noqa: B018
