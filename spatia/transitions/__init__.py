"""How cells change: optimal transport between states, flow matching along transitions. Pure functions."""
