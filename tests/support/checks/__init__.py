"""The rules of ``support.history_check``, one room for each: what it can see, and what is wrong.

Each judge is given every event, in order, after ``world`` has taken it in; none changes anything
but its own state. ``world`` has what several of them need.
"""
