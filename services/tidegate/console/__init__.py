"""The console: the API of the whole broker at one address, and the page that uses it.

Owns HTTP, its users and their rights. Started by ``roles.console``; asks edges and routers at their
admin servers, and reads the store. Never on the path of a message.
"""
