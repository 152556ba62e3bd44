"""Debian archives and packages: what they say (``control``, ``version``), whether to believe it (``release``), where
it comes
from (``sources``, ``archive``), which packages make a base (``closure``), and what is inside a ``.deb`` (``deb``)."""
