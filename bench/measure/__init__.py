"""What ``bench/run.py`` is made of: scenarios, brokers, rounds, and what is made of the figures."""
