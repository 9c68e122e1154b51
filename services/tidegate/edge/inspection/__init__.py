"""What an edge answers the console at its admin port: receivers, rights, publishes, samples.

Owns samples under way and publishes of the console. Made by ``roles``, called by the admin server.
Changes nothing of clients, and costs the data path nothing while nothing is asked.
"""
