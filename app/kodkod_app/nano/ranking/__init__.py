"""Which edits of one line are worth trying, and in what order, before a model has been asked.

suspects and files ─► plausible edits ─► features ─► scores ─► the best of them, for the model to choose among
"""
