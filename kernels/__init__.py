"""What trainer and edge must agree on: the signal front end, the bundle and the engines that run it."""

import os

# Builds of ONNX Runtime for Linux keep events for their maker, under an identity of the device, and look for a way to send them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
