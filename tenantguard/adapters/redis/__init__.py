"""What stores in Redis and Valkey share: servers, the way to them, and whether they are asked at all."""
