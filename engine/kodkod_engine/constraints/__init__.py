"""What a turn may be: tool calls as a token automaton, with a set of allowed texts for every argument. Loads no torch.

    edit = call("edit", ("path", OneOf(tokenizer, ["a.py"])), ("new", FreeText(tokenizer, max_tokens=40)))
    engine.generate(GenerationRequest(ids, constraint=CallConstraint(tokenizer, [edit])))

Whatever the weights, a turn written under a `CallConstraint` is one well-formed call among those allowed.
"""
