"""The operator: brings Kubernetes to what an ``MqttBroker`` says.

Pure parts (no clock, no network, no event loop): ``spec``, ``status_model``, ``crd``, ``problems``,
``references``, ``certificates``, ``owned_secrets``, ``render``, ``plan``, ``configuration``,
``rebalance``, ``config_tracker``, ``conditions``. The rim: ``kube`` (the only access to the API),
``observe`` (asks pods), ``reconcile``, ``handlers`` (kopf).
"""
