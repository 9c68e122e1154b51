"""The routes of ``/api/v1``, one file for each trade.

Put together by ``app``. Each checks its arguments, calls the room that knows, and shapes the
answer. Holds no state.
"""
