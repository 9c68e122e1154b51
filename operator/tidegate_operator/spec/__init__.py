"""``MqttBroker``: the models of spec and status, their validation, and the CRD made from them.

Pure. Entered by every other room of the operator. Never knows what is rendered from a spec.
"""
