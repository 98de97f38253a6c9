"""The trading platform: accounts, products, the trade page and the P&L, in web2py's layers."""
