"""Ready-made environments: each folder is a plug-in, found by `magrathea.plugins` and imported by nothing else."""
