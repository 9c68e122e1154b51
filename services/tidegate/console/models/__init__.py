"""The shapes of the API's requests and answers, one file for each trade: OpenAPI is made of them.

Used by ``routes``. Holds no rule.
"""
