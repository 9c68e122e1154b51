"""Tidegate: an MQTT broker of stateless edges and routers, with all state in Redis or Valkey."""

__version__ = "0.1.0"
