"""Every URL of the platform, in one table: /default/<function>/<arguments>, as web2py has them.

A page's address may end in `.json`, or `.csv` where it is a table, before its arguments:
/default/pandl.json/3. `/` is the index, and /emte/default/… leads to /default/….
"""

from pathlib import Path

from tornado.routing import URLSpec

from app.controllers import (
    amend,
    default,
    flatten,
    orders,
    passwords,
    phases,
    portfolio,
    trades,
    user,
    zap,
)
from app.controllers.base import Page, PageHandler, Platform
from app.controllers.health import FileHandler, LiveHandler, MovedHandler, ReadyHandler
from app.controllers.realtime import RealtimeHandler

STATIC = Path(__file__).resolve().parent / "static"

PAGES: dict[str, Page] = {
    "/": default.index,
    "/default": default.index,
    "/default/index": default.index,
    "/default/about": default.about,
    "/default/error": default.error,
    "/default/products": default.products,
    "/default/edit_product/ID": default.edit_product,
    "/default/trade/ID": default.trade,
    "/default/account/ID": default.account,
    "/default/old_trade/ID": default.old_trade,
    "/default/pandl": portfolio.pandl,
    "/default/pandl/ID": default.pandl,
    "/default/positions": portfolio.positions,
    "/default/my_trades": trades.my_trades,
    "/default/all_trades": trades.all_trades,
    "/default/order": orders.order,
    "/default/delete": orders.delete,
    "/default/amend": amend.amend,
    "/default/flatten": flatten.flatten,
    "/default/phase": phases.phase,
    "/default/zap": zap.zap,
    "/default/user": user.login,
    "/default/user/login": user.login,
    "/default/user/register": user.register,
    "/default/user/logout": user.logout,
    "/default/user/profile": user.profile,
    "/default/user/change_password": passwords.change_password,
    "/default/user/request_reset_password": passwords.request_reset_password,
    "/default/user/reset_password": passwords.reset_password,
    "/default/users": user.users,
}
"""The pages. ID is the number of a row."""


def routes(platform: Platform) -> list[URLSpec]:
    """What Tornado serves; the first that fits answers, and what fits none is no page."""
    on = {"platform": platform}
    return [
        *(
            URLSpec(_pattern(path), PageHandler, {**on, "page": page})
            for path, page in PAGES.items()
        ),
        URLSpec(r"/realtime/(?P<ticker>[a-z0-9_]{1,16})", RealtimeHandler, on),
        URLSpec(r"/static/([A-Za-z0-9_./-]+)", FileHandler, {"path": str(STATIC)}),
        URLSpec(r"/favicon\.ico", MovedHandler, {"url": "/static/favicon.svg"}),
        URLSpec(r"/(robots\.txt)", FileHandler, {"path": str(STATIC)}),
        URLSpec(r"/health/live", LiveHandler),
        URLSpec(r"/health/ready", ReadyHandler, on),
        URLSpec(r"/emte/?", MovedHandler, {"url": "/"}),
        URLSpec(r"/emte(/default(?:[./][A-Za-z0-9_./-]*)?)", MovedHandler, {"url": "{0}"}),
        URLSpec(r".*", PageHandler, {**on, "page": default.error}),
    ]


def _pattern(path: str) -> str:
    """The expression of a page's address.

    >>> _pattern("/default/pandl/ID")
    '/default/pandl(?:\\\\.(?P<format>html|json|csv))?/(?P<argument>[0-9]{1,18})/?'
    """
    function, has_argument, _ = path.partition("/ID")
    if path == "/":
        return path
    argument = "/(?P<argument>[0-9]{1,18})" if has_argument else ""
    return rf"{function}(?:\.(?P<format>html|json|csv))?{argument}/?"
