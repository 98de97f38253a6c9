"""The menu: what stands at the top of every page."""

import msgspec

from app.models.accounts import User


class Link(msgspec.Struct, frozen=True):
    """`pages`: the functions under which it is marked as where one is."""

    label: str
    url: str
    pages: tuple[str, ...] = ()
    post: bool = False


def main_menu(user: User | None) -> list[Link]:
    """Index, Products, About; who is logged in also has Portfolio, Trades; managers Users."""
    portfolio = Link("Portfolio", "/default/positions", ("positions", "pandl"))
    trades = Link("Trades", "/default/my_trades", ("my_trades", "all_trades"))
    traders = [portfolio, trades] if user else []
    managers = [Link("Users", "/default/users", ("users",))] if user and user.manager else []
    return [
        Link("Index", "/default/index", ("index",)),
        Link("Products", "/default/products", ("products", "trade", "edit_product", "zap")),
        *traders,
        *managers,
        Link("About", "/default/about", ("about",)),
    ]


def user_menu(user: User | None) -> list[Link]:
    """What the top right offers a user, or a stranger; logging out is a POST."""
    if user is None:
        return [
            Link("Log In", "/default/user/login"),
            Link("Sign Up", "/default/user/register"),
            Link("Lost password?", "/default/user/request_reset_password"),
        ]
    return [
        Link("Log Out", "/default/user/logout", post=True),
        Link("Profile", "/default/user/profile"),
        Link("Password", "/default/user/change_password"),
    ]
