"""The operator: brings Kubernetes to what an ``MqttBroker`` says.

Pure parts (no clock, no network, no event loop): ``spec``, ``status_model``, ``crd``, ``problems``,
``references``, ``certificates``, ``keyring``, ``render``, ``plan``, ``configuration``,
``rebalance``, ``roll_call``, ``conditions``. The rim: ``kube`` (the only access to the API),
``observe`` (asks pods), ``reconcile``, ``handlers`` (kopf).
"""
