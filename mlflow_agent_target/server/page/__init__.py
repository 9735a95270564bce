"""The page to talk to the agents with. It is one file, `index.html`, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib import resources
from urllib.parse import urlsplit

_PAGE = resources.files(__name__).joinpath("index.html").read_text(encoding="utf-8")


def _source(tag: str) -> str:
    """Return the source of the page's one script or style, as a Content-Security-Policy names it: by its hash."""
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", _PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# Nothing runs and nothing is loaded but what is in the file: whatever an agent says stays text.
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_source('script')}; style-src {_source('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page(tracking_uri: str) -> str:
    """Return the page, which links to the traces in MLflow's UI where `tracking_uri` is the address of one."""
    return _PAGE.replace(
        'name="mlflow-ui" content=""', f'name="mlflow-ui" content="{html.escape(_ui(tracking_uri))}"', 1
    )


def _ui(tracking_uri: str) -> str:
    """Return the address of MLflow's UI, without a login; "" where the traces are not on a server."""
    parts = urlsplit(tracking_uri)
    if parts.scheme not in ("http", "https"):
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
