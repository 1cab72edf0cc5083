"""Limit stores: who holds token buckets."""
