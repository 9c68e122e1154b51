"""The configuration: its schema, its file, and which of its keys need a restart.

Owns the models that the YAML file, the flags, the reference and the CRD share. Entered by ``cli``,
``roles`` and the operator. Never starts anything, and imports no other room of the runtime.
"""
