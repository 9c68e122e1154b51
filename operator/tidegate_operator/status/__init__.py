"""The status of an ``MqttBroker``: its conditions, what they are made of, and their events.

Pure. ``conditions.status`` is called by ``reconcile``; never knows how anything was read.
"""
