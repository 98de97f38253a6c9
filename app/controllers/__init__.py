"""What the platform does when a browser asks: pages, log-in, orders, and the live feed."""
