"""Folders of recordings in; tables and pictures of all of them out, over many processes and any number of interruptions."""
