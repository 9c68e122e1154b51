"""Makes what a release consists of (``make release``). RELEASING.md says how it is published."""
