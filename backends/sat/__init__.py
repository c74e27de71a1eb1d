"""CogVideoX on SwissArmyTransformer: model, VAE, text conditioner, sampler, and the adapter.

Written from the mathematics on the `BaseModel` and mixins of package `sat`. Parameter names, YAML
configs and numerics are those of CogVideo's `sat/` folder, so real SAT checkpoints load
unchanged. Reference sources, cited in the modules as `sat/<file>`: THUDM/CogVideo, tag v1.0
(commit 4aebdb4) for the 1.0 models, whose code the main branch (commit e519ece) can no longer
run.

Importing this package costs nothing; `adapter.SatBackend.open` imports torch and sat.
"""
