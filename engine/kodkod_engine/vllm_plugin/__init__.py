"""Makes LongCat-Flash-Lite's N-gram input right inside vLLM; an entry point of `vllm.general_plugins`.

vLLM 0.26 to 0.32 keeps a context of the last N-1 ids per request that rolls over every scheduled token. Two things are
wrong with it: drafts that are rejected stay in the context, so that speculation changes what the model says; and an end
of sequence as the current token hashes to row 0 of every table. Here nothing is kept: before each step the context is
read from the ids that vLLM itself holds as committed (`context`), and the row ids are those of our own engine
(`layers.ngram_hash`). Prefix hits, preemption, chunks of a prompt and rejected drafts are then right by construction.

Where vLLM has changed so much that this cannot be put in place, the model is refused under speculation with one line
(`registration`). vLLM loads the plug-in in each of its processes; it is off where `VLLM_PLUGINS` does not name it.
"""
