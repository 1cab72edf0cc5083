"""Slot stores: who holds slots and their queues."""
