"""From files to batches: corpora, cleaning, tokenizers, batches. No jax."""
