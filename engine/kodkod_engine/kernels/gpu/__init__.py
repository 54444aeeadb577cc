"""Fused operations for CUDA devices, one per file: the torch reference, the Triton kernel, the launcher.

Importing a module of this package imports triton (extra `gpu`); nothing does until a step is run on a GPU. With
`TRITON_INTERPRET=1` in the environment the same kernels run on the processor, slowly: so are they tested.
"""
