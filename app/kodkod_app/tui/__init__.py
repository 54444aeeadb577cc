"""The terminal app. What its first frame needs imports neither pydantic nor the agent; the rest loads behind it."""

import os

# Read by Textual when it is imported. A frame is not waited for any longer than this after a key; and Esc, which could
# be the beginning of another key's sequence, interrupts: the tenth of a second that is usual is all the time it has.
os.environ.setdefault("TEXTUAL_FPS", "120")
os.environ.setdefault("ESCDELAY", "25")
