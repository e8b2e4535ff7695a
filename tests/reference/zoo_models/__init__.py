"""Implementations in torch of the models that transformers does not have.

Each module has `rows(folder)`, which returns the ids of all texts (or pairs), and an array of their rows or scores.
"""
