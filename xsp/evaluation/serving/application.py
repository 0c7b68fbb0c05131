"""The whole server: REST, page, and the guard before both."""

from __future__ import annotations

from fastapi import FastAPI

import xsp
from xsp.evaluation.serving.guard import Guard, Rules
from xsp.evaluation.serving.page import add_page
from xsp.evaluation.serving.platform import Platform
from xsp.evaluation.serving.rest import PREFIX, add_routes


def application(platform: Platform, rules: Rules) -> Guard:
    """An ASGI application. Its pages of documentation would load scripts from elsewhere, so there
    are none; the schema is at `/api/openapi.json`.
    """
    server = FastAPI(
        title="xsp",
        version=xsp.__version__ or "0",
        summary="Evaluations: start them, read them, compare them.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    add_routes(server, platform)
    add_page(server, platform)
    return Guard(server, rules)
