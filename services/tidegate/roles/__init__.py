"""The processes that Tidegate is made of: what each builds, in which order it starts and ends."""
