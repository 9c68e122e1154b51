"""From a mosquitto.conf to a configuration of Tidegate, or to an MqttBroker resource.

Owns the table of mosquitto's directives, which the documentation is generated from. Entered by the
command line; reads files, writes none, connects to nothing, and never imports the operator.
"""
