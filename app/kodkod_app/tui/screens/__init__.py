"""Screens over the chat: they take plain data and dismiss with a plain result."""
