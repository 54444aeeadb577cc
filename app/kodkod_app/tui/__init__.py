"""The terminal app. What its first frame needs imports neither pydantic nor the agent; the rest loads behind it."""
