"""The masked, block-causal transformer."""
