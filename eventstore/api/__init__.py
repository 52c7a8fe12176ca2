"""The HTTP door: one module a resource, each route a thin wrapper over a verb of `EventStore`."""
