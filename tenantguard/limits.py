"""A token bucket for the library `limits`, and so for slowapi and Flask-Limiter.

Importing this module registers the strategy ``token-bucket`` and the storages ``tenantguard+memory://``,
``tenantguard+redis://`` and its like, and each with ``async+`` in front. Nothing of `limits` is replaced.
"""

from tenantguard.adapters.limits.plugin.items import TokenBucketItem, parse
from tenantguard.adapters.limits.plugin.storages import (
    AsyncMemoryStorage,
    AsyncRedisStorage,
    MemoryStorage,
    RedisStorage,
)
from tenantguard.adapters.limits.plugin.strategies import (
    STRATEGY,
    AsyncTokenBucketRateLimiter,
    TokenBucketRateLimiter,
    register,
)

__all__ = [
    "STRATEGY",
    "AsyncMemoryStorage",
    "AsyncRedisStorage",
    "AsyncTokenBucketRateLimiter",
    "MemoryStorage",
    "RedisStorage",
    "TokenBucketItem",
    "TokenBucketRateLimiter",
    "parse",
]

register()
