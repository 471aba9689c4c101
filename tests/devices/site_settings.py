"""The test site, for the tests in a browser."""

from __future__ import annotations

import os

from website.settings import *  # noqa: F403 (all but what follows)
from website.settings import TEMPLATES

ROOT_URLCONF = "tests.devices.site_urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SESSION_MAX_PER_USER = 4
SESSION_RECORD_IP = "network"

if os.environ.get("KVSESSIONS_PLAIN"):
    # The pages as they come, without the site's own frame.
    TEMPLATES[0]["DIRS"] = []
