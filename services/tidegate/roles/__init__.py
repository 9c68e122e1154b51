"""The processes that Tidegate is made of: what each builds, in which order it starts and stops.

The composition roots. Entered by ``cli``, which imports the one role that it runs. Never holds a
rule of MQTT, of routing or of the store.
"""
