"""How Sphinx makes the pages: ``tox run -e docs``."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import django  # noqa: E402 (after the path)
from django.conf import settings  # noqa: E402 (after the path)

import drawings  # noqa: E402 (after the path)
import inventories  # noqa: E402 (after the path)
from django_kvsessions import __version__  # noqa: E402 (after the path)

settings.configure(
    SECRET_KEY="for the docstrings alone",  # noqa: S106 (none of a site)
    USE_TZ=True,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
)
django.setup()

GENERATED = DOCS / "_generated"
GENERATED.mkdir(exist_ok=True)
drawings.write(GENERATED)

project = "django-kvsessions"
author = copyright = "django_kvsessions contributors"  # noqa: A001 (Sphinx names it)
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = False

# What the pages link to, kept here: a build needs no network.
intersphinx_mapping = inventories.write(DOCS, GENERATED)

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"

copybutton_exclude = ".linenos, .gp, .go"

# A site that asks who reads it is not to be asked by a checker of links.
linkcheck_ignore = [r"http://127\.0\.0\.1.*"]

html_theme = "furo"
html_title = f"django-kvsessions {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_js_files = ["pages.js"]
html_show_sphinx = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0c6b4f",
        "color-brand-content": "#0c6b4f",
        "color-brand-visited": "#4c5a8a",
    },
    "dark_css_variables": {
        "color-brand-primary": "#5ad1a4",
        "color-brand-content": "#5ad1a4",
        "color-brand-visited": "#aeb9ee",
    },
}
