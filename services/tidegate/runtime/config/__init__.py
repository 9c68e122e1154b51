"""The configuration: its schema, its file, and how a change of it is taken up.

Owns the models that the YAML file, the flags, the reference and the CRD share. Entered by ``cli``,
``roles`` and the operator. Never starts or stops anything itself.
"""
