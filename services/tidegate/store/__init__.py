"""The store: state in Redis or Valkey, in domain words.

Owns keys, records and the scripts that change them. Entered by ``router`` and ``roles`` through
``api.Store``. The only room that imports redis. Never reads a clock: times are arguments.
"""
