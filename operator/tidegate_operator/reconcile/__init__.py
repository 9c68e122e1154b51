"""One ``MqttBroker``: read, decide, write, poll, report.

``handlers`` calls ``reconciler`` for each key of the work queue; the other modules are its parts.
"""
