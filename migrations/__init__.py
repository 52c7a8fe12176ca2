"""The Alembic environment: every revision of the store's schema, for both engines."""
