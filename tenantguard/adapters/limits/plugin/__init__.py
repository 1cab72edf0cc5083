"""A token bucket for the library `limits`: a strategy, and storages under schemes of their own."""
