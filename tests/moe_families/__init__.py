"""Tiny models with random weights of every MoE family that transformers has, and what capturing makes of each."""
