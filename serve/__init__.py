"""The serving layer: engines that hold a VLM and answer many callers, and the bulk stages on them."""
