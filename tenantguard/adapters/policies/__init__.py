"""Policy sources: which policy a tenant has."""
