"""SWE-bench: issues solved unattended, predictions written, graded by the official package, counted."""
