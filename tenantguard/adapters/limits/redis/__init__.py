"""Token buckets that machines share, in Redis or Valkey."""
