"""Frozen towers: embeddings that are constants, kept on disk and shared over processes."""
