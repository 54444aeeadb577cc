"""Where the parts of a model go on this machine, in which precision, and how fast that will be."""
