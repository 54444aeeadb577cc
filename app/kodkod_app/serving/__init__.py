"""The engine behind HTTP, for clients of the OpenAI API."""
