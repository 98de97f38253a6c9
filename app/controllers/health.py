"""What is no page: is the server up and ready, files that pages load, addresses that moved."""

from tornado.web import RedirectHandler, StaticFileHandler

from app.controllers.base import Platform, PlatformHandler
from app.models.db import DAL, DatabaseAway, rows


class LiveHandler(PlatformHandler):
    """GET /health/live: the process is up and its loop turns."""

    def get(self) -> None:
        self.finish({"live": True})

    head = get


class ReadyHandler(PlatformHandler):
    """GET /health/ready: the database answers (200), or not (503). Matching servers may be away."""

    def initialize(self, platform: Platform) -> None:
        self.platform = platform

    async def get(self) -> None:
        try:
            await self.platform.transactions.read(_ask)
        except DatabaseAway:
            self.set_status(503)
            self.finish({"ready": False})
            return
        self.finish({"ready": True})

    head = get


def _ask(db: DAL) -> None:
    rows(db, "SELECT 1")


class FileHandler(PlatformHandler, StaticFileHandler):
    """GET /static/…: browsers keep it but ask each time, so that no page mixes versions."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")


class MovedHandler(PlatformHandler, RedirectHandler):
    """An old address, which leads to the new one for good."""

    head = RedirectHandler.get
