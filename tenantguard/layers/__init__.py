"""The product: one file per layer, none importing another."""
