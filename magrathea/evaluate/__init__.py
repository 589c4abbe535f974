"""Evaluation of worlds on episodes that they were not trained on: next steps, dreams, memory, drift."""
