"""Who a scan is of, what it shows, and what it is called."""
