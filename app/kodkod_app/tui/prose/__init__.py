"""Markdown as lines of styled text: an answer is one widget, however many paragraphs, lists and tables it has."""
