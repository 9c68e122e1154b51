"""Who may use the console: users, tokens, sessions, and the audit of what they change.

Asked by ``console.access`` for every request. Never trusts what a browser adds by itself.
"""
