"""Training models of this family, small ones above all: the architecture with gradients, shards in, a checkpoint out.

`train(config, sources, options)` is the library's face; `python -m kodkod_engine.training` is the command.
"""
