"""The operator: reconciles the objects of Kubernetes with ``MqttBroker`` resources.

Pure (no clock, no network, no event loop): ``spec``, ``secrets``, ``render``, ``plan``,
``live_state``, ``live_objects``, ``old_store``, ``status``, and ``pods`` except
``admin_client`` and ``poller``. With I/O: ``kube`` (all access to the API server), ``pods``,
``reconcile``, ``handlers`` (kopf), ``health``, ``smoke`` (helm test).
"""
