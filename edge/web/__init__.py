"""What the monitor sees in; pages that show it in a browser, live, out."""
