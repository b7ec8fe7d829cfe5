"""What models are trained to do. `base` is the contract, `spec` a task as data, `registry` their names.

A task is a folder, and a line in the registry. Nothing outside these folders asks which task a run has.
"""
