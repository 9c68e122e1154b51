"""``MqttBroker``: the models of spec and status, their validation, and the CRD made from them.

Pure. Used by all other packages of the operator. Never knows what is rendered from a spec.
"""
