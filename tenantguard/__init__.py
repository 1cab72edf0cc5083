"""TenantGuard: each tenant's policy around any ASGI or WSGI application."""
