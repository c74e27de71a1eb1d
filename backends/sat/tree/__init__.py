"""CogVideo's own `sat` folder as a backend: their code, from a user's checkout, unmodified.

`backend: sat` with the option `repo` comes here. Nothing of CogVideo is copied or written to;
whatever has to be different (no CUDA, one process, noise from the tape) is arranged from outside,
in this process and while it computes.

checkout    the folder: recognised, imported, let go of
device      `.cuda()` and device literals without CUDA
settings    their YAML files through their own argument parser
engine      their engine built, loaded by their `load_checkpoint`, and what it is made of
blocks      the transformer's blocks as modules, for hooks
sampling    their sampler, step by step
codec       their VAE, between pixels and latents
run         one render: stages, and the native run through `engine.sample`
pipeline    all of it behind the stage contract
"""
