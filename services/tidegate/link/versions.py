"""The versions of the link that this release speaks; ``link.proto`` says what each of them adds."""

from __future__ import annotations

from typing import Final

OLDEST_VERSION: Final = 1
NEWEST_VERSION: Final = 4
#: From this version on edges apply fences and publish wills.
FENCES_VERSION: Final = 3
#: From this version on both ends send packed records.
RECORDS_VERSION: Final = 4
