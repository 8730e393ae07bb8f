"""Annotated recordings in; how well the alarm path judged them, in the terms of EC57, out."""
