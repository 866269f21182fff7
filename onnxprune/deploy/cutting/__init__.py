"""A second, independent implementation of deletion, on onnx-graphsurgeon.

It knows of the plan only which elements of which initializers go (`channels.keep_masks`), and finds by itself what
goes of every other tensor: flags (True: goes) flow through the graph, moved by the same NumPy calls that move the data.
Then initializers are cut, and whatever mentions a size is written anew. What it can't follow, it refuses.
"""

from onnxprune.deploy.cutting.removal import remove

__all__ = ["remove"]
